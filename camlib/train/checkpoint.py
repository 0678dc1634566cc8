"""Checkpoints: written whole or not at all, checked when read, the last two kept."""

import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


def save(state: dict[str, Any], folder: Path, epoch: int, step: int) -> Path:
    """Write `state` as the checkpoint of an epoch and step; of the others, keep the one before it.

    The file is written under a temporary name and renamed, so a crash leaves the older ones whole.

    Returns:
        The file.

    Raises:
        OSError: it could not be written, as on a full disk; the message says what is still there.
    """
    path = folder / f"checkpoint-{epoch:04d}-{step:06d}.pt"
    part = folder / "checkpoint.part"
    # Through memory: torch.save hides a full disk behind an error about positions in the file, and what
    # cannot be read again shall be noticed now, not when it is needed.
    content = io.BytesIO()
    torch.save(state, content)
    _read(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            stream.write(content.getbuffer())
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        left = ", ".join(p.name for p in _paths(folder)) or "none"
        raise OSError(
            f"checkpoint {path} could not be written: {error}. Checkpoints still there: {left}. "
            "Free some space, or choose another folder, and run the same command again"
        ) from error
    # Those of later steps are damaged, or the run would have gone on from them.
    before = [p for p in _paths(folder) if p < path]
    for other in {*_paths(folder)} - {path, *before[-1:]}:
        other.unlink()
    return path


def load_last(folder: Path) -> dict[str, Any] | None:
    """Read the newest undamaged checkpoint of a folder, without executing any code in it.

    Returns:
        What was saved, its tensors on the CPU, or None if the folder holds no checkpoint.

    Warns:
        UserWarning: for each damaged checkpoint that was passed over.

    Raises:
        OSError: there are checkpoints, but none can be read.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            return _read(io.BytesIO(path.read_bytes()))
        except Exception as error:  # whatever a changed byte may cause
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"checkpoint {path} is damaged and passed over: {reason}", stacklevel=2)
    if paths:
        raise OSError(f"no checkpoint in {folder} can be read: delete the folder to start afresh")
    return None


def remove(folder: Path) -> None:
    """Remove every checkpoint of a folder."""
    for path in _paths(folder):
        path.unlink()


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"))


def _read(content: io.BytesIO) -> dict[str, Any]:
    # torch.load does not notice a changed byte; the zip archive's own checksums do.
    with zipfile.ZipFile(content) as archive:
        changed = archive.testzip()
    if changed is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {changed}")
    content.seek(0)
    return torch.load(content, map_location="cpu", weights_only=True)
