"""Trains a plan on a Ray cluster: each run is a task that waits for the tasks of the runs that it needs.

Every node has camlib, and the folder of the runs is one that they share. Ray is the optional extra `camlib[ray]`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ray

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
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    until = float("inf") if time_limit is None else time.time() + time_limit
    task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0)(_train)
    outcome = Outcome(done=[job.run for job in jobs if job.state == "done"])
    tasks, runs = {}, {}
    for job in jobs:  # what a run needs stands before it
        if job.state != "done":
            before = [tasks[other] for other in job.needs if other in tasks]
            tasks[job.run] = task.remote(job, [*options], str(out), threads, until, [*camlib], *before)
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


def _train(
    job: Job, options: list[str], out: str, threads: int, until: float, camlib: list[str], *before: tuple[str, str]
) -> tuple[str, str]:
    """A task: what became of the run, and the last line that it said; none if it was not begun."""
    if any(state == LOST for state, _ in before):
        return LOST, "what it needs has failed"
    seconds = until - time.time()
    if seconds <= 0 or any(state == STOPPED for state, _ in before):
        return STOPPED, ""
    log = Path(out) / job.run.path / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as said:
        code = subprocess.run(
            [sys.executable, *camlib, *command(job, options, seconds)],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            check=False,
        ).returncode
    last = log.read_text(errors="replace").replace("\r", "\n").strip().rpartition("\n")[2]
    return (STOPPED if last.startswith("stopped") else "done") if code == 0 else LOST, last
