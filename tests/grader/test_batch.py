"""Batches through otter-grader itself, a kernel for each submission."""

import json
import zipfile

import nbformat
import pytest

from course import autograder
from course.__main__ import main
from course.drill import drill
from course.grade import grade
from course.master import NAMES, read
from course.notebooks import notebook


def test_drills_of_the_first_assignment():
    wrong = [outcome for outcome in drill("cam", "a") if outcome.got != outcome.expected]
    assert not wrong


MASTER = read("cam", "a")


def answers(**changed):
    return notebook(MASTER, MASTER.right() | changed, {})


def attack(code):
    """Right work with a cell in front of it."""
    submission = answers()
    submission.cells.insert(1, nbformat.v4.new_code_cell(code))
    return submission


STRETCH = "def stretch(a):\n"
# {file: (submission, points or None if it is to be refused, what the report says)}
SUBMISSIONS = {
    "right": (answers(), 10, "10 of 10"),
    "syntax error": (answers(stretch="def stretch(a:"), 8, "'stretch' is not run: it is not Python in line"),
    "endless cell": (answers(logit="while True:\n    pass"), 9, "'logit' stopped with _CourseTimeout"),
    "endless function": (answers(stretch=STRETCH + "    while True:\n        a = a + 0"), 8, "Timeout: stopped after"),
    "reads the tests": (attack("print(open('tests/map.py').read())"), 10, "is not run: it uses open"),
    "deletes files": (attack("import shutil\nshutil.rmtree('.')"), 10, "imports shutil"),
    "tampers with torch": (attack("torch.Tensor.__sub__ = lambda a, b: 0"), 10, "reaches into torch.Tensor.__sub__"),
    "endless, catching all": (
        answers(logit="while True:\n    try:\n        x = 1\n    except:\n        pass"),
        9,
        "'logit' stopped with _CourseTim",
    ),
    "gives up": (answers(stretch=STRETCH + "    raise ValueError('no')"), 8, "stretch raised ValueError: no"),
    "too much memory": (answers(stretch=STRETCH + "    return [0] * 10**11"), 8, "stretch raised MemoryError"),
    "unknown kernel": (answers(), 10, "10 of 10"),
    "another section": (notebook(read("cam", "b"), read("cam", "b").right(), {}), None, "this is the notebook of cam"),
    "another assignment": (notebook(read("verdict", "a"), read("verdict", "a").right(), {}), None, "verdict, section"),
}
SUBMISSIONS["unknown kernel"][0].metadata.kernelspec = {"name": "ir", "display_name": "R", "language": "R"}


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch")
    (folder / "in").mkdir()
    for name, (submission, _, _) in SUBMISSIONS.items():
        nbformat.write(submission, folder / "in" / f"{name}.ipynb")
    (folder / "in" / "broken.ipynb").write_text("{", "utf8")
    autograder.write(MASTER, folder / "autograder.zip")
    return {result.name: result for result in grade(folder / "in", folder / "autograder.zip", folder / "out")}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_bad_submission_costs_the_others_nothing(batch, name):
    _, expected, said = SUBMISSIONS[name]
    result = batch[f"{name}.ipynb"]
    assert (None if result.refusal else result.points) == expected, result.report()
    assert said in result.report()


def test_a_broken_file_is_refused(batch):
    assert "cannot be read as a notebook" in batch["broken.ipynb"].refusal


def test_a_submission_that_does_not_end_is_stopped(tmp_path, monkeypatch):
    """The last resort, when the limits on processor time do not bite: here it stops the start of the grader itself."""
    (tmp_path / "in").mkdir()
    nbformat.write(answers(), tmp_path / "in" / "slow.ipynb")
    autograder.write(MASTER, tmp_path / "autograder.zip")
    monkeypatch.setattr("course.grade.SECONDS", 1)
    (result,) = grade(tmp_path / "in", tmp_path / "autograder.zip", tmp_path / "out")
    assert result.refusal == "it ran for more than 1 seconds and was stopped"


def test_build_writes_every_assignment(tmp_path, capsys):
    assert main(["build", "--salt", "a", "--out", str(tmp_path)]) == 0
    assert "The salt, to build the same again: a" in capsys.readouterr().out
    for name in NAMES:
        assert (tmp_path / name / "student" / f"{name}.ipynb").is_file()
        instructor = tmp_path / name / "instructor"
        assert {path.name for path in instructor.iterdir()} == {f"{name}-solution.ipynb", "autograder.zip", "rubric.md"}
        with zipfile.ZipFile(instructor / "autograder.zip") as archive:
            held = set(archive.namelist())
            settings = json.loads(archive.read("otter_config.json"))
            environment = archive.read("environment.yml").decode("utf8")
        assert {"run_autograder", "run_otter.py", "setup.sh", "environment.yml", "course/gate.py"} <= held
        assert {f"tests/{answer}.py" for answer in read(name, "a").right()} <= held
        assert "pytorch-cpu" in environment
        assert "camlib @ git+https://" in environment
        assert settings["plugins"][0]["course.gate.Gate"]["section"] == read(name, "a").section


def test_a_fault_of_the_user_s_is_one_line(tmp_path, capsys):
    assert main(["grade", str(tmp_path), "--autograder", str(tmp_path / "none.zip"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
