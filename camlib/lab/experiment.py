"""What is trained, as plain data: a net, images, terms, a schedule. Two equal experiments are one."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from camlib import models
from camlib.data.loader import Batches
from camlib.losses import CrossEntropy
from camlib.measure import evaluate
from camlib.objective import Objective
from camlib.observe import Observed
from camlib.train import Schedule
from camlib.train.loop import Test

# In the arguments of a term: filled in from the net it is used with.
CLASSES, FEATURES = "<number of classes>", "<number of features>"


@dataclass(frozen=True)
class Call:
    """A class or a function with arguments, built anew for every run. Unlike partials, two of the same are equal.

    Attributes:
        function: what to call.
        arguments: by keyword.
        quick: arguments that the preset `quick` puts in place of them.
    """

    function: Callable
    arguments: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)

    def build(self, *first, sizes: dict[str, int] | None = None) -> Any:
        """`function(*first, **arguments)`, with `sizes` in place of arguments that name them."""
        sizes = sizes or {}
        arguments = {name: sizes.get(v, v) if isinstance(v, str) else v for name, v in self.arguments.items()}
        return self.function(*first, **copy.deepcopy(arguments))

    def __str__(self) -> str:
        arguments = (
            f"{name}={value if value in (CLASSES, FEATURES) else repr(value)}" for name, value in self.arguments.items()
        )
        return f"{self.function.__name__}({', '.join(arguments)})"

    def at_quick(self, **arguments) -> "Call":
        """The same call, with other arguments at the preset `quick`."""
        return replace(self, quick=arguments)


def call(function: Callable, **arguments) -> Call:
    return Call(function, arguments)


Weight = float | Call
Terms = dict[str, tuple[Weight, Call]]

CROSS_ENTROPY: Terms = {"ce": (1.0, call(CrossEntropy))}


@dataclass(frozen=True)
class Experiment:
    """What is trained in a run.

    Attributes:
        net: a name of `camlib.models.NETS`.
        data: a name of `camlib.data.load`.
        schedule: optimiser and length. Its precision and memory layout follow the device, see
            `camlib.lab.presets.on`.
        terms: the objective, name -> (weight, term).
        batch_size: over all processes.
        augment: names of `camlib.data.augment.AUGMENTATIONS`.
        transform: a name of `camlib.data.stream.TRANSFORMS`, for data that are read from files while training.
        train_images, test_images: use only the first so many, or None for all.
        head: a name of `camlib.models.HEADS`.
        gate, gate_units, channels_per_class: as in `camlib.models.create`.
        regularize: functions of `camlib.regularize` that change the net, in this order.
        mix: a class of `camlib.regularize` that runs the net and mixes what is inside it.
        teacher: the run whose net, trained at the same preset, the terms find as teacher.
        teacher_seed: which of its seeds.
        start: the run whose net, trained at the same preset and seed, lends all weights but the classifier's.
        tests: what a test measures besides `camlib.measure.evaluate`: callables that take what it takes.
    """

    net: str
    data: str
    schedule: Schedule
    terms: Terms = field(default_factory=lambda: dict(CROSS_ENTROPY))
    batch_size: int = 128
    augment: tuple[str, ...] = ("crop", "flip")
    transform: str | None = None
    train_images: int | None = None
    test_images: int | None = None
    head: str = "linear"
    gate: bool = False
    gate_units: int | None = None
    channels_per_class: int | None = None
    regularize: tuple[Call, ...] = ()
    mix: Call | None = None
    teacher: str | None = None
    teacher_seed: int = 0
    start: str | None = None
    tests: tuple[Call, ...] = ()

    def model(self, num_classes: int, in_channels: int = 3) -> nn.Module:
        """The net with fresh weights, regularisers in place."""
        model = models.create(
            self.net, num_classes, in_channels, self.head, self.gate, self.channels_per_class, self.gate_units
        )
        for step in self.regularize:
            step.build(model)
        return model

    def objective(self, head: nn.Linear, teacher: Observed | None = None) -> Objective:
        """Fresh terms and weights, for a net with this classifier."""
        sizes = {CLASSES: head.out_features, FEATURES: head.in_features}
        return Objective(
            teacher=teacher,
            mix=self.mix and self.mix.build(),
            **{
                name: (weight.build() if isinstance(weight, Call) else weight, term.build(sizes=sizes))
                for name, (weight, term) in self.terms.items()
            },
        )

    def tester(self) -> Test:
        """What a test of the trained net is."""
        if not self.tests:
            return evaluate
        tests = [test.build() for test in self.tests]

        def together(model: nn.Module, loader: Batches, precision: str) -> dict[str, float]:
            return {name: value for test in tests for name, value in test(model, loader, precision).items()}

        return together

    @property
    def protocol(self) -> str:
        """Everything but the objective, in one line: net, data, length, optimiser, what is done to images and net."""
        s = self.schedule
        annealed = " by cosine" if s.annealing == "cosine" else " throughout"
        if s.annealing == "steps" and s.milestones:
            annealed = f", times {s.decay:g} at epochs {', '.join(map(str, s.milestones))}"
        momentum = f"SGD, {'Nesterov ' * s.nesterov}momentum {s.momentum:g}" if s.optimizer == "sgd" else "Adam"
        said = [
            f"{self.net} on {self.data}"
            + (f", first {self.train_images:,} images" if self.train_images else "")
            + (f", tested on the first {self.test_images:,}" if self.test_images else ""),
            f"{s.epochs} epochs, batch {self.batch_size}",
            f"{momentum}, rate {s.learning_rate:g}{annealed}, weight decay {s.weight_decay:g}",
            ", ".join([*([self.transform] if self.transform else []), *self.augment]) or "images as they are",
        ]
        changes = list(map(str, self.regularize)) + ([str(self.mix)] if self.mix else [])
        changes += [f"{self.head} classifier"] if self.head != "linear" else []
        changes += ["channel gate" + (f" of {self.gate_units} units" if self.gate_units else "")] if self.gate else []
        changes += [f"{self.channels_per_class} channels for each class"] if self.channels_per_class else []
        changes += [f"teacher {self.teacher}, seed {self.teacher_seed}"] if self.teacher else []
        changes += [f"starts from {self.start}"] if self.start else []
        return "; ".join(said + changes)

    @property
    def terms_text(self) -> str:
        """The objective in one line: "1 CrossEntropy() + step_at(start=20, value=3.0) CAMLoss()"."""

        weighted = ((w if isinstance(w, Call) else f"{w:g}", term) for w, term in self.terms.values())
        return " + ".join(f"{weight} {term}" for weight, term in weighted)

    def lasting(self, epochs: int) -> "Experiment":
        """The same experiment over another number of epochs: every epoch it names moves in proportion."""

        def moved(epoch: int) -> int:
            return int(epoch * epochs / self.schedule.epochs + 0.5)

        def weight(old: Weight) -> Weight:
            if isinstance(old, Call) and "start" in old.arguments:
                return replace(old, arguments=old.arguments | {"start": moved(old.arguments["start"])})
            return old

        milestones = tuple(moved(milestone) for milestone in self.schedule.milestones)
        return replace(
            self,
            terms={name: (weight(old), term) for name, (old, term) in self.terms.items()},
            schedule=replace(self.schedule, epochs=epochs, milestones=milestones),
        )
