"""Verdicts: what paired runs say about a claim, by one rule. "reproduced" and "contradicts" come from here."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy import stats

from camlib.lab import record
from camlib.lab.presets import PRESETS
from camlib.lab.runs import Run, canonical
from camlib.lab.table import Entry, Table
from camlib.names import lookup

ENOUGH_SEEDS = 5  # pairs below which `verdict` says nothing
CONFIDENCE = 0.95  # of the interval that `verdict` looks at
PROTOCOLS = ("paper", "short")  # the presets whose runs are recorded


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
    unlike: Mapping[int, str] | None = None,
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
        unlike: seed -> in what the two runs of that seed differ, so that they are no pair. They are left out, and
            the text says so.

    Raises:
        ValueError: a seed stands twice in one arm, or a value is not finite.
        UnknownName: the preset is unknown.
    """
    lookup(PRESETS, preset, "preset")
    baseline, method = pd.Series(baseline, dtype=float), pd.Series(method, dtype=float)
    for name, arm in (("baseline", baseline), ("method", method)):
        if arm.index.has_duplicates:
            raise ValueError(f"{name} has seed {arm.index[arm.index.duplicated()][0]} twice")
        if not arm.map(math.isfinite).all():
            raise ValueError(f"{name} has values that are not finite: {arm.to_dict()}")
    unlike = unlike or {}
    gains = (baseline - method if unit == "error %" else method - baseline).dropna().drop(list(unlike), errors="ignore")
    n, alone = len(gains), len(baseline.index.symmetric_difference(method.index))
    mean = float(gains.mean())
    half = half_width(n, float(gains.std())) if n > 1 else math.nan
    label, reason = _judge(n, mean, half, claim)
    faithful = preset == "paper"
    if not faithful:
        label = {"reproduced": "effect seen", "not reproduced": "effect not seen"}.get(label, label)
    sentences = [
        *([] if faithful else [f"{preset.capitalize()} protocol, not a reproduction."]),
        _observed(n, mean, half, unit),
        *([] if claim is None else [f"The paper claims {in_points(claim, unit)}."]),
        reason,
        *([f"{alone} seed{'s' if alone > 1 else ''} of one arm alone left out."] if n and alone else []),
        *(f"Seed {seed} left out: its two runs differ in {what}." for seed, what in unlike.items()),
    ]
    return Verdict(label, " ".join(filter(None, sentences)), n, mean, half)


