"""Timing of alternatives in turn, in one process: what else the machine does strikes all of them alike."""

import statistics
import time
from collections.abc import Callable

import torch


def interleaved(alternatives: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each call of each alternative, after one call of each to warm up."""
    seconds = {name: [] for name in alternatives}
    for repetition in range(repetitions + 1):
        for name, call in alternatives.items():
            _wait()
            began = time.perf_counter()
            call()
            _wait()
            if repetition:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def report(seconds: dict[str, list[float]], reference: str, target: str = "") -> None:
    """Print the median of each alternative and the median ratio, round by round, to the reference."""
    for name, times in seconds.items():
        ratios = sorted(ours / theirs for ours, theirs in zip(times, seconds[reference], strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        spread = "" if name == reference else f", ratio {statistics.median(ratios):.3f} ({low:.3f} … {high:.3f})"
        print(f"  {name}: {1000 * statistics.median(times):.1f} ms{spread}", flush=True)
    rounds = f"median and 10 … 90 % of {len(seconds[reference])} rounds"
    print(f"  ratios to '{reference}', {rounds}{'; target: ' + target if target else ''}")


def machine() -> torch.device:
    """The device to measure on, printed with the versions."""
    from camlib.provenance import device_name, versions

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device_name(device)}; {', '.join(f'{name} {version}' for name, version in versions().items())}")
    return device


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
