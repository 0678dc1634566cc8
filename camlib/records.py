"""Measured runs: one JSON line each, kept by table, checked on the way in and out, shown beside the papers.

What counts as a result, everywhere in the book: the value at the end of the last epoch, never the best one;
of several runs of one cell, preset and seed the one finished last.
"""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from scipy import stats

from camlib import recipes
from camlib.names import UnknownName, lookup
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
ENOUGH_SEEDS = 5  # pairs below which `verdict` says nothing
CONFIDENCE = 0.95  # of the interval that `verdict` looks at


class RecordError(ValueError):
    """A record is not as `SCHEMA` says; the message names the file, the line and what is wrong."""


def path_of(table: str, folder: Path | None = None) -> Path:
    """The file that holds the records of a table, whether it exists or not.

    Args:
        table: a name of `camlib.recipes.TABLES`.
        folder: `data/records` by default.

    Raises:
        UnknownName: there is no such table.
    """
    lookup(recipes.TABLES, table, "table")
    return (folder or package_data("records")) / f"{table}.jsonl"


def append(record: Record, folder: Path | None = None) -> bool:
    """Add a finished run to the file of its table, unless it stands there already.

    Processes that append at once wait for each other. A run is known by its history, to the last digit and
    with the seconds of every epoch: finishing a finished run again adds nothing, training it anew does.

    Args:
        record: of `camlib.run.run`, or of `fit` with the missing fields of `SCHEMA` in `record.about`.
        folder: `data/records` by default.

    Returns:
        True if the record was added, False if it was there.

    Raises:
        RecordError: a field is missing or has another type, a number is not finite, the cell is unknown, or
            the run is not finished.
        OSError: the line could not be written, as on a full disk. Nothing of it is left in the file.
    """
    line = asdict(record)
    line |= line.pop("about")
    validate(line, "the new record")
    try:
        text = json.dumps(line, allow_nan=False).encode()
    except TypeError as error:
        raise RecordError(f"the new record cannot be written as JSON: {error}") from error
    path = path_of(line["table"], folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered: what could not be written must not wait in a buffer for a second try.
    with path.open("a+b", buffering=0) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        old = stream.read()
        if json.dumps(line["history"]).encode() in old:
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


def load(table: str, folder: Path | None = None) -> pd.DataFrame:
    """Every record of a table, one row each, in the order of the file.

    Args:
        table: a name of `camlib.recipes.TABLES`.
        folder: `data/records` by default.

    Returns:
        A frame with the columns of `SCHEMA`, any further fields, and each metric in a column of its own, as
        "metrics.accuracy" (shares in 0 … 1). Empty if there is no file.

    Raises:
        RecordError: a line is broken; the message holds the file, the number of the line and what is wrong.
        UnknownName: there is no such table.
    """
    path = path_of(table, folder)
    lines = []
    try:  # opened without asking first, so that the book's build learns of records that were looked for in vain
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            content = stream.read()
    except FileNotFoundError:
        content = b""
    for number, text in enumerate(content.split(b"\n"), start=1):
        if text.strip():
            lines.append(_parse(text, f"{path}, line {number}", table))
    rows = [line | {f"metrics.{name}": value for name, value in line["metrics"].items()} for line in lines]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(SCHEMA))


