"""Records: what came of each run, one JSON line each, in one file per run's name; checked on the way in and out.

What counts as a result, everywhere in the book: the value at the end of the last epoch, never the best one; of several
records of one run, preset and seed the one finished last.
"""

import fcntl
import json
import math
import os
import types
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import numpy as np
from torch import nn

from camlib.data.loader import Batches
from camlib.lab.presets import PRESETS
from camlib.lab.runs import RUNS, Run
from camlib.names import UnknownName, lookup
from camlib.package_data import package_data
from camlib.train import Result


@dataclass(kw_only=True)
class Record(Result):
    """What a run gave, and what it was: a line of its file is these fields and no others.

    Attributes:
        run, preset, seed: which run it is, see `camlib.lab.runs.Run`.
        net, data: what was trained, on what.
        data_checksum: of the images and labels of each split.
        fingerprint: what two runs must share to be compared as a pair, see `fingerprint`.
        teacher, start: the runs, or the file, whose nets it learnt or started from; None without.
        finished_at: when, in UTC.
    """

    run: str
    preset: str
    net: str
    data: str
    data_checksum: dict[str, str]
    fingerprint: dict[str, Any]
    teacher: str | None = None
    start: str | None = None
    finished_at: str


class RecordError(ValueError):
    """A record is not as `Record` says; the message names the file, the line and what is wrong."""


def fingerprint(model: nn.Module, loader: Batches) -> dict[str, Any]:
    """What a seed decided before the first step: checksums by which two arms prove to be a pair.

    Args:
        model: with its first weights, before those of another net take their place.
        loader: of the training images.

    Returns:
        "weights", by part of the net (its direct children that have any) the number of its values and their
        checksum, so that parts which both arms have can be told from those that a method adds or changes; "order", of
        the batches of the first two epochs; "images", of what the loader gives.
    """
    weights = {}
    for name, part in model.named_children():
        values = [tensor.detach().cpu().contiguous().float().numpy() for tensor in part.parameters()]
        if values:
            weights[name] = f"{sum(value.size for value in values)}:{_checksum(values)}"
    order = _checksum([batch.numpy() for epoch in (0, 1) for batch in loader.indices(epoch)])
    return {"weights": weights, "order": order, "images": loader.describe()["checksum"]}


def _checksum(arrays: list[np.ndarray]) -> str:
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(array, checksum)
    return f"{checksum:08x}"


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """In what two fingerprints do not belong together: nothing if the runs are a pair.

    A part of the net that has another number of values in the two is one that a method changes, and passes.
    """
    found = [name for name in ("images", "order") if one[name] != other[name]]
    for name in one["weights"].keys() & other["weights"].keys():
        (count, _), (its_count, _) = (side["weights"][name].split(":") for side in (one, other))
        if count == its_count and one["weights"][name] != other["weights"][name]:
            found.append(f"initial weights of {name}")
    return sorted(found)


def path_of(name: str, folder: Path | None = None) -> Path:
    """The file that holds the records of a run's name, whether it exists or not.

    Args:
        name: of `camlib.lab.runs.RUNS`.
        folder: `data/records` by default.

    Raises:
        UnknownName: there is no such run.
    """
    lookup(RUNS, name, "run")
    return (folder or package_data("records")) / f"{name}.jsonl"


