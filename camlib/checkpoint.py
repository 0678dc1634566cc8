"""Checkpoints: written whole or not at all, checked when read, the last two kept."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

KEPT = 2


def save(state: dict[str, Any], folder: Path, epoch: int, step: int) -> Path:
    """Write `state` as the checkpoint of an epoch and step, then remove all but the last two.

    The file is written under a temporary name and renamed, so a crash leaves the older ones whole.

    Raises:
        OSError: it could not be written, as on a full disk; the message says what is still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint-{epoch:04d}-{step:06d}.pt"
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        left = ", ".join(p.name for p in _paths(folder)) or "none"
        raise OSError(
            f"checkpoint {path} could not be written: {error}. Checkpoints still there: {left}. "
            "Free some space, or choose another folder, and run the same command again"
        ) from error
    for old in _paths(folder)[:-KEPT]:
        old.unlink()
    return path


def load_last(folder: Path) -> dict[str, Any] | None:
    """Read the newest undamaged checkpoint of a folder, without executing any code in it.

    Returns:
        What was saved, or None if the folder holds no checkpoint.

    Warns:
        UserWarning: for each damaged checkpoint that was passed over.

    Raises:
        OSError: there are checkpoints, but every one is damaged.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        problem = _damage(path)
        if problem is None:
            return torch.load(path, map_location="cpu", weights_only=True)
        warnings.warn(f"checkpoint {path} is damaged ({problem}); taking the one before it", stacklevel=2)
    if paths:
        raise OSError(f"every checkpoint in {folder} is damaged: delete the folder to start afresh")
    return None


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"))


def _damage(path: Path) -> str | None:
    # torch.load does not notice a changed byte; the zip archive's own checksums do.
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        return str(error)
    return None if bad is None else f"wrong checksum of {bad}"
