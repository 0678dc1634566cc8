"""Target rows: every loss and map of the book takes a target of shape (N, K), one row per image."""

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Turn class labels into target rows.

    Args:
        labels: integer labels, shape (N,), in 0 … num_classes - 1.
        num_classes: K.

    Returns:
        float32 rows of zeros with a single one, shape (N, K), on the device of `labels`.

    Raises:
        ValueError: `labels` is not a vector of integers, or a label lies outside the range.
    """
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}, expected integers of shape (N,)"
        )
    if labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            raise ValueError(
                f"label {wrong} is outside 0 … {num_classes - 1}: check num_classes={num_classes} or the labels"
            )
    return F.one_hot(labels.long(), num_classes).float()


def check_target(target: Tensor, images: int, classes: int) -> None:
    """Raise unless `target` holds one row of `classes` numbers for each of `images` images.

    Raises:
        ValueError: the shape is not (images, classes), or the rows are not floating-point numbers.
    """
    if tuple(target.shape) != (images, classes):
        raise ValueError(
            f"target has shape {tuple(target.shape)}, expected ({images}, {classes}): "
            f"pass camlib.one_hot(labels, {classes})"
        )
    if not target.is_floating_point():
        raise ValueError(f"target has dtype {target.dtype}, expected floating-point rows: pass target.float()")


def check_single_label(target: Tensor, term: str) -> None:
    """Raise unless every row of `target` is one-hot; `term` is the name of the loss that needs it.

    Raises:
        ValueError: a row is mixed or multi-hot.
    """
    single = (target.amax(1) == 1) & (target.sum(1) == 1) & (target.count_nonzero(1) == 1)
    if not single.all():
        row = int((~single).nonzero()[0])
        raise ValueError(
            f"{term} needs one class per image, but row {row} of the target is mixed or multi-hot: "
            "use it without Mixup, CutMix and multi-label data"
        )


def most_confusing(logits: Tensor, target: Tensor) -> Tensor:
    """The class with the highest logit among those that the target rules out (ICASC, §3.2).

    Args:
        logits: (N, K).
        target: (N, K) rows; a class is ruled out where its entry is 0.

    Returns:
        (N,) class indices; -1 where the target rules out none, so that no class can be confused with it.

    Raises:
        ValueError: the target does not fit the logits.
    """
    check_target(target, *logits.shape)
    others = target == 0
    confusing = logits.detach().float().masked_fill(~others, -torch.inf).argmax(1)
    return confusing.where(others.any(1), -1)
