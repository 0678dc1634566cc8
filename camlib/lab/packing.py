"""How many trainings of one kind a device does best with side by side: a small net alone leaves a large card idle."""

import json
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError

import torch

from camlib.lab.cost import STEPS, out_of_memory, stepper
from camlib.lab.runs import Run
from camlib.provenance import device_name

SECONDS = 5.0  # that every process trains for, all at the same time
WORTH = 1.1  # times as many steps, for twice as many processes, or no more are tried
MOST = 32


def best(run: Run, device: torch.device, out: Path) -> int:
    """How many runs like this one to train side by side: measured once for a device, remembered in `out`.

    Args:
        run: which.
        device: where.
        out: the folder of the runs.
    """
    file = out / "packing.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    key = f"{device_name(device)}: {run.name} {run.preset}"
    if key not in known:
        found = throughput(run, device)
        known[key] = max(found, key=found.get, default=1)
        out.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(known, indent=1))
        part.replace(file)
    return known[key]


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
        try:
            return sum(part.result() for part in work)
        except (BrokenProcessPool, BrokenBarrierError):
            return None
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None


_barrier = None


def _meet(barrier) -> None:
    global _barrier
    _barrier = barrier


def _steps_a_second(run: Run, device: str, at_once: int, least: float) -> float:
    torch.set_num_threads(1)
    try:
        steps = stepper(run, device)
        steps(2)  # warms up
        _barrier.wait()  # all train at the same time, whoever was ready first
        count, seconds = 0, 0.0
        while seconds < least:
            seconds += at_once * steps(at_once)[0]
            count += at_once
        return count / seconds
    except BaseException:
        _barrier.abort()  # or the others would wait for ever
        raise
