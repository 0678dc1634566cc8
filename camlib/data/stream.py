"""Batches from images that are read from their files while training."""

import os
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from camlib.data.datasets import DataError, FileSet
from camlib.data.loader import Batches, derived_seed, normalised
from camlib.names import lookup
from camlib.target import check_target, one_hot

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def _jitter() -> v2.Transform:
    return v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4)


def _few_shot(size: int) -> tuple[v2.Transform, v2.Transform]:
    """Chen et al. 2019, who change brightness, contrast and colour in this order; torchvision in any."""
    return (
        v2.Compose([v2.RandomResizedCrop(size), _jitter(), v2.RandomHorizontalFlip()]),
        v2.Compose([v2.Resize((int(1.15 * size), int(1.15 * size))), v2.CenterCrop(size)]),
    )


def _imagenet(size: int) -> tuple[v2.Transform, v2.Transform]:
    """Those of Yun et al. (CutMix, 2019), which CAM-loss, §4.1 takes over.

    Their code also adds a random multiple of the principal components of ImageNet's colours, 0.1 of a standard
    deviation; torchvision has none of it, nor have we.
    """
    return (
        v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), _jitter()]),
        v2.Compose([v2.Resize(size * 8 // 7), v2.CenterCrop(size)]),
    )


def _fine_grained(size: int) -> tuple[v2.Transform, v2.Transform]:
    """CAM-loss, §4.1 resizes to 600 and crops to 448; the flip, it does not mention."""
    square = (size * 75 // 56, size * 75 // 56)
    return (
        v2.Compose([v2.Resize(square), v2.RandomCrop(size), v2.RandomHorizontalFlip()]),
        v2.Compose([v2.Resize(square), v2.CenterCrop(size)]),
    )


def _whole(size: int) -> tuple[v2.Transform, v2.Transform]:
    """All of an image as a square: where its objects are is known after it as before."""
    square = v2.Resize((size, size))
    return v2.Compose([square, v2.RandomHorizontalFlip()]), square


# Of training and of test images, before augmentation of whole batches.
TRANSFORMS = {
    "imagenet": _imagenet(224),
    "imagenet_112": _imagenet(112),
    "fine_grained": _fine_grained(448),
    "fine_grained_112": _fine_grained(112),
    # ICASC, A.1: as He et al. 2016 train and test, with one crop or ten.
    "imagenet_ten_crop": (
        v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()]),
        v2.Compose([v2.Resize(256), v2.TenCrop(224)]),
    ),
    # ICASC, A.2 has images of 448 pixels for training and test, mirrored and cropped at random in training, and does
    # not say from what they are cropped.
    "cub_448": (
        v2.Compose([v2.Resize((448, 448)), v2.RandomCrop(448, padding=28), v2.RandomHorizontalFlip()]),
        v2.Resize((448, 448)),
    ),
    # ICASC, A.1 and A.3 tell the size of the images of Caltech-256 and VOC, and nothing of their augmentation.
    "whole_299": _whole(299),
    "whole_112": _whole(112),
    "whole_64": _whole(64),
    "few_shot": _few_shot(224),
    "few_shot_112": _few_shot(112),
}


class StreamLoader(Batches):
    """Yields (images, target) batches as `camlib.data.Loader` does, of images read from files by other processes.

    Order, transforms and augmentation depend on the seed, the epoch and the step alone, not on the number of
    processes that read. They are as many as the machine has processors, at most 16.

    Args:
        files: paths and labels.
        num_classes: K.
        batch_size: images in a batch over all processes that train; the last batch of an epoch may be smaller.
        transform: a name from `TRANSFORMS`. The training transform is applied if the loader shuffles, else the
            test transform.
        augment: names from `camlib.data.augment.AUGMENTATIONS`, applied to whole batches in this order.
        shuffle: draw a new order every epoch.
        seed: of order, transforms and augmentation.
        device: where batches come out, torch's default device by default.

    Raises:
        ValueError: no images, labels that do not fit, a batch size below 1.
        KeyError: an unknown transform or augmentation.
    """

    def __init__(
        self,
        files: FileSet,
        num_classes: int,
        batch_size: int,
        *,
        transform: str,
        augment: tuple[str, ...] = (),
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
    ):
        super().__init__(
            files.count, num_classes, batch_size, torch.tensor(MEAN), torch.tensor(STD), augment, shuffle, seed, device
        )
        if files.labels.ndim == 1:
            one_hot(files.labels.unique(), num_classes)  # or the first batch with a wrong one would fail
        else:
            check_target(files.labels, files.count, num_classes)
        training, test = lookup(TRANSFORMS, transform, "transform")
        self.files = self.source = files
        self.transform = transform
        self._transform = training if shuffle else test
        # One array: of a million separate paths, every process that reads would make a copy.
        self._paths = np.array([os.fsencode(path) for path in files.paths])

    def batches(
        self, epoch: int, first_step: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, from `first_step` on, as process `rank` of `world` sees them.

        Each process reads every world-th image of a batch and augments these by themselves: what mixes images,
        as `cutmix`, mixes those of one process.

        Raises:
            DataError: an image cannot be read; the message names its file.
        """
        indices = [index[rank::world] for index in self.indices(epoch)[first_step:]]
        reader = DataLoader(
            _Pictures(self._paths, self._transform, self.seed, epoch),
            batch_sampler=[index.tolist() for index in indices],
            num_workers=_readers(world),
            collate_fn=_stack,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )
        with torch.device("cpu"):  # where the reader draws, whichever device is torch's default
            reader = iter(reader)
        for step, (index, images) in enumerate(zip(indices, reader, strict=True), first_step):
            if isinstance(images, DataError):
                raise images
            labels = self.files.labels[index]
            target = one_hot(labels, self.num_classes) if labels.ndim == 1 else labels
            images, target = (part.to(self.device, non_blocking=True) for part in (images, target))
            images, target = self._augmented(images, target, epoch, step, rank)
            yield normalised(images, self.mean, self.std), target

    def describe(self) -> dict[str, object]:
        """As `Loader.describe`."""
        return super().describe() | {"transform": self.transform}

    def _checksum(self) -> str:
        return self.files.checksum


class _Pictures(Dataset):
    """Image i of an epoch, uint8 (3, H, W), or ten crops of it (10, 3, H, W), or the error if it cannot be read."""

    def __init__(self, paths: np.ndarray, transform: v2.Transform, seed: int, epoch: int):
        self.paths, self.transform, self.seed, self.epoch = paths, transform, seed, epoch

    def __getitem__(self, index: int) -> Tensor | DataError:
        path = os.fsdecode(self.paths[index])
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except (OSError, SyntaxError) as error:  # the latter is how PIL calls a damaged PNG
            # Given back: raised here, it would reach the user inside the traceback of another process.
            return DataError(f"{path} cannot be read as an image ({error}): put it there again")
        # Read and drawn on the processor, whichever device is torch's default.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(derived_seed(self.seed, self.epoch, index))
            found = self.transform(picture)
            return torch.stack([*map(pil_to_tensor, found)]) if isinstance(found, tuple) else pil_to_tensor(found)


def _stack(pictures: list[Tensor | DataError]) -> Tensor | DataError:
    broken = [picture for picture in pictures if isinstance(picture, DataError)]
    if broken:
        return broken[0]
    # With more processes than images in the last batch, some have none.
    return torch.stack(pictures) if pictures else torch.empty(0, 3, 1, 1, dtype=torch.uint8, device="cpu")


def _readers(world: int) -> int:
    """How many processes read for each one that trains; 0: it reads by itself."""
    # Where the system can tell, only the processors that this process may use, or torch warns.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = min(processors // world, 16)
    return each if each > 1 else 0
