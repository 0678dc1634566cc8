"""CONTRIBUTING.md sends a newcomer to places that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
QUESTIONS = re.findall(r"^\| (Where .+\?) \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text("utf8"), re.MULTILINE)


def test_there_are_twenty_questions_or_more():
    assert len(QUESTIONS) >= 20


@pytest.mark.parametrize(("question", "answer"), QUESTIONS, ids=[question for question, _ in QUESTIONS])
def test_an_answer_names_what_exists(question, answer):
    paths = re.findall(r"`([^`]+)`", answer)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
