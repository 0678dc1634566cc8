"""Every cell of every table of the papers, as data: what the paper reports and what to train for it.

A cell is named TABLE/ROW/COLUMN, as cam-table-1/resnet56/cam. A preset changes sizes and lengths of its
experiment, never the method.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import camlib.losses
import camlib.objective
from camlib.models import NETS
from camlib.names import lookup
from camlib.objective import Objective
from camlib.train import Recipe


@dataclass(frozen=True)
class Call:
    """A term or a weight as data: a name of `camlib.losses` or `camlib.objective`, and its arguments."""

    name: str
    arguments: dict = field(default_factory=dict)

    def build(self, module) -> Any:
        return getattr(module, self.name)(**self.arguments)


def call(name: str, **arguments) -> Call:
    return Call(name, arguments)


@dataclass(frozen=True)
class Experiment:
    """What is trained for a cell.

    Attributes:
        net: a name of `camlib.models.NETS`.
        data: a name of the data manifest.
        terms: the objective, name -> (weight, term), a weight being a number or a `Call`.
        recipe: optimiser and length.
        batch_size: over all processes.
        augment: names of `camlib.data.augment.AUGMENTATIONS`.
        train_images, test_images: use only the first so many, or None for all.
    """

    net: str
    data: str
    terms: dict[str, tuple[float | Call, Call]]
    recipe: Recipe
    batch_size: int = 128
    augment: tuple[str, ...] = ("crop", "flip")
    train_images: int | None = None
    test_images: int | None = None

    def objective(self) -> Objective:
        """Fresh terms and weights."""
        return Objective(
            **{
                name: (
                    weight.build(camlib.objective) if isinstance(weight, Call) else weight,
                    term.build(camlib.losses),
                )
                for name, (weight, term) in self.terms.items()
            }
        )

    def lasting(self, epochs: int) -> "Experiment":
        """The same experiment over another number of epochs: every epoch it names moves in proportion."""

        def moved(epoch: int) -> int:
            return int(epoch * epochs / self.recipe.epochs + 0.5)

        def weight(old: float | Call) -> float | Call:
            if isinstance(old, Call) and "start" in old.arguments:
                return Call(old.name, old.arguments | {"start": moved(old.arguments["start"])})
            return old

        milestones = tuple(moved(milestone) for milestone in self.recipe.milestones)
        return replace(
            self,
            terms={name: (weight(old), term) for name, (old, term) in self.terms.items()},
            recipe=replace(self.recipe, epochs=epochs, milestones=milestones),
        )


def _quick(experiment: Experiment) -> Experiment:
    small = replace(experiment, net="resnet8", data="scenes", train_images=1000, test_images=500).lasting(4)
    return replace(small, recipe=replace(small.recipe, channels_last=True))


def _short(experiment: Experiment) -> Experiment:
    short = experiment.lasting(30)
    return replace(short, recipe=replace(short.recipe, precision="bfloat16", channels_last=True))


def _colab(experiment: Experiment) -> Experiment:
    short = experiment.lasting(15)
    return replace(short, recipe=replace(short.recipe, precision="float16", channels_last=True))


def _paper(experiment: Experiment) -> Experiment:
    return experiment


PRESETS = {"quick": _quick, "short": _short, "colab": _colab, "paper": _paper}


class NotRunnable(ValueError):
    """camlib cannot train this cell: it has no recipe, or its net is not built yet."""


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        table, row, column: its name.
        paper: the number the paper reports, in units of the table's metric, or None if it reports none.
        experiment: what to train for it by the paper's protocol; None if the paper only cites the number or
            camlib has no recipe for it.
        shared: the name of the cell whose runs stand here too, if it is the same experiment.
    """

    table: str
    row: str
    column: str
    paper: float | None = None
    experiment: Experiment | None = None
    shared: str | None = None

    @property
    def name(self) -> str:
        return f"{self.table}/{self.row}/{self.column}"

    @property
    def runs(self) -> str:
        """The name of the cell under which runs of this experiment are recorded."""
        return self.shared or self.name

    def at(self, preset: str) -> Experiment:
        """The cell's experiment at a preset.

        Raises:
            NotRunnable: the cell has no experiment, or its net is not built.
            UnknownName: the preset is unknown.
        """
        if self.experiment is None:
            raise NotRunnable(f"{self.name} has no recipe: it stands in its table with the paper's number only")
        experiment = lookup(PRESETS, preset, "preset")(self.experiment)
        if experiment.net not in NETS:
            raise NotRunnable(
                f"{self.name} cannot be run: its net {experiment.net} is not built yet; built are {', '.join(NETS)}"
            )
        return experiment


