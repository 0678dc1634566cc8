"""Batches from images that fit on the device: drawn, augmented and normalised there, as tensors."""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from camlib.data.augment import AUGMENTATIONS
from camlib.data.datasets import FileSet, ImageSet
from camlib.names import lookup
from camlib.target import check_target, one_hot


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(images / 255 − mean) / std, as nets are fed.

    Args:
        images: uint8 (N, C, H, W).
        mean, std: of each channel, in 0 … 1, as `camlib.data.statistics` gives them: (C,).

    Returns:
        float32 (N, C, H, W), on the images' device.
    """
    mean, std = (values.to(images.device).view(-1, 1, 1) for values in (mean, std))
    return (images.float() / 255 - mean) / std


class Batches:
    """What loaders have in common, wherever their images are: order, augmentation of batches, normalisation.

    Attributes:
        count: the number of images.
        num_classes, batch_size, augment, shuffle, seed, device, mean, std: as in `Loader`.
        source: the set that the images are from, for tests that need more of it than the labels, or None.
    """

    source: ImageSet | FileSet | None = None

    def __init__(
        self,
        count: int,
        num_classes: int,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        augment: tuple[str, ...],
        shuffle: bool,
        seed: int,
        device: torch.device | str | None,
    ):
        if count == 0:
            raise ValueError("no images")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.count, self.num_classes, self.batch_size = count, num_classes, batch_size
        self.seed, self.shuffle, self.augment = seed, shuffle, tuple(augment)
        self.device = torch.device(device or torch.get_default_device())
        self._operations = [lookup(AUGMENTATIONS, name, "augmentation") for name in augment]
        self.mean = torch.as_tensor(mean, dtype=torch.float32, device=self.device)[:, None, None]
        self.std = torch.as_tensor(std, dtype=torch.float32, device=self.device)[:, None, None]

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches(0)

    def describe(self) -> dict[str, object]:
        """What a checkpoint remembers of the loader: enough to refuse a resume with other data or batches."""
        return {
            "checksum": self._checksum(),
            "images": self.count,
            "classes": self.num_classes,
            "batch_size": self.batch_size,
            "augment": list(self.augment),
            "shuffle": self.shuffle,
            "seed": self.seed,
        }

    def indices(self, epoch: int) -> tuple[Tensor, ...]:
        """Which images each batch of an epoch holds."""
        order = torch.arange(self.count, device="cpu")
        if self.shuffle:
            order = torch.randperm(self.count, generator=_generator(self.seed, epoch), device="cpu")
        return order.split(self.batch_size)

    def _augmented(self, images: Tensor, target: Tensor, *numbers: int) -> tuple[Tensor, Tensor]:
        """Apply the augmentations, drawn from a seed of these numbers."""
        generator = _generator(self.seed, *numbers)
        for operation in self._operations:
            images, target = operation(images, target, generator)
        return images, target


class Loader(Batches):
    """Yields (images, target) batches: float32 (n, C, H, W), normalised, and rows (n, K).

    The images stay on the device as uint8. Order and augmentation depend on the seed, the epoch and the
    step alone, so that a run can be taken up again at any step, and two arms with one seed see the same
    batches.

    Args:
        images: uint8 (N, C, H, W).
        labels: integers (N,) or target rows (N, K).
        num_classes: K.
        batch_size: images in a batch over all processes; the last batch of an epoch may be smaller.
        mean, std: of each channel, in 0 … 1, as `camlib.data.statistics` gives them.
        augment: names from `camlib.data.augment.AUGMENTATIONS`, applied in this order.
        shuffle: draw a new order every epoch.
        seed: of order and augmentation.
        device: where images live and batches come out, torch's default device by default.

    Raises:
        ValueError: images of another type or shape, labels, mean or std that do not fit, a batch size below 1.
        KeyError: an unknown augmentation.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        num_classes: int,
        batch_size: int,
        *,
        mean: Tensor,
        std: Tensor,
        augment: tuple[str, ...] = (),
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
    ):
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images have dtype {images.dtype} and shape {tuple(images.shape)}, expected uint8 (N, C, H, W): "
                "pass the pixels as they are, 0 … 255; the loader normalises"
            )
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        if not len(mean) == len(std) == images.shape[1]:
            raise ValueError(
                f"mean and std have {len(mean)} and {len(std)} entries, expected {images.shape[1]}, one per channel"
            )
        super().__init__(len(images), num_classes, batch_size, mean, std, augment, shuffle, seed, device)
        target = one_hot(labels, num_classes) if labels.ndim == 1 else labels.float()
        check_target(target, len(images), num_classes)
        self.images, self.target = images.to(self.device), target.to(self.device)

    def batches(
        self, epoch: int, first_step: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, from `first_step` on, as process `rank` of `world` sees them.

        Every process draws the same batch and keeps every world-th image of it.
        """
        for step, index in enumerate(self.indices(epoch)[first_step:], first_step):
            index = index.to(self.device)
            images, target = self._augmented(self.images[index], self.target[index], epoch, step)
            yield normalised(images[rank::world], self.mean, self.std), target[rank::world]

    def _checksum(self) -> str:
        checksum = 0
        for part in (self.images, self.target, self.mean, self.std):
            checksum = zlib.crc32(part.contiguous().cpu().numpy(), checksum)
        return f"{checksum:08x}"


def derived_seed(*numbers: int) -> int:
    """One seed from several numbers, such as (seed, epoch, step), without the clashes a sum would have."""
    # Their count goes in, too: to a SeedSequence, (1, 2) and (1, 2, 0) are the same.
    sequence = np.random.SeedSequence((len(numbers), *numbers))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(*numbers))
