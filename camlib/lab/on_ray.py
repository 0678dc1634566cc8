"""Trains a plan on a Ray cluster: each run is a task that waits for the tasks of the runs that it needs.

Every node has camlib, and the folder of the runs is one that they share. Ray is the optional extra `camlib[ray]`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from camlib.lab.plan import Job
from camlib.lab.workers import Outcome, command

STOPPED, LOST = "stopped", "lost"  # what a task that did not finish its run gives to those that need it


def train(
    jobs: Sequence[Job],
    options: Sequence[str],
    out: Path,
    threads: int = 1,
    gpus: float = 0,
    time_limit: float | None = None,
    camlib: Sequence[str] = ("-m", "camlib"),
) -> Outcome:
    """Train the jobs of a plan that are not done, as `camlib.lab.workers.train` does, on as many nodes as there are.

    The cluster is that of the environment's RAY_ADDRESS, or one of this machine alone. How many runs are trained side
    by side follows from what they ask for.

    Args:
        jobs, options, out, time_limit: as in `camlib.lab.workers.train`; `out` is absolute.
        threads, gpus: what each run asks the cluster for.
        camlib: what makes Python start camlib's command line.
    """
    import ray  # the optional extra

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    until = float("inf") if time_limit is None else time.time() + time_limit
    task = _task(threads, gpus, until)
    outcome = Outcome(done=[job.run for job in jobs if job.state == "done"])
    tasks, runs = {}, {}
    for job in jobs:  # what a run needs stands before it
        if job.state != "done":
            before = [tasks[other] for other in job.needs if other in tasks]
            log = out / job.run.path / "log.txt"
            tasks[job.run] = task.remote([*camlib, *command(job, options)], log, *before)
            runs[tasks[job.run]] = job.run
    left = list(runs)
    while left:
        (ended,), left = ray.wait(left)
        run, (state, last) = runs[ended], ray.get(ended)
        print(f"{run.path}: {last}", flush=True)
        if state == LOST:
            outcome.failed[run] = last
        elif state == STOPPED:
            (outcome.stopped if last else outcome.waiting).append(run)
        else:
            outcome.done.append(run)
    return outcome


def _task(threads: int, gpus: float, until: float) -> Callable:
    """A task tells what became of its run, and the last line that the run said; none if it was not begun.

    A function in a function goes to the nodes as it is: their processes need not import camlib and torch for it.
    """
    import ray

    @ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)
    def train(arguments: list[str], log: Path, *before: tuple[str, str]) -> tuple[str, str]:
        if any(state == LOST for state, _ in before):
            return LOST, "what it needs has failed"
        seconds = until - time.time()
        if seconds <= 0 or any(state == STOPPED for state, _ in before):
            return STOPPED, ""
        limit = ["--time-limit", str(seconds)] if seconds < float("inf") else []
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as said:
            started = [sys.executable, *arguments, *limit]
            code = subprocess.run(started, stdout=said, stderr=said, env=environment, check=False).returncode
        last = log.read_text(errors="replace").replace("\r", "\n").strip().rpartition("\n")[2]
        return (STOPPED if last.startswith("stopped") else "done") if code == 0 else LOST, last

    return train
