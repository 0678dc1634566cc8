"""Processes of Python that start at once, because each is forked from one that has imported the large libraries.

    python -uP warm.py serve NUMBER LIBRARY …       imports the libraries, then forks what is asked for on a socket
    python -IS warm.py run SOCKET -m MODULE …       runs a module, or a FILE, as `python -m MODULE …` would

Torch and the plotting libraries cost every process that imports them five seconds, and a book has many chapters.
Who asks has a process of its own, as if that ran the command: it lives as long, ends with the same exit code, takes the
output, and when it is killed, so is the fork. All forks end with the process that holds the server's standard input.
What is read only as Python or a library starts, as OMP_NUM_THREADS and PYTHONPATH, is the server's.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys


@contextlib.contextmanager
def server(*libraries):
    """A server as long as the context lasts; gives the first words of a command that is run by it."""
    import subprocess
    import tempfile

    if not can_fork():
        yield [sys.executable]
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        listening(f"{folder}/socket") as listener,
    ):
        number = listener.fileno()
        command = [
            sys.executable,
            "-uP",
            __file__,
            "serve",
            str(number),
            *libraries,
        ]
        started = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[number]
        )
        listener.close()  # the server's alone: who asks one that has ended is refused
        try:
            yield [sys.executable, "-IS", __file__, "run", f"{folder}/socket"]
        finally:
            started.stdin.close()
            if (
                started.wait() != -signal.SIGKILL
            ):  # by which it ends itself and its forks
                raise RuntimeError(
                    f"no process was forked: {command} ended with {started.returncode}, see above"
                )


def listening(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen()
    return listener


def can_fork():
    """Whether the libraries take a fork well and a fork can be waited for; else every process imports them."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (
        AttributeError,
        OSError,
    ):  # an old kernel, a sandbox, or a Python built for one
        return False
    return True


def serve(number, libraries):
    """Import the libraries; then, for everyone who connects, fork a guard, which forks the process asked for."""
    import importlib
    import runpy

    for name in libraries:
        importlib.import_module(name)
    # Everything that is forked stays in one group, to be ended together.
    os.setpgid(0, 0)
    with socket.socket(fileno=int(number)) as listener:
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            client, _ = listener.accept()
            if os.fork() == 0:
                wish = guard(client)
                break
            client.close()
            with contextlib.suppress(ChildProcessError):
                while any(os.waitpid(-1, os.WNOHANG)):  # guards that ended
                    pass
        else:
            os.killpg(0, signal.SIGKILL)
    # Only what was forked comes here, out of everything above, to end as any process does.
    if wish[0] == "-m":
        sys.argv = wish[1:]
        runpy.run_module(wish[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = wish
        runpy.run_path(wish[0], run_name="__main__")


def guard(client):
    """Fork; in the fork, return what it shall run. The guard itself waits for the end of the fork, or of who asked."""
    import importlib

    wish, streams, _, _ = socket.recv_fds(client, 1 << 20, 2)
    wish = json.loads(wish)
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        if client in select.select([client, os.pidfd_open(child)], [], [])[0]:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            client.send(str(code).encode())
        finally:
            os._exit(0)
    client.close()
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
        os.close(stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(wish["folder"])
    os.environ.clear()
    os.environ.update(wish["environment"])
    if "sitecustomize" in sys.modules:  # what Python runs as a process starts
        importlib.reload(sys.modules["sitecustomize"])
    return wish["command"]


def run(path, command):
    """Ask the server to run the command with the streams, folder and environment of this process; its exit code."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(path)
        wish = {
            "command": command,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
        }
        socket.send_fds(server, [json.dumps(wish).encode()], [1, 2])
        code = int(server.recv(16) or 1)
    if code < 0:  # killed: so is this
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    task, path, *rest = sys.argv[1:]
    sys.exit(serve(path, rest) if task == "serve" else run(path, rest))
