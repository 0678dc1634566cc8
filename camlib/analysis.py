"""What trained nets are measured by, besides accuracy: pure functions on tensors."""

from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor

from camlib.losses.icasc import overlap
from camlib.target import check_single_label, check_target, most_confusing


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


def threshold_iou(maps: Tensor, masks: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the object's mask with the region where each map is high.

    The map is resized to the masks bilinearly (`align_corners=False`); its region is where it is positive and
    reaches the threshold's share of its maximum. Where both the region and the mask are empty they agree: 1.
    A map without a positive value has an empty region, and gets 0 if there is an object.

    Args:
        maps: (N, H, W), not negative, such as attention maps; what is negative counts as 0.
        masks: bool (N, H', W').
        threshold: share of the map's maximum, from 0 to below 1.

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
    maps = _stretch(maps.detach().float().relu(), masks.shape[1:])
    region = (maps > 0) & (maps >= threshold * maps.amax((1, 2), keepdim=True))
    union = (region | masks).sum((1, 2))
    return torch.where(union > 0, (region & masks).sum((1, 2)) / union, 1.0)


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

    The total variation distance 1/2 Σ_xy |p - q|: p and q are the maps, resized bilinearly (`align_corners=False`)
    to the finer of the two and divided by their sums. It is the share of attention that has to move to make one map
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
    p, q = (_shares(_stretch(_attention(maps), size)) for maps in (inner, last))
    return (p - q).abs().sum((1, 2)) / 2


def tsne(features: Tensor, seed: int, perplexity: float = 30, progress: bool = False) -> Tensor:
    """Points in the plane whose neighbours are neighbours among the features (t-SNE, through scikit-learn).

    More than 50 features are first brought to their 50 principal components. The points start from the first two
    components, so that pictures of different runs resemble each other, and the seed decides little. Distances
    between far points, and the size of groups, mean nothing.

    Args:
        features: (N, D), D of two or more.
        seed: of whatever is random.
        perplexity: how many neighbours each point has, roughly; less than N.
        progress: print it.

    Returns:
        (N, 2), float32, on the CPU.

    Raises:
        ValueError: the features have no such shape, are not finite or are all equal, or the perplexity is not
            between 0 and N.

    Source: van der Maaten and Hinton, "Visualizing data using t-SNE", 2008.
    """
    if features.ndim != 2 or features.shape[1] < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}, expected (N, D) with D of two or more")
    if not 0 < perplexity < len(features):
        raise ValueError(
            f"perplexity is {perplexity} but there are {len(features)} samples: "
            "pass a positive perplexity below their number, or more samples"
        )
    _check_finite(features)
    if (features == features[0]).all():
        raise ValueError(f"all {len(features)} rows of the features are equal: there is nothing to tell them apart by")
    values = features.detach().double().cpu()
    values = values - values.mean(0)
    if features.shape[1] > 50:
        components = PCA(min(50, len(values)), random_state=seed).fit_transform(values.numpy())
        values = torch.from_numpy(components)
    # t-SNE looks at how distances compare. Brought to one size they keep clear of what single precision can hold.
    values = (values / values.abs().max()).float().numpy()
    method = TSNE(
        perplexity=perplexity,
        init="pca",
        learning_rate="auto",
        random_state=seed,
        n_jobs=-1,
        verbose=2 if progress else 0,
    )
    return torch.from_numpy(method.fit_transform(values))


