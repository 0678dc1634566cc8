"""Data sets by name: checked against the manifest, loaded by torchvision, held as uint8 tensors."""

import hashlib
import os
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor

from camlib.data.scenes import Scenes
from camlib.names import lookup
from camlib.package_data import package_data


class ImageSet(NamedTuple):
    """One split of a data set.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        classes: the name of each class.
        masks: bool (N, H, W), where the object is, or None if the set has no masks.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    masks: Tensor | None = None

    @property
    def checksum(self) -> str:
        """sha256 of pixels and labels: two runs with the same one saw the same data."""
        digest = hashlib.sha256(self.images.contiguous().numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


class DataError(RuntimeError):
    """A data set is missing, damaged or cannot be fetched; the message says which files and what to do."""


def manifest() -> dict[str, dict]:
    """Source, licence, size and file checksums of every data set, from `data/manifest.toml`."""
    return tomllib.loads(package_data("manifest.toml").read_text())


def data_root() -> Path:
    """The folder that holds the real data sets: CAMLIB_DATA, or ~/.cache/camlib."""
    return Path(os.environ.get("CAMLIB_DATA", "~/.cache/camlib")).expanduser()


def check(name: str, root: Path | None = None) -> None:
    """Compare every file of a data set with the manifest.

    Args:
        name: as in the manifest, "cifar100".
        root: the data folder, `data_root()` by default.

    Raises:
        DataError: a file is missing, or its md5 is not the manifest's.
        KeyError: the name is unknown.
    """
    entry = lookup(manifest(), name, "data set")
    root = root or data_root()
    files = entry.get("files", {})
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        raise DataError(
            f"{entry['title']} is not in {root}: missing {', '.join(missing)} ({entry['size']}; {entry['licence']}). "
            f"Run 'python -m camlib data get {name}', or put the files there and set CAMLIB_DATA to the folder"
        )
    for file, expected in files.items():
        with (root / file).open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
        if found != expected:
            raise DataError(
                f"{root / file} is damaged: its md5 is {found}, expected {expected} "
                f"({(root / file).stat().st_size:,} bytes). Delete it and run 'python -m camlib data get {name}'"
            )


def get(name: str, root: Path | None = None) -> None:
    """Fetch a data set through torchvision, unless it is there, and check it.

    Raises:
        DataError: it could not be fetched, or what was fetched is damaged.
        KeyError: the name is unknown.
    """
    lookup(manifest(), name, "data set")
    root = root or data_root()
    if name in _TORCHVISION:
        try:
            _TORCHVISION[name](root, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{name} could not be fetched into {root}: {error}") from error
    check(name, root)


def load(name: str, split: str, root: Path | None = None, count: int | None = None) -> ImageSet:
    """Load one split of a data set, or its first `count` images.

    Args:
        name: "scenes", "mnist", "cifar10" or "cifar100".
        split: "train" or "test".
        root: the data folder, `data_root()` by default.
        count: None for all.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: the split is unknown.
        KeyError: the name is unknown.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is '{split}', expected 'train' or 'test'")
    check(name, root)
    if name == "scenes":
        scenes = Scenes(split, count=count)
        return ImageSet(scenes.images, scenes.labels, scenes.classes, scenes.masks)
    source = _TORCHVISION[name](root or data_root(), train=split == "train")
    pixels = torch.from_numpy(np.asarray(source.data))[:count]
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return ImageSet(images.contiguous(), torch.as_tensor(source.targets)[:count], tuple(source.classes))


def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), on the scale 0 … 1.

    Returns:
        Two float32 vectors (C,), computed exactly from the counts of each pixel value.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = torch.stack(
        [torch.bincount(channel.flatten(), minlength=256) / channel.numel() for channel in images.unbind(1)]
    ).double()
    mean = shares @ values
    return mean.float(), (shares @ values.square() - mean.square()).clamp_min(0).sqrt().float()


_TORCHVISION = {
    "mnist": torchvision.datasets.MNIST,
    "cifar10": torchvision.datasets.CIFAR10,
    "cifar100": torchvision.datasets.CIFAR100,
}
