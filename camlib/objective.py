"""An objective: terms, each with a weight that may change over time, summed into one loss."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from camlib.observe import Output
from camlib.target import check_target


class State(NamedTuple):
    """What a term or a weight may know besides the batch.

    Attributes:
        epoch: epochs finished before this one, so 0 in the first.
        train_accuracy: share of training images classified correctly in the last finished epoch, 0 … 1,
            counted while training; 0 in the first epoch.
        teacher: the teacher's output for the same images, or None without a teacher.
    """

    epoch: int = 0
    train_accuracy: float = 0.0
    teacher: Output | None = None


Term = Callable[[Output, Tensor, State], Tensor]
"""Takes (out, target (N, K), state), returns a scalar. Decides itself what it detaches."""

Weight = float | Callable[[State], float]
"""A number, or a function of `State` that gives one."""

Mix = Callable[[nn.Module, Tensor, Tensor], tuple[Output, Tensor]]
"""Takes (observed model, images, target), runs the model, returns its output and the target that belongs to it."""


@dataclass(frozen=True)
class step_at:
    """Weight 0 before epoch `start`, `value` from then on (CAM-loss, Eq. 7).

    Attributes:
        start: t, in epochs counted from 0; the paper takes 20 of 160.
        value: c; the paper takes 3.
    """

    start: int
    value: float

    def __call__(self, state: State) -> float:
        return self.value if state.epoch >= self.start else 0.0


class after_accuracy(nn.Module):
    """Weight 0 until an epoch ends with training accuracy above `threshold`, `value` for good after it.

    The adaptive rule of CAM-loss, §3.2. It remembers that it switched on (in a buffer, so a resumed run
    remembers too). It may never switch on where training accuracy stays low, as under CutMix.

    Args:
        threshold: training accuracy, 0 … 1; the paper takes 0.5.
        value: c.

    Raises:
        ValueError: the threshold lies outside 0 … 1.
    """

    def __init__(self, threshold: float, value: float):
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected an accuracy between 0 and 1, as 0.5 for 50 %")
        self.threshold, self.value = threshold, value
        self.register_buffer("switched_on", torch.tensor(False))

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}"

    def forward(self, state: State) -> float:
        if state.train_accuracy > self.threshold:
            self.switched_on.fill_(True)
        return self.value if self.switched_on else 0.0


TAKEN = ("loss", "logits", "correct", "images", "accuracy")  # what objective and loop count themselves


class Objective(nn.Module):
    """A weighted sum of loss terms, as `Objective(ce=(1.0, CrossEntropy()), cam=(step_at(20, 3.0), CAMLoss()))`.

    Args:
        teacher: an observed model whose output for the same images the terms find in `state.teacher`.
            It is frozen and stays in evaluation mode. It moves with the objective from device to device, but is
            none of its parts: checkpoints of a student do not hold its teacher.
        mix: runs the model in place of a plain call and may mix hidden states and targets, as
            `camlib.regularize.ManifoldMixup`.
        **terms: name=(weight, term).

    Raises:
        ValueError: no term, a term that is not a pair of weight and callable, or a name that is taken.
    """

    def __init__(self, teacher: nn.Module | None = None, mix: Mix | None = None, **terms: tuple[Weight, Term]):
        super().__init__()
        if not terms:
            raise ValueError("an objective needs at least one term, as ce=(1.0, CrossEntropy())")
        for name, pair in terms.items():
            if name in TAKEN:
                raise ValueError(f"a term cannot be called '{name}': the history of a run has its own '{name}'")
            if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1])):
                raise ValueError(f"term '{name}' is {pair!r}, expected (weight, term), as (1.0, CrossEntropy())")
            for part, member in zip(("weight", "term"), pair, strict=True):
                if isinstance(member, nn.Module):
                    self.add_module(f"{name}_{part}", member)
        self.terms, self.mix = terms, mix
        object.__setattr__(self, "teacher", teacher)  # unseen by nn.Module, and so by its state_dict
        if teacher is not None:
            teacher.eval().requires_grad_(False)

    def _apply(self, *arguments, **options) -> "Objective":
        if self.teacher is not None:
            self.teacher._apply(*arguments, **options)
        return super()._apply(*arguments, **options)

    def parameter_groups(self) -> list[dict]:
        """Parameters that terms own, as groups for an optimiser.

        A term with parameters may say how they are trained in an attribute `optimizer_group`, as
        {"lr": 0.5, "weight_decay": 0.0}; by default they are trained like the model's. `fit` lowers such a rate
        as the schedule lowers the model's.
        """
        terms = [term for _, term in self.terms.values() if isinstance(term, nn.Module)]
        owned = [(list(term.parameters()), getattr(term, "optimizer_group", {})) for term in terms]
        return [{"params": parameters, **settings} for parameters, settings in owned if parameters]

    def describe(self) -> dict[str, str]:
        """Each term with its weight, as text: what a checkpoint and a record remember of the objective.

        A teacher is named by a checksum of its weights.
        """
        # A function's text ends in its address, which is another one in the next process.
        texts = {name: f"{weight} * {term}" for name, (weight, term) in self.terms.items()}
        if self.mix is not None:
            texts["mix"] = str(self.mix)
        texts = {name: re.sub(r" at 0x[0-9a-fA-F]+", "", text) for name, text in texts.items()}
        if self.teacher is not None:
            checksum = 0
            for tensor in self.teacher.state_dict().values():
                checksum = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), checksum)
            texts["teacher"] = f"{checksum:08x}"
        return texts

    def forward(
        self, observed: nn.Module, images: Tensor, target: Tensor, state: State | None = None
    ) -> dict[str, Tensor]:
        """Run the model and add up the terms.

        Args:
            observed: an observed model (see `camlib.observe`).
            images: (N, C, H, W), floating point.
            target: (N, K) rows.
            state: epoch and training accuracy. An objective all of whose weights are numbers needs none.

        Returns:
            "loss", the weighted sum to call `backward()` on; each computed term by its name, unweighted;
            "logits" (N, K), detached. A term whose weight is 0 is not computed and not returned.

        Raises:
            ValueError: the target does not fit the logits; a weight depends on the state, and there is none.
        """
        moving = [name for name, (weight, _) in self.terms.items() if callable(weight)]
        if state is None and moving:
            raise ValueError(
                f"the weight of '{moving[0]}' depends on the epoch or on accuracy, and no state was given: pass "
                "camlib.State(epoch=epoch), or it would stay at the start of training for ever"
            )
        out, target = self.mix(observed, images, target) if self.mix else (observed(images), target)
        check_target(target, *out.logits.shape)
        state = state or State()
        if self.teacher is not None:
            self.teacher.eval()  # whoever else holds it may have set it to training
            with torch.no_grad():
                state = state._replace(teacher=self.teacher(images))
        parts = {}
        loss = out.logits.new_zeros((), dtype=torch.float32)
        for name, (weight, term) in self.terms.items():
            factor = weight(state) if callable(weight) else weight
            if factor != 0:
                parts[name] = term(out, target, state)
                loss = loss + factor * parts[name]
        return {
            "loss": loss,
            **{name: part.detach() for name, part in parts.items()},
            "logits": out.logits.detach(),
        }
