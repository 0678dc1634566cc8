"""For tests: made-up records, and runs of a second on the same way through the code as real ones.

As a script it is `python -m camlib` with a quick preset of a second, for tests of several processes.
"""

from dataclasses import replace
from multiprocessing import get_context

import torch

from camlib.data import Loader, load
from camlib.lab import presets
from camlib.lab import record as records
from camlib.lab.experiment import Experiment
from camlib.lab.record import Record

quick = presets.PRESETS["quick"]

# Processes for tests, forked from a server: torch has threads that a plain fork would cut off, and importing it anew
# would take each of them seconds.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["camlib.lab.run", "camlib.lab.packing"])


def record(accuracy=0.72, *, seed=0, best=0.99, preset="paper", run="cifar100/resnet56/ce", **fields):
    """A finished run of two epochs, as `camlib.lab.run.run` gives it."""
    values = {
        "metrics": {"accuracy": accuracy, "top5_accuracy": 0.9, "loss": 1.5},
        "best": {"accuracy": {"value": best, "epoch": 0}},
        "history": [
            {"test_accuracy": best, "seconds": 60.25},
            {"test_accuracy": accuracy, "seconds": 61 + seed / 7},
        ],
        "epochs_done": 2,
        "epochs_asked": 2,
        "objective": {"ce": "1.0 * CrossEntropy()"},
        "schedule": {"epochs": 2, "learning_rate": 0.1, "milestones": ()},
        "loader": {"batch_size": 128, "seed": seed},
        "device": "a processor, 1 thread",
        "precision": "float32",
        "processes": 1,
        "versions": {"torch": "2.6"},
        "commit": "0" * 40,
        "wall_seconds": 121.25,
        "peak_memory_bytes": 10**9,
        "net": "resnet56",
        "data": "cifar100",
        "data_checksum": {"train": "a", "test": "b"},
        "fingerprint": {"weights": {"conv1": f"432:{seed:08x}"}, "order": f"{seed:08x}", "images": "c"},
        "finished_at": "2025-01-01T00:00:00+00:00",
    }
    return Record(**(values | {"run": run, "preset": preset, "seed": seed} | fields))


def loader_of(name, count=60, batch_size=25):
    """Test images of an embedded set of ten classes, with the set that they are from."""
    source = load(name, "test", count=count)
    grey = {"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.25)}
    loader = Loader(source.images, source.labels, 10, batch_size, **grey)
    loader.source = source
    return loader


def append_some(folder, together, count):
    """What one process does in a test of several: all of them append the same runs, each at the same moment."""
    for i in range(count):
        together.wait()
        # Long lines, so that one write is not whole by luck.
        records.append(record(seed=i, commit="x" * 100_000), folder)


def tiny(experiment: Experiment) -> Experiment:
    small = replace(quick(experiment), train_images=96, test_images=160, batch_size=32, tests=())
    return small.lasting(2)


if __name__ == "__main__":
    from camlib.__main__ import main

    presets.PRESETS["quick"] = tiny
    raise SystemExit(main())
