"""For tests: made-up records, and runs of a second on the same way through the code as real ones.

As a script it is `python -m camlib` with a quick preset of a second, for tests of several processes.
"""

from dataclasses import replace

from camlib import recipes, records
from camlib.recipes import Experiment
from camlib.train import Record

quick = recipes.PRESETS["quick"]


def record(
    accuracy=0.72,
    *,
    seed=0,
    best=0.99,
    preset="paper",
    table="cam-table-1",
    row="resnet56",
    column="ce",
    **about,
):
    """A finished run of two epochs, as `camlib.run.run` gives it."""
    metrics = {"accuracy": accuracy, "top5_accuracy": 0.9, "loss": 1.5}
    return Record(
        metrics=metrics,
        best={"accuracy": {"value": best, "epoch": 0}},
        history=[
            {"test_accuracy": best, "seconds": 60.25},
            {"test_accuracy": accuracy, "seconds": 61 + seed / 7},
        ],
        epochs_done=2,
        epochs_asked=2,
        objective={"ce": "1.0 * CrossEntropy()"},
        recipe={"epochs": 2, "learning_rate": 0.1, "milestones": ()},
        loader={"batch_size": 128, "seed": seed},
        seed=seed,
        device="a processor, 1 threads",
        precision="float32",
        processes=1,
        versions={"torch": "2.6"},
        commit="0" * 40,
        wall_seconds=121.25,
        peak_memory_bytes=10**9,
        about={
            "table": table,
            "row": row,
            "column": column,
            "preset": preset,
            "net": "resnet56",
            "data": "cifar100",
            "data_checksum": {"train": "a", "test": "b"},
            "finished_at": "2025-01-01T00:00:00+00:00",
        }
        | about,
    )


def append_some(folder, together, count):
    """What one process does in a test of several: all of them append the same runs, each at the same moment."""
    for i in range(count):
        together.wait()
        # Long lines, so that one write is not whole by luck.
        records.append(record(seed=i, note="x" * 100_000), folder)


def tiny(experiment: Experiment) -> Experiment:
    small = replace(quick(experiment), train_images=96, test_images=160, batch_size=32)
    return small.lasting(2)


if __name__ == "__main__":
    from camlib.__main__ import main

    recipes.PRESETS["quick"] = tiny
    raise SystemExit(main())