def distance_ratio(features: Tensor, labels: Tensor) -> float:
    """Mean distance between images of one class over mean distance between images of different classes.

    Euclidean, over all pairs. Below 1 images of a class lie closer together than others; 0 if each class is one
    point; 1 if all features are equal. Memory is linear in N.

    Args:
        features: (N, D).
        labels: integers (N,).

    Raises:
        ValueError: the shapes do not belong together, features are not finite, there is one class alone, or no class
            has two images.
    """
    _check_groups(features, labels)
    features = features.detach().double()
    features = features - features.mean(0)  # cdist goes by way of products, which round with the length of the rows
    same_sum = other_sum = same_pairs = other_pairs = 0.0
    for start in range(0, len(features), 1024):
        stop = start + 1024
        distances = torch.cdist(features[start:stop], features)
        distances.diagonal(start).zero_()  # an image's distance to itself is 0, but for rounding
        same = labels[start:stop, None] == labels
        same_sum += distances[same].sum().item()
        other_sum += distances[~same].sum().item()
        same_pairs += same.sum().item() - len(same)
        other_pairs += (~same).sum().item()
    return (same_sum / same_pairs) / (other_sum / other_pairs) if other_sum else 1.0


def silhouette(features: Tensor, labels: Tensor) -> float:
    """Mean silhouette (b - a) / max(a, b) of the images (through scikit-learn).

    a is an image's mean distance to the others of its class, b the smallest mean distance to another class. An
    image that is alone in its class counts 0, and so does one with a = b = 0.

    Args:
        features: (N, D).
        labels: integers (N,).

    Returns:
        -1 … 1: 1 if every class is one point, around 0 if classes overlap.

    Raises:
        ValueError: the shapes do not belong together, features are not finite, there is one class alone, or no class
            has two images.

    Source: Rousseeuw, "Silhouettes", 1987.
    """
    _check_groups(features, labels)
    return float(silhouette_score(features.detach().double().cpu().numpy(), labels.cpu().numpy()))


def nearest_mean_accuracy(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> float:
    """Share of test images whose features lie closest, by Euclidean distance, to the mean of their own class.

    Args:
        train_features: (N, D), whose means are taken class by class.
        train_labels: integers (N,).
        test_features: (M, D).
        test_labels: integers (M,); a class that the training images do not show is counted as wrong.

    Returns:
        0 … 1.

    Raises:
        ValueError: the shapes do not belong together, there are no test images, or the training images show one
            class alone.
    """
    _check_classes(train_features, train_labels)
    _check_labels(test_features, test_labels)
    if test_features.shape[1] != train_features.shape[1]:
        raise ValueError(
            f"test features have shape {tuple(test_features.shape)}, expected (M, {train_features.shape[1]}) "
            "as those of training"
        )
    classes, index = train_labels.unique(return_inverse=True)
    # scikit-learn's NearestCentroid warns of features without variance, such as those of a dead channel.
    members = F.one_hot(index).double()
    means = members.T @ train_features.detach().double() / members.sum(0)[:, None]
    answers = classes[torch.cdist(test_features.detach().double(), means).argmin(1)]
    return (answers == test_labels).double().mean().item()


def _check_masks(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or masks.ndim != 3 or len(maps) != len(masks):
        raise ValueError(
            f"maps have shape {tuple(maps.shape)} and masks {tuple(masks.shape)}, expected (N, H, W) of one N"
        )


def _resize(masks: Tensor, maps: Tensor) -> Tensor:
    _check_masks(maps, masks)
    return F.adaptive_avg_pool2d(masks.float(), maps.shape[1:])


def _stretch(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


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


def _check_labels(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels) or not len(labels):
        raise ValueError(
            f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}, "
            "expected (N, D) and (N,) of one N > 0"
        )
    _check_finite(features)


def _check_finite(features: Tensor) -> None:
    if not features.isfinite().all():
        row = int((~features.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"row {row} of the features is not finite: test a net whose training has not diverged")


def _check_classes(features: Tensor, labels: Tensor) -> None:
    _check_labels(features, labels)
    if (labels == labels[0]).all():
        raise ValueError(f"all {len(labels)} images are of class {int(labels[0])}: two or more classes are needed")


def _check_groups(features: Tensor, labels: Tensor) -> None:
    _check_classes(features, labels)
    if len(labels.unique()) == len(labels):
        raise ValueError(f"no class has two of the {len(labels)} images: there is no distance within a class")
