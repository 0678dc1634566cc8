"""What a cell of a table is: the paper's number, and what to train for it, as plain data.

A preset changes sizes and lengths of an experiment, never the method.
"""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

import camlib.losses
import camlib.objective
import camlib.regularize
import camlib.testing
from camlib import models
from camlib.data.loader import Batches
from camlib.names import lookup
from camlib.objective import Objective
from camlib.observe import Observed
from camlib.train import Recipe, Test, evaluate

# In the arguments of a term: filled in from the net it is used with.
CLASSES, FEATURES = "<number of classes>", "<number of features>"


@dataclass(frozen=True)
class Call:
    """A class or a function of camlib as data: its name, and its arguments."""

    name: str
    arguments: dict = field(default_factory=dict)

    def build(self, module, *first, sizes: dict[str, int] | None = None) -> Any:
        """Call it: `module.name(*first, **arguments)`, with `sizes` in place of arguments that name them."""
        sizes = sizes or {}
        arguments = {name: sizes.get(v, v) if isinstance(v, str) else v for name, v in self.arguments.items()}
        return getattr(module, self.name)(*first, **copy.deepcopy(arguments))


def call(name: str, **arguments) -> Call:
    return Call(name, arguments)


@dataclass(frozen=True)
class Experiment:
    """What is trained for a cell.

    Attributes:
        net: a name of `camlib.models.NETS`.
        data: a name of `camlib.data.load`.
        terms: the objective, name -> (weight, term), a weight being a number or a `Call`.
        recipe: optimiser and length.
        batch_size: over all processes.
        augment: names of `camlib.data.augment.AUGMENTATIONS`.
        transform: a name of `camlib.data.stream.TRANSFORMS`, for data that are read from files while training.
        train_images, test_images: use only the first so many, or None for all.
        head: a name of `camlib.models.HEADS`.
        gate, channels_per_class: as in `camlib.models.create`.
        regularize: functions of `camlib.regularize` that change the net, in this order.
        mix: a class of `camlib.regularize` that runs the net and mixes what is inside it.
        teacher: the cell whose net, trained at the same preset with seed 0, the terms find as teacher.
        start: the cell whose net, trained at the same preset and seed, lends all weights but the classifier's.
        tests: classes of `camlib.testing` in place of `camlib.train.evaluate`; what they measure is put together.
    """

    net: str
    data: str
    terms: dict[str, tuple[float | Call, Call]]
    recipe: Recipe
    batch_size: int = 128
    augment: tuple[str, ...] = ("crop", "flip")
    transform: str | None = None
    train_images: int | None = None
    test_images: int | None = None
    head: str = "linear"
    gate: bool = False
    channels_per_class: int | None = None
    regularize: tuple[Call, ...] = ()
    mix: Call | None = None
    teacher: str | None = None
    start: str | None = None
    tests: tuple[Call, ...] = ()

    def model(self, num_classes: int, in_channels: int = 3) -> nn.Module:
        """The net with fresh weights, regularisers in place."""
        model = models.create(
            self.net, num_classes, in_channels, self.head, self.gate, channels_per_class=self.channels_per_class
        )
        for step in self.regularize:
            step.build(camlib.regularize, model)
        return model

    def objective(self, head: nn.Linear, teacher: Observed | None = None) -> Objective:
        """Fresh terms and weights, for a net with this classifier."""
        sizes = {CLASSES: head.out_features, FEATURES: head.in_features}
        return Objective(
            teacher=teacher,
            mix=self.mix and self.mix.build(camlib.regularize),
            **{
                name: (
                    weight.build(camlib.objective) if isinstance(weight, Call) else weight,
                    term.build(camlib.losses, sizes=sizes),
                )
                for name, (weight, term) in self.terms.items()
            },
        )

    def tester(self) -> Test:
        """What a test of the trained net is."""
        if not self.tests:
            return evaluate
        tests = [test.build(camlib.testing) for test in self.tests]

        def together(model: nn.Module, loader: Batches, precision: str) -> dict[str, float]:
            return {name: value for test in tests for name, value in test(model, loader, precision).items()}

        return together

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


