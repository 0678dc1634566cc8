"""Augmentations as batched tensor operations: (images, target, generator) -> (images, target).

All randomness comes from the generator, on the CPU, so that a batch is the same on every device.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2


def crop(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pad each image by 4 black pixels and cut out a random window of the old size (CAM-loss, §4.1).

    Args:
        images: uint8 (N, C, H, W).
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, count), generator=generator, device="cpu").to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2), target


def flip(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror each image left to right with probability 1/2 (CAM-loss, §4.1)."""
    mirrored = (torch.rand(len(images), generator=generator, device="cpu") < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images), target


def cutout(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paint over one square of each image with the batch's mean colour (DeVries and Taylor 2017).

    The square is half as long as the image's shorter side: 16 of 32 pixels and 112 of 224, as in the comparison
    of Yun et al. (CutMix, 2019, §4.1), whose results CAM-loss, Table 2 quotes; DeVries and Taylor take 8 on
    CIFAR-100. Its centre is any pixel, so part of it may lie outside. They paint with 0 after normalisation,
    which is the data set's mean colour; the batch's is as near as pixels that are not normalised yet allow.
    """
    count, _, height, width = images.shape
    length = min(height, width) // 2

    def covered(size: int) -> Tensor:
        first = torch.randint(size, (count, 1), generator=generator, device="cpu").to(images.device) - length // 2
        place = torch.arange(size, device=images.device)
        return (first <= place) & (place < first + length)

    hole = covered(height)[:, None, :, None] & covered(width)[:, None, None, :]
    # A sum of integers is the same on every device, whatever its order.
    colour = images.sum((0, 2, 3), keepdim=True) // (count * height * width)
    return torch.where(hole, colour.to(images.dtype), images), target


def mixup(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend each image and its target row with those of its neighbour in the batch (Zhang et al. 2018).

    One share λ ~ Beta(1, 1) for the batch: of α = 0.5 and 1 the one that Yun et al. (CutMix, 2019, §4.1) found
    better, and the one whose result CAM-loss, Table 2 quotes.

    Returns:
        float32 images, 0 … 255: rounding them would lose what was mixed in with a small share. Target rows.
    """
    return _from_torchvision(v2.MixUp(alpha=1.0), images.float(), target, generator)


def cutmix(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste one rectangle of its neighbour in the batch into each image (Yun et al. 2019).

    One rectangle for the batch, at the same place in every image. It is drawn to cover 1 - λ of the image,
    λ ~ Beta(1, 1), and clipped at the border; the target rows are mixed by the share that is really covered.
    Half of all batches stay as they are, as in the paper's runs on CIFAR.
    """
    return _from_torchvision(v2.RandomApply([v2.CutMix(alpha=1.0)], p=0.5), images, target, generator)


def cutmix_always(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`cutmix` of every batch, as in its paper's runs on ImageNet."""
    return _from_torchvision(v2.CutMix(alpha=1.0), images, target, generator)


def _from_torchvision(
    transform: Callable, images: Tensor, target: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Apply a transform of torchvision, which knows only torch's global generator, with another one."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        images, target = transform(images, target)
        generator.set_state(torch.get_rng_state())
    return images, target


AUGMENTATIONS = {
    "crop": crop,
    "flip": flip,
    "cutout": cutout,
    "mixup": mixup,
    "cutmix": cutmix,
    "cutmix_always": cutmix_always,
}
