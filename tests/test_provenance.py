"""Which commit a number was made with."""

import subprocess

import pytest

from camlib import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, whose `provenance.py` this is."""

    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "provenance.py").write_text("first\n")
    git("add", "provenance.py")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    return git


def test_a_commit_is_named_as_git_names_it(repository, tmp_path):
    (tmp_path / "notes.txt").write_text("not part of the package")
    assert provenance.commit() == repository("rev-parse", "HEAD")


@pytest.mark.parametrize("staged", [False, True])
def test_files_that_differ_from_the_commit_are_told(repository, tmp_path, staged):
    (tmp_path / "provenance.py").write_text("second\n")
    if staged:
        repository("add", "provenance.py")
    assert provenance.commit() == repository("rev-parse", "HEAD") + "+changes"