def half_width(n: int, spread: float) -> float:
    """Of the interval around the mean of n gains, at least two, with this standard deviation, by Student's t."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread / math.sqrt(n)


def decided(line) -> bool:
    """Whether a comparison has pairs enough, and an interval that leaves out 0.

    Args:
        line: with n, difference and half_width, as `Verdict` or a line of `on_table`.
    """
    return line.n >= ENOUGH_SEEDS and abs(line.difference) > line.half_width


def spread_of(n: int, half: float) -> float:
    """The standard deviation of n gains whose interval has this half-width."""
    return half / half_width(n, 1.0)


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
    measured = in_points(mean, unit, "" if n < ENOUGH_SEEDS else f" ± {half:.2f}")
    interval = "" if n < ENOUGH_SEEDS else f", {CONFIDENCE:.0%} interval".replace("%", " %")
    return f"{over} the {unit.removesuffix(' %')} is {measured} than the baseline's (mean{interval})."


def in_points(gain: float, unit: str, spread: str = "") -> str:
    """A gain in words, as "1.46 points lower".

    Args:
        gain: in points, positive where it is one.
        unit: of the table; of errors less is a gain.
        spread: what stands behind the number, as " ± 0.20".
    """
    down = (gain >= 0) == (unit == "error %")
    return f"{abs(gain):.2f}{spread} points {'lower' if down else 'higher'}"


def on_table(
    table: Table, preset: str = "paper", baseline: str | None = None, folder: Path | None = None
) -> pd.DataFrame:
    """The verdict on every entry of a table against the baseline of its row.

    Args:
        table: of `camlib.lab.tables.TABLES`.
        preset: only runs of this preset are looked at.
        baseline: the column that the others are compared with, the table's own by default.
        folder: of the records, `data/records` by default.

    Returns:
        A frame with one line per entry outside the baseline's column whose row has a baseline: row and column
        (names), run and baseline_run, claim (the paper's gain in points, NaN if it reports none), and the fields of
        `Verdict`.

    Raises:
        RecordError: as `camlib.lab.record.counting`.
        UnknownName: there is no such preset or column.
    """
    column = baseline or table.baseline
    lookup(table.columns, column, "column")
    lines = []
    for (row, method), entry in table.entries.items():
        against = table.entries.get((row, column))
        if method == column or against is None:
            continue
        claim = _claim(entry, against, table.unit)
        found = of_runs(entry, against, claim, unit=table.unit, preset=preset, folder=folder)
        names = {"row": row, "column": method, "run": entry.run, "baseline_run": against.run}
        lines.append({**names, "claim": math.nan if claim is None else claim, **found._asdict()})
    return pd.DataFrame(lines)


def by_protocol(
    table: Table,
    baseline: str | None = None,
    *,
    methods: Sequence[str] = (),
    rows: str = "",
    folder: Path | None = None,
) -> pd.DataFrame:
    """The verdict on every entry of a table by each protocol: the paper's, and the short one.

    Args:
        table: of `camlib.lab.tables.TABLES`.
        baseline: the column that the others are compared with, the table's own by default.
        methods: look only at these columns; at all others than the baseline if empty.
        rows: look only at rows whose name this regular expression is found in.
        folder: of the records, `data/records` by default.

    Returns:
        What `on_table` returns, with a column "preset": one line for each protocol by which the entry has a pair of
        runs, or a single one, of preset "paper", if it has none. In the table's order.

    Raises:
        RecordError: as `camlib.lab.record.counting`.
        UnknownName: there is no such column.
    """
    for method in methods:
        lookup(table.columns, method, "column")
    judged = pd.concat([on_table(table, preset, baseline, folder).assign(preset=preset) for preset in PROTOCOLS])
    judged = judged.sort_index(kind="stable")  # the protocols of an entry beside each other
    in_rows = judged["row"].map(lambda row: bool(re.search(rows, row)))
    wanted = in_rows & (judged["column"].isin(methods) if methods else True)
    has_pair = judged.groupby(["row", "column"])["n"].transform("max") > 0
    kept = (judged["n"] > 0) | (~has_pair & (judged["preset"] == "paper"))
    return judged[wanted & kept].reset_index(drop=True)


def shifted(row: str) -> bool:
    """Whether a row of a table is under a shift of ours, of which no paper claims anything: grounds set free."""
    return row.endswith(("_free_grounds", "_own_ground", "_foreign_ground"))


def _claim(entry: Entry, against: Entry, unit: str) -> float | None:
    if entry.paper is None or against.paper is None:
        return None
    return against.paper - entry.paper if unit == "error %" else entry.paper - against.paper


def of_runs(
    entry: Entry,
    against: Entry,
    claim: float | None,
    *,
    unit: str = "error %",
    preset: str = "paper",
    folder: Path | None = None,
) -> Verdict:
    """`verdict` on the records of two entries: pairs of a seed whose fingerprints agree.

    Args:
        entry, against: the method's and the baseline's.
        claim, unit, preset: as in `verdict`.
        folder: of the records, `data/records` by default.

    Raises:
        RecordError: as `camlib.lab.record.counting`.
        UnknownName: there is no such preset.
    """
    ours, theirs = (runs_of(side, preset, folder) for side in (entry, against))
    if not (ours and theirs):  # most of the tables: the ledger asks thousands of times
        return _not_run(claim, unit, preset)
    unlike = {}
    for seed in ours.keys() & theirs.keys():
        found = record.differences(ours[seed].fingerprint, theirs[seed].fingerprint)
        if found:
            unlike[seed] = ", ".join(found)
    values = (_in_unit(runs, side.metric, unit) for side, runs in ((against, theirs), (entry, ours)))
    return verdict(*values, claim, unit=unit, preset=preset, unlike=unlike)


@cache
def _not_run(claim: float | None, unit: str, preset: str) -> Verdict:
    return verdict({}, {}, claim, unit=unit, preset=preset)


def runs_of(entry: Entry, preset: str, folder: Path | None = None) -> dict[int, record.Record]:
    """The records that count for an entry at a preset, by seed; none where the preset makes another run of it.

    Raises:
        RecordError, UnknownName: as `camlib.lab.record.counting`.
    """
    if entry.run is None or canonical(Run(entry.run, preset)) != Run(entry.run, preset):
        return {}
    return {seed: r for seed, r in record.counting(entry.run, preset, folder).items() if entry.metric in r.metrics}


def values_of(entry: Entry, unit: str, preset: str, folder: Path | None = None) -> pd.Series:
    """What was measured for an entry at a preset, by seed, in a table's unit."""
    return _in_unit(runs_of(entry, preset, folder), entry.metric, unit)


def _in_unit(runs: dict[int, record.Record], metric: str, unit: str) -> pd.Series:
    values = pd.Series({seed: r.metrics[metric] for seed, r in runs.items()}, dtype=float)
    return 100 * (1 - values) if unit == "error %" else 100 * values


def beside_paper(table: Table, preset: str = "paper", folder: Path | None = None) -> pd.DataFrame:
    """The paper's number beside ours, for every entry of a table.

    Args:
        table: of `camlib.lab.tables.TABLES`.
        preset: only runs of this preset are looked at.
        folder: of the records, `data/records` by default.

    Returns:
        A frame with one line per entry, in the table's order and unit: row and column (names); paper (NaN if
        the paper reports none); ours, sd and n (mean and standard deviation over n seeds, NaN where n is
        too small); text, as "28.10 ± 0.20 (3)", "28.10 (1)" or "not run".

    Raises:
        RecordError: as `camlib.lab.record.counting`.
        UnknownName: there is no such preset.
    """
    lookup(PRESETS, preset, "preset")
    lines = []
    for (row, column), entry in table.entries.items():
        values = values_of(entry, table.unit, preset, folder)
        numbers = {"ours": values.mean(), "sd": values.std(), "n": len(values), "text": _text(values)}
        lines.append(
            {"row": row, "column": column, "paper": math.nan if entry.paper is None else entry.paper, **numbers}
        )
    return pd.DataFrame(lines)


def by_seed(table: Table, preset: str = "paper", folder: Path | None = None) -> pd.DataFrame:
    """Every measured number of a table: row, column, seed and value in the table's unit, one line each.

    Raises:
        RecordError, UnknownName: as `beside_paper`.
    """
    lines = [
        (row, column, seed, value)
        for (row, column), entry in table.entries.items()
        for seed, value in values_of(entry, table.unit, preset, folder).items()
    ]
    return pd.DataFrame(lines, columns=["row", "column", "seed", "value"])


def _text(values: pd.Series) -> str:
    if values.empty:
        return "not run"
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread} ({len(values)})"
