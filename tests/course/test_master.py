"""Masters: the format, a section's values, and what is handed out."""

import re

import pytest

from course import master as masters
from course.master import NAMES, MasterError, read, solution, stub
from course.notebooks import student

SALTS = ("a", "b", "spring, group 1")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.mark.parametrize(
    ("name", "by_tests", "by_people"), [("cam", 10, 0), ("cam-loss", 9, 3), ("verdict", 9, 1), ("project", 6, 14)]
)
def test_points(name, by_tests, by_people):
    master = read(name, "a")
    assert (master.points, sum(master.by_people.values())) == (by_tests, by_people)


def test_the_same_salt_makes_the_same_section_and_another_salt_another(name):
    first, again, other = read(name, "a"), read(name, "a"), read(name, "b")
    assert first == again
    assert first.values == again.values
    assert first.section != other.section
    changed = {key for key, value in first.values.items() if value != other.values[key]}
    assert len(changed) >= len(first.values) / 2
    assert first.right() != other.right()


def test_there_are_at_least_eight_wrong_answers_none_of_which_is_the_right_one(name):
    master = read(name, "a")
    wrong = master.of_kind("wrong")
    assert len(wrong) >= 8
    assert all(0 <= cell.points < master.points for cell in wrong)
    assert all(cell.source != master.right()[cell.name] for cell in wrong)


def test_every_answer_has_a_test_a_check_and_a_wrong_answer(name):
    master = read(name, "a")
    answers = set(master.right())
    assert {cell.name for cell in master.of_kind("test")} == answers
    assert len(master.of_kind("check")) >= len(answers) - 1  # the project checks a plan and its characters at once


def test_titles_of_tests_and_wrong_answers_are_told_apart(name):
    for kind in ("test", "wrong"):
        titles = [cell.title for cell in read(name, "a").of_kind(kind)]
        assert len(titles) == len(set(titles))


@pytest.mark.parametrize("salt", SALTS)
def test_the_student_finds_neither_answers_nor_tests_nor_the_grader(name, salt):
    master = read(name, salt)
    text = "\n".join(cell.source for cell in student(master).cells)
    assert "otter" not in text
    assert "BEGIN" not in text
    assert not re.search(r"\bv\.[a-z]", text), "a value of the section that was not filled in"
    for cell in master.of_kind("answer"):
        given = stub(cell.source).splitlines()
        # What is shorter than that, such as a bracket, gives nothing away.
        hidden = [line for line in solution(cell.source).splitlines() if len(line.strip()) > 11 and line not in given]
        assert hidden
        assert not any(line in text.splitlines() for line in hidden)
    for cell in master.of_kind("test", "wrong", "words", "rubric"):
        assert cell.source not in text


def test_begin_and_end_enclose_what_the_student_writes():
    source = "def f(x):\n    y = x\n    # BEGIN y = (\n    # BEGIN )\n    y += 1\n    return y\n    # END\nz = 1"
    assert stub(source) == "def f(x):\n    y = x\n    y = (\n    )\nz = 1"
    assert solution(source) == "def f(x):\n    y = x\n    y += 1\n    return y\nz = 1"


HEAD = '"""Title"""\nMINUTES, TEACHES, BY_PEOPLE, CAMLIB, REFUSED = 1, "", {}, (), ()\n'


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("# %% answer a\n# BEGIN a = None\na = v.missing\n# END\n", "missing"),
        ("# %% answer a\na = 1\n# %% test b 1 title\nassert a\n", "belongs to no answer 'b'"),
        ("# %% answer a\na = 1\n# %% test a one title\nassert a\n", "# %% test a one title"),
        ("# %% answer a\na = = 1\n", "answer 'a' is not Python"),
        ("# %% [markdown] words essay\n# Text.\n", "essay"),
    ],
)
def test_a_broken_master_is_named(tmp_path, monkeypatch, cells, message):
    (tmp_path / "cam.py").write_text(HEAD + cells, "utf8")
    monkeypatch.setattr(masters, "FOLDER", tmp_path)
    with pytest.raises(MasterError, match=re.escape(message)):
        read("cam", "a")


def test_a_negative_value_keeps_its_sign(tmp_path, monkeypatch):
    text = HEAD + "# %% draw\nv.low = -2\n# %% [markdown]\n# From {v.low}.\n# %% answer a\na = v.low**2\n"
    (tmp_path / "cam.py").write_text(text, "utf8")
    monkeypatch.setattr(masters, "FOLDER", tmp_path)
    master = read("cam", "a")
    assert master.right() == {"a": "a = (-2)**2"}
    assert master.of_kind("markdown")[0].source == "From -2."


def test_there_is_no_such_assignment():
    with pytest.raises(MasterError, match="no assignment 'cams': choose one of cam, "):
        read("cams", "a")
