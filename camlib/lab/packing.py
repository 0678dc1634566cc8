"""How many trainings of one kind a device does best with side by side: a small net alone leaves a large card idle."""

import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError
from typing import NamedTuple

import torch

from camlib.lab.cost import STEPS, out_of_memory, remembered, stepper
from camlib.lab.runs import Run

SECONDS = 5.0  # that every process trains for, all at the same time
WORTH = 1.1  # times as many steps, for twice as many processes, or no more are tried
MOST = 32


class Packing(NamedTuple):
    """How runs are trained side by side.

    Attributes:
        count: how many.
        gain: how many times as much they get done as one alone.
    """

    count: int
    gain: float


def best(run: Run, device: torch.device, out: Path, most: int = MOST) -> Packing:
    """How many runs like this one to train side by side: measured once for a device, remembered in `out`.

    Args:
        run: which.
        device: where.
        out: the folder of the runs.
        most: how many there are to train.
    """
    found = remembered(out / "throughput.json", run, device, lambda: throughput(run, device))
    steps = {int(count): a_second for count, a_second in found.items() if int(count) <= most}
    count = max(steps, key=steps.get, default=1)
    return Packing(count, steps[count] / steps[1] if steps else 1.0)


def throughput(run: Run, device: torch.device) -> dict[int, float]:
    """Steps a second of 1, 2, 4, … processes together, until twice as many are hardly worth it or do not fit.

    Args:
        run: which.
        device: where.
    """
    found: dict[int, float] = {}
    count = 1
    while count <= MOST:
        together = _together(run, device, count)
        if together is None:
            break
        found[count] = together
        if count > 1 and together < WORTH * found[count // 2]:
            break
        count *= 2
    return found


def _together(run: Run, device: torch.device, count: int) -> float | None:
    """Steps a second of so many processes, or None if they do not fit beside each other."""
    context = get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, mp_context=context, initializer=_meet, initargs=(barrier,)) as pool:
        work = [pool.submit(_steps_a_second, run, str(device), STEPS, SECONDS) for _ in range(count)]
        failures = [error for part in work if (error := part.exception())]
        for error in failures:
            # A barrier breaks for all when one process fails, and a pool when one is killed, as for memory.
            if not (isinstance(error, (BrokenBarrierError, BrokenProcessPool)) or out_of_memory(error)):
                raise error
        return None if failures else sum(part.result() for part in work)


_barrier = None


def _meet(barrier) -> None:
    global _barrier
    _barrier = barrier


def _steps_a_second(run: Run, device: str, at_once: int, least: float) -> float:
    torch.set_num_threads(1)
    try:
        steps = stepper(run, device, at_once)
        steps(min(2, at_once))  # warms up
        _barrier.wait()  # all train at the same time, whoever was ready first
        count, start = 0, time.perf_counter()
        while time.perf_counter() < start + least:
            steps(at_once)
            count += at_once
        return count / (time.perf_counter() - start)
    except BaseException:
        _barrier.abort()  # or the others would wait for ever
        raise
