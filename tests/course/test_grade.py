"""Submissions as they come, and the tables that go back. The grading itself is in tests/grader."""

import csv
import json
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from course import grade
from course.grade import Refused, Result
from course.master import read
from course.notebooks import notebook


def write(path, text):
    path.write_text(text, "utf8")
    return path


@pytest.fixture
def right(tmp_path):
    master = read("cam", "a")
    path = tmp_path / "any name at all.ipynb"
    nbformat.write(notebook(master, master.right(), {}), path)
    return path


def code(found):
    return [cell.source for cell in found.cells]


def test_a_notebook_of_an_older_format_is_read(right):
    new = nbformat.read(right, 4)
    old = right.with_name("old.ipynb")
    cells = [
        {
            "cell_type": "code",
            "collapsed": False,
            "input": c.source,
            "language": "python",
            "metadata": {},
            "outputs": [],
        }
        for c in new.cells
        if c.cell_type == "code"
    ]
    write(
        old,
        json.dumps(
            {
                "metadata": {"name": ""},
                "nbformat": 3,
                "nbformat_minor": 0,
                "worksheets": [{"cells": cells, "metadata": {}}],
            }
        ),
    )
    assert code(grade.read(old)) == code(grade.read(right))


def test_a_folder_with_one_notebook_is_read(right):
    (right.parent / "Ada Moth_17_assignsubmission_file" / ".ipynb_checkpoints").mkdir(parents=True)
    folder = right.parent / "Ada Moth_17_assignsubmission_file"
    (folder / "x.ipynb").write_bytes(right.read_bytes())
    (folder / ".ipynb_checkpoints" / "x-checkpoint.ipynb").write_bytes(right.read_bytes())
    assert code(grade.read(folder)) == code(grade.read(right))


def test_a_mark_at_the_beginning_does_no_harm(right):
    marked = right.with_name("marked.ipynb")
    marked.write_bytes(b"\xef\xbb\xbf" + right.read_bytes())
    assert code(grade.read(marked)) == code(grade.read(right))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.ipynb", b"", "cannot be read as a notebook"),
        ("a.ipynb", b"not json", "cannot be read as a notebook"),
        ("a.ipynb", b"[1, 2]", "cannot be read as a notebook"),
        ("a.ipynb", b"{}", "cannot be read as a notebook"),
        ("a.ipynb", b'{"nbformat": 99, "nbformat_minor": 0, "cells": [], "metadata": {}}', "cannot be read"),
        ("a.ipynb", b'{"nbformat": 4, "nbformat_minor": 5, "cells": 3, "metadata": {}}', "cannot be read"),
        ("a.ipynb", b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
         "cannot be read"),
        ("a.ipynb", b"\xff\xfe\x00{", "cannot be read as a notebook"),
        ("a.ipynb", b"[" * 100_000, "cannot be read as a notebook"),
        ("a.py", b"x = 1", "only notebooks"),
        ("a.pdf", b"%PDF", "only notebooks"),
        ("a", b"", "only notebooks"),
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_refused_in_words(tmp_path, name, content, why):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(Refused, match=why):
        grade.read(path)


def test_a_folder_with_none_or_two_is_refused(tmp_path, right):
    (tmp_path / "two").mkdir()
    with pytest.raises(Refused, match="holds 0 notebooks"):
        grade.read(tmp_path / "two")
    for name in "ab":
        (tmp_path / "two" / f"{name}.ipynb").write_bytes(right.read_bytes())
    with pytest.raises(Refused, match="holds 2 notebooks"):
        grade.read(tmp_path / "two")


def test_a_link_and_a_giant_are_refused(tmp_path, right, monkeypatch):
    link = tmp_path / "link.ipynb"
    link.symlink_to(right)
    with pytest.raises(Refused, match="not a plain file"):
        grade.read(link)
    monkeypatch.setattr(grade, "BYTES", 100)
    with pytest.raises(Refused, match="clear its outputs"):
        grade.read(right)


def test_an_autograder_of_something_else_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="no autograder of this kit"):
        grade.grade(tmp_path / "in", write(tmp_path / "x.zip", "x"), tmp_path / "out")


TEST = {"answer": "map", "title": "soft rows", "points": 3, "of": 4, "why": "AssertionError: off | by 2"}


def table(path):
    with path.open(encoding="utf8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_tables_for_people_and_platforms(tmp_path):
    results = [
        Result("mothada_LATE_123_456_cam.ipynb", None, ["Answer 'map' is blank."], [TEST]),
        Result("Ben Owl_17_assignsubmission_file", "it is not a plain file"),
        Result("=cmd.ipynb", None, [], [TEST]),
    ]
    grade._write_all(results, "cam", tmp_path)
    rows = table(tmp_path / "grades.csv")
    assert [row["points"] for row in rows] == ["3", "", "3"]
    assert [row["state"] for row in rows] == ["graded", "refused", "graded"]
    assert {row["of"] for row in rows} == {"4"}
    assert rows[2]["submission"] == "'=cmd.ipynb", "a spreadsheet would run it"
    assert table(tmp_path / "canvas.csv") == [
        {
            "Student": "mothada",
            "ID": "123",
            "SIS User ID": "",
            "SIS Login ID": "",
            "Section": "",
            "cam (autograder)": "3",
        }
    ]
    (moodle,) = table(tmp_path / "moodle.csv")
    assert (moodle["Identifier"], moodle["Full name"], moodle["Grade"]) == ("Participant 17", "Ben Owl", "")
    report = (tmp_path / "reports" / "mothada_LATE_123_456_cam.ipynb.md").read_text("utf8")
    assert "3 of 4 points" in report
    assert "off \\| by 2" in report


def test_no_table_for_a_platform_that_nobody_uses(tmp_path):
    grade._write_all([Result("x.ipynb", None, [], [TEST])], "cam", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"grades.csv", "reports"}


def test_a_process_is_ended_with_all_that_it_started():
    """A kernel leads a session of its own, so that killing the group of its parent would miss it."""
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], " \
            "start_new_session=True); time.sleep(600)"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", child])
    family = []
    while not family:
        time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
    grade._stop(process)
    assert process.poll() is not None
    psutil.wait_procs(family, timeout=60)
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)
