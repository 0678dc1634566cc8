"""Every drill of every assignment, for several sections, in this process; and answers carried from one to another."""

from itertools import permutations

import pytest
from in_process import points

from course.master import NAMES, read

SALTS = ("a", "b", "autumn, group 2")


def work(master):
    yield "right", master.points, master.right()
    yield "blank", 0, master.blank()
    for cell in master.of_kind("wrong"):
        yield cell.title, cell.points, master.right() | {cell.name: cell.source}


@pytest.mark.parametrize("salt", SALTS)
@pytest.mark.parametrize("name", NAMES)
def test_every_drill_gets_its_points(name, salt):
    master = read(name, salt)
    wrong = []
    for title, expected, answers in work(master):
        got, lines, failed = points(master, answers)
        if got != expected:
            wrong.append((title, f"got {got}, must be {expected}", lines, failed))
    assert not wrong


@pytest.mark.parametrize("name", NAMES)
def test_each_hidden_test_is_caught_alone_or_with_others(name):
    """A test that no drill fails could be deleted unnoticed."""
    master = read(name, "a")
    caught = {line.partition(":")[0] for title, _, answers in work(master) if title not in ("right", "blank")
              for line in points(master, answers)[2]}  # fmt: skip
    assert {test.title for test in master.of_kind("test")} <= caught


@pytest.mark.parametrize("name", NAMES)
def test_answers_of_another_section_fail(name):
    """Copied by hand into this section's cells: less than half of the points."""
    sections = {salt: read(name, salt) for salt in SALTS}
    for mine, other in permutations(SALTS, 2):
        got, _, _ = points(sections[mine], sections[other].right())
        assert got < sections[mine].points / 2, f"answers of {other} in section {mine}"
