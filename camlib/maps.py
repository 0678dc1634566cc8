"""Class activation maps as pure functions on tensors: no model, no hooks, no state.

Notation: `maps` (N, C, H, W) are feature maps f, `weight` (K, C) is the classifier's weight W,
`target` (N, K) holds target rows T. Every map comes out as (N, H, W).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from camlib.names import lookup
from camlib.target import check_target


def cam(maps: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Class activation map of each image's target (CAM-loss, Eq. 2).

    CAM(x, y) = Σ_c (T W)_c f_c(x, y), without bias and without ReLU. For a one-hot row this is the CAM
    of that class, and its mean over the map plus the classifier's bias is the class's logit
    (CAM-loss, Eq. 1). A mixed or multi-hot row gives the same mixture of CAMs.

    Args:
        maps: (N, C, H, W), what enters global average pooling.
        weight: (K, C), the weight of the linear classifier.
        target: (N, K) rows.

    Returns:
        (N, H, W), in float32 at least. Gradients flow to `maps` and to `weight`: detach what must not move.

    Raises:
        ValueError: the shapes do not belong together.

    Source: Zhou et al., "Learning deep features for discriminative localization", 2016.
    """
    _check_maps(maps)
    if weight is None:
        raise ValueError(
            "weight is None: this model has more than a linear layer behind its pooling, so it has no CAM; "
            "camlib.attention.class_map(out, target) gives its first order, Grad-CAM its positive part"
        )
    if weight.ndim != 2 or weight.shape[1] != maps.shape[1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected (K, {maps.shape[1]}) to match the "
            f"{maps.shape[1]} channels of the maps: pass the weight of the last linear layer"
        )
    check_target(target, maps.shape[0], weight.shape[0])
    # T W first: a three-operand einsum would be slower.
    with torch.autocast(maps.device.type, enabled=False):
        weight = full_precision(weight)
        return weighted_sum(target.to(weight.dtype) @ weight, maps)


def caam(maps: Tensor) -> Tensor:
    """Class-agnostic activation map: the plain sum over channels, Σ_c f_c(x, y) (CAM-loss, Eq. 3).

    Args:
        maps: (N, C, H, W).

    Returns:
        (N, H, W), in float32 at least.

    Raises:
        ValueError: `maps` does not have four dimensions.
    """
    _check_maps(maps)
    return full_precision(maps).sum(1)


class Cells(NamedTuple):
    """Where the cells of a map look, along either axis: cell i is centred at pixel first + i · step.

    Pixel 0 is the picture's first one. A convolution of odd size with stride s, padded by half of its size, looks at
    pixels 0, s, 2s …, so in most nets the first cell looks at the picture's edge, and a map that is laid over the
    picture as if its cells were blocks of pixels comes to lie (step - 1) / 2 pixels too far right and down.
    `camlib.observe(model).cells` says where the cells of a net look.
    """

    first: float
    step: float


def stretch(maps: Tensor, size: tuple[int, int], cells: Cells | None = None) -> Tensor:
    """Maps laid over their picture: bilinear between the pixels that the cells look at, constant beyond them.

    Args:
        maps: (N, h, w).
        size: height and width of the picture.
        cells: where the cells look; by default at pixels 0, H / h, 2 H / h …, as those of residual nets do.

    Returns:
        (N, *size).
    """
    down, across = (
        _between(cells or Cells(0, side / count), count, side, maps)
        for count, side in zip(maps.shape[1:], size, strict=True)
    )
    return down @ maps @ across.T


def _between(cells: Cells, count: int, side: int, like: Tensor) -> Tensor:
    """Of each pixel the weights (side, count) of the cells that it lies between."""
    pixels = torch.arange(side, device=like.device, dtype=like.dtype)
    place = ((pixels - cells.first) / cells.step).clamp(0, count - 1)
    return (1 - (place[:, None] - torch.arange(count, device=like.device)).abs()).clamp_min(0)


def cover(masks: Tensor, size: tuple[int, int], cells: Cells | None = None) -> Tensor:
    """Which share of each cell of a map a mask covers; a cell holds the pixels that are nearer to it than to others.

    Args:
        masks: (N, H, W), bool or in 0 … 1.
        size: height and width of the map.
        cells: where the cells look, as for `stretch`.

    Returns:
        float32 (N, *size).
    """
    masks = masks.float()
    down, across = (
        _nearest(cells or Cells(0, side / count), count, side, masks)
        for count, side in zip(size, masks.shape[1:], strict=True)
    )
    return down @ masks @ across.T


