"""How far a net holds the right class apart from the likeliest wrong one (ICASC, §4.3)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from camlib.attention import attention, run_for_attention
from camlib.data.loader import Batches
from camlib.measure.accuracy import evaluate, evaluating
from camlib.measure.localisation import attention_overlap
from camlib.measure.metrics import expected_calibration_error
from camlib.precision import mixed_precision
from camlib.target import check_single_label, most_confusing, one_hot


class KolmogorovSmirnov(NamedTuple):
    """How far two distributions lie apart; see `ks`.

    Attributes:
        statistic: the largest distance of the two cumulative distributions, 0 … 1.
        location: the probability at which they are that far apart.
    """

    statistic: float
    location: float


def ks(p_target: Tensor, p_confused: Tensor) -> KolmogorovSmirnov:
    """Two-sample Kolmogorov–Smirnov statistic of what the target and what the confusing class get (ICASC, Figure 9).

    D = max_p |share of `p_target` ≤ p - share of `p_confused` ≤ p|, and where that is. The paper gives no formula,
    and does not say which of the two probabilities of `confusion` it takes.

    Args:
        p_target: (N,), 0 … 1, the probability of each image's target class.
        p_confused: (N,), 0 … 1, that of the class it is most confused with.

    Raises:
        ValueError: the shapes differ, there are no images, or a value is no probability.
    """
    from scipy import stats  # takes a second to import

    if p_target.ndim != 1 or p_target.shape != p_confused.shape or not len(p_target):
        raise ValueError(
            f"p_target has shape {tuple(p_target.shape)} and p_confused {tuple(p_confused.shape)}, "
            "expected (N,) of one N > 0"
        )
    samples = [sample.detach().double().cpu() for sample in (p_target, p_confused)]
    for name, sample in zip(("p_target", "p_confused"), samples, strict=True):
        wrong = ~((sample >= 0) & (sample <= 1))
        if wrong.any():
            raise ValueError(f"{name} holds {sample[wrong][0].item():.6g}, expected probabilities in 0 … 1")
    # The p value is not used, and its exact computation is slow.
    result = stats.ks_2samp(*(sample.numpy() for sample in samples), method="asymp")
    return KolmogorovSmirnov(float(result.statistic), float(result.statistic_location))


def confusion(logits: Tensor, target: Tensor, pair: bool = False) -> tuple[Tensor, Tensor]:
    """What the softmax gives to each image's class, and to the class it is most confused with (ICASC, §4.3).

    The confusing class is the most probable one besides the target's. The paper does not say whether the two
    probabilities are those of the whole softmax or renormalised over the pair; `pair` takes the second.

    With `pair=True` the two sum to 1, and that of the target is above 1/2 exactly where its logit is the highest
    of all: where the image is right. At p = 1/2 a share 1 - accuracy of the targets, but `accuracy` of the confusing
    classes lies at or below p (but for ties), so that D of `ks` is at least 2 · accuracy - 1: it nearly restates
    the accuracy.

    Args:
        logits: (N, K), of two or more classes.
        target: (N, K), one-hot rows.
        pair: renormalise over the two classes.

    Returns:
        p_target and p_confused, each (N,), 0 … 1, float64.

    Raises:
        ValueError: the target does not fit the logits, a row names several classes, or there is one class alone.
    """
    confusing = most_confusing(logits, target)
    check_single_label(target, "confusion")
    if logits.shape[1] < 2:
        raise ValueError(f"logits have shape {tuple(logits.shape)}: one class alone cannot be confused with another")
    logits = logits.detach().double()
    two = torch.stack([target.argmax(1), confusing], 1)
    p_target, p_confused = (logits.gather(1, two).softmax(1) if pair else logits.softmax(1).gather(1, two)).unbind(1)
    return p_target, p_confused


class Confusion:
    """How far a net holds the right class apart from the likeliest wrong one, in probability and in attention.

    Called, it returns what `camlib.measure.evaluate` does and "calibration_error" (`expected_calibration_error`); "ks",
    "ks_location", "ks_pair" and "ks_pair_location", the distance between the distributions of the two classes'
    probabilities as they are, and renormalised over the two (ICASC, Figure 9); "top5_overlap", the mean
    `attention_overlap` of the five likeliest classes' maps at the last layer (ICASC, Figures 1, 2 and 10).

    Every process tests all images.

    Args:
        attention: the kind of map, a key of `camlib.attention.KINDS`.
    """

    def __init__(self, attention: str = "channel_weighted"):
        self.attention = attention

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        metrics = evaluate(model, loader, precision)
        logits, targets, overlaps = [], [], []
        with evaluating(model, loader) as observed:
            for images, target in loader.batches(0):
                with mixed_precision(loader.device, precision):
                    out = run_for_attention(observed, images)
                    likeliest = out.logits.topk(min(5, target.shape[1]), 1).indices
                    rows = [one_hot(classes, target.shape[1]) for classes in likeliest.unbind(1)]
                    maps = torch.stack([attention(out, row, kind=self.attention).detach() for row in rows], 1)
                overlaps.append(attention_overlap(maps).cpu())
                logits.append(out.logits.detach().float().cpu())
                targets.append(target.cpu())
        logits, targets = torch.cat(logits), torch.cat(targets)
        metrics["calibration_error"] = expected_calibration_error(logits, targets)
        for name, pair in (("ks", False), ("ks_pair", True)):
            found = ks(*confusion(logits, targets, pair))
            metrics |= {name: found.statistic, f"{name}_location": found.location}
        return metrics | {"top5_overlap": torch.cat(overlaps).mean().item()}
