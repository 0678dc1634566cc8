"""CC-Loss: channel attention is alike within a class and differs between classes; and losses it is compared with."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from camlib.maps import full_precision
from camlib.objective import State
from camlib.observe import Output, weight_of
from camlib.target import check_single_label

FORMS = ("difference", "ratio", "hinge")


class CCLoss(nn.Module):
    """Channel correlation loss: Euclidean distances between the channel attention of a batch's images.

    Each unordered pair of two images of the batch (under torchrun, of one process's share) has a distance
    d = ‖v_i - v_j‖ between their gates v. In training, those of images of one class are to become small, those of
    images of different classes large.

    The paper, of which no more than its poster was to be had, gives this in words and no formula: all three forms
    are our readings. "difference" is mean d over the pairs of the same class minus mean d over the others, the
    plainest, -√C … √C. "ratio" is the first mean over the second, each with 0.001 added: 1 for gates that are all
    equal. "hinge" is the first mean plus the mean of max(0, m - d) over the others, which lets go of pairs further
    apart than the margin m.

    A kind of pairs of which the batch has none counts as 0 (as denominator 1): without two images of one class the
    negative part alone is left, in a batch of one class the positive part. The distance of equal gates has
    gradient 0. Memory beside the gates grows with the N × N distances.

    The net needs a gate, as `create("resnet20", 100, gate=True)` makes it. With weight 0 the gate alone is
    left, the second row of the paper's ablation (CC-Loss, Table 2).

    Args:
        form: "difference", "ratio" or "hinge".
        margin: m, of "hinge".

    Raises:
        ValueError: `form` is unknown or the margin is not positive; when called, the net has no gate, or a
            target row is mixed or multi-hot.

    Source: Song et al., "CC-Loss: channel correlation loss for image classification", 2021.
    """

    def __init__(self, form: str = "difference", margin: float = 1.0):
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {form!r}, expected one of {', '.join(map(repr, FORMS))}")
        if not 0 < margin < math.inf:
            raise ValueError(f"margin is {margin}, expected a finite number above 0")
        self.form, self.margin = form, margin

    def extra_repr(self) -> str:
        return f"form={self.form!r}" + (f", margin={self.margin}" if self.form == "hinge" else "")

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        check_single_label(target, "CCLoss")
        if out.gate is None:
            raise ValueError(
                "CCLoss needs channel attention, but the model has no gate: build it with "
                "camlib.models.create(…, gate=True), or put camlib.models.Gate(channels) in front of its pooling"
            )
        distances = _distances(full_precision(out.gate))
        labels = target.argmax(1)
        same = labels[:, None] == labels
        different = ~same
        same.fill_diagonal_(False)
        within = _mean(distances, same)  # each pair stands there twice, which leaves its mean as it is
        if self.form == "hinge":
            return within + _mean((self.margin - distances).clamp_min(0), different)
        between = _mean(distances, different)
        if self.form == "difference":
            return within - between
        # Without a constant the ratio of gates that are all equal would be undefined, and 0, the best, next to it.
        return (within + 1e-3) / (between + 1e-3).where(different.any(), 1)


def _distances(vectors: Tensor) -> Tensor:
    """Euclidean distances (N, N) between the rows of (N, C), of which no tensor (N, N, C) is made."""
    # From 26 rows on cdist goes by way of products, whose rounding in single precision is larger than the distances
    # within a class that CC-Loss has brought together, and its gradient is then mostly noise.
    wide = vectors.double()
    return torch.cdist(wide, wide).to(vectors.dtype)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the values where `chosen`; 0, with gradient 0, where nothing is."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


class MCLoss(nn.Module):
    """Mutual-channel loss: every class has ξ channels of its own, each of which alone tells it, at another place.

    Of K · ξ maps f, channels k ξ … k ξ + ξ - 1 belong to class k. α L_dis + β (1 - L_div), beside cross-entropy, with

    - L_dis, cross-entropy of the logits g_k = mean_xy max_j (m_kj f_kj). In training m leaves out ⌊ξ/2⌋ channels of
      every class, drawn anew in each step and shared by its images; it is 1 in evaluation mode.
    - L_div = 1/(K ξ) Σ_k Σ_xy max_j softmax_xy(f_kj), mean over the batch: 1/ξ if the channels of a class look at
      the same place, near 1 if each looks at another.

    α, β and this scaling of L_div are those of the authors' code. `create("vgg16_bn", 100, channels_per_class=3)`
    makes a net with the channels. The draw comes from torch's global generator.

    Args:
        alpha, beta: the weights of the two parts.
        channels_per_class: ξ.

    Raises:
        ValueError: ξ is below 1; when called, the net has another number of channels.

    Source: Chang et al., "The devil is in the channels: mutual-channel loss for fine-grained image
    classification", 2020.
    """

    def __init__(self, alpha: float = 1.5, beta: float = 20.0, channels_per_class: int = 3):
        super().__init__()
        if channels_per_class < 1:
            raise ValueError(f"channels_per_class is {channels_per_class}, expected at least 1")
        self.alpha, self.beta, self.channels_per_class = alpha, beta, channels_per_class

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, channels_per_class={self.channels_per_class}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        maps, classes = full_precision(out.maps[-1]), target.shape[1]
        if maps.shape[1] != classes * self.channels_per_class:
            raise ValueError(
                f"the net has {maps.shape[1]} channels, expected {self.channels_per_class} for each of {classes} "
                f"classes: build it with camlib.models.create(…, channels_per_class={self.channels_per_class})"
            )
        maps = maps.unflatten(1, (classes, self.channels_per_class)).flatten(3)
        kept = maps
        if self.training:
            order = torch.rand(maps.shape[1:3], device=maps.device).argsort(1)
            kept = maps * (order >= self.channels_per_class // 2)[..., None]
        discriminative = F.cross_entropy(kept.amax(2).mean(2), target)
        diversity = maps.softmax(3).amax(2).sum(2).mean() / self.channels_per_class
        return self.alpha * discriminative + self.beta * (1 - diversity)


class ICAL(nn.Module):
    """Inter-class angular loss: the rows of the classifier's weight point away from each other.

    The mean cosine of all pairs of rows, a row with itself included: ‖Σ_k w_k / ‖w_k‖‖² / K². Beside cross-entropy,
    with a weight of 5 … 10 and a head without bias; it depends on no image.

    Source: Hui et al., "Inter-class angular loss for convolutional neural networks", 2019.
    """

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        rows = F.normalize(full_precision(weight_of(out, "ICAL")))
        return rows.mean(0).square().sum()


class FICAL(nn.Module):
    """Focal inter-class angular loss: ICAL in which pairs of classes count by how often they are confused.

    1/K² Σ_{i ≠ j} q_ij cos(w_i, w_j), with q symmetric and 1 on average, so that equal confusion gives ICAL up to
    its constant 1/K. q is proportional to r_ij + r_ji, r_ij being a running mean of the probability that the net
    gives class j on images of class i. In training, each call first moves the rows of the classes in the batch
    (under torchrun, in the batches of all processes) by a share `rate` towards what the net says now.

    Of the paper its abstract was to be had, which names a "confusion rate-weighted cosine distance", evaluated
    anew in each iteration: how the rate is measured is our reading.

    Args:
        num_classes: K.
        rate: how much of a running mean a step replaces, 0 … 1.

    Raises:
        ValueError: `rate` lies outside 0 … 1; when called, the net has another number of classes, or a target
            row is mixed or multi-hot.

    Source: Wei et al., "FICAL: focal inter-class angular loss for image classification", 2019.
    """

    def __init__(self, num_classes: int, rate: float = 0.1):
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is {rate}, expected 0 … 1")
        self.rate = rate
        self.register_buffer("confusion", torch.full((num_classes, num_classes), 1 / num_classes))

    def extra_repr(self) -> str:
        return f"num_classes={len(self.confusion)}, rate={self.rate}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        check_single_label(target, "FICAL")
        if len(self.confusion) != target.shape[1]:
            raise ValueError(
                f"FICAL was made for {len(self.confusion)} classes, but the net has {target.shape[1]}: "
                f"use FICAL(num_classes={target.shape[1]})"
            )
        if self.training:
            self._move(full_precision(out.logits).detach().softmax(1), target)
        weights = self.confusion + self.confusion.T
        weights = weights.fill_diagonal_(0)
        weights = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny) * (1 - 1 / len(weights))
        rows = F.normalize(full_precision(weight_of(out, "FICAL")))
        with torch.autocast(rows.device.type, enabled=False):
            return (weights * (rows @ rows.T)).sum()

    def _move(self, probabilities: Tensor, target: Tensor) -> None:
        with torch.autocast(target.device.type, enabled=False):
            ones = torch.ones_like(probabilities[:, :1])
            sums = target.T.to(probabilities.dtype) @ torch.cat([probabilities, ones], 1)
        if dist.is_initialized():
            dist.all_reduce(sums)
        sums, counts = sums[:, :-1], sums[:, -1:]
        now = sums / counts.clamp_min(1)
        self.confusion += self.rate * (now - self.confusion) * (counts > 0)