def _nearest(cells: Cells, count: int, side: int, like: Tensor) -> Tensor:
    """Of each cell the shares (count, side) that its pixels have in it."""
    borders = cells.first + (torch.arange(1, count, device=like.device, dtype=like.dtype) - 0.5) * cells.step + 0.5
    borders = torch.cat([borders.new_zeros(1), borders.clamp(0, side), borders.new_full((1,), side)])
    pixels = torch.arange(side, device=like.device, dtype=like.dtype)  # pixel p covers p … p + 1
    inside = torch.minimum(borders[1:, None], pixels + 1) - torch.maximum(borders[:-1, None], pixels)
    inside = inside.clamp_min(0)
    return inside / inside.sum(1, keepdim=True).clamp_min(1e-6)


def minmax(a: Tensor, eps: float = 1e-6) -> Tensor:
    """Stretch every map to the range 0 … 1: (a - min a) / (max a - min a + eps) (CAM-loss, §3.1).

    Minimum and maximum are taken per image over H and W, and gradients flow through both. The paper
    has no eps; it makes a constant map 0 instead of 0/0.

    Args:
        a: (N, H, W).
        eps: added to the range of each map, in units of `a`.

    Returns:
        (N, H, W) in [0, 1), in float32 at least.

    Raises:
        ValueError: `a` does not have three dimensions.
    """
    if a.ndim != 3:
        raise ValueError(f"a has shape {tuple(a.shape)}, expected (N, H, W): one map per image")
    a = full_precision(a)
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    return (a - low) / (high - low + eps)


