"""Data sets by name, checked against the manifest: small ones as uint8 tensors, large ones as lists of files."""

import csv
import hashlib
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch import Tensor

from camlib.data.scenes import Scenes
from camlib.data.trap import Picture, Trap
from camlib.names import lookup
from camlib.package_data import package_data


class ImageSet(NamedTuple):
    """One split of a data set.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), or float32 multi-hot rows (N, K) where an image shows several classes.
        classes: the name of each class.
        masks: bool (N, H, W), where the object is, or None if the set has no masks.
        segments: uint8 (N, H, W), what each pixel shows: 0 the ground, k + 1 class k; None if the set has none.
        free_grounds: makes so many test images whose ground says nothing of the class, where it does in this set, as a
            `Scenes` or a `Trap`; None if there are none.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    masks: Tensor | None = None
    segments: Tensor | None = None
    free_grounds: Callable[[int], Scenes | Trap] | None = None

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def checksum(self) -> str:
        """sha256 of pixels and labels: two runs with the same one saw the same data."""
        digest = hashlib.sha256(self.images.contiguous().cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()


class FileSet(NamedTuple):
    """One split of a data set whose images are read from their files while training.

    Attributes:
        paths: the file of each image.
        labels: int64 (N,), or float32 multi-hot rows (N, K) where an image shows several classes.
        classes: the name of each class.
        segments: for each image a picture of what its pixels show, 0 the ground, k + 1 class k, 255 unknown, or None
            where there is none; None if the set has no segments at all.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]
    segments: tuple[Path | None, ...] | None = None

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.paths)

    @property
    def checksum(self) -> str:
        """sha256 of name, size and label of every image; the pixels of ImageNet alone would be 144 GB to read."""
        digest = hashlib.sha256()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size} {label}\n".encode())
        return digest.hexdigest()


class DataError(RuntimeError):
    """A data set is missing, damaged or cannot be fetched; the message says which files and what to do."""


def manifest() -> dict[str, dict]:
    """Source, licence, size and files of every data set, from `data/manifest.toml`."""
    entries = tomllib.loads(package_data("manifest.toml").read_text())
    for name, entry in entries.items():
        if "like" in entry:
            entries[name] = entries[entry["like"]] | entry
    return entries


def data_root() -> Path:
    """The folder that holds the real data sets: CAMLIB_DATA, or ~/.cache/camlib."""
    return Path(os.environ.get("CAMLIB_DATA", "~/.cache/camlib")).expanduser()


def check(name: str, root: Path | None = None) -> None:
    """Compare every file of a data set with the manifest.

    A set that is read from files while training must have as many classes and images as the manifest says, and
    none of its files may be empty; their pixels are not looked at.

    Args:
        name: as in the manifest, "cifar100".
        root: the data folder, `data_root()` by default.

    Raises:
        DataError: a file is missing or empty, its md5 is not the manifest's, or classes or images are missing.
        KeyError: the name is unknown.
    """
    _checked(name, root or data_root())


def fetchable(name: str) -> bool:
    """Whether `get` can fetch a data set, or it must be fetched by hand."""
    return lookup(manifest(), name, "data set").get("like", name) in _TORCHVISION


