"""From a cell's name to a record: builds what its experiment names and trains it."""

import datetime
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from camlib import recipes, weights
from camlib.data import Loader, load, statistics
from camlib.data.datasets import FileSet, ImageSet
from camlib.data.stream import StreamLoader
from camlib.observe import observe
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
    start: Path | None = None,
    time_limit: float | None = None,
    progress: bool = True,
) -> Record:
    """Train the experiment of a cell at a preset, or go on with it.

    A teacher, or a net to start from, is that of another cell: taken from the weights that come with the book,
    or from `out`, or trained there first. It is always read in half precision, so that it is the same net
    wherever it was trained.

    Args:
        cell: from `camlib.recipes.cell`. If it shares another cell's experiment, it is that cell's run.
        preset: a name of `camlib.recipes.PRESETS`.
        seed: of weights, order, augmentation and every other draw. Two arms with one seed start from the same
            weights and see the same batches.
        out: checkpoints go into `camlib.weights.checkpoints(cell, preset, seed, out)`.
        data: the folder of the real data sets, `data_root()` by default.
        device: where to train.
        start: a file with the weights of a net of the same architecture, to start from in place of fresh ones
            or of those of the experiment's own start; the classifier is fresh in any case.
        time_limit, progress: as in `fit`; the limit does not count the training of a teacher.

    Returns:
        The record, with what `camlib.records.SCHEMA` asks of it; unfinished if the time ran out.

    Raises:
        NotRunnable: the cell has no experiment, or its net is not built.
        UnknownName: the preset or something that the experiment names is unknown.
        DataError, NotFiniteError, ResumeError, OSError: as `camlib.data.load` and `fit` say.
        ValueError: the weights to start from belong to another net.
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
    elsewhere = {"preset": preset, "out": out, "data": data, "device": device, "progress": progress}
    teacher = None
    if experiment.teacher:
        teacher = observe(_trained(experiment.teacher, seed=0, **elsewhere))
        about["teacher"] = experiment.teacher
    torch.manual_seed(seed)
    model = experiment.model(len(train.classes), 3 if isinstance(train, FileSet) else train.images.shape[1])
    if start:
        weights.start_from(model, weights.read(start))
        about["start"] = {"from": start.name}
    elif experiment.start:
        weights.start_from(model, _trained(experiment.start, seed=seed, **elsewhere).state_dict())
        about["start"] = {"from": experiment.start}
    observed = observe(model)
    record = fit(
        observed,
        experiment.objective(observed.head, teacher),
        loaders(experiment, train, test, seed, device),
        experiment.recipe,
        test=experiment.tester(),
        out=weights.checkpoints(cell, preset, seed, out),
        time_limit=time_limit,
        progress=progress,
        about=about,
    )
    finished_at = datetime.datetime.now(datetime.UTC).isoformat("T", "seconds")
    return replace(record, about=about | {"finished_at": finished_at})


def _trained(name: str, *, preset: str, seed: int, out: Path, **how) -> nn.Module:
    """The net of another cell, from the book, from `out`, or trained now."""
    cell = recipes.cell(name)
    if weights.path_of(cell, preset, seed).is_file():
        return weights.trained(name, preset, seed)
    folder = out / "weights"
    if not weights.path_of(cell, preset, seed, folder).is_file():
        run(cell, preset, seed, out=out, **how)
        if not dist.is_initialized() or dist.get_rank() == 0:
            weights.keep(cell, preset, seed, out, folder)
    if dist.is_initialized():
        dist.barrier()  # the others wait for the one that writes
    return weights.trained(name, preset, seed, folder)


def loaders(
    experiment: Experiment,
    train: ImageSet | FileSet,
    test: ImageSet | FileSet,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Loader, Loader] | tuple[StreamLoader, StreamLoader]:
    """The loaders of an experiment: training images shuffled and augmented, test images as they are.

    Images that are held in memory are normalised by the mean and standard deviation of the training images,
    those that are read from files by ImageNet's.
    """
    if isinstance(train, FileSet):
        streams = {"transform": experiment.transform, "seed": seed, "device": device}
        return (
            StreamLoader(
                train, len(train.classes), experiment.batch_size, augment=experiment.augment, shuffle=True, **streams
            ),
            StreamLoader(test, len(test.classes), 100, **streams),
        )
    mean, std = statistics(train.images)
    common = {"mean": mean, "std": std, "seed": seed, "device": device}
    loaders = (
        Loader(
            train.images,
            train.labels,
            num_classes=len(train.classes),
            batch_size=experiment.batch_size,
            augment=experiment.augment,
            shuffle=True,
            **common,
        ),
        Loader(test.images, test.labels, num_classes=len(test.classes), batch_size=500, **common),
    )
    for loader, source in zip(loaders, (train, test), strict=True):
        loader.source = source
    return loaders
