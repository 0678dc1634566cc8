"""otter is imported once, before any test: packages that it brings warn when imported, and here that is an error."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import otter.api
    import otter.generate  # noqa: F401
