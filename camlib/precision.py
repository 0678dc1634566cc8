"""Automatic mixed precision, by name."""

import torch

from camlib.names import lookup

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """A `with` block that computes in a precision of `camlib.train.Schedule`.

    Raises:
        UnknownName: there is no such precision.
    """
    dtype = lookup(PRECISIONS, precision, "precision")
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
