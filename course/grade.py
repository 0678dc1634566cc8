"""Grade a folder of submissions, each in a process of its own, so that none can cost another anything."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil

from course.autograder import read_config, save
from course.notebooks import ROOT

SECONDS = 300  # for one submission, after which it is stopped
BYTES = 50 * 2**20  # of a notebook's file
# What the learning platforms call a downloaded file: the name holds who handed it in.
CANVAS = re.compile(r"(?P<student>[^_]+)_(?:late_)?(?P<id>\d+)_\d+_", re.IGNORECASE)
MOODLE = re.compile(r"(?P<student>.+?)_(?P<id>\d+)_assignsubmission_")

# nbformat lets pass whatever is wrong inside of the JSON, so that any of these may come of a broken notebook.
BROKEN = (nbformat.ValidationError, OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


class Refused(Exception):
    """A submission that cannot be graded; the message says why."""


@dataclass
class Result:
    """What came of one submission.

    Attributes:
        name: of its file or folder.
        refusal: why it was not graded, or None.
        lines: what a person should know: cells that were not run or stopped, answers left blank.
        tests: {"answer", "title", "points", "of", "why"} of every hidden test.
    """

    name: str
    refusal: str | None
    lines: list[str] = field(default_factory=list)
    tests: list[dict] = field(default_factory=list)

    @property
    def points(self) -> int:
        return sum(test["points"] for test in self.tests)

    def report(self) -> str:
        """The result for the student and the instructor, as Markdown."""
        if self.refusal:
            return f"# {self.name}\n\nNot graded: {self.refusal}.\n"
        total = sum(test["of"] for test in self.tests)
        table = [
            f"| {t['answer']} | {t['title']} | {t['points']} of {t['of']} | {_cell(t['why'])} |" for t in self.tests
        ]
        return "\n".join(
            [
                f"# {self.name}: {self.points} of {total} points",
                "",
                *(f"- {line}" for line in self.lines),
                "",
                "| Answer | Test | Points | Why |",
                "|---|---|---|---|",
                *table,
                "",
            ]
        )


def grade(submissions: Path, autograder: Path, out: Path) -> list[Result]:
    """Grade every submission in a folder; write a report of each, and tables for people and platforms.

    A submission is a notebook, or a folder that holds one. Whatever else lies there is refused in words.

    Args:
        submissions: the folder.
        autograder: a zip of `course.autograder.write`.
        out: folder for grades.csv, canvas.csv and moodle.csv (if files are named as these platforms name them) and
            reports/.

    Raises:
        ValueError: `autograder` is no autograder of this kit, or the folder holds nothing.
    """
    config = read_config(autograder)
    entries = sorted(path for path in submissions.iterdir() if not path.name.startswith((".", "__MACOSX")))
    if not entries:
        raise ValueError(f"{submissions} holds no submission")
    with tempfile.TemporaryDirectory() as shared, ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda entry: grade_one(entry, autograder.resolve(), shared), entries))
    _write_all(results, config["assignment"], out)
    return results


def grade_one(entry: Path, autograder: Path, shared: str) -> Result:
    """Grade one submission in a process of its own.

    Args:
        entry: a notebook, or a folder that holds one.
        autograder: the zip.
        shared: a folder for what several submissions can share, such as a cache of fonts.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            save(read(entry), folder / "submission.ipynb")
        except Refused as why:
            return Result(entry.name, str(why))
        command = [sys.executable, "-m", "course.one", str(autograder), "submission.ipynb", "result.json"]
        # Nothing of the grader's own environment, which may hold secrets, is passed on but what Python needs.
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "LANG": "C.UTF-8",
            "HOME": name,
            "IPYTHONDIR": str(folder / "ipython"),
            "MPLCONFIGDIR": shared,
            "MPLBACKEND": "agg",
            "PYTHONPATH": str(ROOT),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "OMP_NUM_THREADS": "1",
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                return Result(entry.name, f"it ran for more than {SECONDS} seconds and was stopped")
            finally:
                _stop(process)
        try:
            found = json.loads((folder / "result.json").read_text("utf8"))
        except (OSError, ValueError):
            last = (folder / "log").read_bytes()[-2000:].decode("utf8", "replace").strip().splitlines()[-1:]
            return Result(entry.name, f"the grader gave up on it ({' '.join(last) or 'it was killed'})")
        return Result(entry.name, found["refusal"], found["lines"], [] if found["refusal"] else found["tests"])


def read(entry: Path) -> nbformat.NotebookNode:
    """The code of a submission, as a notebook of today's format.

    Raises:
        Refused: it holds no notebook that can be read.
    """
    if entry.is_dir():
        found = [path for path in sorted(entry.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
        if len(found) != 1:
            raise Refused(f"the folder holds {len(found)} notebooks, and exactly one can be graded")
        entry = found[0]
    if entry.suffix.lower() != ".ipynb":
        raise Refused(f"it is a file '{entry.suffix or entry.name}', and only notebooks (.ipynb) are graded")
    if entry.is_symlink() or not entry.is_file():
        raise Refused("it is not a plain file")
    if entry.stat().st_size > BYTES:
        raise Refused(f"it has more than {BYTES // 2**20} MB: clear its outputs")
    try:
        notebook = nbformat.reads(entry.read_bytes().decode("utf-8-sig"), as_version=4)
        sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    except BROKEN as error:
        said = str(error).partition("\n")[0][:160]
        raise Refused(f"it cannot be read as a notebook ({type(error).__name__}: {said})") from error
    if not all(isinstance(source, str) for source in sources):
        raise Refused("it cannot be read as a notebook (a cell's source is no text)")
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def _stop(process: subprocess.Popen) -> None:
    """End a process and all that it started: a kernel leads a process group of its own."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    process.wait()
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _write_all(results: list[Result], assignment: str, out: Path) -> None:
    (out / "reports").mkdir(parents=True, exist_ok=True)
    for result in results:
        _write(out / "reports" / f"{result.name}.md", result.report())
    possible = max((sum(test["of"] for test in result.tests) for result in results), default=0)
    rows = [
        {
            "submission": result.name,
            "points": "" if result.refusal else result.points,
            "of": possible,
            "state": "refused" if result.refusal else "graded",
            "notes": result.refusal or " ".join(result.lines),
        }
        for result in results
    ]
    _write(out / "grades.csv", _table(rows))
    canvas, moodle = [], []
    for row in rows:
        if match := MOODLE.match(row["submission"]):
            # The columns of Moodle's grading worksheet that its upload looks for.
            moodle.append(
                {
                    "Identifier": f"Participant {match['id']}",
                    "Full name": match["student"],
                    "Grade": row["points"],
                    "Last modified (grade)": "",
                    "Feedback comments": row["notes"],
                }
            )
        elif match := CANVAS.match(row["submission"]):
            canvas.append(
                {
                    "Student": match["student"],
                    "ID": match["id"],
                    "SIS User ID": "",
                    "SIS Login ID": "",
                    "Section": "",
                    f"{assignment} (autograder)": row["points"],
                }
            )
    for name, platform in (("canvas.csv", canvas), ("moodle.csv", moodle)):
        if platform:
            _write(out / name, _table(platform))


def _table(rows: list[dict]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    # A spreadsheet would take a text that begins so for a formula, and students choose what stands here.
    writer.writerows(
        {key: f"'{value}" if str(value).startswith(("=", "+", "-", "@")) else value for key, value in row.items()}
        for row in rows
    )
    return stream.getvalue()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf8")
    part.replace(path)