@dataclass(frozen=True)
class Table:
    """A table of a paper, or one of our own.

    Attributes:
        name: as in commands and file names.
        title: one line, with the paper's number for it.
        metric: a name in a record's metrics; `unit` says how it is shown.
        unit: "error %" shows 100 · (1 - share), "accuracy %" shows 100 · share.
        rows, columns: names in order, with the headings to show.
        cells: by name.
    """

    name: str
    title: str
    rows: dict[str, str]
    columns: dict[str, str]
    cells: dict[str, Cell]
    metric: str = "accuracy"
    unit: str = "error %"


def cell(name: str) -> Cell:
    """The cell called TABLE/ROW/COLUMN.

    Raises:
        UnknownName: there is none; the message holds the nearest names.
    """
    everything = {name: cell for table in TABLES.values() for name, cell in table.cells.items()}
    return lookup(everything, name, "cell")


def _cifar(net: str, terms: dict, **recipe) -> Experiment:
    """CAM-loss, §4.2: 160 epochs, batch 128, learning rate 0.1 with cosine decay."""
    return Experiment(net, "cifar100", terms, Recipe(epochs=160, learning_rate=0.1, **recipe))


CE = {"ce": (1.0, call("CrossEntropy"))}


def _with_cam(term: str = "CAMLoss", **arguments) -> dict:
    """CAM-loss, Eq. 6 with the paper's t = 20 and c = 3."""
    return CE | {"cam": (call("step_at", start=20, value=3.0), call(term, **arguments))}


_ARMS = {
    "ce": CE,
    "cam": _with_cam(),
    "cam_detached": _with_cam(detach_cam=True),
    "random_class": _with_cam("RandomClassCAMLoss"),
    "uniform": _with_cam("UniformCAMLoss"),
}

_HEADINGS = {
    "ce": "CE loss",
    "cam": "CAM-loss",
    "cam_detached": "CAM held fixed",
    "random_class": "CAM of a random class",
    "uniform": "uniform guide",
}

# Weight decay and Nesterov's momentum as in each net's own paper, which CAM-loss, §4.2 follows.
_NETS = {
    "resnet20": {"weight_decay": 1e-4},
    "resnet56": {"weight_decay": 1e-4},
    "wrn28_10": {"weight_decay": 5e-4, "nesterov": True},
    "resnext29_8x64d": {"weight_decay": 5e-4},
    "densenet_bc_190_40": {"weight_decay": 1e-4, "nesterov": True},
}


def _table_1() -> Table:
    paper = {
        "resnet56": ("ResNet-56", 28.80, 27.34),
        "wrn28_10": ("WRN-28-10", 18.37, 17.49),
        "resnext29_8x64d": ("ResNeXt-29, 8×64d", 18.01, 17.24),
        "densenet_bc_190_40": ("DenseNet-BC-190-40", 17.67, 16.98),
        "resnet50": ("ResNet-50 (ImageNet)", 23.68, 22.98),
        "resnet101": ("ResNet-101 (ImageNet)", 22.30, 21.73),
        "resnext50": ("ResNeXt-50, 32×4d (ImageNet)", 22.42, 21.91),
        "resnext101": ("ResNeXt-101, 32×8d (ImageNet)", 21.04, 20.45),
        "resnet20": ("ResNet-20 (not in the paper)", None, None),
    }
    name, columns = "cam-table-1", {"ce": "CE loss", "cam": "CAM-loss"}
    cells = [
        Cell(name, net, arm, number, _cifar(net, _ARMS[arm], **_NETS[net]) if net in _NETS else None)
        for net, (_, *numbers) in paper.items()
        for arm, number in zip(columns, numbers, strict=True)
    ]
    return Table(
        name,
        "CAM-loss, Table 1: network structures, top-1 error",
        {net: heading for net, (heading, *_) in paper.items()},
        columns,
        {cell.name: cell for cell in cells},
    )


def _controls() -> Table:
    rows = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
    name = "cam-controls"
    cells = [
        Cell(
            name,
            net,
            arm,
            experiment=_cifar(net, _ARMS[arm], **_NETS[net]),
            shared=f"cam-table-1/{net}/{arm}" if arm in ("ce", "cam") else None,
        )
        for net in rows
        for arm in _HEADINGS
    ]
    title = "Controls for CAM-loss that no paper ran: top-1 error on CIFAR-100"
    return Table(name, title, rows, _HEADINGS, {cell.name: cell for cell in cells})


def _scenes() -> Table:
    name = "cam-scenes"
    recipe = Recipe(epochs=160, weight_decay=5e-4, precision="bfloat16", channels_last=True)
    cells = [
        Cell(name, "resnet8", arm, experiment=Experiment("resnet8", "scenes", _ARMS[arm], recipe).lasting(12))
        for arm in _HEADINGS
    ]
    title = "CAM-loss and its controls on Scenes: class and ground go together in training, not in the test"
    return Table(name, title, {"resnet8": "ResNet-8"}, _HEADINGS, {cell.name: cell for cell in cells})


TABLES = {table.name: table for table in (_table_1(), _controls(), _scenes())}
