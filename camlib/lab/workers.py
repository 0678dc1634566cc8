"""Trains a plan: each run in a process of its own, several side by side, until all are done or the time is up."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from camlib.lab.plan import Job
from camlib.lab.runs import Run

OUT_OF_MEMORY = 75  # exit code of a run that asked its device for more memory than it had: to be tried again


@dataclass
class Worker:
    """A run that is being trained by a process of its own.

    Attributes:
        run: which.
        process: that trains it.
        place: of the line that shows how far it is, counted from the one for all.
        bar: that line.
        log: the file with everything that it says.
        last: the last line that it said.
    """

    run: Run
    process: subprocess.Popen
    place: int
    bar: tqdm
    log: Path
    last: str = ""
    reader: threading.Thread = field(init=False)

    def __post_init__(self):
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        """Keep what the process says, and show its newest line: a progress bar ends each with a carriage return."""
        with self.log.open("ab", buffering=0) as log:
            text = b""
            while piece := os.read(self.process.stdout.fileno(), 4096):
                log.write(piece.replace(b"\r", b"\n"))
                *lines, text = (text + piece).replace(b"\r", b"\n").split(b"\n")
                said = [line for line in lines if line.strip()]
                if said:
                    self.last = said[-1].decode(errors="replace").strip()
                    self.bar.set_description_str(f"{self.run.path}: {self.last}")

    def close(self) -> int:
        """The exit code, once everything that the process said is kept."""
        code = self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        self.bar.close()
        return code


@dataclass
class Outcome:
    """What became of a plan.

    Attributes:
        done: runs that are finished now.
        stopped: runs that stopped at a checkpoint when the time was up.
        failed: runs that ended otherwise, with the last line that they said.
        waiting: runs that were not begun: the time was up, or what they need has stopped.
    """

    done: list[Run] = field(default_factory=list)
    stopped: list[Run] = field(default_factory=list)
    failed: dict[Run, str] = field(default_factory=dict)
    waiting: list[Run] = field(default_factory=list)


def train(
    jobs: Sequence[Job],
    options: Sequence[str],
    out: Path,
    side_by_side: int = 1,
    threads: int = 1,
    time_limit: float | None = None,
    camlib: Sequence[str] = (sys.executable, "-m", "camlib"),
) -> Outcome:
    """Train the jobs of a plan that are not done, in their order, what they need first.

    At a terminal each run has a line that moves; elsewhere one is written when it begins and one when it ends.

    A run that fails does not keep the others from going on. One that runs out of memory beside others is tried again
    with one neighbour fewer. Whenever this process or one of a run is killed, the same call goes on from the last
    checkpoints, and no run is recorded twice.

    Args:
        jobs: of `camlib.lab.plan.make`.
        options: of `python -m camlib run`, for every run: `--out` and the like.
        out: the folder of the runs; each leaves what it says in `log.txt` beside its checkpoints.
        side_by_side: how many runs at a time.
        threads: of the processor, for each of them.
        time_limit: seconds after which no run is begun and those under way stop at a checkpoint.
        camlib: what starts camlib's command line.
    """
    started = time.monotonic()
    outcome = Outcome(done=[job.run for job in jobs if job.state == "done"])
    waiting = [job for job in jobs if job.state != "done"]
    here = {job.run for job in jobs}
    working: list[Worker] = []
    total = tqdm(total=len(waiting), unit="run", position=0, desc=f"{len(waiting)} runs", disable=None)
    places = list(range(side_by_side, 0, -1))

    def left() -> float:
        return float("inf") if time_limit is None else time_limit - (time.monotonic() - started)

    def ready(job: Job) -> bool:
        return all(other in outcome.done or other not in here for other in job.needs)

    try:
        while waiting or working:
            for job in list(waiting):  # what a run needs stands before it, so those that need it in turn are found too
                if any(other in outcome.failed for other in job.needs):
                    outcome.failed[job.run] = "what it needs has failed"
                    waiting.remove(job)
                    total.update()
            while waiting and len(working) < side_by_side and left() > 0:
                job = next(filter(ready, waiting), None)
                if job is None:
                    break
                waiting.remove(job)
                arguments = [*camlib, *command(job, options, left())]
                working.append(_start(job.run, arguments, out, threads, places.pop()))
            if not working:
                break
            time.sleep(0.2)
            for worker in [worker for worker in working if worker.process.poll() is not None]:
                working.remove(worker)
                places.append(worker.place)
                code = worker.close()
                if code == OUT_OF_MEMORY and side_by_side > 1:
                    side_by_side = max(1, len(working))
                    tqdm.write(f"{worker.run.path}: out of memory, tried again beside {side_by_side - 1} others")
                    waiting.insert(0, next(job for job in jobs if job.run == worker.run))
                    continue
                if code == 0 and worker.last.startswith("stopped"):
                    outcome.stopped.append(worker.run)
                elif code == 0:
                    outcome.done.append(worker.run)
                else:
                    outcome.failed[worker.run] = worker.last or f"ended with code {code}"
                tqdm.write(f"{worker.run.path}: {worker.last if code == 0 else f'FAILED ({code}): {worker.last}'}")
                total.update()
    finally:
        for worker in working:  # this process was interrupted: they stop at their last checkpoint
            worker.process.terminate()
        for worker in working:
            worker.close()
        total.close()
    outcome.waiting = [job.run for job in waiting]
    return outcome


def command(job: Job, options: Sequence[str], seconds: float = float("inf")) -> list[str]:
    """What `python -m camlib` is told to train a job, within so many seconds."""
    arguments = ["run", job.run.name, "--preset", job.run.preset, "--seed", str(job.run.seed), *options]
    if job.lends:
        arguments += ["--lend"]
    if seconds < float("inf"):
        arguments += ["--time-limit", str(max(0.0, seconds))]
    return arguments


def _start(run: Run, arguments: list[str], out: Path, threads: int, place: int) -> Worker:
    folder = out / run.path
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    bar = tqdm(position=place, bar_format="{desc}", desc=f"{run.path}: starting", leave=False, disable=None)
    if bar.disable:
        tqdm.write(f"{run.path}: begun")
    return Worker(run, process, place, bar, folder / "log.txt")
