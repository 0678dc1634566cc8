"""The set-up cell where camlib is missing: on Colab it is installed, elsewhere the reader is told how."""

import importlib.util
import re
import sys
from pathlib import Path

import address
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

SETUP = (Path(__file__).resolve().parents[2] / "book/_tools/setup-cell.txt").read_text("utf8")
SOURCE = f'"camlib @ git+{address.current()}@v{address.project()["version"]}"'


@pytest.fixture
def shell(monkeypatch):
    """A shell that finds no camlib and notes what it should install."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: (name != "camlib" and find(name, *more)) or None
    )
    monkeypatch.setenv("CAMLIB_PRESET", "quick")
    made = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    made.asked = []
    made.register_magic_function(made.asked.append, "line", "pip")
    return made


def test_on_colab_it_is_installed_beside_what_is_there(shell, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert shell.run_cell(SETUP).success
    assert shell.asked == [f"install -q --no-deps {SOURCE}"]


def test_elsewhere_the_line_that_installs_it_is_named(shell, capsys):
    result = shell.run_cell(SETUP)
    assert isinstance(result.error_in_exec, ModuleNotFoundError)
    (line,) = re.findall(r"To install it: %(pip .*)", str(result.error_in_exec))
    assert line == f"pip install {SOURCE}"
    assert shell.asked == []


def test_where_camlib_is_nothing_is_installed(shell, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("CAMLIB_PRESET", "quick")
    assert shell.run_cell(SETUP).success
    assert shell.asked == []
