"""Automatic mixed precision, by name."""

import torch


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """A `with` block that computes in a precision of `camlib.train.Schedule`."""
    mixed = precision != "float32"
    return torch.autocast(device.type, dtype=getattr(torch, precision) if mixed else None, enabled=mixed)
