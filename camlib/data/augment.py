"""Augmentations as batched tensor operations: (images, target, generator) -> (images, target).

All randomness comes from the generator, on the CPU, so that a batch is the same on every device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pad each image by 4 black pixels and cut out a random window of the old size (CAM-loss, §4.1).

    Args:
        images: uint8 (N, C, H, W).
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = torch.randint(0, 9, (2, count), generator=generator).to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2), target


def flip(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror each image left to right with probability 1/2 (CAM-loss, §4.1)."""
    mirrored = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images), target


AUGMENTATIONS = {"crop": crop, "flip": flip}
