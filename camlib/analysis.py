"""What trained nets are measured by, besides accuracy: pure functions on tensors."""

from typing import NamedTuple

import torch
from torch import Tensor


class SpatialRank(NamedTuple):
    """How many independent spatial patterns an image's feature maps hold; see `spatial_rank`.

    Attributes:
        effective: (N,), between 1 and min(C, H · W).
        first_share: (N,), share of the energy in the first pattern, 0 … 1.
    """

    effective: Tensor
    first_share: Tensor


def spatial_rank(maps: Tensor) -> SpatialRank:
    """Effective rank of each image's feature maps, seen as a matrix of C channels by H · W positions.

    With s the singular values and q = s² / Σ s², the effective rank is exp(-Σ q log q), and the first
    share is q_1. If all channels share one spatial pattern the rank is 1 and the share 1: the way in
    which L_cam vanishes although nothing was learnt. All-zero maps count as rank 1, share 1.

    Args:
        maps: (N, C, H, W).

    Raises:
        ValueError: `maps` does not have four dimensions.

    Source: Roy and Vetterli, "The effective rank", 2007, with the energy s² in place of s.
    """
    if maps.ndim != 4:
        raise ValueError(f"maps have shape {tuple(maps.shape)}, expected (N, C, H, W)")
    energy = torch.linalg.svdvals(maps.detach().float().flatten(2)).square()
    total = energy.sum(1, keepdim=True)
    share = torch.where(total > 0, energy / total, torch.eye(1, energy.shape[1], device=maps.device))
    return SpatialRank(torch.special.entr(share).sum(1).exp(), share[:, 0])


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each map's energy that lies inside the object's mask, 0 … 1.

    Σ_inside m / Σ m, with m the map minus its minimum: a constant has no energy anywhere, and gives the
    mask's share of the image, as a map that does not look at the object would.

    Args:
        maps: (N, H, W), any sign, any resolution that divides the masks'.
        masks: bool (N, H', W'), averaged down to H × W.

    Returns:
        (N,).

    Raises:
        ValueError: the numbers of images differ.
    """
    masks = _resize(masks, maps)
    raised = maps.detach().float() - maps.detach().float().amin((1, 2), keepdim=True)
    total = raised.sum((1, 2))
    inside = (raised * masks).sum((1, 2)) / total.clamp_min(1e-12)
    return torch.where(total > 0, inside, masks.mean((1, 2)))


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether each map's highest point falls on the object: on a cell that the mask covers by half or more.

    Args:
        maps: (N, H, W).
        masks: bool (N, H', W'), averaged down to H × W.

    Returns:
        bool (N,).

    Raises:
        ValueError: the numbers of images differ.

    Source: Zhang et al., "Top-down neural attention by excitation backprop", 2016.
    """
    masks = _resize(masks, maps)
    peak = maps.detach().flatten(1).argmax(1, keepdim=True)
    return masks.flatten(1).gather(1, peak).squeeze(1) >= 0.5


def _resize(masks: Tensor, maps: Tensor) -> Tensor:
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(
            f"maps have shape {tuple(maps.shape)} and masks {tuple(masks.shape)}, expected (N, H, W) of one N"
        )
    return torch.nn.functional.adaptive_avg_pool2d(masks.float(), maps.shape[1:])
