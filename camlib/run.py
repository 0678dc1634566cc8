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
        cell: from `camlib.recipes.cell`.
        preset: a name of `camlib.recipes.PRESETS`.
        seed: of weights, order, augmentation and every other draw. Two arms with one seed start from the same
            weights and see the same batches.
        out: checkpoints go into a folder of their own below it.
        data: the folder of the real data sets, `data_root()` by default.
        device: where to train.
        time_limit, progress: as in `fit`.

    Returns:
        The record, unfinished if the time ran out.

    Raises:
        ValueError, KeyError: the cell has no experiment, or names something unknown.
        DataError, NotFiniteError, ResumeError, OSError: as `load` and `fit` say.
    """
    experiment = cell.at(preset)
    train, test = (
        _first(load(experiment.data, split, data), count)
        for split, count in (("train", experiment.train_images), ("test", experiment.test_images))
    )
    about = {
        "table": cell.runs.split("/")[0],
        "row": cell.row,
        "column": cell.column,
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
        out=out / cell.runs / preset / f"seed-{seed}",
        time_limit=time_limit,
        progress=progress,
        about=about,
    )
    return replace(record, about=about | {"finished_at": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")})


def loaders(
    experiment: Experiment, train: ImageSet, test: ImageSet, seed: int, device: torch.device | str = "cpu"
) -> tuple[Loader, Loader]:
    """The loaders of an experiment: training images shuffled and augmented, test images as they are."""
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


def _first(images: ImageSet, count: int | None) -> ImageSet:
    masks = None if images.masks is None else images.masks[:count]
    return images._replace(images=images.images[:count], labels=images.labels[:count], masks=masks)
