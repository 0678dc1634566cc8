"""What a table is: the paper's numbers, each beside the run that stands behind it. A table trains nothing."""

from dataclasses import dataclass
from typing import NamedTuple


class Entry(NamedTuple):
    """One number of a table.

    Attributes:
        run: a name of `camlib.lab.runs.RUNS`; None if the paper only cites the number.
        paper: the number the paper reports, in the table's unit; None if it reports none.
        metric: a name in a record's metrics.
        cited: where the paper took its number from, if it did not measure it itself.
        spread: the standard deviation that stands beside it, in the table's unit; None if none does.
    """

    run: str | None
    paper: float | None = None
    metric: str = "accuracy"
    cited: str | None = None
    spread: float | None = None


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper, or one of our own.

    Attributes:
        name: as in commands.
        title: one line, with the paper's number for it.
        rows, columns: names in order, with the headings to show.
        entries: by (row, column).
        unit: "error %" shows 100 · (1 - share), any other, as "accuracy %", 100 · share; of errors less is better.
        baseline: the column that the others are compared with, row by row.
    """

    name: str
    title: str
    rows: dict[str, str]
    columns: dict[str, str]
    entries: dict[tuple[str, str], Entry]
    unit: str = "error %"
    baseline: str = "ce"

    def in_unit(self, share: float) -> float:
        """A share in 0 … 1 as the table shows it."""
        return 100 * (1 - share) if self.unit == "error %" else 100 * share

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the runs behind the table, each once, in its order."""
        return tuple(dict.fromkeys(entry.run for entry in self.entries.values() if entry.run))
