"""Real data sets, from small files of the real form written here, with a manifest to match.

CAM-loss, §4.1: what the sets are, and how many classes of them are base, validation and novel.
"""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from scipy.io import savemat

from camlib.data import datasets
from camlib.data.datasets import DataError, FileSet, ImageSet, check, data_root, get, load, manifest, statistics
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
    expected = Scenes("fresh", count=20)  # drawn as the training images are
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.masks, expected.masks)
    assert found.classes == expected.classes
    get("scenes")


@pytest.mark.parametrize(
    ("name", "variant", "parts"),
    [("scenes_fine", "fine", ("train", "fresh")), ("scenes_few_shot", "few_shot", ("base", "novel"))],
)
def test_other_scenes(name, variant, parts):
    for split, part in zip(("train", "test"), parts, strict=True):
        found, expected = load(name, split, count=30), Scenes(part, variant, count=30)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)
        assert found.classes == expected.classes
    assert len(load("scenes_few_shot", "train", count=1).classes) == 24
    assert len(load("scenes_few_shot", "test", count=1).classes) == 8


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
        assert entry.keys() >= {"title", "source", "licence", "size", "classes", "channels"}, name
        assert all(len(md5) == 32 and int(md5, 16) for md5 in entry.get("files", {}).values())
        ways_to_load = (
            entry.get("like", name) in datasets._TORCHVISION,
            name in datasets._SCENES,
            entry.get("layout") in datasets._LAYOUTS,
            entry.get("made_of") in manifest(),
        )
        assert ways_to_load.count(True) == 1, name
        if "layout" in entry:
            assert entry["parts"], name
            assert entry["by_hand"], name
            assert sum(entry.get("few_shot", [entry["classes"]])) == entry["classes"], name
    titles = [entry["title"] for entry in manifest().values()]
    assert len(set(titles)) == len(titles)


def test_the_manifest_counts_as_the_papers_do():
    counts = {
        name: (entry["classes"], *entry["images"].values()) for name, entry in manifest().items() if "images" in entry
    }
    assert counts["cub200"] == counts["cub200_few_shot"] == (200, 5994, 5794)
    assert counts["cub50"] == counts["cub50_few_shot"] == (50, 1500, 1389)
    assert counts["stanford_dogs"] == (120, 12000, 8580)
    assert counts["imagenet"] == (1000, 1281167, 50000)
    assert counts["mini_imagenet_few_shot"] == counts["mini_to_cub"] == (100, 64 * 600, 16 * 600, 20 * 600)
    assert counts["voc2012"] == (20, 5717, 5823)
    assert counts["caltech256_30"] == (256, 256 * 30, 256 * 25)
    assert counts["caltech256_60"] == (256, 256 * 60, 256 * 25)
    assert counts["cars196"] == (196, 8144, 8041)
    assert manifest()["cub200_few_shot"]["few_shot"] == [120, 30, 50]
    assert manifest()["cub50_few_shot"]["few_shot"] == [30, 8, 12]


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
    with torch.device("meta"):  # torch's default device, which is the GPU in a chapter, makes no difference
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


# Sets that are read from files while training.

LETTERS = "abcdefghijkl"
BIRDS = [f"{k + 1:03d}.Bird_{letter}" for k, letter in enumerate(LETTERS)]
DOGS = [f"n0208{k}-dog_{k}" for k in range(3)]
THINGS = [f"n0{k}" for k in range(6)]


def birds():
    """Image number, file and whether it is a training image: 3 to 5 images of each of 12 birds, ids with gaps."""
    files = [f"{bird}/{bird[4:]}_{n}.jpg" for k, bird in enumerate(BIRDS) for n in range(3 + k % 3)]
    return [(3 * i + 2, file, i % 3 != 0) for i, file in enumerate(files)]