# What stands for each data set in a chapter that must not download anything.
_EMBEDDED = {
    "cub200": "scenes_fine",
    "cub50": "scenes_fine",
    "stanford_dogs": "scenes_fine",
    "cars196": "scenes_fine",
    "cub200_few_shot": "scenes_few_shot",
    "cub50_few_shot": "scenes_few_shot",
    "mini_imagenet_few_shot": "scenes_few_shot",
    "mini_to_cub": "scenes_few_shot",
    "scenes_fine": "scenes_fine",
    "scenes_few_shot": "scenes_few_shot",
    "scenes_multi": "scenes_multi",
    "voc2012": "scenes_multi",
    "voc_animals": "scenes_multi",
}


def _quick(experiment: Experiment) -> Experiment:
    batch_size = min(experiment.batch_size, 128)
    recipe = replace(
        experiment.recipe,
        learning_rate=experiment.recipe.learning_rate * batch_size / experiment.batch_size,
        channels_last=True,
    )

    def fewer(part: Call) -> Call:
        """Scenes has ten classes, so fewer of them can be picked, and a chapter half a minute."""
        least = {"k": 3, "episodes": 100, "least": 10, "deeplab": 1}
        arguments = {n: min(v, least[n]) if n in least else v for n, v in part.arguments.items()}
        if "data" in arguments:
            arguments |= {"data": _EMBEDDED[arguments["data"]], "train_images": 100}
        return Call(part.name, arguments)

    return replace(
        experiment,
        net="resnet8",
        data=_EMBEDDED.get(experiment.data, "scenes"),
        terms={name: (weight, fewer(term)) for name, (weight, term) in experiment.terms.items()},
        recipe=recipe,
        batch_size=batch_size,
        transform=None,
        train_images=1000,
        test_images=500,
        tests=tuple(fewer(test) for test in experiment.tests),
    ).lasting(4)


def _short(experiment: Experiment) -> Experiment:
    short = experiment.lasting(min(12, experiment.recipe.epochs))
    return replace(short, recipe=replace(short.recipe, precision="bfloat16", channels_last=True))


def _colab(experiment: Experiment) -> Experiment:
    short = experiment.lasting(15)
    return replace(short, recipe=replace(short.recipe, precision="float16", channels_last=True))


def _paper(experiment: Experiment) -> Experiment:
    return experiment


PRESETS = {"quick": _quick, "short": _short, "colab": _colab, "paper": _paper}


class NotRunnable(ValueError):
    """camlib cannot train this cell: it has no recipe."""


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        table, row, column: its name.
        paper: the number the paper reports, in the table's unit, or None if it reports none.
        experiment: what to train for it by the paper's protocol; None if the paper only cites the number.
        shared: the name of the cell whose runs stand here too, if it is the same experiment.
        metric: a name in a record's metrics.
        cited: where the paper took its number from, if it did not measure it itself.
    """

    table: str
    row: str
    column: str
    paper: float | None = None
    experiment: Experiment | None = None
    shared: str | None = None
    metric: str = "accuracy"
    cited: str | None = None

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
            NotRunnable: the cell has no experiment.
            UnknownName: the preset is unknown.
        """
        if self.experiment is None:
            raise NotRunnable(f"{self.name} has no recipe: it stands in its table with the paper's number only")
        return lookup(PRESETS, preset, "preset")(self.experiment)


@dataclass(frozen=True)
class Table:
    """A table of a paper, or one of our own.

    Attributes:
        name: as in commands and file names.
        title: one line, with the paper's number for it.
        rows, columns: names in order, with the headings to show.
        cells: by name.
        unit: "error %" shows 100 · (1 - share), any other, as "accuracy %", 100 · share; of errors less is better.
        baseline: the column that the others are compared with, row by row.
    """

    name: str
    title: str
    rows: dict[str, str]
    columns: dict[str, str]
    cells: dict[str, Cell]
    unit: str = "error %"
    baseline: str = "ce"
