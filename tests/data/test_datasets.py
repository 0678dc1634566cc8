"""Real data sets, from small files of the real form written here, with a manifest to match."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from camlib.data import datasets
from camlib.data.datasets import DataError, ImageSet, check, data_root, get, load, manifest, statistics
from camlib.data.scenes import Scenes

GENERATOR = np.random.default_rng(0)
CIFAR10_FILES = [f"data_batch_{n}" for n in range(1, 6)]


def pictures(count, *shape):
    return GENERATOR.integers(0, 256, (count, *shape), dtype=np.uint8)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def idx(array):
    """MNIST's own form: a magic number, the sizes, the bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def cifar(root, folder, files, key, classes):
    """Write CIFAR files of 4 images; return what they hold."""
    held = {}
    for file in files:
        held[file] = pictures(4, 3, 32, 32), GENERATOR.integers(0, classes, 4).tolist()
        content = {"data": held[file][0].reshape(4, 3072), key: held[file][1]}
        write(root / folder / file, pickle.dumps(content))
    return held


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A data folder with all three sets; `tree.held` is what was written."""
    held = {
        "mnist": {
            "train": (pictures(6, 28, 28), [5, 0, 4, 1, 9, 2]),
            "t10k": (pictures(3, 28, 28), [7, 2, 1]),
        },
        "cifar10": cifar(tmp_path, "cifar-10-batches-py", [*CIFAR10_FILES, "test_batch"], "labels", 10),
        "cifar100": cifar(tmp_path, "cifar-100-python", ["train", "test"], "fine_labels", 100),
    }
    for part, (images, labels) in held["mnist"].items():
        write(tmp_path / f"MNIST/raw/{part}-images-idx3-ubyte", idx(images))
        write(tmp_path / f"MNIST/raw/{part}-labels-idx1-ubyte", idx(np.array(labels, dtype=np.uint8)))
    names = {"label_names": [f"thing {n}" for n in range(10)]}
    write(tmp_path / "cifar-10-batches-py/batches.meta", pickle.dumps(names))
    names = {"fine_label_names": [f"fine thing {n}" for n in range(100)]}
    write(tmp_path / "cifar-100-python/meta", pickle.dumps(names))

    def md5(file):
        return hashlib.md5((tmp_path / file).read_bytes()).hexdigest()

    ours = manifest()
    for entry in ours.values():
        entry["files"] = {file: md5(file) for file in entry.get("files", {})}
    monkeypatch.setattr(datasets, "manifest", lambda: ours)
    for theirs in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        for name in ("train_list", "test_list"):
            files = getattr(theirs, name)
            monkeypatch.setattr(theirs, name, [[f, md5(f"{theirs.base_folder}/{f}")] for f, _ in files])
        meta = theirs.meta["filename"]
        monkeypatch.setattr(theirs, "meta", theirs.meta | {"md5": md5(f"{theirs.base_folder}/{meta}")})
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path))
    return tmp_path, held


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("test", "t10k")])
def test_mnist(tree, split, part):
    images, labels = tree[1]["mnist"][part]
    found = load("mnist", split)
    assert torch.equal(found.images, torch.from_numpy(images)[:, None])
    assert found.labels.tolist() == labels
    assert len(found.classes) == 10
    assert found.masks is None


@pytest.mark.parametrize(
    ("name", "split", "files", "classes"),
    [
        ("cifar10", "train", CIFAR10_FILES, [f"thing {n}" for n in range(10)]),
        ("cifar10", "test", ["test_batch"], [f"thing {n}" for n in range(10)]),
        ("cifar100", "train", ["train"], [f"fine thing {n}" for n in range(100)]),
        ("cifar100", "test", ["test"], [f"fine thing {n}" for n in range(100)]),
    ],
)
def test_cifar(tree, name, split, files, classes):
    held = tree[1][name]
    found = load(name, split)
    assert found.images.dtype == torch.uint8
    assert found.images.is_contiguous()
    assert torch.equal(found.images, torch.from_numpy(np.concatenate([held[file][0] for file in files])))
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == [label for file in files for label in held[file][1]]
    assert found.classes == tuple(classes)


def test_scenes_need_no_files(monkeypatch, tmp_path):
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path / "nowhere"))
    found = load("scenes", "test", count=20)
    expected = Scenes("test", count=20)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.masks, expected.masks)
    assert found.classes == expected.classes
    get("scenes")


NAMES = ["mnist", "cifar10", "cifar100"]


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_named_with_the_remedy(tree, name):
    root, _ = tree
    entry = datasets.manifest()[name]
    gone = list(entry["files"])[1:]
    for file in gone:
        (root / file).unlink()
    with pytest.raises(DataError) as error:
        load(name, "test")
    assert str(error.value) == (
        f"{entry['title']} is not in {root}: missing {', '.join(gone)} ({entry['size']}; {entry['licence']})"
        f". Run 'python -m camlib data get {name}', or put the files there and set CAMLIB_DATA to the folder"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_damaged_files_are_named_and_not_read(tree, name, damage):
    root, _ = tree
    file, expected = list(datasets.manifest()[name]["files"].items())[-1]
    content = damage((root / file).read_bytes())
    (root / file).write_bytes(content)
    with pytest.raises(DataError) as error:
        load(name, "train")
    assert str(error.value) == (
        f"{root / file} is damaged: its md5 is {hashlib.md5(content).hexdigest()}, expected {expected} "
        f"({len(content):,} bytes). Delete it and run 'python -m camlib data get {name}'"
    )


def test_another_folder_can_be_named(tree, tmp_path_factory):
    root, _ = tree
    elsewhere = tmp_path_factory.mktemp("empty")
    check("mnist")
    with pytest.raises(DataError, match=f"MNIST is not in {elsewhere}: missing MNIST/raw/train-images"):
        check("mnist", elsewhere)
    assert len(load("mnist", "test", root).images) == 3


@pytest.mark.parametrize("action", [check, get, lambda name: load(name, "train")])
def test_an_unknown_set_is_answered_with_the_nearest(action):
    with pytest.raises(KeyError, match="no data set is called 'cifar1000'; the nearest: cifar100, cifar10"):
        action("cifar1000")


def test_an_unknown_split():
    with pytest.raises(ValueError, match="split is 'val', expected 'train' or 'test'"):
        load("mnist", "val")


def test_getting_fetches_through_torchvision_and_checks(tree, monkeypatch):
    root, _ = tree
    calls = []
    monkeypatch.setitem(datasets._TORCHVISION, "mnist", lambda *args, **settings: calls.append((args, settings)))
    get("mnist")
    assert calls == [((root,), {"download": True})]
    (root / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b"half")
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is damaged"):
        get("mnist")


@pytest.mark.parametrize("failure", [OSError("no route to host"), RuntimeError("File not found or corrupted.")])
def test_what_cannot_be_fetched_is_one_error(tree, monkeypatch, failure):
    def fail(*args, **settings):
        raise failure

    monkeypatch.setitem(datasets._TORCHVISION, "cifar10", fail)
    with pytest.raises(DataError, match=f"cifar10 could not be fetched into {tree[0]}: {failure}"):
        get("cifar10")


def test_the_data_folder(monkeypatch):
    monkeypatch.setenv("CAMLIB_DATA", "~/images")
    assert data_root() == Path.home() / "images"
    monkeypatch.delenv("CAMLIB_DATA")
    assert data_root() == Path.home() / ".cache/camlib"


def test_the_manifest_has_everything_an_error_or_a_reader_needs():
    for name, entry in manifest().items():
        assert entry.keys() >= {"title", "source", "licence", "size"}, name
        assert all(len(md5) == 32 and int(md5, 16) for md5 in entry.get("files", {}).values())
    assert set(datasets._TORCHVISION) | {"scenes"} == set(manifest())


@pytest.mark.parametrize(("name", "lists"), [("cifar10", ["train_list", "test_list"]), ("cifar100", ["train_list"])])
def test_the_manifest_agrees_with_torchvision(name, lists):
    """torchvision's own checksums of the same files, from another source than ours."""
    theirs, ours = datasets._TORCHVISION[name], manifest()[name]["files"]
    for listed in lists:
        for file, md5 in getattr(theirs, listed):
            assert ours[f"{theirs.base_folder}/{file}"] == md5
    assert ours[f"{theirs.base_folder}/{theirs.meta['filename']}"] == theirs.meta["md5"]


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_against_numpy(channels):
    images = pictures(50, channels, 9, 7)
    images[:, -1] //= 3
    mean, std = statistics(torch.from_numpy(images))
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 2, 3)), rtol=1e-6)
    assert mean.dtype == std.dtype == torch.float32


def test_statistics_of_a_constant():
    mean, std = statistics(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8))
    assert mean.item() == pytest.approx(0.2)
    assert std.item() < 1e-6


def test_the_checksum_tells_pixels_and_labels_apart():
    images, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
    expected = hashlib.sha256(bytes(8) + b"\0" * 8 + b"\1" + b"\0" * 7).hexdigest()
    sets = [
        ImageSet(images, labels, ("a", "b")),
        ImageSet(images + 1, labels, ("a", "b")),
        ImageSet(images, labels.flip(0), ("a", "b")),
    ]
    assert sets[0].checksum == expected
    assert len({one.checksum for one in sets}) == 3
