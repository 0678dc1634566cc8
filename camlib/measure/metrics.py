"""What a net is measured by on logits or maps alone, besides accuracy: pure functions on tensors."""

from typing import NamedTuple

import torch
from torch import Tensor

from camlib.target import check_single_label, check_target


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


def expected_calibration_error(logits: Tensor, target: Tensor, bins: int = 15) -> float:
    """How far the net's confidence is from its accuracy, on average: Σ_b n_b / N · |accuracy_b - confidence_b|.

    The confidence is the highest softmax probability. Bin b of B holds the images with confidence in
    ((b - 1) / B, b / B].

    Args:
        logits: (N, K).
        target: (N, K), one-hot rows.
        bins: B.

    Returns:
        0 … 1.

    Raises:
        ValueError: the target does not fit the logits, a row names several classes, there are no images or no bins,
            or logits are not finite.

    Source: Guo et al., "On calibration of modern neural networks", 2017.
    """
    check_target(target, *logits.shape)
    check_single_label(target, "expected_calibration_error")
    if not len(logits):
        raise ValueError(f"logits have shape {tuple(logits.shape)}: no images")
    if bins < 1:
        raise ValueError(f"bins is {bins}, expected at least 1")
    if not logits.isfinite().all():
        raise ValueError("logits hold numbers that are not finite: test a net whose training has not diverged")
    confidence, answer = logits.detach().double().softmax(1).max(1)
    excess = confidence - (answer == target.argmax(1)).double()
    at = (confidence * bins).ceil().long() - 1
    return (excess.new_zeros(bins).index_add(0, at, excess).abs().sum() / len(logits)).item()
