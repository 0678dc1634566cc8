"""The notebooks that are handed out and kept, and the rubric."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from matplotlib import pyplot

from course import notebooks
from course.master import NAMES, read

SETUP = (Path(__file__).resolve().parents[2] / "book/_tools/setup-cell.txt").read_text("utf8")


@pytest.fixture(params=NAMES)
def master(request):
    return read(request.param, "a")


@pytest.mark.parametrize("make", [notebooks.student, notebooks.instructor])
def test_format(master, make):
    notebook = make(master)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))
    assert notebook == make(master), "the same section, another notebook"
    assert notebook.cells[0].source.startswith(f"# {master.title}\n")
    levels = [
        len(m[1])
        for cell in notebook.cells
        for m in re.finditer(r"^(#+) ", cell.source, re.MULTILINE)
        if cell.cell_type == "markdown"
    ]
    assert levels.count(1) == 1
    assert set(levels) <= {1, 2}


def test_the_first_code_cell_installs_camlib_as_a_chapter_does(master):
    code = [cell for cell in notebooks.student(master).cells if cell.cell_type == "code"]
    assert SETUP.startswith(code[0].source)
    assert "%pip install" in code[0].source


def test_every_answer_cell_begins_with_its_marker(master):
    cells = {cell.id: cell.source for cell in notebooks.student(master).cells}
    for name in master.right():
        assert cells[f"answer-{name}"].startswith(f"# ANSWER {name} [{master.name} {master.section}]")


def test_the_student_writes_over_the_words(master):
    words = [cell.source for cell in notebooks.student(master).cells if cell.id.startswith("words-")]
    assert words == [notebooks.WORDS] * len(master.by_people)


def run(notebook, folder):
    """Run the code cells one after the other; return what each of them raised."""
    names, raised = {"__name__": "__main__"}, {}
    before = os.getcwd()
    os.chdir(folder)
    pyplot.switch_backend("agg")
    try:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                source = re.sub(r"^( *)%.*$", r"\1pass", cell.source, flags=re.MULTILINE)
                try:
                    exec(compile(source, cell.id, "exec"), names)
                except Exception as error:
                    raised[cell.id] = error
    finally:
        os.chdir(before)
        pyplot.close("all")
    return raised


def test_right_work_passes_every_check_that_students_see(master, tmp_path):
    assert run(notebooks.instructor(master), tmp_path) == {}


def test_blank_work_passes_no_check(master, tmp_path):
    raised = run(notebooks.student(master), tmp_path)
    checks = {cell.id for cell in notebooks.student(master).cells if cell.id.startswith("check-")}
    assert checks <= set(raised)
    given = [name for name in raised if name.startswith(("given-", "setup"))]
    assert not given, "a cell that the student does not write depends on one that the student does"


def test_the_rubric_lists_every_point(master):
    text = notebooks.rubric(master)
    for test in master.of_kind("test"):
        assert f"| {test.name} | {test.title} | {test.points} |" in text
    for name, points in master.by_people.items():
        assert f"| {name} | by people, in words | {points} |" in text
