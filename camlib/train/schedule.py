"""How long and how fast to train: optimiser, learning rates and arithmetic, as plain data."""

import math
from dataclasses import dataclass

from camlib.precision import PRECISIONS


@dataclass(frozen=True)
class Schedule:
    """How to train: everything about the optimiser and its arithmetic, as plain data.

    Attributes:
        epochs: passes over the training images.
        learning_rate: at the start.
        annealing: "cosine" (half a cosine from the learning rate to 0) or "steps" (times `decay` at each
            milestone, so constant without any), both set at the start of every epoch.
        milestones: epochs at which "steps" lowers the learning rate, counted from 0.
        decay: the factor of "steps".
        optimizer: "sgd", or "adam" with its usual moments.
        momentum, nesterov: of stochastic gradient descent.
        weight_decay: added to the gradient as this share of each weight.
        precision: "float32", or "bfloat16" or "float16" for automatic mixed precision.
        channels_last: keep images and maps with channels as the fastest dimension.
        compile: compile the model's blocks one by one with torch.compile.
        test_every: epochs from one test to the next; the last epoch is always tested.

    Raises:
        ValueError: a value is unknown or out of range.
    """

    epochs: int
    learning_rate: float = 0.1
    annealing: str = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    test_every: int = 1

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}, expected at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected more than 0")
        if self.annealing not in ("cosine", "steps"):
            raise ValueError(f"annealing is '{self.annealing}', expected 'cosine' or 'steps'")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer is '{self.optimizer}', expected 'sgd' or 'adam'")
        if self.test_every < 1:
            raise ValueError(f"test_every is {self.test_every}, expected at least 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is '{self.precision}', expected one of {', '.join(map(repr, PRECISIONS))}")

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.annealing == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.learning_rate * self.decay ** sum(epoch >= milestone for milestone in self.milestones)
