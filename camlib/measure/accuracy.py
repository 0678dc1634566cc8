"""Tests of a trained net: callables (observed model, test loader, precision) -> metrics by name, shares in 0 … 1."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from camlib.data.loader import Batches
from camlib.distributed import place
from camlib.measure.metrics import spatial_rank
from camlib.observe import Observed, observe
from camlib.precision import mixed_precision


@contextlib.contextmanager
def evaluating(model: nn.Module, loader: Batches) -> Iterator[Observed]:
    """The model, observed, on the loader's device and in evaluation mode for the length of a `with` block."""
    observed = (model if isinstance(model, Observed) else observe(model)).to(loader.device)
    modes = {module: module.training for module in observed.modules()}
    observed.eval()
    try:
        yield observed
    finally:
        for module, mode in modes.items():
            module.training = mode


def hits(logits: Tensor, target: Tensor, k: int = 1) -> Tensor:
    """Which of each image's k likeliest classes are right, likeliest first.

    Right is a class whose entry in the target row is the row's largest: the one class of an image, the larger share
    of a mixture, or any class of a multi-hot row.

    Args:
        logits: (N, K).
        target: (N, K) rows.
        k: K if there are fewer classes.

    Returns:
        bool (N, min(k, K)).
    """
    likeliest = logits.topk(min(k, logits.shape[1]), 1).indices
    return target.gather(1, likeliest) == target.amax(1, keepdim=True)


@torch.no_grad()
def evaluate(model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
    """Test a model on every image of a loader, once. Under torchrun each process tests its share.

    Args:
        model: a classifier, or one that `observe` returned. Moved to the loader's device, tested in
            evaluation mode, and left in the mode it was in.
        loader: the test images.
        precision: as in `camlib.train.Schedule`.

    Returns:
        "accuracy" and "top5_accuracy" (0 … 1), "loss" (cross-entropy), and of the first batch the mean
        "spatial_rank" and "first_share" of the last maps (see `camlib.measure.spatial_rank`).
    """
    rank, world = place()
    sums = torch.zeros(5, dtype=torch.float64, device="cpu")
    with evaluating(model, loader) as observed:
        for step, (images, target) in enumerate(loader.batches(0, 0, rank, world)):
            if len(images) == 0:
                continue
            with mixed_precision(loader.device, precision):
                out = observed(images)
            logits = out.logits.float()
            found = hits(logits, target, 5)
            loss = F.cross_entropy(logits, target, reduction="sum")
            sums[:3] += torch.stack([found[:, 0].sum(), found.any(1).sum(), loss]).cpu()
            if step == 0 and loss.isfinite():
                patterns = spatial_rank(out.maps[-1])
                sums[3:] += torch.stack([patterns.effective.sum(), patterns.first_share.sum()]).cpu()
    if world > 1:
        sums = sums.to(loader.device)
        dist.all_reduce(sums)
    correct, top5, loss, rank_of_maps, first_share = sums.tolist()
    images, first_batch = loader.count, min(loader.batch_size, loader.count)
    return {
        "accuracy": correct / images,
        "top5_accuracy": top5 / images,
        "loss": loss / images,
        "spatial_rank": rank_of_maps / first_batch,
        "first_share": first_share / first_batch,
    }


class TenCrop:
    """Test every image on its centre, four corners and their mirror images (ICASC, Table 6).

    Called with a loader whose transform gives ten crops, as "imagenet_ten_crop", it returns "accuracy" and
    "top5_accuracy" by the mean of the ten softmaxes, "accuracy_centre", "top5_accuracy_centre" and "loss"
    (cross-entropy) by the crop at the centre. Images of one crop only, as those in memory, are their own centre.
    """

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        sums = torch.zeros(5, dtype=torch.float64, device="cpu")
        with evaluating(model, loader) as observed, torch.no_grad():
            for images, target in loader.batches(0):
                crops = images if images.ndim == 5 else images[:, None]
                with mixed_precision(loader.device, precision):
                    logits = observed(crops.flatten(0, 1)).logits.float().view(*crops.shape[:2], -1)
                centre = logits[:, crops.shape[1] // 2 - 1 if crops.shape[1] > 1 else 0]
                for k, answer in enumerate((logits.softmax(2).mean(1), centre)):
                    right = hits(answer, target, 5)
                    sums[2 * k : 2 * k + 2] += torch.stack([right[:, 0].sum(), right.any(1).sum()]).cpu()
                sums[4] += F.cross_entropy(centre, target, reduction="sum").cpu()
        names = ("accuracy", "top5_accuracy", "accuracy_centre", "top5_accuracy_centre", "loss")
        return dict(zip(names, (sums / loader.count).tolist(), strict=True))
