"""The test that no paper claims anything about: grounds that say nothing of the class."""

import torch
from torch import nn

from camlib.data.loader import Batches, Loader
from camlib.measure.accuracy import evaluating, hits
from camlib.precision import mixed_precision


class FreeGrounds:
    """Test a net whose training set gives the class away by the ground where it does not: under a shift, ours.

    Called, it returns "accuracy_free_grounds", the accuracy on such images, and its two parts: "accuracy_own_ground" of
    the images that happen to stand on their class's own ground, and "accuracy_foreign_ground" of the others.

    Every process tests all images.

    Args:
        count: the number of test images.

    Raises:
        ValueError: when called, the loader's set has no such test images, see `camlib.data.ImageSet`.
    """

    def __init__(self, count: int = 2000):
        self.count = count

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        make = getattr(loader.source, "free_grounds", None)
        if make is None:
            raise ValueError("the loader's set has no test images with free grounds: those of Scenes and the trap have")
        pictures = make(self.count)
        look = {"mean": loader.mean.flatten(), "std": loader.std.flatten(), "device": loader.device}
        free = Loader(pictures.images, pictures.labels, loader.num_classes, 500, **look)
        right = []
        with evaluating(model, free) as observed, torch.no_grad():
            for images, target in free.batches(0):
                with mixed_precision(free.device, precision):
                    logits = observed(images).logits.float()
                right.append(hits(logits, target)[:, 0].float().cpu())
        right = torch.cat(right)
        own = pictures.grounds == pictures.labels % len(pictures.ground_names)
        return {
            "accuracy_free_grounds": right.mean().item(),
            "accuracy_own_ground": right[own].mean().item(),
            "accuracy_foreign_ground": right[~own].mean().item(),
        }
