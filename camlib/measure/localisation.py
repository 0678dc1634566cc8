"""Where attention lies: against the object's mask, against other classes' maps, against another layer's.

Maps are laid over pixels by `camlib.maps.Cells`: `cells` says where a map's cells look, by default as in residual nets.
"""

from itertools import combinations

import torch
from torch import Tensor

from camlib.losses.icasc import overlap
from camlib.maps import Cells, cover, stretch


def energy_inside(maps: Tensor, masks: Tensor, cells: Cells | None = None) -> Tensor:
    """Share of each map's energy that lies inside the object's mask, 0 … 1.

    Σ_inside m / Σ m, with m the map minus its minimum: a constant has no energy anywhere, and gives the
    mask's share of the image, as a map that does not look at the object would.

    Args:
        maps: (N, H, W), any sign.
        masks: bool (N, H', W'), of which a cell gets the share that it covers (`camlib.maps.cover`).
        cells: where the maps' cells look.

    Returns:
        (N,).

    Raises:
        ValueError: the numbers of images differ.
    """
    _check_masks(maps, masks)
    raised = maps.detach().float() - maps.detach().float().amin((1, 2), keepdim=True)
    total = raised.sum((1, 2))
    inside = (raised * cover(masks, maps.shape[1:], cells)).sum((1, 2)) / total.clamp_min(1e-12)
    return torch.where(total > 0, inside, masks.float().mean((1, 2)))


def pointing_game(maps: Tensor, masks: Tensor, cells: Cells | None = None) -> Tensor:
    """Whether each map's highest point falls on the object: on a cell that the mask covers by half or more.

    Args:
        maps: (N, H, W).
        masks: bool (N, H', W').
        cells: where the maps' cells look.

    Returns:
        bool (N,).

    Raises:
        ValueError: the numbers of images differ.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", 2016.
    """
    _check_masks(maps, masks)
    peak = maps.detach().flatten(1).argmax(1, keepdim=True)
    return cover(masks, maps.shape[1:], cells).flatten(1).gather(1, peak).squeeze(1) >= 0.5


def threshold_iou(maps: Tensor, masks: Tensor, threshold: float = 0.5, cells: Cells | None = None) -> Tensor:
    """Intersection over union of the object's mask with the region where each map is high.

    The map is laid over the masks by `camlib.maps.stretch`; its region is where it is positive and
    reaches the threshold's share of its maximum. Where both the region and the mask are empty they agree: 1.
    A map without a positive value has an empty region, and gets 0 if there is an object.

    Args:
        maps: (N, H, W), not negative, such as attention maps; what is negative counts as 0.
        masks: bool (N, H', W').
        threshold: share of the map's maximum, from 0 to below 1.
        cells: where the maps' cells look.

    Returns:
        (N,), 0 … 1.

    Raises:
        ValueError: the numbers of images differ, the masks are not bool, or the threshold is no such share.
    """
    _check_masks(maps, masks)
    if masks.dtype != torch.bool:
        raise ValueError(f"masks have dtype {masks.dtype}, expected bool: pass segments == label")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, expected a share of each map's maximum, from 0 to below 1")
    maps = stretch(maps.detach().float().relu(), masks.shape[1:], cells)
    region = (maps > 0) & (maps >= threshold * maps.amax((1, 2), keepdim=True))
    union = (region | masks).sum((1, 2))
    return torch.where(union > 0, (region & masks).sum((1, 2)) / union, 1.0)


def attention_overlap(maps: Tensor) -> Tensor:
    """How much the attention maps of k classes share: mean over all pairs of 2 Σ min(A, B) / Σ (A + B).

    Each map is first divided by its own maximum. This is ICASC, Eq. 3 without the mask, as a number for what the
    paper shows by eye for the five best classes (ICASC, Figures 1, 2 and 10). A map of zeros shares nothing with any
    other.

    Args:
        maps: (N, k, H, W), not negative: of each image the maps of k ≥ 2 classes.

    Returns:
        (N,), 0 … 1: 0 if all pairs are disjoint, 1 if all maps are proportional to each other.

    Raises:
        ValueError: there are no two classes, or a value is negative.
    """
    if maps.ndim != 4 or maps.shape[1] < 2:
        raise ValueError(f"maps have shape {tuple(maps.shape)}, expected (N, k, H, W) with two or more classes")
    maps = _attention(maps)
    highest = maps.amax((2, 3), keepdim=True)
    scaled = (maps / highest.where(highest > 0, 1)).unbind(1)
    return torch.stack([overlap(a, b) for a, b in combinations(scaled, 2)]).mean(0)


def attention_shift(inner: Tensor, last: Tensor) -> Tensor:
    """How far attention moves from one layer to another, which ICASC, Figures 4 and 5 show by eye.

    The total variation distance 1/2 Σ_xy |p - q|: p and q are the maps, divided by their sums, the coarser one laid
    over the finer one's cells first (`camlib.maps.stretch` with its default, so that both layers' first cells look at
    one pixel, as in residual nets). It is the share of attention that has to move to make one map
    of the other. A map of zeros attends to no place more than to another, and counts as constant.

    Args:
        inner: (N, h, w), not negative.
        last: (N, H, W), not negative.

    Returns:
        (N,), 0 … 1.

    Raises:
        ValueError: the numbers of images differ, or a value is negative.
    """
    if inner.ndim != 3 or last.ndim != 3 or len(inner) != len(last):
        raise ValueError(
            f"inner has shape {tuple(inner.shape)} and last {tuple(last.shape)}, expected (N, h, w) and (N, H, W)"
        )
    size = tuple(max(sides) for sides in zip(inner.shape[1:], last.shape[1:], strict=True))
    p, q = (_shares(stretch(_attention(maps), size)) for maps in (inner, last))
    return (p - q).abs().sum((1, 2)) / 2


def _check_masks(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(
            f"maps have shape {tuple(maps.shape)} and masks {tuple(masks.shape)}, expected (N, H, W) of one N"
        )


def _attention(maps: Tensor) -> Tensor:
    """Attention maps in float32, none of them negative."""
    maps = maps.detach().float()
    if maps.numel() and maps.min() < 0:
        raise ValueError(f"maps hold {maps.min().item():.6g}, expected none below 0: pass attention maps, after ReLU")
    return maps


def _shares(maps: Tensor) -> Tensor:
    """Maps divided by their sums; a map of zeros as a constant."""
    total = maps.sum((1, 2), keepdim=True)
    return torch.where(total > 0, maps / total, 1 / maps.shape[1:].numel())
