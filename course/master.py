"""Reading a master, the one file an assignment is made from, and filling in a section's values.

A master is a Python file in the percent format. What stands before its first cell is its head: a docstring (the
first line is the title) and the constants of `Master`. Then come cells, each headed by a line `# %% KIND …`:

    draw                       code that sets `v.something` by the random generator `rng`: the section's values
    [markdown]                 text for the student
    [markdown] words NAME      words that the student writes and people grade; the master holds a model answer
    given                      code that the autograder runs too, before the student's
    show                       code that only the notebook runs
    check                      visible assertions, only in the notebook
    answer NAME                the right answer; lines `# BEGIN stub` show what the student finds in place of the
                               lines from there to `# END`
    tests                      code shared by the hidden tests
    test NAME POINTS TITLE     one hidden test of the answer NAME, on what `course.checks` offers
    wrong NAME POINTS TITLE    a sabotage drill: an answer in place of the right one, and the points it must get
    [markdown] rubric          what people look at when they grade

`v.something` in code is replaced by the section's value, `{v.something}` in Markdown by its text.
"""

import ast
import hashlib
import pprint
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

FOLDER = Path(__file__).parent / "assignments"
NAMES = ("cam", "cam-loss", "verdict", "project")
HEADER = re.compile(r"^# %% ?(.*)$", re.MULTILINE)


class MasterError(ValueError):
    """A master cannot be read; the message names the file and the cell."""


@dataclass(frozen=True)
class Cell:
    """One cell of a master, for one section.

    Attributes:
        kind: as the head of this module lists them; "words" and "rubric" for those cells of Markdown.
        source: code or Markdown, with the section's values.
        name: of the answer that an answer, test, wrong or words cell belongs to.
        points: of a test, or those a wrong answer must get in all.
        title: of a test or a wrong answer.
    """

    kind: str
    source: str
    name: str = ""
    points: int = 0
    title: str = ""


@dataclass(frozen=True)
class Master:
    """An assignment for one section.

    Attributes:
        name: a name of `NAMES`.
        title: of the assignment.
        section: six hexadecimal digits that stand for the salt.
        minutes: what the assignment takes a student.
        teaches: what it teaches, one line.
        by_people: {name of a words cell: points that people give}.
        camlib: names of `camlib` that a submission may use, as "camlib.one_hot".
        refused: dotted endings of names that do the student's work, as "stats.ttest_rel".
        values: the section's values.
        cells: of the master, in order, without draw.
    """

    name: str
    title: str
    section: str
    minutes: int
    teaches: str
    by_people: dict[str, int]
    camlib: tuple[str, ...]
    refused: tuple[str, ...]
    values: dict = field(repr=False)
    cells: tuple[Cell, ...] = field(repr=False)

    def of_kind(self, *kinds: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind in kinds]

    @property
    def points(self) -> int:
        """What the autograder gives at most."""
        return sum(cell.points for cell in self.of_kind("test"))

    def right(self) -> dict[str, str]:
        """{name: right answer}."""
        return {cell.name: solution(cell.source) for cell in self.of_kind("answer")}

    def blank(self) -> dict[str, str]:
        """{name: what the student finds in the answer cell}."""
        return {cell.name: stub(cell.source) for cell in self.of_kind("answer")}

    def marker(self, name: str) -> str:
        """The first line of an answer cell, by which the autograder knows it."""
        return f"# ANSWER {name} [{self.name} {self.section}]: keep this line"


def read(name: str, salt: str) -> Master:
    """Read a master and draw the values of the section that a salt stands for.

    Args:
        name: a name of `NAMES`.
        salt: any text; the same text draws the same values.

    Raises:
        MasterError: there is no such master, or it breaks the format.
    """
    if name not in NAMES:
        raise MasterError(f"there is no assignment '{name}': choose one of {', '.join(NAMES)}")
    path = FOLDER / f"{name.replace('-', '_')}.py"
    text = path.read_text("utf8")
    starts = list(HEADER.finditer(text))
    head: dict = {}
    exec(compile(text[: starts[0].start()], str(path), "exec"), head)
    digest = hashlib.sha256(f"{name}\n{salt}".encode()).hexdigest()
    v, rng = SimpleNamespace(), random.Random(digest)
    cells = []
    for start, end in zip(starts, [m.start() for m in starts[1:]] + [len(text)], strict=True):
        body = text[start.end() : end].strip("\n")
        if start[1] == "draw":
            exec(compile(body, str(path), "exec"), {"v": v, "rng": rng})
        else:
            cells.append(_cell(start[1], body, v, f"{path.name}, cell '# %% {start[1]}'"))
    constants = {key.lower(): head[key] for key in ("MINUTES", "TEACHES", "BY_PEOPLE", "CAMLIB", "REFUSED")}
    title = head["__doc__"].splitlines()[0]
    master = Master(name, title, digest[:6], values=vars(v), cells=tuple(cells), **constants)
    _check(master, path.name)
    return master


def _cell(header: str, body: str, v: SimpleNamespace, where: str) -> Cell:
    kind, *rest = header.split(maxsplit=1)
    try:
        if kind == "[markdown]":
            lines = [re.sub(r"^# ?", "", line) for line in body.splitlines()]
            source = re.sub(r"\{v\.(\w+)\}", lambda m: str(getattr(v, m[1])), "\n".join(lines))
            kind, _, name = rest[0].partition(" ") if rest else ("markdown", "", "")
            return Cell(kind, source, name)
        source = re.sub(r"\bv\.(\w+)( *\*\*)?", lambda m: _literal(getattr(v, m[1]), m[2]), body)
        if kind in ("test", "wrong"):
            name, points, title = rest[0].split(maxsplit=2)
            return Cell(kind, source, name, int(points), title)
        return Cell(kind, source, *rest)
    except (AttributeError, ValueError, IndexError, TypeError) as error:
        raise MasterError(f"{where}: {error}") from error


def _literal(value, power: str | None) -> str:
    """A value as code; `power` is the operator ** behind it, which would take hold of a number without its sign."""
    text = pprint.pformat(value, width=100, sort_dicts=False)
    return f"({text}){power}" if power else text


def _check(master: Master, file: str) -> None:
    answers = {cell.name for cell in master.of_kind("answer")}
    for cell in master.of_kind("test", "wrong"):
        if cell.name not in answers:
            raise MasterError(f"{file}: {cell.kind} '{cell.title}' belongs to no answer '{cell.name}'")
    words = {cell.name for cell in master.of_kind("words")}
    if words != set(master.by_people):
        raise MasterError(f"{file}: people grade {sorted(master.by_people)}, but the words cells are {sorted(words)}")
    for name, source in (master.right() | master.blank()).items():
        try:
            ast.parse(source)
        except SyntaxError as error:
            raise MasterError(f"{file}: answer '{name}' is not Python: {error}") from error


def solution(source: str) -> str:
    """An answer cell as the instructor sees it."""
    return "\n".join(line for line in source.splitlines() if not re.match(r"\s*# (BEGIN .*|END)$", line))


def stub(source: str) -> str:
    """An answer cell as the student finds it: only the lines of BEGIN are left of what BEGIN and END enclose."""
    lines, hidden = [], False
    for line in source.splitlines():
        begin = re.match(r"(\s*)# BEGIN (.*)", line)
        if begin:
            lines.append(begin[1] + begin[2])
            hidden = True
        elif re.match(r"\s*# END$", line):
            hidden = False
        elif not hidden:
            lines.append(line)
    return "\n".join(lines)
