"""From a run's name to a record: builds what its experiment names and trains it."""

import contextlib
import datetime
import errno
import fcntl
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from camlib.data import Loader, load, statistics
from camlib.data.datasets import FileSet, ImageSet
from camlib.data.loader import Batches
from camlib.data.stream import StreamLoader
from camlib.distributed import barrier, place
from camlib.lab import presets, weights
from camlib.lab.experiment import Experiment
from camlib.lab.record import Record, fingerprint
from camlib.lab.runs import Run, canonical
from camlib.observe import observe
from camlib.train import fit


def run(
    which: Run,
    *,
    out: Path,
    data: Path | None = None,
    device: torch.device | str = "cpu",
    start: Path | None = None,
    keep: tuple[Path, ...] = (),
    time_limit: float | None = None,
    progress: bool = True,
) -> Record:
    """Train a run, or go on with it.

    A teacher, or a net to start from, is another run: taken from the weights that come with the book, or from `out`,
    or trained there first. It is always read in half precision, so that it is the same net wherever it was trained.
    Of several processes that are given the same run and `out`, one trains and the others wait for it.

    Args:
        which: the run; by its one name, see `camlib.lab.runs.canonical`. Two arms with one seed start from the same
            weights and see the same batches.
        out: checkpoints go into `out / which.path`.
        data: the folder of the real data sets, `data_root()` by default.
        device: where to train.
        start: a file with the weights of a net of the same architecture, to start from in place of fresh ones
            or of those of the experiment's own start; the classifier is fresh in any case.
        keep: folders for the trained net in half precision.
        time_limit, progress: as in `fit`; the limit does not count the training of a teacher.

    Returns:
        The record; unfinished if the time ran out.

    Raises:
        UnknownName: the run, its preset or something that its experiment names is unknown.
        DataError, NotFiniteError, ResumeError, OSError: as `camlib.data.load` and `fit` say.
        WeightsError: the weights to start from belong to another net, or are none.
    """
    which = canonical(which)
    images = images_of(which.experiment, data)  # what is missing shall be told before anything is written
    lent = weights.read(start) if start else None
    with _alone(out / which.path):
        record = _train(which, images, lent, out, data, torch.device(device), keep, time_limit, progress)
    return replace(record, start=start.name) if start else record


def _train(
    which: Run,
    images: tuple[ImageSet | FileSet, ImageSet | FileSet],
    lent: dict[str, Tensor] | None,
    out: Path,
    data: Path | None,
    device: torch.device,
    keep: tuple[Path, ...],
    time_limit: float | None,
    progress: bool,
) -> Record:
    experiment = which.experiment
    train, test = images
    elsewhere = {"out": out, "data": data, "device": device, "progress": progress}
    teacher = None
    if experiment.teacher:
        teacher = _trained(Run(experiment.teacher, which.preset, experiment.teacher_seed), **elsewhere).observed
    if lent is None and experiment.start:
        lent = _trained(Run(experiment.start, which.preset, which.seed), **elsewhere).observed.graph.state_dict()
    torch.manual_seed(which.seed)
    model = experiment.model(len(train.classes), 3 if isinstance(train, FileSet) else train.images.shape[1])
    train_loader, test_loader = loaders(experiment, train, test, which.seed, device)
    first = fingerprint(model, train_loader)
    if lent:
        weights.start_from(model, lent)
    observed = observe(model)
    schedule = presets.on(device, which.preset, experiment.schedule)
    result = fit(
        observed,
        experiment.objective(observed.head, teacher),
        (train_loader, test_loader),
        schedule,
        test=experiment.tester(),
        out=out / which.path,
        time_limit=time_limit,
        progress=progress,
    )
    if result.finished and place()[0] == 0:
        for folder in keep:
            weights.keep(which, out, train_loader, folder)
    return Record(
        **asdict(result),
        run=which.name,
        preset=which.preset,
        net=experiment.net,
        data=experiment.data,
        data_checksum={"train": train.checksum, "test": test.checksum},
        fingerprint=first,
        teacher=experiment.teacher,
        start=experiment.start,
        finished_at=datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process trains in a folder. Those of one training under torchrun go in together."""
    if place()[0] != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):  # a mounted Drive has no locks
                raise
        yield


def _trained(which: Run, out: Path, **how) -> weights.Trained:
    """The net of another run, from the book, from `out`, or trained now."""
    which = canonical(which)
    if weights.path_of(which).is_file():
        return weights.trained(*which)
    folder = out / "weights"
    if not weights.path_of(which, folder).is_file():
        run(which, out=out, keep=(folder,), **how)
        barrier()  # the others wait for the one that writes
    return weights.trained(*which, folder)


def images_of(experiment: Experiment, data: Path | None = None) -> tuple[ImageSet | FileSet, ImageSet | FileSet]:
    """The training and the test images of an experiment.

    Raises:
        DataError: they are missing or damaged.
    """
    counts = {"train": experiment.train_images, "test": experiment.test_images}
    train, test = (load(experiment.data, split, data, count) for split, count in counts.items())
    return train, test


def loaders(
    experiment: Experiment,
    train: ImageSet | FileSet,
    test: ImageSet | FileSet,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Batches, Batches]:
    """The loaders of an experiment: training images shuffled and augmented, test images as they are.

    Images that are held in memory are normalised by the mean and standard deviation of the training images,
    those that are read from files by ImageNet's.
    """
    ours = {"augment": experiment.augment, "shuffle": True, "seed": seed, "device": device}
    theirs = {"seed": seed, "device": device}
    if isinstance(train, FileSet):
        transform = {"transform": experiment.transform}
        pair = (
            StreamLoader(train, len(train.classes), experiment.batch_size, **transform, **ours),
            StreamLoader(test, len(test.classes), 100, **transform, **theirs),
        )
    else:
        mean, std = statistics(train.images)
        look = {"mean": mean, "std": std}
        pair = (
            Loader(train.images, train.labels, len(train.classes), experiment.batch_size, **look, **ours),
            Loader(test.images, test.labels, len(test.classes), 500, **look, **theirs),
        )
    for loader, source in zip(pair, (train, test), strict=True):
        loader.source = source
    return pair