def append(record: Record, folder: Path | None = None) -> bool:
    """Add a finished run to its file, unless it stands there already.

    Processes that append at once wait for each other. A record is known by its history, to the last digit and
    with the seconds of every epoch: finishing a finished run again adds nothing, training it anew does.

    Args:
        record: of `camlib.lab.run.run`.
        folder: `data/records` by default.

    Returns:
        True if the record was added, False if it was there.

    Raises:
        RecordError: a field has another type, a number is not finite, the run is unknown or not finished.
        OSError: the line could not be written, as on a full disk. Nothing of it is left in the file.
    """
    line = asdict(record)
    validate(line, "the new record")
    try:
        text = json.dumps(line, allow_nan=False, separators=(",", ":")).encode()
        history = json.dumps(line["history"], separators=(",", ":")).encode()
    except TypeError as error:
        raise RecordError(f"the new record cannot be written as JSON: {error}") from error
    path = path_of(record.run, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered: what could not be written must not wait in a buffer for a second try.
    with path.open("a+b", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        old = stream.read()
        if history in old:
            return False
        # A writer that was killed, or a hand edit, may have left the last line without its end.
        left = (b"\n" if old and not old.endswith(b"\n") else b"") + text + b"\n"
        try:
            while left:
                left = left[stream.write(left) :]
            os.fsync(stream.fileno())
        except OSError as error:
            stream.truncate(len(old))
            raise OSError(
                f"the record could not be written to {path}: {error}. The file is as it was before; free "
                "some space and run the same command again"
            ) from error
    return True


def load(name: str, folder: Path | None = None) -> list[Record]:
    """Every record of a run's name, in the order of the file; none if there is no file.

    Args:
        name: of `camlib.lab.runs.RUNS`.
        folder: `data/records` by default.

    Raises:
        RecordError: a line is broken; the message holds the file, the number of the line and what is wrong.
        UnknownName: there is no such run.
    """
    path = path_of(name, folder)
    try:  # opened without asking first, so that the book's build learns of records that were looked for in vain
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            content = stream.read()
    except FileNotFoundError:
        return []
    return list(_parsed(content, path, name))


@lru_cache(maxsize=1024)  # tables and claims share runs, and ask for each of them again and again
def _parsed(content: bytes, path: Path, name: str) -> tuple[Record, ...]:
    lines = enumerate(content.split(b"\n"), start=1)
    return tuple(_parse(text, f"{path}, line {number}", name) for number, text in lines if text.strip())


def counting(name: str, preset: str, folder: Path | None = None) -> dict[int, Record]:
    """The records that count, by seed: of those of one run, preset and seed the one finished last.

    Args:
        name, folder: as in `load`.
        preset: a name of `camlib.lab.presets.PRESETS`.

    Raises:
        RecordError: as `load`; or the seeds differ in net, data or schedule and so have no common mean.
        UnknownName: there is no such run or preset.
    """
    lookup(PRESETS, preset, "preset")
    of_preset = sorted((r for r in load(name, folder) if r.preset == preset), key=lambda record: record.finished_at)
    last = {record.seed: record for record in of_preset}
    for record in of_preset:
        differing = _unlike(next(iter(last.values())), record) if last.get(record.seed) is record else []
        if differing:
            raise RecordError(
                f"{path_of(name, folder)}: the runs of seeds {next(iter(last))} and {record.seed} at preset {preset} "
                f"differ in {', '.join(differing)}, so they have no common mean: delete the lines of the outdated ones"
            )
    return dict(sorted(last.items()))


def _unlike(one: Record, other: Record) -> list[str]:
    differing = [name for name in ("net", "data_checksum", "start") if getattr(one, name) != getattr(other, name)]
    # A schedule that has learnt a new field since still agrees with the older ones.
    common = sorted(one.schedule.keys() & other.schedule.keys())
    return differing + [f"schedule.{name}" for name in common if one.schedule[name] != other.schedule[name]]


def _parse(text: bytes, where: str, name: str) -> Record:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise RecordError(f"{where} is not JSON ({error}): mend or delete the line") from error
    validate(line, where)
    if line["run"] != name:
        raise RecordError(f"{where} belongs to run '{line['run']}': move it to {line['run']}.jsonl")
    return Record(**line)


@cache
def _types() -> dict[str, tuple[type, ...]]:
    """Field -> the types that its values may have in JSON."""
    hints = get_type_hints(Record)
    found = {}
    for part in fields(Record):
        hint = hints[part.name]
        options = hint.__args__ if isinstance(hint, types.UnionType) else (hint,)
        kinds = tuple(get_origin(option) or option for option in options)
        found[part.name] = (*kinds, int) if float in kinds else kinds
    return found


def validate(line: Any, where: str) -> None:
    """Raise unless a line has the fields of `Record`, each of its type, names a run, and is finished.

    Raises:
        RecordError: with `where` in its message.
    """
    if not isinstance(line, dict):
        raise RecordError(f"{where} is {line!r}, expected an object with {', '.join(_types())}")
    missing, strange = [n for n in _types() if n not in line], [n for n in line if n not in _types()]
    for what, names in (("lacks", missing), ("has what no record has,", strange)):
        if names:
            raise RecordError(f"{where} {what} {', '.join(names)}: see camlib.lab.record.Record")
    for name, kinds in _types().items():
        # Not isinstance, for which True is an int.
        if type(line[name]) not in kinds:
            raise RecordError(f"{where}: {name} is {line[name]!r}, expected {' or '.join(k.__name__ for k in kinds)}")
    for name, number in _numbers(line):
        if not math.isfinite(number):
            raise RecordError(f"{where}: {name} is {number}, expected a finite number")
    try:
        lookup(RUNS, line["run"], "run")
        lookup(PRESETS, line["preset"], "preset")
    except UnknownName as error:
        raise RecordError(f"{where}: {error}") from error
    if line["epochs_done"] != line["epochs_asked"]:
        raise RecordError(f"{where}: only {line['epochs_done']} of {line['epochs_asked']} epochs are done")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every float inside a record, with the way to it, as ("history.3.test_loss", 0.5)."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(part, f"{name}.{key}" if name else str(key))


def stored(run: Run, folder: Path | None = None) -> bool:
    """Whether a finished run stands in the records."""
    return any(record.preset == run.preset and record.seed == run.seed for record in load(run.name, folder))