def _parse(text: bytes, where: str, table: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise RecordError(f"{where} is not JSON ({error}): mend or delete the line") from error
    validate(line, where)
    if line["table"] != table:
        raise RecordError(f"{where} belongs to table '{line['table']}': move it to {line['table']}.jsonl")
    return line


def validate(line: Any, where: str) -> None:
    """Raise unless a record has every field of `SCHEMA`, of its type, belongs to a cell, and is finished.

    Raises:
        RecordError: with `where` in its message.
    """
    if not isinstance(line, dict):
        raise RecordError(f"{where} is {line!r}, expected an object with {', '.join(SCHEMA)}")
    missing = [name for name in SCHEMA if name not in line]
    if missing:
        raise RecordError(f"{where} lacks {', '.join(missing)}")
    for name, kind in SCHEMA.items():
        # Not isinstance, for which True is an int.
        if type(line[name]) is not kind and not (kind is float and type(line[name]) is int):
            raise RecordError(f"{where}: {name} is {line[name]!r}, expected {kind.__name__}")
    for name, number in _numbers(line):
        if not math.isfinite(number):
            raise RecordError(f"{where}: {name} is {number}, expected a finite number")
    try:
        metric = recipes.cell(f"{line['table']}/{line['row']}/{line['column']}").metric
        lookup(recipes.PRESETS, line["preset"], "preset")
    except UnknownName as error:
        raise RecordError(f"{where}: {error}") from error
    if line["epochs_done"] != line["epochs_asked"]:
        raise RecordError(f"{where}: only {line['epochs_done']} of {line['epochs_asked']} epochs are done")
    if metric not in line["metrics"]:
        raise RecordError(f"{where}: metrics lacks {metric}, the number that {line['table']} shows")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every float inside a record, with the way to it, as ("history.3.test_loss", 0.5)."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(part, f"{name}.{key}" if name else str(key))


def results(table: str, folder: Path | None = None) -> pd.DataFrame:
    """The runs that count for a table, in its unit: what means, dots and verdicts are made from.

    A cell that shares another cell's experiment has that cell's runs.

    Args:
        table: a name of `camlib.recipes.TABLES`.
        folder: `data/records` by default.

    Returns:
        A frame with row, column, preset, seed and value, one line per cell, preset and seed.

    Raises:
        RecordError: a line is broken, or runs of one cell and preset differ in net, data or recipe and so
            have no common mean.
        UnknownName: there is no such table.
    """
    entry = lookup(recipes.TABLES, table, "table")
    homes = {cell.runs.split("/")[0] for cell in entry.cells.values()}
    frames = {home: load(home, folder) for home in homes}
    found = []
    for cell in entry.cells.values():
        home, row, column = cell.runs.split("/")
        frame = frames[home]
        runs = frame[(frame["row"] == row) & (frame["column"] == column)]
        runs = runs.sort_values("finished_at", kind="stable").drop_duplicates(["preset", "seed"], keep="last")
        for preset, group in runs.groupby("preset"):
            _check_alike(group, f"{path_of(home, folder)}: {cell.runs} at preset {preset}")
        for run in runs[["preset", "seed", "metrics"]].itertuples():
            if cell.metric not in run.metrics:
                continue  # made before there was this test
            value = in_unit(run.metrics[cell.metric], entry.unit)
            found.append((cell.row, cell.column, run.preset, run.seed, value))
    return pd.DataFrame(found, columns=["row", "column", "preset", "seed", "value"])


def _check_alike(runs: pd.DataFrame, where: str) -> None:
    first = runs.iloc[0]
    for _, run in runs.iloc[1:].iterrows():
        differing = [name for name in ("net", "data_checksum") if run[name] != first[name]]
        # A run from a file of weights is no run of the cell whose weights it should have started from.
        differing += ["start"] if _origin(run) != _origin(first) else []
        # A recipe that has learnt a new field since still agrees with the older ones.
        common = first["recipe"].keys() & run["recipe"].keys()
        differing += [f"recipe.{name}" for name in sorted(common) if run["recipe"][name] != first["recipe"][name]]
        if differing:
            raise RecordError(
                f"{where}: the runs of seeds {first['seed']} and {run['seed']} differ in "
                f"{', '.join(differing)}, so they have no common mean: delete the lines of the outdated ones"
            )


def _origin(run: pd.Series) -> str | None:
    start = run.get("start")
    return start["from"] if isinstance(start, dict) else None


def in_unit(share: float, unit: str) -> float:
    """A share in 0 … 1 as a table shows it, in "error %", or as it is in any other unit, such as "accuracy %"."""
    return 100 * (1 - share) if unit == "error %" else 100 * share


def table(name: str, preset: str = "paper", folder: Path | None = None) -> pd.DataFrame:
    """The paper's number beside ours, for every cell of a table.

    Args:
        name: a name of `camlib.recipes.TABLES`.
        preset: only runs of this preset are looked at.
        folder: of the records, `data/records` by default.

    Returns:
        A frame with one line per cell, in the table's order and unit: row and column (names); paper (NaN if
        the paper reports none); ours, sd and n (mean and standard deviation over n seeds, NaN where n is
        too small); text, as "28.10 ± 0.20 (3)", "28.10 (1)" or "not run".

    Raises:
        RecordError: as `results`.
        UnknownName: there is no such table or preset.
    """
    entry = lookup(recipes.TABLES, name, "table")
    lookup(recipes.PRESETS, preset, "preset")
    lines = []
    values_of = _by_seed(results(name, folder), preset)
    for cell in entry.cells.values():
        values = values_of(cell)
        lines.append(
            {
                "row": cell.row,
                "column": cell.column,
                "paper": math.nan if cell.paper is None else cell.paper,
                "ours": values.mean(),
                "sd": values.std(),
                "n": len(values),
                "text": _text(values),
            }
        )
    return pd.DataFrame(lines)


def _by_seed(runs: pd.DataFrame, preset: str) -> Callable[[recipes.Cell], pd.Series]:
    """Which values a cell has, by seed."""
    found = {
        at: part.set_index("seed")["value"].astype(float)
        for at, part in runs[runs["preset"] == preset].groupby(["row", "column"])
    }
    none = pd.Series(dtype=float)
    return lambda cell: found.get((cell.row, cell.column), none)


def _text(values: pd.Series) -> str:
    if values.empty:
        return "not run"
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread} ({len(values)})"


