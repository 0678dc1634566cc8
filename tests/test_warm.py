"""Processes that are forked from one with the libraries: to who asks they are processes of Python like any other."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import warm

pytestmark = pytest.mark.skipif(not warm.can_fork(), reason="here the book's kernels are not forked")
SAYS = """
import os, sys
print(sys.argv[1:], os.environ["WORD"], os.path.basename(os.getcwd()), "wave" in sys.modules, __name__)
print("a complaint", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
WAITS = """
import os, time
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def command():
    with warm.server("wave") as command:
        yield command


def gone(process):
    """Wait until there is no such process; false if there still is one after a minute."""
    for _ in range(6000):
        status = Path(f"/proc/{process}/stat")
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":  # ended, and nobody has asked how
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("code", [0, 3])
def test_a_fork_has_the_words_streams_folder_environment_and_exit_code_of_who_asked(command, tmp_path, code):
    (tmp_path / "says.py").write_text(SAYS)
    done = subprocess.run(
        [*command, "says.py", str(code), "more"],
        cwd=tmp_path,
        env=os.environ | {"WORD": "hello"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"['{code}', 'more'] hello {tmp_path.name} True __main__\n"
    assert done.stderr == "a complaint\n"
    assert done.returncode == code


def test_a_module_runs_as_by_its_name(command):
    done = subprocess.run([*command, "-m", "calendar", "2024", "2"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "February 2024" in done.stdout


def test_an_error_is_told(command, tmp_path):
    (tmp_path / "fails.py").write_text("1 / 0")
    done = subprocess.run([*command, tmp_path / "fails.py"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.fixture
def waiting(tmp_path):
    """Starts a fork that waits; gives the process that asked for it and its own number."""

    def start(command):
        (tmp_path / "waits.py").write_text(WAITS)
        asked = subprocess.Popen([*command, tmp_path / "waits.py"], stdout=subprocess.PIPE, text=True)
        return asked, int(asked.stdout.readline())

    return start


def test_when_who_asked_is_killed_so_is_the_fork(command, waiting):
    asked, fork = waiting(command)
    with asked:
        asked.kill()
    assert gone(fork)


def test_when_a_fork_is_killed_who_asked_ends_alike(command, waiting):
    asked, fork = waiting(command)
    with asked:
        os.kill(fork, signal.SIGKILL)
    assert asked.returncode == -signal.SIGKILL


def test_no_fork_outlives_the_server(waiting):
    with warm.server() as command:
        asked, fork = waiting(command)
    with asked:
        assert gone(fork)
    assert asked.returncode != 0
