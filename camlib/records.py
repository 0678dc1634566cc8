"""Measured runs: one JSON line each, kept by table, checked on the way in and out."""

import fcntl
import json
import os
from dataclasses import asdict
from pathlib import Path

from camlib.package_data import package_data
from camlib.train import Record

# What a line must hold. A field that is not named here may come along and is kept.
SCHEMA = {
    "table": str,
    "row": str,
    "column": str,
    "preset": str,
    "seed": int,
    "metrics": dict,
    "best": dict,
    "history": list,
    "epochs_done": int,
    "epochs_asked": int,
    "data": str,
    "data_checksum": dict,
    "net": str,
    "objective": dict,
    "recipe": dict,
    "loader": dict,
    "device": str,
    "precision": str,
    "processes": int,
    "versions": dict,
    "commit": str,
    "finished_at": str,
    "wall_seconds": float,
    "peak_memory_bytes": int,
}


class RecordError(ValueError):
    """A record is not as `SCHEMA` says; the message names the file, the line and what is wrong."""


def append(record: Record, folder: Path | None = None) -> Path:
    """Add a finished run to `<folder>/<table>.jsonl`; processes that append at once wait for each other.

    Args:
        record: of `fit`, with table, row, column, preset, data and net in `record.about`.
        folder: `data/records` by default.

    Returns:
        The file.

    Raises:
        RecordError: a field is missing or has another type, or the run is not finished.
    """
    line = asdict(record)
    line |= line.pop("about")
    validate(line, "the new record")
    path = (folder or package_data("records")) / f"{line['table']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(json.dumps(line, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return path


def validate(line: dict, where: str) -> None:
    """Raise unless a record has every field of `SCHEMA`, of its type, and is finished.

    Raises:
        RecordError: with `where` in its message.
    """
    missing = [name for name in SCHEMA if name not in line]
    if missing:
        raise RecordError(f"{where} lacks {', '.join(missing)}")
    for name, kind in SCHEMA.items():
        if not isinstance(line[name], kind):
            raise RecordError(f"{where}: {name} is {line[name]!r}, expected {kind.__name__}")
    if line["epochs_done"] != line["epochs_asked"]:
        raise RecordError(f"{where}: only {line['epochs_done']} of {line['epochs_asked']} epochs are done")