class Verdict(NamedTuple):
    """What paired runs say about a claim; see `verdict`.

    Attributes:
        label: "reproduced", "within noise", "not reproduced", "too few seeds", "no claim" or "not run"; at
            another preset than "paper" "effect seen" and "effect not seen" instead of the words of
            reproduction.
        text: one or two sentences for the reader, with the numbers.
        n: pairs of seeds.
        difference: the mean gain, in points; positive where the method is better. NaN without a pair.
        half_width: of the interval around it; NaN below two pairs.
    """

    label: str
    text: str
    n: int
    difference: float
    half_width: float


def verdict(
    baseline: Mapping[int, float] | pd.Series,
    method: Mapping[int, float] | pd.Series,
    claim: float | None,
    *,
    unit: str = "error %",
    preset: str = "paper",
) -> Verdict:
    """Judge a paper's claim by runs that are paired by seed. The one rule of the book:

    - no pair of seeds: "not run"; fewer than five pairs: "too few seeds", whatever they show;
    - otherwise look at the 95 % interval of the mean paired difference, by Student's t;
    - the paper reports no such pair of numbers: "no claim";
    - the interval lies wholly on the claimed side of 0: "reproduced" (the text says whether it holds the
      claimed size as well);
    - it holds both 0 and the claim: "within noise";
    - anything else: "not reproduced".

    Only the preset "paper" can reproduce a paper. At any other, "effect seen" and "effect not seen" stand in
    place of "reproduced" and "not reproduced", and the text begins by saying what was run.

    Args:
        baseline: seed -> value in the table's unit.
        method: the same for the other arm. Seeds that only one arm has are left out and counted in the text.
        claim: the paper's gain in points, positive where the paper finds the method better; None if it
            reports none.
        unit: "error %", where less is better, or another, such as "accuracy %", where more is.
        preset: the one the values were measured at.

    Raises:
        ValueError: a seed stands twice in one arm, or a value is not finite.
        UnknownName: the preset is unknown.
    """
    lookup(recipes.PRESETS, preset, "preset")
    baseline, method = pd.Series(baseline, dtype=float), pd.Series(method, dtype=float)
    for name, arm in (("baseline", baseline), ("method", method)):
        if arm.index.has_duplicates:
            raise ValueError(f"{name} has seed {arm.index[arm.index.duplicated()][0]} twice")
        if not arm.map(math.isfinite).all():
            raise ValueError(f"{name} has values that are not finite: {arm.to_dict()}")
    gains = (baseline - method if unit == "error %" else method - baseline).dropna()
    n, alone = len(gains), len(baseline.index.symmetric_difference(method.index))
    mean = float(gains.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * gains.std() / math.sqrt(n)) if n > 1 else math.nan
    label, reason = _judge(n, mean, half, claim)
    faithful = preset == "paper"
    if not faithful:
        label = {"reproduced": "effect seen", "not reproduced": "effect not seen"}.get(label, label)
    sentences = [
        *([] if faithful else [f"{preset.capitalize()} protocol, not a reproduction."]),
        _observed(n, mean, half, unit),
        *([] if claim is None else [f"The paper claims {_points(claim, unit)}."]),
        reason,
        *([f"{alone} seed{'s' if alone > 1 else ''} of one arm alone left out."] if n and alone else []),
    ]
    return Verdict(label, " ".join(filter(None, sentences)), n, mean, half)


