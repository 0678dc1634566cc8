"""How features group by class: the t-SNE picture, and the numbers it is taken for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camlib.data.loader import Batches
from camlib.measure.accuracy import evaluate, evaluating
from camlib.precision import mixed_precision
from camlib.target import check_single_label


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
    # Here and below: scikit-learn takes seconds to import, and most who import camlib never come here.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

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
    return torch.as_tensor(method.fit_transform(values), device=features.device)


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
    from sklearn.metrics import silhouette_score

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


class Grouping:
    """How features group by class: what a t-SNE picture of them claims, as numbers (CC-Loss, its figure).

    Called, it returns what `camlib.measure.evaluate` does, and of the pooled features of all test images
    "distance_ratio" and "silhouette" (see `camlib.measure`); if the net has a gate, "gate_distance_ratio" of it.
    Every process tests all images.

    Raises:
        ValueError: when called, the images show several classes each, or features cannot be grouped.
    """

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        features, gates, labels = [], [], []
        with evaluating(model, loader) as observed, torch.no_grad():
            for images, target in loader.batches(0):
                check_single_label(target, "Grouping")
                with mixed_precision(loader.device, precision):
                    out = observed(images)
                features.append(out.pooled.float().cpu())
                gates.append(None if out.gate is None else out.gate.float().cpu())
                labels.append(target.argmax(1).cpu())
        features, labels = torch.cat(features), torch.cat(labels)
        metrics = evaluate(model, loader, precision)
        metrics |= {"distance_ratio": distance_ratio(features, labels), "silhouette": silhouette(features, labels)}
        if gates[0] is not None:
            metrics["gate_distance_ratio"] = distance_ratio(torch.cat(gates), labels)
        return metrics
