"""ICASC: attention to the target and to the class it is confused with is held apart, and kept between layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camlib.attention import KINDS, attentions
from camlib.names import lookup
from camlib.objective import State
from camlib.observe import Output
from camlib.target import check_single_label, most_confusing, one_hot


def target_region(last: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the target is, by the net itself: the soft mask of ICASC, Eq. 4.

    σ(100 (A - 0.55 max A)) for the target's attention A at the last layer, resized bilinearly, held constant.

    Args:
        last: (N, H, W), not negative; scaled to a maximum of 1, or the mask is about 1/2 where attention is small.
        size: of the maps that it will cover.

    Returns:
        (N, *size) in 0 … 1, without gradient.
    """
    last = last.detach()
    mask = torch.sigmoid(100 * (last - 0.55 * last.amax((1, 2), keepdim=True)))
    if last.shape[1:] == size:
        return mask
    return F.interpolate(mask[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def overlap(target_map: Tensor, confuser_map: Tensor, mask: Tensor | float = 1.0, mask_total: bool = False) -> Tensor:
    """How much two attention maps share inside a mask: L_AS of each image (ICASC, Eq. 3 and ICASC, Figure 6).

    2 Σ_xy min(A, B) · mask / Σ_xy (A + B): 0 if they are disjoint there, 1 if they are the same and the mask is 1,
    and 0 if both are zero everywhere.

    Args:
        target_map, confuser_map: (N, H, W), not negative.
        mask: (N, H, W) in 0 … 1, or a number.
        mask_total: divide by Σ_xy (A + B) · mask instead. The paper does not: its total counts attention outside
            the mask too, so that attention which leaves the target region for other places lowers L_AS.

    Returns:
        (N,), each 0 … 1.
    """
    shared = (torch.minimum(target_map, confuser_map) * mask).sum((1, 2))
    total = target_map + confuser_map
    return 2 * shared / _or_one((total * mask if mask_total else total).sum((1, 2)))


def share_outside(inner: Tensor, mask: Tensor, theta: float = 0.8) -> Tensor:
    """How much less than a share θ of an attention map lies in the target region: L_AC of each image (ICASC, Eq. 5).

    θ - Σ_xy A · mask / Σ_xy A, and θ if A is zero everywhere.

    Args:
        inner: (N, H, W), not negative.
        mask: (N, H, W) in 0 … 1.
        theta: the share; the paper takes 0.8.

    Returns:
        (N,), each θ - 1 … θ: negative where more than θ lies inside.
    """
    return theta - (inner * mask).sum((1, 2)) / _or_one(inner.sum((1, 2)))


class ICASC(nn.Module):
    """Attention separation at two layers, and consistency between them (ICASC, Eq. 3–6 and ICASC, Figure 3).

    L_AS^in + L_AS^la + L_AC, mean over the batch. With cross-entropy, or `MultiLabelSoftMargin` for several labels,
    it is the paper's whole loss: `Objective(ce=(1.0, CrossEntropy()), icasc=(1.0, ICASC()))`. Inner and last layer
    are `out.maps[-2]` and `out.maps[-1]`. Where the net computes the inner stage without a ReLU behind it
    (pre-activation ResNet, WRN, PyramidNet, DenseNet), so is its map.

    The confusing class is the one with the highest logit among those that the target row rules out. An image that
    has none, all its classes being positive, adds nothing to L_AS. A multi-hot row has one map, that of the sum of
    its logits. The classifier's weight gets no gradient unless `create_graph`. In training mode batch
    normalisation lets the score of one image depend on the others, and so does its gradient here.

    Args:
        attention: "channel_weighted", "grad_cam" or "grad_cam_pp".
        separate: at which of `out.maps` L_AS is taken; the ablation's switch (ICASC, Table 3).
        consistent: whether to take L_AC.
        theta: of Eq. 5.
        scale: divide every map by its own maximum first. The paper does not say so, but on maps as they are the mask
            is about 1/2 where attention is small, and shrinking the confusing class's map brings L_AS to 0.
        create_graph: let gradients flow through the channel weights too, at the price of derivatives of second
            order. The paper avoids them.
        mask_total: as in `overlap`, which the paper does not have.

    Raises:
        UnknownName: the kind of attention is unknown.
        ValueError: nothing to compute, or when called, there is no inner layer or there are no gradients.
    """

    def __init__(
        self,
        attention: str = "channel_weighted",
        separate: tuple[int, ...] = (-2, -1),
        consistent: bool = True,
        theta: float = 0.8,
        scale: bool = True,
        create_graph: bool = False,
        mask_total: bool = False,
    ):
        super().__init__()
        lookup(KINDS, attention, "kind of attention")
        if not (separate or consistent):
            raise ValueError("separate is empty and consistent is off: nothing is left of the loss")
        self.attention, self.separate, self.consistent, self.theta = attention, tuple(separate), consistent, theta
        self.scale, self.create_graph, self.mask_total = scale, create_graph, mask_total

    def extra_repr(self) -> str:
        return (
            f"attention={self.attention!r}, separate={self.separate}, consistent={self.consistent}, "
            f"theta={self.theta}, scale={self.scale}, create_graph={self.create_graph}, mask_total={self.mask_total}"
        )

    def confuser(self, out: Output, target: Tensor) -> Tensor:
        """The class (N,) that each image's target is held apart from, or -1 if there is none."""
        return most_confusing(out.logits, target)

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        # The last layer in any case, for the target region.
        layers = tuple(dict.fromkeys([*self.separate, -1, *[-2] * self.consistent]))
        maps = self._maps(out, target, layers)
        regions = {layer: target_region(maps[-1], grid.shape[1:]) for layer, grid in maps.items()}
        losses = []
        if self.separate:
            confusing = self.confuser(out, target)
            rows = one_hot(confusing.clamp_min(0), target.shape[1])
            for layer, other in self._maps(out, rows, self.separate).items():
                shared = overlap(maps[layer], other, regions[layer], self.mask_total)
                losses.append(shared * (confusing >= 0))
        if self.consistent:
            losses.append(share_outside(maps[-2], regions[-2], self.theta))
        return torch.stack(losses).sum(0).mean()

    def _maps(self, out: Output, target: Tensor, layers: tuple[int, ...]) -> dict[int, Tensor]:
        found = attentions(out, target, layers, self.attention, self.create_graph)
        if self.scale:
            found = [grid / _or_one(grid.amax((1, 2), keepdim=True)) for grid in found]
        return dict(zip(layers, found, strict=True))


class AttentionSeparation(ICASC):
    """L_AS at one layer, alone (ICASC, Eq. 3), 0 … 1.

    Args:
        layer: an index of `out.maps`; -1 is L_AS^la, -2 is L_AS^in.
        attention, scale, create_graph: as in `ICASC`.

    Raises:
        UnknownName, ValueError: as `ICASC` does.
    """

    def __init__(
        self,
        layer: int = -1,
        attention: str = "channel_weighted",
        scale: bool = True,
        create_graph: bool = False,
    ):
        super().__init__(attention, (layer,), False, scale=scale, create_graph=create_graph)


class AttentionConsistency(ICASC):
    """L_AC between the last two of `out.maps`, alone (ICASC, Eq. 5), θ - 1 … θ.

    Args:
        theta: the share of the inner attention that is to lie in the target region.
        attention, scale, create_graph: as in `ICASC`.

    Raises:
        UnknownName, ValueError: as `ICASC` does.
    """

    def __init__(
        self,
        theta: float = 0.8,
        attention: str = "channel_weighted",
        scale: bool = True,
        create_graph: bool = False,
    ):
        super().__init__(attention, (), True, theta, scale, create_graph)


class RandomConfuserICASC(ICASC):
    """A control: ICASC with a class drawn at random among those the target rules out, in place of the confusing one.

    If it helps as much as `ICASC`, what helps is not that the net confuses just that class. In no paper. The draw
    comes from torch's global generator, anew for each image and step.
    """

    def confuser(self, out: Output, target: Tensor) -> Tensor:
        others = (target == 0).float()
        some = others.any(1)
        # A row without any would stop multinomial; what is drawn for it is not used.
        drawn = torch.multinomial(others.where(some[:, None], 1), 1).squeeze(1)
        return drawn.where(some, -1)


class FixedConfuserICASC(ICASC):
    """A control: ICASC with one given class for each class, in place of the one that the net confuses it with.

    On `camlib.data.scenes` it is the class that shares the ground, from which the ground cannot tell. In no paper.

    Args:
        confusers: for each of the K classes another one.
        arguments: of `ICASC`.

    Raises:
        ValueError: a class is its own confuser; when called, there are not K of them, or a target row is mixed or
            multi-hot.
    """

    def __init__(self, confusers: tuple[int, ...], **arguments):
        super().__init__(**arguments)
        for label, other in enumerate(confusers):
            if label == other or not 0 <= other < len(confusers):
                raise ValueError(
                    f"the confuser of class {label} is {other}, expected another of {len(confusers)} classes"
                )
        self.register_buffer("confusers", torch.tensor(confusers), persistent=False)

    def confuser(self, out: Output, target: Tensor) -> Tensor:
        check_single_label(target, "FixedConfuserICASC")
        if target.shape[1] != len(self.confusers):
            raise ValueError(
                f"there are confusers for {len(self.confusers)} classes, but the target has {target.shape[1]}"
            )
        return self.confusers[target.argmax(1)]


def _or_one(total: Tensor) -> Tensor:
    """The total, or 1 where it is 0: a map that is zero everywhere has nothing to be divided by."""
    return total.where(total > 0, 1)