def write_lists_of_birds(root, known):
    write(root / "CUB_200_2011/images.txt", "".join(f"{i} {file}\n" for i, file, _ in known).encode())
    split = "".join(f"{i} {int(training)}\n" for i, _, training in known)
    write(root / "CUB_200_2011/train_test_split.txt", split.encode())


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A data folder with all sets whose images are files, none of them an image, and a manifest that counts them."""
    for _, file, _ in birds():
        write(tmp_path / "CUB_200_2011/images" / file, file.encode())
    write_lists_of_birds(tmp_path, birds())
    for split, count in (("train", 2), ("test", 1)):
        files = [f"{dog}/{dog}_{split}{n}.jpg" for dog in DOGS for n in range(count)]
        for file in files:
            write(tmp_path / "stanford_dogs/Images" / file, b"dog")
        lists = tmp_path / "stanford_dogs/lists"
        lists.mkdir(exist_ok=True)
        # As published: a column of cells, each with one name.
        savemat(lists / f"{split}_list.mat", {"file_list": np.array([[file] for file in files], dtype=object)})
    for file, things in (("train.csv", THINGS[:3]), ("val.csv", THINGS[3:4]), ("test.csv", THINGS[4:])):
        lines = [(f"{thing}0000000{n}.jpg", thing) for n in range(2) for thing in things]
        for name, _ in lines:
            write(tmp_path / "mini_imagenet/images" / name, b"thing")
        content = "filename,label\n" + "".join(f"{name},{thing}\n" for name, thing in lines)
        write(tmp_path / "mini_imagenet" / file, content.encode())
    for folder, count in (("train", 3), ("val", 2)):
        for thing in THINGS:
            for n in range(count):
                write(tmp_path / f"imagenet/{folder}/{thing}/{thing}_{n}.JPEG", b"thing")
    ours = manifest()
    own = {
        "cub200": {"classes": 12, "images": {"train": 32, "test": 16}},
        "cub50": {"classes": 4, "images": {"train": 10, "test": 5}},
        "stanford_dogs": {"classes": 3, "images": {"train": 6, "test": 3}},
        "mini_imagenet_few_shot": {"classes": 6, "images": {"train": 6, "validation": 2, "test": 4}},
        "imagenet": {"classes": 6, "images": {"train": 18, "test": 12}},
    }
    for name, last in (("cub200", BIRDS[-1]), ("cub50", BIRDS[3])):
        own[name]["parts"] = [*ours[name]["parts"][:2], f"CUB_200_2011/images/{last}"]
        own[f"{name}_few_shot"] = own[name]
    own["mini_to_cub"] = own["mini_imagenet_few_shot"]
    for name, changes in own.items():
        ours[name] |= changes
    ours["cub200_few_shot"]["few_shot"] = [7, 2, 3]
    ours["cub50_few_shot"]["few_shot"] = [2, 1, 1]
    monkeypatch.setattr(datasets, "manifest", lambda: ours)
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path))
    return tmp_path


FILE_SETS = ["cub200", "cub50", "stanford_dogs", "mini_imagenet_few_shot", "imagenet"]


@pytest.mark.parametrize(("name", "classes"), [("cub200", 12), ("cub50", 4)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_cub(folders, name, classes, split):
    found = load(name, split)
    assert isinstance(found, FileSet)
    assert found.classes == tuple(BIRDS[:classes])
    expected = [
        (folders / "CUB_200_2011/images" / file, k)
        for k, bird in enumerate(BIRDS[:classes])
        for _, file, training in birds()
        if file.startswith(bird) and training == (split == "train")
    ]
    assert list(zip(found.paths, found.labels.tolist(), strict=True)) == expected
    assert found.labels.dtype == torch.int64
    assert found.count == len(expected)


def test_cub50_needs_no_other_classes(folders):
    expected = load("cub50", "test")
    write_lists_of_birds(folders, [bird for bird in birds() if bird[1] < BIRDS[4]])
    for bird in BIRDS[4:]:
        for file in (folders / "CUB_200_2011/images" / bird).iterdir():
            file.unlink()
        (folders / "CUB_200_2011/images" / bird).rmdir()
    assert load("cub50", "test").paths == expected.paths
    with pytest.raises(DataError, match=rf"CUB-200-2011 is not in .*: missing CUB_200_2011/images/{BIRDS[-1]} \("):
        load("cub200", "test")


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("test", 1)])
def test_stanford_dogs(folders, split, count):
    found = load("stanford_dogs", split)
    assert found.classes == tuple(DOGS)
    assert found.labels.tolist() == [k for k in range(3) for _ in range(count)]
    names = [f"{dog}/{dog}_{split}{n}.jpg" for dog in DOGS for n in range(count)]
    assert found.paths == tuple(folders / "stanford_dogs/Images" / name for name in names)


@pytest.mark.parametrize(("split", "folder", "count"), [("train", "train", 3), ("test", "val", 2)])
def test_imagenet(folders, split, folder, count):
    found = load("imagenet", split)
    assert found.classes == tuple(THINGS)
    assert found.labels.tolist() == [k for k in range(6) for _ in range(count)]
    names = [f"{thing}/{thing}_{n}.JPEG" for thing in THINGS for n in range(count)]
    assert found.paths == tuple(folders / "imagenet" / folder / name for name in names)


@pytest.mark.parametrize(("split", "things"), [("train", THINGS[:3]), ("test", THINGS[4:])])
def test_mini_imagenet_has_other_classes_in_the_test(folders, split, things):
    found = load("mini_imagenet_few_shot", split)
    assert found.classes == tuple(things)
    assert found.labels.tolist() == [*range(len(things))] * 2
    names = [f"{thing}0000000{n}.jpg" for n in range(2) for thing in things]
    assert found.paths == tuple(folders / "mini_imagenet/images" / name for name in names)


@pytest.mark.parametrize(("name", "numbers"), [("cub200_few_shot", (7, 2, 3)), ("cub50_few_shot", (2, 1, 1))])
def test_few_shot_cub_has_all_images_of_base_or_novel_classes(folders, name, numbers):
    base, novel = load(name, "train"), load(name, "test")
    assert (len(base.classes), len(novel.classes)) == (numbers[0], numbers[2])
    assert not set(base.classes) & set(novel.classes)
    for found in (base, novel):
        assert set(found.classes) <= set(BIRDS[: sum(numbers)])
        assert list(found.classes) == sorted(found.classes)
        expected = {folders / "CUB_200_2011/images" / file for _, file, _ in birds() if file[:10] in found.classes}
        assert set(found.paths) == expected
        assert found.count == len(expected)
        for path, label in zip(found.paths, found.labels.tolist(), strict=True):
            assert path.parent.name == found.classes[label]


def test_the_classes_of_few_shot_cub_stay_the_same():
    """Numbers that no run may ever see changed: records would no longer compare."""
    numbered = [(Path(f"{k}.jpg"), f"{k:03d}") for k in range(200)]
    splits = datasets._by_class({"train": numbered[::2], "test": numbered[1::2]}, [120, 30, 50])
    assert (len(splits["train"]), len(splits["test"])) == (120, 50)
    assert [int(name) for _, name in sorted(splits["test"], key=lambda image: image[1])][:12] == [
        5,
        9,
        12,
        16,
        26,
        27,
        37,
        38,
        45,
        49,
        52,
        67,
    ]


def test_mini_to_cub_trains_on_all_of_mini_imagenet_and_tests_on_novel_birds(folders):
    base, novel = load("mini_to_cub", "train"), load("mini_to_cub", "test")
    assert base.classes == tuple(THINGS)
    assert set(base.paths) == set((folders / "mini_imagenet/images").iterdir())
    expected = load("cub200_few_shot", "test")
    assert (novel.paths, novel.classes) == (expected.paths, expected.classes)
    assert torch.equal(novel.labels, expected.labels)


def test_the_first_images_of_a_set_keep_their_labels(folders):
    whole, part = load("cub200_few_shot", "train"), load("cub200_few_shot", "train", count=9)
    assert part.paths == whole.paths[:9]
    assert torch.equal(part.labels, whole.labels[:9])
    assert part.classes == whole.classes


def test_the_checksum_of_files_is_that_of_names_sizes_and_labels(folders, tmp_path_factory):
    found = load("stanford_dogs", "test")
    lines = [f"{dog}/{dog}_test0.jpg 3 {k}\n" for k, dog in enumerate(DOGS)]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert found.checksum == expected
    others = [
        found._replace(labels=found.labels.flip(0)),
        found._replace(paths=found.paths[::-1]),
        found._replace(paths=found.paths[:2], labels=found.labels[:2]),
    ]
    assert expected not in [other.checksum for other in others]
    elsewhere = tmp_path_factory.mktemp("moved") / "data"
    folders.rename(elsewhere)
    moved = load("stanford_dogs", "test", elsewhere)
    assert moved.checksum == expected, "the folder does not matter"
    moved.paths[0].write_bytes(b"cats")
    assert moved.checksum != expected


@pytest.mark.parametrize("name", FILE_SETS)
def test_missing_parts_are_named_with_what_to_do(folders, name):
    entry = datasets.manifest()[name]
    first, last = entry["parts"][0], entry["parts"][-1]
    (folders / first).rename(folders / "elsewhere")
    (folders / last).rename(folders / "elsewhere too")
    for action in (get, check, lambda name: load(name, "train")):
        with pytest.raises(DataError) as error:
            action(name)
        assert str(error.value) == (
            f"{entry['title']} is not in {folders}: missing {first}, {last} ({entry['size']}; {entry['licence']}). "
            f"{entry['by_hand']} and set CAMLIB_DATA to the folder"
        )


def test_mini_to_cub_misses_the_birds(folders):
    (folders / "CUB_200_2011/images.txt").unlink()
    with pytest.raises(DataError, match=r"CUB-200-2011, few-shot is not in .*: missing CUB_200_2011/images.txt"):
        check("mini_to_cub")


@pytest.mark.parametrize("name", ["cub200", "cub50", "stanford_dogs", "mini_imagenet_few_shot"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["gone", "empty"])
def test_a_listed_image_that_is_not_there_or_empty(folders, name, damage):
    check(name)
    image = load(name, "test").paths[-1]
    damage(image)
    with pytest.raises(DataError) as error:
        load(name, "train")
    entry = datasets.manifest()[name]
    assert str(error.value) == (
        f"{entry['title']} in {folders}: 1 of its images are not there or empty, the first is {image}. "
        f"{entry['by_hand']}"
    )


def test_images_missing_from_imagenet(folders):
    image = folders / f"imagenet/val/{THINGS[2]}/{THINGS[2]}_1.JPEG"
    image.write_bytes(b"")
    with pytest.raises(DataError, match=f"1 of its images are not there or empty, the first is {image}"):
        check("imagenet")
    image.unlink()
    with pytest.raises(DataError, match=r"ImageNet-1K in .* has 11 test images, expected 12\. Register at"):
        check("imagenet")
    for folder, count in (("train", 3), ("val", 1)):
        for n in range(count):
            (folders / f"imagenet/{folder}/{THINGS[2]}/{THINGS[2]}_{n}.JPEG").unlink()
    with pytest.raises(DataError, match=f"cannot be listed: FileNotFoundError.*{THINGS[2]}"):
        check("imagenet")
    for folder in ("train", "val"):
        (folders / "imagenet" / folder / THINGS[2]).rmdir()
    with pytest.raises(DataError, match=r"ImageNet-1K in .* has 5 classes, expected 6"):
        check("imagenet")


def test_a_class_missing_from_a_list(folders):
    write_lists_of_birds(folders, [bird for bird in birds() if not bird[1].startswith(BIRDS[2])])
    for name, found, expected in (("cub200", 11, 12), ("cub50", 3, 4), ("cub50_few_shot", 3, 4)):
        with pytest.raises(DataError, match=f"in {folders} has {found} classes, expected {expected}. Unpack"):
            load(name, "train")


def test_images_missing_from_a_list(folders):
    write_lists_of_birds(folders, birds()[:-1])
    check("cub50")
    with pytest.raises(DataError, match=r"CUB-200-2011 in .* has 31 train images, expected 32"):
        load("cub200", "test")


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("cub200", "CUB_200_2011/images.txt", b"1 2 3\n"),
        ("cub200", "CUB_200_2011/images.txt", b"\xff\xfe"),
        ("cub50", "CUB_200_2011/train_test_split.txt", b"2 1\n"),
        ("stanford_dogs", "stanford_dogs/lists/test_list.mat", b""),
        ("stanford_dogs", "stanford_dogs/lists/train_list.mat", b"MATLAB" * 100),
        ("mini_imagenet_few_shot", "mini_imagenet/val.csv", b"name,class\na,b\n"),
    ],
)
def test_damaged_lists(folders, name, file, content):
    (folders / file).write_bytes(content)
    with pytest.raises(DataError, match=f"{datasets.manifest()[name]['title']} in {folders} cannot be listed: "):
        check(name)


# Sets of the later papers, each in a folder of its own.


@pytest.fixture
def patched(monkeypatch, tmp_path):
    """A function that shrinks entries of the manifest; the data folder is empty."""
    ours = manifest()
    monkeypatch.setattr(datasets, "manifest", lambda: ours)
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path))

    def change(name, **entry):
        ours[name] |= entry
        return tmp_path

    return change


def write_voc(root, shown):
    """shown: (split, number, classes, whether there is a segmentation)."""
    folder = root / "VOCdevkit/VOC2012"
    for part in ("train", "val"):
        images = [line for line in shown if line[0] == part]
        for name in datasets.VOC_CLASSES:
            signs = (f"{number} {classes.get(name, -1):2d}\n" for _, number, classes, _ in images)
            write(folder / f"ImageSets/Main/{name}_{part}.txt", "".join(signs).encode())
        for _, number, _, segmented in images:
            write(folder / f"JPEGImages/{number}.jpg", b"picture")
            if segmented:
                write(folder / f"SegmentationClass/{number}.png", b"pixels")
    return folder


@pytest.mark.parametrize("name", ["voc2012", "voc_animals"])
def test_voc_has_rows_of_all_classes_and_segments_where_there_are_some(patched, name):
    root = patched(name, images={"train": 2, "test": 1})
    shown = [
        ("train", "2008_1", {"cat": 1, "person": 1}, True),
        ("train", "2008_2", {"aeroplane": 0}, False),
        ("val", "2008_3", {"tvmonitor": 1}, True),
    ]
    folder = write_voc(root, shown)
    found = load(name, "train")
    assert found.classes == tuple(sorted(found.classes))
    assert len(found.classes) == 20
    assert found.paths == (folder / "JPEGImages/2008_1.jpg", folder / "JPEGImages/2008_2.jpg")
    assert found.segments == (folder / "SegmentationClass/2008_1.png", None)
    assert found.labels.dtype == torch.float32
    named = [{found.classes[k] for k in row.nonzero().flatten().tolist()} for row in found.labels]
    assert named == [{"cat", "person"}, {"aeroplane"}]  # whose objects are all difficult
    test = load(name, "test")
    assert test.labels.nonzero().tolist() == [[0, 19]]
    assert found.checksum != found._replace(labels=found.labels.flip(0)).checksum
    (folder / "ImageSets/Main/cow_val.txt").unlink()
    with pytest.raises(DataError, match=r"cannot be listed: FileNotFoundError.*cow_val.txt"):
        load(name, "train")


def test_caltech_256_draws_the_same_test_images_and_nested_training_images(patched):
    for each, name in ((30, "caltech256_30"), (60, "caltech256_60")):
        root = patched(name, classes=3, images={"train": 3 * each, "test": 75})
    for folder in ("001.ak47", "002.flag", "003.backpack", "257.clutter"):
        for n in range(90):
            write(root / f"caltech256/256_ObjectCategories/{folder}/{n:04d}.jpg", folder.encode())
    write(root / "caltech256/256_ObjectCategories/.DS_Store", b"no class")
    sets = {
        name: {split: load(name, split) for split in ("train", "test")} for name in ("caltech256_30", "caltech256_60")
    }
    smaller, larger = sets["caltech256_30"], sets["caltech256_60"]
    assert smaller["test"].paths == larger["test"].paths
    assert set(smaller["train"].paths) < set(larger["train"].paths)
    assert not set(larger["train"].paths) & set(larger["test"].paths)
    for found, each in ((smaller["train"], 30), (larger["train"], 60), (larger["test"], 25)):
        assert found.classes == ("001.ak47", "002.flag", "003.backpack")
        assert found.labels.bincount().tolist() == [each] * 3
    for n in range(40):
        (root / f"caltech256/256_ObjectCategories/002.flag/{n:04d}.jpg").unlink()
    with pytest.raises(DataError, match="has 145 train images, expected 180"):
        load("caltech256_60", "train")


def test_cars(patched):
    root = patched("cars196", classes=2, images={"train": 3, "test": 2})
    names = np.array(["Audi", "Volvo"], dtype=object)
    (root / "stanford_cars/devkit").mkdir(parents=True)
    savemat(root / "stanford_cars/devkit/cars_meta.mat", {"class_names": names})
    kind = [("fname", object), ("class", object)]
    lists = {
        "devkit/cars_train_annos.mat": ("train", [("00001.jpg", 2), ("00002.jpg", 1), ("00003.jpg", 2)]),
        "cars_test_annos_withlabels.mat": ("test", [("00001.jpg", 1), ("00002.jpg", 2)]),
    }
    for file, (split, lines) in lists.items():
        savemat(root / "stanford_cars" / file, {"annotations": np.array(lines, dtype=kind)})
        for image, _ in lines:
            write(root / f"stanford_cars/cars_{split}" / image, b"car")
    found = load("cars196", "train")
    assert found.classes == ("Audi", "Volvo")
    assert found.labels.tolist() == [1, 0, 1]
    assert [path.name for path in found.paths] == ["00001.jpg", "00002.jpg", "00003.jpg"]
    assert load("cars196", "test").labels.tolist() == [0, 1]


def test_scenes_multi_has_rows_and_segments():
    found = load("scenes_multi", "test", count=30)
    scenes = Scenes("fresh", "multi", count=30)
    assert found.labels.dtype == torch.float32
    assert torch.equal(found.labels, scenes.labels.float())
    for k, masks in enumerate(scenes.class_masks.unbind(1)):
        assert torch.equal(found.segments == k + 1, masks)
    assert torch.equal(found.segments == 0, ~scenes.masks)
    assert 1 < found.labels.sum(1).max() <= 3


def test_the_trap_is_cut_from_the_animals_and_knows_its_test_with_free_grounds(patched, monkeypatch):
    """Training pictures from training photographs, test pictures of both kinds from others."""
    root = patched("voc_animals", images={"train": 2, "test": 2})
    shown = [(part, f"{part}_{k}", {"cat": 1}, k == 0) for part in ("train", "val") for k in (0, 1)]
    write_voc(root, shown)
    asked = []

    class Cut:
        def __init__(self, pictures, classes, split, *, count):
            asked.append(([picture.image.stem for picture in pictures], split, count))
            self.images, self.labels, self.masks, self.segments = (torch.zeros(count) for _ in range(4))
            self.classes = tuple(classes.values())

    monkeypatch.setattr(datasets, "Trap", Cut)
    train, test = load("animals_trap", "train"), load("animals_trap", "test", count=7)
    test.free_grounds(9)
    assert asked == [(["train_0"], "train", 5000), (["val_0"], "fresh", 7), (["val_0"], "test", 9)]
    assert train.classes == ("cat", "cow", "dog", "horse", "sheep")
    assert train.free_grounds is None


def test_only_sets_whose_ground_gives_the_class_away_have_free_grounds():
    assert load("scenes", "test", count=10).free_grounds(20).images.shape == (20, 3, 32, 32)
    assert torch.equal(load("scenes", "test", count=10).free_grounds(20).images, Scenes("test", count=20).images)
    assert load("scenes_free", "test", count=10).free_grounds is None
