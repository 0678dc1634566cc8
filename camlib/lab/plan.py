"""A plan: a set of runs, each once, what they need first, what is done, what the rest costs, and how to train it."""

import fnmatch
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from camlib.lab import record, weights
from camlib.lab.runs import RUNS, Run, canonical
from camlib.lab.tables import TABLES
from camlib.names import UnknownName, lookup
from camlib.package_data import package_data


class Job(NamedTuple):
    """One run of a plan.

    Attributes:
        run: by its one name.
        state: "done" (recorded, and its net kept if another run needs it), "begun" (there is a checkpoint) or "open".
        needs: runs of the plan whose nets it learns or starts from; none once it is done.
        lends: whether another run of the plan, one that is not done, needs its net.
    """

    run: Run
    state: str
    needs: tuple[Run, ...]
    lends: bool


def select(what: Iterable[str]) -> list[str]:
    """The names of the runs that are asked for, each once, in this order.

    Args:
        what: names of tables, rows as "cam-table-1/resnet56", names of runs, or globs over these names.

    Raises:
        UnknownName: something is none of these; the message holds the nearest names.
    """
    found: dict[str, None] = {}
    for name in what:
        found |= dict.fromkeys(_selected(name))
    return list(found)


def _selected(name: str) -> list[str]:
    if any(mark in name for mark in "*?["):
        rows = [f"{table.name}/{row}" for table in TABLES.values() for row in table.rows]
        found = fnmatch.filter(RUNS, name) + [run for row in fnmatch.filter(rows, name) for run in _selected(row)]
        if not found:
            raise UnknownName(f"nothing is called like '{name}': python -m camlib list shows tables and their runs")
        return found
    table, _, row = name.partition("/")
    if table in TABLES:
        entries = TABLES[table].entries.items()
        if row:
            lookup(TABLES[table].rows, row, f"row of {table}")
        return [entry.run for (of_row, _), entry in entries if entry.run and row in ("", of_row)]
    lookup(RUNS | TABLES, name, "table or run")
    return [name]


def wanted() -> list[Run]:
    """The runs that the book wants most, best first: the ranked list in `data/wanted.toml`."""
    runs: dict[Run, None] = {}
    for entry in tomllib.loads(package_data("wanted.toml").read_text())["wanted"]:
        for seed in entry["seeds"]:
            for name in select(entry["runs"]):
                runs[canonical(Run(name, entry["preset"], seed))] = None
    return list(runs)


def lenders(run: Run) -> tuple[Run, ...]:
    """The runs whose nets a run learns or starts from."""
    experiment = run.experiment
    teacher = [Run(experiment.teacher, run.preset, experiment.teacher_seed)] if experiment.teacher else []
    start = [Run(experiment.start, run.preset, run.seed)] if experiment.start else []
    return tuple(canonical(lender) for lender in teacher + start)


def behind(runs: Iterable[Run]) -> list[Run]:
    """Every training behind some runs, each once under its one name, what others need before them."""
    found: dict[Run, None] = {}

    def add(run: Run) -> None:
        for other in lenders(run):
            add(other)
        found.setdefault(run)

    for run in runs:
        add(canonical(run))
    return list(found)


def make(runs: Iterable[Run], out: Path, records: Iterable[Path | None] = (None,)) -> list[Job]:
    """The jobs behind some runs: each training once under its one name, what it needs before it.

    Args:
        runs: in the order in which they are wanted.
        out: the folder of the runs: checkpoints, and nets that other runs need.
        records: folders where a finished run may stand, None for those that come with camlib.

    Raises:
        UnknownName: there is no such run or preset.
        RecordError: a record is broken.
    """
    asked = dict.fromkeys(canonical(run) for run in runs)
    lending: set[Run] = set()

    @cache
    def recorded(run: Run) -> bool:
        return any(record.stored(run, folder) for folder in records)

    def done(run: Run) -> bool:
        kept = any(weights.path_of(run, folder).is_file() for folder in (None, out / "weights"))
        return (recorded(run) or run not in asked) and (kept or run not in lending)

    def lend(run: Run) -> None:
        """What a run that is not done needs lends, and if that is not there, what that needs in turn."""
        for other in lenders(run) if not done(run) else ():
            if other not in lending:
                lending.add(other)
                lend(other)

    for run in asked:
        lend(run)
    jobs: dict[Run, Job] = {}

    def add(run: Run) -> None:
        if run in jobs:
            return
        needs = () if done(run) else lenders(run)
        for other in needs:
            add(other)
        begun = any((out / run.path).glob("checkpoint-*.pt"))
        jobs[run] = Job(run, "done" if done(run) else "begun" if begun else "open", needs, run in lending)

    for run in asked:
        add(run)
    return list(jobs.values())


def shard(jobs: list[Job], number: int, count: int) -> list[Job]:
    """The part of a plan that job `number` of `count` of a scheduler's array trains, counted from 0.

    What a part needs and another part has is waited for where they share the folder of the runs, and trained in both
    where they do not.
    """
    return jobs[number::count]
