"""How many runs train best side by side: as long as more of them get more steps done, and no more than fit."""

import json

import pytest
import samples
import torch

from camlib.lab import packing
from camlib.lab.runs import Run

CPU = torch.device("cpu")
RUN = Run("scenes/resnet8/cam", "quick")


@pytest.fixture
def machine(monkeypatch):
    """A device of which so many processes together do so many steps a second; None where they do not fit."""

    def set_to(steps):
        asked = []
        monkeypatch.setattr(packing, "_together", lambda run, device, count: asked.append(count) or steps.get(count))
        return asked

    return set_to


@pytest.mark.parametrize(
    ("steps", "tried", "best"),
    [
        ({1: 10, 2: 20, 4: 38, 8: 40}, [1, 2, 4, 8], (8, 4)),  # 8 are hardly worth it, but not worse
        ({1: 10, 2: 20, 4: 38, 8: 30}, [1, 2, 4, 8], (4, 3.8)),
        ({1: 10, 2: 10}, [1, 2], (1, 1)),
        ({1: 10, 2: 20}, [1, 2, 4], (2, 2)),  # four do not fit
        ({}, [1], (1, 1)),  # not even one does: the run itself will say so
    ],
)
def test_twice_as_many_are_tried_until_they_are_hardly_worth_it(machine, tmp_path, steps, tried, best):
    asked = machine(steps)
    assert packing.best(RUN, CPU, tmp_path) == best
    assert asked == tried


def test_no_more_than_so_many_are_tried(machine):
    asked = machine({2**k: 3.0**k for k in range(20)})
    packing.throughput(RUN, CPU)
    assert asked[-1] == packing.MOST


def test_no_more_than_there_are(machine, tmp_path):
    machine({1: 10, 2: 18, 4: 30})
    assert packing.best(RUN, CPU, tmp_path, most=3) == (2, 1.8)


def test_what_was_measured_is_remembered(machine, tmp_path):
    asked = machine({1: 10, 2: 20})
    assert [packing.best(RUN, CPU, tmp_path) for _ in range(2)] == [(2, 2), (2, 2)]
    assert asked == [1, 2, 4]
    assert list(json.loads((tmp_path / "throughput.json").read_text()).values()) == [{"1": 10, "2": 20}]
    packing.best(Run("scenes/resnet8/icasc", "quick"), CPU, tmp_path)
    assert len(asked) == 6


def test_two_real_processes_train_at_the_same_time(monkeypatch):
    monkeypatch.setattr(packing, "STEPS", 2)
    monkeypatch.setattr(packing, "SECONDS", 0.1)
    assert packing._together(RUN, CPU, 2) > 0


@pytest.fixture
def forked(monkeypatch):
    """Processes that need not import torch, for what does not depend on it."""
    monkeypatch.setattr(packing, "get_context", lambda method: samples.FORKS)


@pytest.mark.parametrize("count", [1, 2])
def test_processes_that_run_out_of_memory_do_not_fit(monkeypatch, forked, count):
    monkeypatch.setattr(packing, "_steps_a_second", _greedy)
    assert packing._together(RUN, CPU, count) is None


def test_any_other_error_is_told_although_it_stops_the_others_too(monkeypatch, forked):
    monkeypatch.setattr(packing, "_steps_a_second", _wrong)
    with pytest.raises(ZeroDivisionError):
        packing._together(RUN, CPU, 2)


def _greedy(run, device, at_once, least):
    packing._barrier.abort()
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


def _wrong(run, device, at_once, least):
    """The process that meets the others last fails, and they wait for it in vain."""
    if packing._barrier.n_waiting == 0:
        packing._barrier.wait()
    packing._barrier.abort()
    return 1 / 0