def _judge(n: int, mean: float, half: float, claim: float | None) -> tuple[str, str]:
    """The label, and the reason for it as a sentence."""
    if n == 0:
        return "not run", ""
    if n < ENOUGH_SEEDS:
        return "too few seeds", f"Fewer than {ENOUGH_SEEDS} pairs: nothing follows from that."
    if claim is None:
        holds_0 = "holds" if abs(mean) <= half else "does not hold"
        return "no claim", f"No paper reports this comparison. The interval {holds_0} 0."
    side = -1 if claim < 0 else 1
    low, high = sorted((side * (mean - half), side * (mean + half)))
    holds_claim = low <= abs(claim) <= high
    if low > 0 and claim != 0:
        size = "holds the claimed size" if holds_claim else "does not hold the claimed size"
        return "reproduced", f"The interval lies wholly on the claimed side of 0 and {size}."
    if low <= 0 <= high and holds_claim:
        return (
            "within noise",
            "The interval holds 0 as well as the claim: these seeds cannot tell them apart.",
        )
    if low <= 0 <= high:
        return "not reproduced", "The interval holds 0 and not the claim."
    return "not reproduced", "The interval holds neither 0 nor the claim."


def _observed(n: int, mean: float, half: float, unit: str) -> str:
    if n == 0:
        return "Not run: no seed has both arms."
    over = f"Over {n} paired seed{'s' if n > 1 else ''}"
    measured = _points(mean, unit, "" if n < ENOUGH_SEEDS else f" ± {half:.2f}")
    interval = "" if n < ENOUGH_SEEDS else f", {CONFIDENCE:.0%} interval".replace("%", " %")
    return f"{over} the {unit.removesuffix(' %')} is {measured} than the baseline's (mean{interval})."


def _points(gain: float, unit: str, spread: str = "") -> str:
    """A gain in words, as "1.46 points lower"."""
    down = (gain >= 0) == (unit == "error %")
    return f"{abs(gain):.2f}{spread} points {'lower' if down else 'higher'}"


def verdicts(
    table: str, preset: str = "paper", baseline_column: str | None = None, folder: Path | None = None
) -> pd.DataFrame:
    """The verdict on every cell of a table against the baseline of its row.

    Args:
        table: a name of `camlib.recipes.TABLES`.
        preset: only runs of this preset are looked at.
        baseline_column: the column that the others are compared with, the table's baseline by default.
        folder: of the records, `data/records` by default.

    Returns:
        A frame with one line per cell outside the baseline's column whose row has a baseline: row and column
        (names), claim (the paper's gain in points, NaN if it reports none), and the fields of `Verdict`.

    Raises:
        RecordError: as `results`.
        UnknownName: there is no such table, preset or column.
    """
    return verdicts_on(results(table, folder), table, preset, baseline_column)


def verdicts_on(
    runs: pd.DataFrame, table: str, preset: str = "paper", baseline_column: str | None = None
) -> pd.DataFrame:
    """`verdicts` for whoever has what `results(table)` returns already, and asks of it more than once.

    Args:
        runs: of the table, as `results` returns them.
        table, preset, baseline_column: as in `verdicts`.

    Raises:
        UnknownName: there is no such table, preset or column.
    """
    entry = lookup(recipes.TABLES, table, "table")
    baseline_column = baseline_column or entry.baseline
    lookup(entry.columns, baseline_column, "column")
    values_of = _by_seed(runs, preset)
    lines = []
    for cell in entry.cells.values():
        baseline = entry.cells.get(f"{table}/{cell.row}/{baseline_column}")
        if baseline and cell is not baseline:
            claim = _claim(baseline, cell, entry.unit)
            judged = verdict(values_of(baseline), values_of(cell), claim, unit=entry.unit, preset=preset)
            lines.append({"row": cell.row, "column": cell.column, "claim": claim, **judged._asdict()})
    return pd.DataFrame(lines, columns=["row", "column", "claim", *Verdict._fields]).astype({"claim": float})


def _claim(baseline: recipes.Cell, cell: recipes.Cell, unit: str) -> float | None:
    if baseline.paper is None or cell.paper is None:
        return None
    gain = baseline.paper - cell.paper if unit == "error %" else cell.paper - baseline.paper
    return round(gain, 4)  # the papers print two decimals: drop what the subtraction adds