def grad_cam(logits: Tensor, maps: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM: ReLU of the maps weighted by the mean gradient of the target's score (ICASC, Eq. 1).

    relu(Σ_c mean_xy(∂ Σ(logits · T) / ∂f_c) f_c). The channel weights are constants (no gradient flows
    through them); `maps` stay attached. At the last layer of a net with global average pooling and a
    linear head this is relu(CAM) / (H · W).

    Args:
        logits: (N, K), computed from `maps` with gradients enabled.
        maps: (N, C, H, W), of any stage.
        target: (N, K) rows.

    Returns:
        (N, H, W), non-negative, in float32 at least.

    Raises:
        ValueError: the shapes do not belong together, or `logits` cannot be differentiated to `maps`.

    Source: Selvaraju et al., "Grad-CAM", 2017; allowed in place of CAM by CAM-loss, §3.1.
    """
    return attend("grad_cam", *gradients_of_score(logits, target, maps), maps)


def grad_cam_pp(logits: Tensor, maps: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM++: ReLU of the maps weighted by the positive gradients of the target's score, scaled by alpha.

    relu(Σ_c w_c f_c) with w_c = Σ_xy alpha relu(g), where g = ∂ Σ(logits · T) / ∂f_c at (x, y) and
    alpha = g² / (2 g² + g³ Σ_ab f_c(a, b)). This is the usual closed form: the paper differentiates exp(score)
    up to three times; where the score is piecewise linear in the maps, powers of the first gradient are left of
    that, and exp(score) cancels in alpha. Outside alpha it is one positive factor for the whole map, and left
    out. Where the maps are not negative, as after ReLU, alpha lies in 0 … 1/2 for every positive gradient.

    The channel weights are constants (no gradient flows through them); `maps` stay attached. At the last layer
    of a net with global average pooling and a linear head this is relu(Σ_c relu(w_c) / (2 + w_c F_c) f_c), w
    being the class's row of the classifier's weight and F_c the mean of f_c.

    Args:
        logits: (N, K), computed from `maps` with gradients enabled.
        maps: (N, C, H, W), of any stage.
        target: (N, K) rows.

    Returns:
        (N, H, W), non-negative, in float32 at least.

    Raises:
        ValueError: the shapes do not belong together, or `logits` cannot be differentiated to `maps`.

    Source: Chattopadhay et al., "Grad-CAM++", 2018; allowed in place of CAM by CAM-loss, §3.1.
    """
    return attend("grad_cam_pp", *gradients_of_score(logits, target, maps), maps)


def channel_weighted(logits: Tensor, maps: Tensor, target: Tensor, create_graph: bool = False) -> Tensor:
    """Channel-weighted attention A_ch: the maps weighted by positive gradients of the target's score (ICASC, Eq. 2).

    relu(Σ_c mean_xy(relu(∂ Σ(logits · T) / ∂f_c)) f_c). Grad-CAM takes the mean first, so that negative gradients
    of the ground can cancel positive ones of the object. The factor 1/Z of Eq. 2 is the mean's. At the last layer
    of a net with global average pooling and a linear head this is relu(Σ_c relu(w_c) f_c) / (H · W), w being the
    class's row of the classifier's weight.

    Args:
        logits: (N, K), computed from `maps` with gradients enabled.
        maps: (N, C, H, W), of any stage.
        target: (N, K) rows.
        create_graph: let gradients flow through the channel weights too. By default they are constants, and only
            `maps` stay attached: the paper avoids derivatives of higher order.

    Returns:
        (N, H, W), non-negative, in float32 at least.

    Raises:
        ValueError: the shapes do not belong together, or `logits` cannot be differentiated to `maps`.
    """
    return attend("channel_weighted", *gradients_of_score(logits, target, maps, create_graph=create_graph), maps)


def attend(kind: str, gradient: Tensor, maps: Tensor) -> Tensor:
    """The attention map of a kind, given the gradient of a score: relu of the weighted sum of the maps.

    Args:
        kind: "grad_cam", "grad_cam_pp" or "channel_weighted", weighted as the function of that name says.
        gradient: (N, C, H, W), of the score, at the maps.
        maps: (N, C, H, W).

    Returns:
        (N, H, W), non-negative, in float32 at least.

    Raises:
        ValueError: `maps` does not have four dimensions.
        UnknownName: the kind is unknown.
    """
    _check_maps(maps)
    channel_weights = lookup(_CHANNEL_WEIGHTS, kind, "kind of attention")
    return weighted_sum(channel_weights(gradient, maps), maps).relu()


def _grad_cam_pp_weights(gradient: Tensor, maps: Tensor) -> Tensor:
    positive = gradient.relu()
    # alpha divided through by g², which would vanish in float32 together with g³.
    alpha = 1 / (2 + positive * full_precision(maps.detach()).sum((2, 3), keepdim=True))
    return (alpha * positive).sum((2, 3))


_CHANNEL_WEIGHTS = {  # (gradient, maps) -> (N, C)
    "grad_cam": lambda gradient, maps: gradient.mean((2, 3)),
    "grad_cam_pp": _grad_cam_pp_weights,
    "channel_weighted": lambda gradient, maps: gradient.relu().mean((2, 3)),
}


def gradients_of_score(logits: Tensor, target: Tensor, *at: Tensor, create_graph: bool = False) -> tuple[Tensor, ...]:
    """The gradients of Σ(logits · T), the target's score, at tensors that the logits were computed from.

    All of them come from one backward pass.

    Args:
        logits: (N, K).
        target: (N, K) rows.
        *at: the tensors.
        create_graph: let gradients flow through the results too.

    Returns:
        For each tensor one of its shape, in float32 at least; constant unless `create_graph`.

    Raises:
        ValueError: the target does not fit the logits, or they cannot be differentiated to a tensor.
    """
    check_target(target, *logits.shape)
    if not (logits.requires_grad and all(tensor.requires_grad for tensor in at)):
        raise ValueError(
            "logits do not depend on maps by gradients: call the model with gradients enabled, "
            "not inside torch.no_grad()"
        )
    score = (logits * target).sum()
    gradients = torch.autograd.grad(score, at, retain_graph=True, create_graph=create_graph, allow_unused=True)
    if any(gradient is None for gradient in gradients):
        raise ValueError("logits were not computed from these maps: pass both from one call of the model")
    return tuple(map(full_precision, gradients))


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is in half precision, else unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def weighted_sum(channel_weights: Tensor, maps: Tensor) -> Tensor:
    """Σ_c w_c f_c (N, …, H, W) of weights (N, …, C) and maps (N, C, H, W), in float32 at least."""
    # Half-precision products would be too coarse once min-max stretches a small difference to 0 … 1.
    with torch.autocast(maps.device.type, enabled=False):
        return torch.einsum("n...c,nchw->n...hw", full_precision(channel_weights), full_precision(maps))


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 4:
        raise ValueError(f"maps have shape {tuple(maps.shape)}, expected (N, C, H, W)")
