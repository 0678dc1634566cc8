"""The laboratory: what is trained, under one name, and what came of it."""
