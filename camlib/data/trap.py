"""A trap made of photographs: animals cut out by their masks, on grounds of other pictures that give the class away."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

SPLITS = ("train", "fresh", "test")
KINDS = ("darkest", "dark", "medium", "light", "lightest")


class Picture(NamedTuple):
    """A photograph that animals and grounds are cut from.

    Attributes:
        image: the file.
        segments: of the same size, what each pixel shows: 0 the ground, k + 1 class k, 255 unknown.
    """

    image: Path
    segments: Path


class Trap:
    """Animals on grounds that are not theirs, in memory, like `camlib.data.Scenes` but of photographs.

    An animal, all pixels of its class in a picture, is scaled to six to nine tenths of the new picture and put
    anywhere in it. The ground behind it is a square of another photograph that shows nothing but ground. Grounds are of
    five kinds, by their mean lightness, as many of each: class k has kind k as its own. Animals and grounds of the
    tests are from other photographs than those of the training.

    Args:
        pictures: to cut from, of the training or of the test.
        classes: the names of the animals, by their numbers in the segments.
        split: "train" and "fresh": a picture has its class's own kind of ground with probability rho, else any kind
            alike; "test": any kind alike.
        seed: non-negative integer.
        count: number of pictures.
        size: height and width in pixels.
        rho: see `split`.

    Attributes:
        images: uint8 (N, 3, H, W), RGB.
        labels: int64 (N,), index into `classes`; pictures 0…K-1, K…2K-1, … show each class once.
        masks: bool (N, H, W), pixels of the animal.
        grounds: int64 (N,), index into `ground_names`.
        classes, ground_names: tuples of names.

    Raises:
        ValueError: an unknown split, or the pictures have no animal of a class, or fewer grounds than kinds.
    """

    def __init__(
        self,
        pictures: list[Picture],
        classes: dict[int, str],
        split: str,
        seed: int = 0,
        *,
        count: int,
        size: int = 64,
        rho: float = 0.9,
    ):
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(map(repr, SPLITS))}")
        self.classes, self.ground_names = tuple(classes.values()), KINDS
        animals, patches = _cut(pictures, classes, size)
        for name, cut in zip(self.classes, animals, strict=True):
            if not cut:
                raise ValueError(f"none of {len(pictures)} pictures shows a {name} large enough to cut out")
        if len(patches) < len(KINDS):
            raise ValueError(f"{len(pictures)} pictures have {len(patches)} squares of ground, expected {len(KINDS)}")
        K = len(classes)
        order, draws = (np.random.Generator(np.random.PCG64([seed, SPLITS.index(split), i])) for i in range(2))
        labels = order.random((-(-count // K), K)).argsort(1).ravel()[:count].astype(np.int64)
        numbers = draws.random((count, 7))
        own = numbers[:, 0] < (0 if split == "test" else rho)
        kinds = np.where(own, labels % len(KINDS), (numbers[:, 1] * len(KINDS)).astype(np.int64))
        by_kind = np.array_split(np.argsort([patch.mean() for patch in patches], kind="stable"), len(KINDS))
        images = np.empty((count, size, size, 3), np.uint8)
        masks = np.zeros((count, size, size), bool)
        for i, (label, kind, number) in enumerate(zip(labels, kinds, numbers, strict=True)):
            images[i] = patches[by_kind[kind][int(number[2] * len(by_kind[kind]))]]
            cut = animals[label]
            masks[i] = _paste(images[i], cut[int(number[3] * len(cut))], *number[4:])
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self.labels, self.masks = torch.from_numpy(labels), torch.from_numpy(masks)
        self.grounds = torch.from_numpy(kinds)

    def __len__(self):
        return len(self.images)

    @property
    def segments(self) -> torch.Tensor:
        """uint8 (N, H, W): what each pixel shows, 0 the ground, k + 1 class k."""
        return (self.masks * (self.labels[:, None, None] + 1)).to(torch.uint8)


LEAST = 0.05  # of a picture's pixels that an animal covers, or it is not cut out
SHARE = 0.4  # of a picture's shorter side that a square of ground has


def _cut(
    pictures: list[Picture], classes: dict[int, str], size: int
) -> tuple[list[list[tuple[np.ndarray, np.ndarray]]], list[np.ndarray]]:
    """The animals of each class, as pixels (h, w, 3) and mask (h, w), and squares of ground (size, size, 3)."""
    animals, patches = [[] for _ in classes], []
    for picture in pictures:
        image = np.asarray(Image.open(picture.image).convert("RGB"))
        shown = np.asarray(Image.open(picture.segments))
        for cuts, k in zip(animals, classes, strict=True):
            mask = shown == k + 1
            if mask.mean() >= LEAST:
                rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
                box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
                cuts.append((image[box], mask[box]))
        corner = _square_of_ground(shown == 0, int(SHARE * min(shown.shape)))
        if corner is not None:
            y, x, side = corner
            patches.append(_resized(image[y : y + side, x : x + side], (size, size)))
    return animals, patches


def _square_of_ground(ground: np.ndarray, side: int) -> tuple[int, int, int] | None:
    """The first square of nothing but ground, row by row: top, left, side. None if there is none."""
    total = np.pad(ground.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    found = np.argwhere(inside == side * side)
    return (int(found[0][0]), int(found[0][1]), side) if len(found) else None


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 pixels at another height and width."""
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


def _paste(
    canvas: np.ndarray, cut: tuple[np.ndarray, np.ndarray], scale: float, down: float, right: float
) -> np.ndarray:
    """Put an animal on the canvas (H, W, 3), in place; return where it is now, bool (H, W).

    Scale, down and right are random numbers in 0 … 1.
    """
    pixels, mask = cut
    size = len(canvas)
    factor = (0.6 + 0.3 * scale) * size / max(mask.shape)
    height, width = (max(1, round(factor * side)) for side in mask.shape)
    cover = _resized(mask.astype(np.uint8) * 255, (height, width))
    top, left = int(down * (size - height + 1)), int(right * (size - width + 1))
    place = slice(top, top + height), slice(left, left + width)
    share = cover[..., None] / 255
    canvas[place] = np.round(share * _resized(pixels, (height, width)) + (1 - share) * canvas[place])
    where = np.zeros(canvas.shape[:2], bool)
    where[place] = cover > 127
    return where
