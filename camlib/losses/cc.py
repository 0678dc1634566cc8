"""CC-Loss: channel attention is alike within a class and differs between classes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camlib.maps import full_precision
from camlib.objective import State
from camlib.observe import Output
from camlib.target import check_single_label

FORMS = ("ratio", "normalised", "hinge", "difference")


class CCLoss(nn.Module):
    """Channel correlation loss: Euclidean distances between the channel attention of a batch's images.

    Each unordered pair of two images of the batch (under torchrun, of one process's share) has a distance
    d = ‖v_i - v_j‖ between their gates v. In training, those of images of one class are to become small, those of
    images of different classes large.

    Of the paper we have the poster, which gives this in words and no formula: all four forms are our readings.

    - "ratio": mean d over the pairs of the same class over mean d over the others, each with 0.001 added: 1 for gates
      that are all equal. It does not depend on the number of channels, and no pull is without bound.
    - "normalised": the first mean minus the second, over √C: -1 … 1.
    - "hinge": the first mean plus the mean of max(0, m - d) over the others, which lets go of pairs further apart
      than the margin m.
    - "difference": the plain difference of the two means, -√C … √C. It grows with the number of channels, so that
      one weight cannot suit nets of different width, as the poster's λ = 1 does: a reading to be careful with.

    A kind of pairs of which the batch has none counts as 0 (as denominator 1): without two images of one class the
    negative part alone is left, in a batch of one class the positive part. The distance of equal gates has
    gradient 0. Memory beside the gates grows with the N × N distances.

    The net needs a gate, as `create("resnet20", 100, gate=True)` makes it. With weight 0 the gate alone is
    left, the second row of the paper's ablation (CC-Loss, Table 2).

    Args:
        form: "ratio", "normalised", "hinge" or "difference".
        margin: m, of "hinge".

    Raises:
        ValueError: `form` is unknown or the margin is not positive; when called, the net has no gate, or a
            target row is mixed or multi-hot.

    Source: Song et al., "CC-Loss: channel correlation loss for image classification", ICPR 2020, pp. 7601-7608.
    """

    def __init__(self, form: str = "ratio", margin: float = 1.0):
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}, expected one of {', '.join(map(repr, FORMS))}")
        if not 0 < margin < math.inf:
            raise ValueError(f"margin is {margin}, expected a finite number above 0")
        self.form, self.margin = form, margin

    def extra_repr(self) -> str:
        return f"form={self.form!r}" + (f", margin={self.margin}" if self.form == "hinge" else "")

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        gates, same, different = _gates_and_pairs(out, target, "CCLoss")
        distances = _distances(gates)
        within = _mean(distances, same)  # each pair stands there twice, which leaves its mean as it is
        if self.form == "hinge":
            return within + _mean((self.margin - distances).clamp_min(0), different)
        between = _mean(distances, different)
        if self.form == "difference":
            return within - between
        if self.form == "normalised":
            return (within - between) / math.sqrt(gates.shape[1])
        # Without a constant the ratio of gates that are all equal would be undefined, and 0, the best, next to it.
        return (within + 1e-3) / (between + 1e-3).where(different.any(), 1)


class GateTriplet(nn.Module):
    """Batch-hard triplet loss on channel attention: a known-good way to group vectors, to judge CC-Loss by.

    mean over the images i of max(0, m + max_p ‖v_i - v_p‖ - min_n ‖v_i - v_n‖) for gates v divided by their length,
    p running over the other images of i's class in the batch and n over those of other classes. An image without
    one or the other is left out. In none of the three papers.

    Args:
        margin: m, above 0; distances are 0 … √2.

    Raises:
        ValueError: the margin is not positive; when called, the net has no gate, or a target row is mixed or
            multi-hot.

    Source: Hermans et al., "In defense of the triplet loss for person re-identification", 2017.
    """

    def __init__(self, margin: float = 0.2):
        super().__init__()
        if not 0 < margin < math.inf:
            raise ValueError(f"margin is {margin}, expected a finite number above 0")
        self.margin = margin

    def extra_repr(self) -> str:
        return f"margin={self.margin}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        gates, same, different = _gates_and_pairs(out, target, "GateTriplet")
        distances = _distances(F.normalize(gates))
        furthest = distances.masked_fill(~same, 0).amax(1)
        nearest = distances.masked_fill(~different, math.inf).amin(1)
        losses = (self.margin + furthest - nearest).clamp_min(0)  # 0 without any of another class
        return _mean(losses, same.any(1))


def _gates_and_pairs(out: Output, target: Tensor, term: str) -> tuple[Tensor, Tensor, Tensor]:
    """The gates (N, C), and which pairs (N, N) are of one class, not of an image with itself, and which are not.

    Raises:
        ValueError: the net has no gate, or a target row is mixed or multi-hot.
    """
    check_single_label(target, term)
    if out.gate is None:
        raise ValueError(
            f"{term} needs channel attention, but the model has no gate: build it with "
            "camlib.models.create(…, gate=True), or put camlib.models.Gate(channels) in front of its pooling"
        )
    labels = target.argmax(1)
    same = labels[:, None] == labels
    different = ~same
    return full_precision(out.gate), same.fill_diagonal_(False), different


def _distances(vectors: Tensor) -> Tensor:
    """Euclidean distances (N, N) between the rows of (N, C), of which no tensor (N, N, C) is made."""
    # From 26 rows on cdist goes by way of products, whose rounding in single precision is larger than the distances
    # within a class that CC-Loss has brought together, and its gradient is then mostly noise.
    wide = vectors.double()
    return torch.cdist(wide, wide).to(vectors.dtype)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the values where `chosen`; 0, with gradient 0, where nothing is."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
