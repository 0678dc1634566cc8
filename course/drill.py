"""Sabotage drills: right work must get every point, blank work none, and each wrong answer what its master says."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from course import autograder
from course.grade import grade
from course.master import read
from course.notebooks import notebook


class Outcome(NamedTuple):
    """One drill: what was handed in, the points it must get, and those it got (None if it was refused)."""

    title: str
    expected: int
    got: int | None
    notes: str


def drill(name: str, salt: str) -> list[Outcome]:
    """Grade right, blank and wrong work of an assignment in one batch, by the autograder that teachers get."""
    master = read(name, salt)
    right, blank = master.right(), master.blank()
    work = [("right", master.points, right), ("blank", 0, blank)]
    work += [(cell.title, cell.points, right | {cell.name: cell.source}) for cell in master.of_kind("wrong")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "submissions").mkdir()
        autograder.write(master, folder / "autograder.zip")
        for number, (_, _, answers) in enumerate(work):
            autograder.save(notebook(master, answers, {}), folder / "submissions" / f"{number:02}.ipynb")
        results = grade(folder / "submissions", folder / "autograder.zip", folder / "results")
    return [
        Outcome(title, expected, None if result.refusal else result.points, result.refusal or " ".join(result.lines))
        for (title, expected, _), result in zip(work, results, strict=True)
    ]