def get(name: str, root: Path | None = None) -> None:
    """Fetch a data set through torchvision, unless it is there, and check it.

    Raises:
        DataError: it could not be fetched, what was fetched is damaged, or it has to be fetched by hand; the message
            says how.
        KeyError: the name is unknown.
    """
    lookup(manifest(), name, "data set")
    root = root or data_root()
    source = _TORCHVISION.get(manifest()[name].get("like", name))
    if source:
        try:
            source(root, download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(f"{name} could not be fetched into {root}: {error}") from error
    check(name, root)


def load(name: str, split: str, root: Path | None = None, count: int | None = None) -> ImageSet | FileSet:
    """Load one split of a data set, or its first `count` images.

    The two splits of a few-shot set have different classes: "train" holds all images of the base classes, "test"
    all of the novel ones. Its validation classes are left out. They are for choosing between nets, and here the
    last epoch counts. Which classes are which:

    - "cub200_few_shot": 120 base, 30 validation and 50 novel classes (CAM-loss, §4.1), drawn at random but the same
      in every run. The paper does not list its own. "cub50_few_shot": 30, 8 and 12 in the same way.
    - "mini_imagenet_few_shot": the 64, 16 and 20 of the files train.csv, val.csv and test.csv that go round with the
      set (Ravi and Larochelle 2017). The paper has the same numbers and speaks of a random split.
    - "mini_to_cub": all 100 classes of Mini-ImageNet as base, as in the code of Chen et al. 2019, and the novel
      classes of "cub200_few_shot". CAM-loss, §4.4 counts 50 validation and 50 novel classes of CUB, as Chen et al.
      do, where its §4.1 has 30 and 50; the test is on 50 novel ones either way.
    - "scenes_few_shot": 24 base and 8 novel ones.

    Sets whose images show several classes have rows as labels: "voc2012" (ICASC, §4.2), with its "train" and "val"
    images, and "voc_animals"; "scenes_multi". A class counts as shown in VOC even where all its objects are marked as
    difficult, which PASCAL's own server leaves out.

    "caltech256_30" and "caltech256_60" hold so many training images of each class and the same 25 test images, drawn
    at random but the same in every run, the smaller set being part of the larger; without the class "clutter"
    (ICASC, §4.2).

    The test images of Scenes are drawn like its training images, class and ground entangled alike;
    `camlib.measure.FreeGrounds` tests on those whose ground says nothing, Scenes("test"). In "scenes_free" the ground
    says nothing in training either.

    "animals_trap" is cut from "voc_animals": animals on other pictures' grounds, which give the class away, see
    `camlib.data.Trap`; its test images are drawn like its training images, from other photographs.

    "cifar100_tenth" has the first 50 training images of each class of CIFAR-100, and all test images: ours, in no
    paper.

    Args:
        name: as in the manifest, "cifar100".
        split: "train" or "test".
        root: the data folder, `data_root()` by default.
        count: None for all.

    Returns:
        Images, or the list of their files if the set is too large to be held in memory.

    Raises:
        DataError: the data are missing or damaged.
        ValueError: the split is unknown.
        KeyError: the name is unknown.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is '{split}', expected 'train' or 'test'")
    root = root or data_root()
    if name == "animals_trap":
        return _animals_trap(split, root, count)
    splits = _checked(name, root)
    if splits:
        paths, names = zip(*splits[split][:count], strict=True)
        if manifest()[name]["layout"] == "voc":
            rows = torch.tensor([[float(k in shown) for k in VOC_CLASSES] for shown in names], device="cpu")
            return FileSet(paths, rows, VOC_CLASSES, tuple(map(_voc_segments, paths)))
        classes = sorted({name for _, name in splits[split]})
        number = {name: k for k, name in enumerate(classes)}
        return FileSet(paths, torch.tensor([number[name] for name in names], device="cpu"), tuple(classes))
    if name in _SCENES:
        variant, parts, rho = _SCENES[name]
        scenes = Scenes(parts[split], variant, count=count, rho=rho)
        labels = scenes.labels.float() if scenes.labels.ndim == 2 else scenes.labels
        free = (lambda free_count: Scenes("test", variant, count=free_count)) if name == "scenes" else None
        return ImageSet(scenes.images, labels, scenes.classes, scenes.masks, scenes.segments, free)
    source = _TORCHVISION[manifest()[name].get("like", name)](root, train=split == "train")
    pixels, labels = torch.from_numpy(np.asarray(source.data)), torch.as_tensor(source.targets, device="cpu")
    if name == "cifar100_tenth" and split == "train":
        nth = (F.one_hot(labels).cumsum(0).gather(1, labels[:, None]) - 1)[:, 0]  # of its class
        pixels, labels = pixels[nth < 50], labels[nth < 50]
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return ImageSet(images[:count].contiguous(), labels[:count], tuple(source.classes))


def _animals_trap(split: str, root: Path, count: int | None) -> ImageSet:
    pictures = _checked("voc_animals", root)[split]
    cut_from = [Picture(path, segments) for path, _ in pictures if (segments := _voc_segments(path))]
    animals = {k: name for k, name in enumerate(VOC_CLASSES) if name in ("cat", "cow", "dog", "horse", "sheep")}
    count = count or manifest()["animals_trap"]["images"][split]
    trap = Trap(cut_from, animals, {"train": "train", "test": "fresh"}[split], count=count)
    free = None if split == "train" else lambda free_count: Trap(cut_from, animals, "test", count=free_count)
    return ImageSet(trap.images, trap.labels, trap.classes, trap.masks, trap.segments, free)


def statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), on the scale 0 … 1.

    Returns:
        Two float32 vectors (C,), computed exactly from the counts of each pixel value.
    """
    values = torch.arange(256, dtype=torch.float64, device=images.device) / 255
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
_SCENES = {  # variant, split to train and to test on, rho
    "scenes": ("single", {"train": "train", "test": "fresh"}, 0.9),
    "scenes_free": ("single", {"train": "train", "test": "fresh"}, 0.0),
    "scenes_fine": ("fine", {"train": "train", "test": "fresh"}, 0.9),
    "scenes_few_shot": ("few_shot", {"train": "base", "test": "novel"}, 0.9),
    "scenes_multi": ("multi", {"train": "train", "test": "fresh"}, 0.9),
}
VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

# The images of each split of a set: the file, and the name of its class, or the names of all that it shows.
Splits = dict[str, list[tuple[Path, str | frozenset[str]]]]


def _checked(name: str, root: Path) -> Splits:
    """Check a data set; return its splits if it is read from files while training, else nothing."""
    entry = lookup(manifest(), name, "data set")
    if "made_of" in entry:
        _checked(entry["made_of"], root)
        return {}
    files = entry.get("files", {})
    missing = [file for file in files if not (root / file).is_file()]
    missing += [part for part in entry.get("parts", ()) if not (root / part).exists()]
    if missing:
        fetch = f"Run 'python -m camlib data get {name}', or put the files there"
        raise DataError(
            f"{entry['title']} is not in {root}: missing {', '.join(missing)} ({entry['size']}; {entry['licence']}). "
            f"{entry.get('by_hand', fetch)} and set CAMLIB_DATA to the folder"
        )
    for file, expected in files.items():
        with (root / file).open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
        if found != expected:
            raise DataError(
                f"{root / file} is damaged: its md5 is {found}, expected {expected} "
                f"({(root / file).stat().st_size:,} bytes). Delete it and run 'python -m camlib data get {name}'"
            )
    if "layout" not in entry:
        return {}
    splits = _listed(entry, root)
    if "few_shot" in entry:
        return _by_class(splits, entry["few_shot"])
    if "novel" in entry:
        everything = [image for images in splits.values() for image in images]
        return {"train": everything, "test": _checked(entry["novel"], root)["test"]}
    return splits


def _listed(entry: dict, root: Path) -> Splits:
    """List the images of a set, and see that they are all there."""
    what = f"{entry['title']} in {root}"
    splits: Splits = {split: [] for split in entry["images"]}
    try:
        for split, path, name in _LAYOUTS[entry["layout"]](root, entry):
            splits[split].append((path, name))
    except (OSError, KeyError, ValueError, MatReadError) as error:
        raise DataError(f"{what} cannot be listed: {type(error).__name__}: {error}. {entry['by_hand']}") from error
    found = len({name for images in splits.values() for _, name in images})
    if entry["layout"] != "voc" and found != entry["classes"]:
        raise DataError(f"{what} has {found:,} classes, expected {entry['classes']:,}. {entry['by_hand']}")
    for split, expected in entry["images"].items():
        if len(splits[split]) != expected:
            raise DataError(
                f"{what} has {len(splits[split]):,} {split} images, expected {expected:,}. {entry['by_hand']}"
            )
    broken = [path for images in splits.values() for path, _ in images if not (path.is_file() and path.stat().st_size)]
    if broken:
        raise DataError(
            f"{what}: {len(broken):,} of its images are not there or empty, the first is {broken[0]}. "
            f"{entry['by_hand']}"
        )
    return splits


def _by_class(splits: Splits, numbers: list[int]) -> Splits:
    """All images of so many base and novel classes, drawn at random, but the same in every run."""
    everything = [image for images in splits.values() for image in images]
    classes = sorted({name for _, name in everything})
    order = np.random.Generator(np.random.PCG64(0)).random(len(classes)).argsort()
    base, _, novel = np.split(order, np.cumsum(numbers)[:-1])
    chosen = {split: {classes[k] for k in part} for split, part in (("train", base), ("test", novel))}
    return {split: sorted(image for image in everything if image[1] in names) for split, names in chosen.items()}


# How the files of a set are laid out: functions (root, entry of the manifest) -> (split, path, class) of every image.


def _cub(root: Path, entry: dict) -> Iterator[tuple[str, Path, str]]:
    folder = root / "CUB_200_2011"
    lines = (folder / "train_test_split.txt").read_text().splitlines()
    training = dict(line.split() for line in lines)
    for line in (folder / "images.txt").read_text().splitlines():
        number, file = line.split()
        name = file.split("/")[0]
        if int(name.split(".")[0]) <= entry["classes"]:
            yield "train" if training[number] == "1" else "test", folder / "images" / file, name


def _stanford_dogs(root: Path, entry: dict) -> Iterator[tuple[str, Path, str]]:
    folder = root / "stanford_dogs"
    for split in ("train", "test"):
        for file in loadmat(folder / f"lists/{split}_list.mat", simplify_cells=True)["file_list"]:
            yield split, folder / "Images" / file, file.split("/")[0]


def _mini_imagenet(root: Path, entry: dict) -> Iterator[tuple[str, Path, str]]:
    folder = root / "mini_imagenet"
    for split, file in (("train", "train.csv"), ("validation", "val.csv"), ("test", "test.csv")):
        with (folder / file).open(newline="") as lines:
            for line in csv.DictReader(lines):
                yield split, folder / "images" / line["filename"], line["label"]


def _imagenet(root: Path, entry: dict) -> Iterator[tuple[str, Path, str]]:
    for split, folder in (("train", "train"), ("test", "val")):
        source = torchvision.datasets.ImageFolder(root / "imagenet" / folder)
        for file, label in source.samples:
            yield split, Path(file), source.classes[label]


def _caltech256(root: Path, entry: dict) -> Iterator[tuple[str, Path, str]]:
    folders = sorted(path for path in (root / "caltech256" / "256_ObjectCategories").iterdir() if path.is_dir())
    for k, folder in enumerate(folders[: entry["classes"]]):  # the last one is "clutter"
        files = np.array(sorted(folder.glob("*.jpg")), dtype=object)
        order = np.random.Generator(np.random.PCG64([0, k])).random(len(files)).argsort()
        for split, part in (("test", order[:25]), ("train", order[25 : 25 + entry["each"]])):
            for file in files[np.sort(part)]:
                yield split, file, folder.name


def _cars196(root: Path, entry: dict) -> Iterator[tuple[str, Path, str]]:
    folder = root / "stanford_cars"
    names = loadmat(folder / "devkit" / "cars_meta.mat", simplify_cells=True)["class_names"]
    for split, annotations in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        for line in loadmat(folder / annotations, simplify_cells=True)["annotations"]:
            yield split, folder / f"cars_{split}" / line["fname"], names[line["class"] - 1]


def _voc(root: Path, entry: dict) -> Iterator[tuple[str, Path, frozenset[str]]]:
    folder = root / "VOCdevkit" / "VOC2012"
    for split, part in (("train", "train"), ("test", "val")):
        shown: dict[str, set[str]] = {}
        for name in VOC_CLASSES:
            for line in (folder / "ImageSets" / "Main" / f"{name}_{part}.txt").read_text().splitlines():
                number, sign = line.split()
                shown.setdefault(number, set()).update([] if sign == "-1" else [name])
        for number, names in shown.items():
            yield split, folder / "JPEGImages" / f"{number}.jpg", frozenset(names)


def _voc_segments(image: Path) -> Path | None:
    path = image.parents[1] / "SegmentationClass" / f"{image.stem}.png"
    return path if path.is_file() else None


_LAYOUTS = {
    "cub": _cub,
    "stanford_dogs": _stanford_dogs,
    "mini_imagenet": _mini_imagenet,
    "imagenet": _imagenet,
    "caltech256": _caltech256,
    "cars196": _cars196,
    "voc": _voc,
}
