"""From a cell's name to a record: builds what its experiment names and trains it."""

import datetime
from dataclasses import replace
from pathlib import Path

import torch

from camlib import models
from camlib.data import Loader, load, statistics
from camlib.data.datasets import ImageSet
from camlib.recipes import Cell, Experiment
from camlib.train import Record, fit


def checkpoints(cell: Cell, preset: str, seed: int, out: Path) -> Path:
    """The folder that `run` keeps the checkpoints of one run in, below `out`."""
    return out / cell.runs / preset / f"seed-{seed}"


def run(
    cell: Cell,
    preset: str,
    seed: int,
    *,
    out: Path,
    data: Path | None = None,
    device: torch.device | str = "cpu",
    time_limit: float | None = None,
    progress: bool = True,
) -> Record:
    """Train the experiment of a cell at a preset, or go on with it.

    Args:
        cell: from `camlib.recipes.cell`. If it shares another cell's experiment, it is that cell's run.
        preset: a name of `camlib.recipes.PRESETS`.
        seed: of weights, order, augmentation and every other draw. Two arms with one seed start from the same
            weights and see the same batches.
        out: checkpoints go into `checkpoints(cell, preset, seed, out)`.
        data: the folder of the real data sets, `data_root()` by default.
        device: where to train.
        time_limit, progress: as in `fit`.

    Returns:
        The record, with what `camlib.records.SCHEMA` asks of it; unfinished if the time ran out.

    Raises:
        NotRunnable: the cell has no experiment, or its net is not built.
        UnknownName: the preset or something that the experiment names is unknown.
        DataError, NotFiniteError, ResumeError, OSError: as `camlib.data.load` and `fit` say.
    """
    experiment = cell.at(preset)
    train, test = (
        load(experiment.data, split, data, count)
        for split, count in (("train", experiment.train_images), ("test", experiment.test_images))
    )
    table, row, column = cell.runs.split("/")
    about = {
        "table": table,
        "row": row,
        "column": column,
        "preset": preset,
        "net": experiment.net,
        "data": experiment.data,
        "data_checksum": {"train": train.checksum, "test": test.checksum},
    }
    torch.manual_seed(seed)
    model = models.create(experiment.net, len(train.classes), in_channels=train.images.shape[1])
    record = fit(
        model,
        experiment.objective(),
        loaders(experiment, train, test, seed, device),
        experiment.recipe,
        out=checkpoints(cell, preset, seed, out),
        time_limit=time_limit,
        progress=progress,
        about=about,
    )
    finished_at = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    return replace(record, about=about | {"finished_at": finished_at})


def loaders(
    experiment: Experiment, train: ImageSet, test: ImageSet, seed: int, device: torch.device | str = "cpu"
) -> tuple[Loader, Loader]:
    """The loaders of an experiment: training images shuffled and augmented, test images as they are.

    Both are normalised by the mean and standard deviation of the training images.
    """
    mean, std = statistics(train.images)
    common = {"num_classes": len(train.classes), "mean": mean, "std": std, "seed": seed, "device": device}
    return (
        Loader(
            train.images,
            train.labels,
            batch_size=experiment.batch_size,
            augment=experiment.augment,
            shuffle=True,
            **common,
        ),
        Loader(test.images, test.labels, batch_size=500, **common),
    )
