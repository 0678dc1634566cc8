"""The autograder of an assignment: otter-grader's zip, for Gradescope and for a local run."""

import json
import tempfile
import zipfile
from pathlib import Path
from textwrap import indent

import nbformat

from course import gate
from course.master import Master
from course.notebooks import ROOT, install, student

TEST = """

@test_case(name={title!r}, points={points}, hidden=True)
def test_{number}(env):
    call, number, value = reader(env)
{body}
"""


def config(master: Master) -> dict:
    """otter's settings, and those of `course.gate` within them."""
    handout = student(master)
    return {
        "show_hidden": True,  # once grades are published
        "force_public_test_summary": False,
        "logo": False,
        "print_summary": False,
        "plugins": [
            {
                "course.gate.Gate": {
                    "assignment": master.name,
                    "section": master.section,
                    "handout": [gate.plain(cell.source) for cell in handout.cells if cell.cell_type == "code"],
                    "given": [install(), *(cell.source for cell in master.of_kind("given"))],
                    "answers": [cell.name for cell in master.of_kind("answer")],
                    "camlib": list(master.camlib),
                    "refused": list(master.refused),
                }
            }
        ],
    }


def tests(master: Master) -> dict[str, str]:
    """{name of an answer: its file of hidden tests}, in otter's format of tests that raise."""
    shared = "\n\n".join(cell.source for cell in master.of_kind("tests"))
    head = "\n\n".join(
        ["from otter.test_files import test_case", (ROOT / "course/checks.py").read_text("utf8"), shared]
    )
    files = {}
    for answer in master.of_kind("answer"):
        mine = [test for test in master.of_kind("test") if test.name == answer.name]
        bodies = (
            TEST.format(title=test.title, points=test.points, number=i, body=indent(test.source, "    "))
            for i, test in enumerate(mine, start=1)
        )
        files[answer.name] = f"OK_FORMAT = False\nname = {answer.name!r}\n{head}\n{''.join(bodies)}"
    return files


def write(master: Master, path: Path) -> None:
    """Make the zip. On Gradescope it installs camlib from the book's repository.

    Args:
        master: of the assignment.
        path: of the zip, which is replaced if it exists.
    """
    # otter is wanted by whoever makes or runs an autograder, not by whoever reads a master.
    from otter.generate import main as generate

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tests").mkdir()
        for answer, text in tests(master).items():
            (folder / "tests" / f"{answer}.py").write_text(text, "utf8")
        (folder / "otter_config.json").write_text(json.dumps(config(master)), "utf8")
        requirement = install().partition('"camlib @ ')[2].partition('"')[0]
        (folder / "requirements.txt").write_text(f"camlib @ {requirement}\n", "utf8")
        # For Gradescope: without a GPU, PyTorch's build for one would be gigabytes of nothing.
        (folder / "environment.yml").write_text("dependencies: [pytorch-cpu, torchvision]\n", "utf8")
        part = folder / "autograder.zip"
        generate(
            tests_dir=str(folder / "tests"),
            output_path=str(part),
            config=str(folder / "otter_config.json"),
            requirements=str(folder / "requirements.txt"),
            environment=str(folder / "environment.yml"),
            python_version="3.12",
        )
        with zipfile.ZipFile(part, "a") as archive:
            for file in ("__init__.py", "gate.py"):
                archive.write(ROOT / "course" / file, f"course/{file}")
        data = part.read_bytes()
    beside = path.with_suffix(".part")
    beside.write_bytes(data)
    beside.replace(path)


def read_config(path: Path) -> dict:
    """The settings of `course.gate` in an autograder's zip.

    Raises:
        ValueError: it is no autograder of this kit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("otter_config.json"))["plugins"][0]["course.gate.Gate"]
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path} is no autograder of this kit ({error}): python -m course build --out DIR makes them"
        ) from error


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all."""
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    part.replace(path)
