"""Few-shot tests: a new classifier for classes that a net was not trained on, from a few images of each.

CAM-loss, §4.4 and Table 6 test by Baseline++ (Chen et al. 2019): the net stays as it is, and a classifier of its
features is trained for every episode.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camlib.data import Loader, StreamLoader
from camlib.measure.accuracy import evaluating
from camlib.precision import mixed_precision


def episodes(labels: Tensor, ways: int, shots: int, queries: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw episodes: some classes, and of each of them support and query images, all without replacement.

    Args:
        labels: integers (N,).
        ways: classes in an episode.
        shots: support images of each class.
        queries: query images of each class.
        count: number of episodes.
        seed: of all draws.

    Returns:
        Which images: support (count, ways · shots) and query (count, ways · queries), class after class.

    Raises:
        ValueError: there are too few classes, or too few images of one.
    """
    members = {int(label): torch.nonzero(labels == label).flatten() for label in labels.unique()}
    if len(members) < ways:
        raise ValueError(f"the images show {len(members)} classes, an episode takes {ways}: ask for fewer ways")
    for label, images in members.items():
        if len(images) < shots + queries:
            raise ValueError(
                f"class {label} has {len(images)} images, an episode takes {shots + queries}, "
                f"{shots} to learn from and {queries} to test on: ask for fewer, or test on more images"
            )
    generator = torch.Generator().manual_seed(seed)
    classes, drawn = list(members.values()), []
    for _ in range(count):
        for k in torch.randperm(len(classes), generator=generator, device="cpu")[:ways].tolist():
            order = torch.randperm(len(classes[k]), generator=generator, device="cpu")
            drawn.append(classes[k][order[: shots + queries]])
    support, query = torch.stack(drawn).view(count, ways, -1).split([shots, queries], 2)
    return support.flatten(1), query.flatten(1)


@torch.enable_grad()
def fine_tune(support: Tensor, ways: int, seed: int) -> Tensor:
    """Train the classifier of Baseline++ for many episodes at once (Chen et al. 2019).

    Logits are 2 · W x / ‖x‖, as those of `camlib.models.CosineHead`. Every episode trains a W of its own from random
    numbers: 100 times through the support images in batches of 4, stochastic gradient descent at 0.01 with
    momentum 0.9, dampening 0.9 and weight decay 0.001. The authors' code also writes each row of W as length times
    direction (weight normalisation) and trains the two apart; here W is trained.

    Args:
        support: features (E, ways · shots, C), class after class.
        ways: number of classes.
        seed: of the first weights and the order.

    Returns:
        W of each episode, (E, ways, C).
    """
    count, images, features = support.shape
    generator = torch.Generator().manual_seed(seed)
    # What nn.Linear starts from.
    weight = torch.rand(count, ways, features, generator=generator, dtype=support.dtype, device="cpu") * 2 - 1
    weight = (weight / features**0.5).to(support.device).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3)
    support = _unit(support)
    labels = _labels(ways, images, support.device)
    episode = torch.arange(count, device=support.device)[:, None]
    for _ in range(100):
        order = torch.rand(count, images, generator=generator, device="cpu").argsort(1).to(support.device)
        for batch in order.split(4, 1):
            logits = 2 * support[episode, batch] @ weight.mT
            # Each episode's loss is its mean; in their sum, every W gets the gradient of its own.
            loss = count * F.cross_entropy(logits.flatten(0, 1), labels[batch].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weight.detach()


def accuracies(support: Tensor, query: Tensor, ways: int, seed: int) -> Tensor:
    """The share of query images that Baseline++ classifies correctly in each episode.

    Args:
        support: features (E, ways · shots, C), class after class.
        query: features (E, ways · queries, C), class after class.
        ways, seed: as in `fine_tune`.

    Returns:
        (E,), 0 … 1.
    """
    answers = (_unit(query) @ fine_tune(support, ways, seed).mT).argmax(2)
    return (answers == _labels(ways, query.shape[1], query.device)).float().mean(1)


@dataclass(frozen=True)
class FewShot:
    """Test a net on classes that it was not trained on (CAM-loss, Table 6; Chen et al. 2019).

    The episodes are the same in every test.

    Attributes:
        ways: classes in an episode.
        shots: numbers of support images of each class to test with, one after the other.
        queries: query images of each class.
        episodes: their number.
    """

    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 15
    episodes: int = 600

    def __call__(self, model: nn.Module, loader: Loader | StreamLoader, precision: str = "float32") -> dict[str, float]:
        """Test a model on episodes of a loader's images. Under torchrun each process makes the whole test.

        Args:
            model: a classifier, or one that `observe` returned. Moved to the loader's device, tested in evaluation
                mode, and left in the mode it was in.
            loader: the images of the novel classes.
            precision: of the features, as in `camlib.train.Schedule`.

        Returns:
            For each number of shots "accuracy_5_shot", the mean over the episodes, and "half_width_5_shot", half
            the width of its 95 % interval, 1.96 standard deviations over the root of their number; 0 … 1.

        Raises:
            ValueError: there are too few classes, or too few images of one.
        """
        features, labels = _features(model, loader, precision)
        metrics = {}
        for shots in self.shots:
            support, query = episodes(labels, self.ways, shots, self.queries, self.episodes, seed=0)
            found = accuracies(features[support], features[query], self.ways, seed=1)
            metrics[f"accuracy_{shots}_shot"] = found.mean().item()
            metrics[f"half_width_{shots}_shot"] = 1.96 * found.std(correction=0).item() / self.episodes**0.5
        return metrics


@torch.no_grad()
def _features(model: nn.Module, loader: Loader | StreamLoader, precision: str) -> tuple[Tensor, Tensor]:
    """Pooled features (N, C) of all images, on the loader's device, and labels (N,), on the CPU."""
    features, labels = [], []
    with evaluating(model, loader) as observed:
        for images, target in loader:
            with mixed_precision(loader.device, precision):
                features.append(observed(images).pooled.float())
            labels.append(target.argmax(1).cpu())
    return torch.cat(features), torch.cat(labels)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features, dim=-1, eps=1e-5)  # as in `CosineHead`


def _labels(ways: int, images: int, device: torch.device) -> Tensor:
    """The class of each of so many images, class after class."""
    return torch.arange(ways, device=device).repeat_interleave(images // ways)
