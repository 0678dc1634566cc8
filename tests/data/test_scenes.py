"""Scenes: what the pictures show, and how far the ground gives the class away (CAM-loss, Figure 5)."""

import hashlib

import numpy as np
import pytest
import torch

from camlib.data import scenes as module
from camlib.data.scenes import Scenes

KINDS = [
    ("train", "single", 10),
    ("test", "single", 10),
    ("train", "multi", 10),
    ("test", "multi", 10),
    ("train", "fine", 10),
    ("test", "fine", 10),
    ("base", "few_shot", 24),
    ("validation", "few_shot", 8),
    ("novel", "few_shot", 8),
]
kinds = pytest.mark.parametrize(("split", "variant", "number"), KINDS)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "labels", "masks", "grounds"))


@kinds
def test_shapes_types_and_names(split, variant, number):
    scenes = Scenes(split, variant, count=48, size=24)
    assert len(scenes) == 48
    assert scenes.images.shape == (48, 3, 24, 24)
    assert scenes.images.dtype == torch.uint8
    assert scenes.labels.shape == ((48, number) if variant == "multi" else (48,))
    assert scenes.labels.dtype == scenes.grounds.dtype == torch.int64
    assert scenes.masks.shape == (48, 24, 24)
    assert scenes.masks.dtype == scenes.class_masks.dtype == torch.bool
    assert scenes.grounds.shape == (48,)
    assert len(set(scenes.classes)) == len(scenes.classes) == number
    assert set(scenes.grounds.tolist()) == set(range(len(scenes.ground_names)))


@pytest.mark.parametrize(
    ("split", "variant", "checksum"),
    [
        ("train", "single", "d54bcc44ee85c008"),
        ("test", "multi", "5871aa3bc8dc09a1"),
        ("train", "fine", "83fbdb01d43c24b6"),
        ("novel", "few_shot", "3ca497dc12327771"),
    ],
)
def test_bytes_are_the_same_everywhere(split, variant, checksum):
    scenes = Scenes(split, variant, count=150)
    digest = hashlib.sha256()
    for part in (scenes.images, scenes.masks, scenes.labels, scenes.grounds):
        digest.update(part.numpy().astype("<i8" if part.dtype == torch.int64 else "u1").tobytes())
    assert digest.hexdigest()[:16] == checksum


def test_a_picture_depends_on_neither_count_nor_chunks(monkeypatch):
    for split, variant in (("train", "single"), ("test", "multi"), ("novel", "few_shot")):
        many = Scenes(split, variant, count=41)
        few = Scenes(split, variant, count=17)
        monkeypatch.setattr(module, "CHUNK", 7)
        pieces = Scenes(split, variant, count=41)
        monkeypatch.undo()
        assert same(many, pieces)
        for name in ("images", "labels", "masks", "grounds"):
            assert torch.equal(getattr(few, name), getattr(many, name)[:17])


def test_size_changes_the_resolution_only():
    small, large = (Scenes("test", count=60, size=size) for size in (32, 64))
    assert torch.equal(small.labels, large.labels)
    assert torch.equal(small.grounds, large.grounds)
    halved = torch.nn.functional.avg_pool2d(large.masks[:, None].float(), 2)[:, 0] > 0.5
    assert (halved == small.masks).float().mean() > 0.97


def test_seeds_and_splits_differ():
    sets = [Scenes("train", count=20), Scenes("train", seed=1, count=20), Scenes("test", count=20)]
    for i in range(3):
        for j in range(i):
            changed = (sets[i].images != sets[j].images).flatten(1).float().mean(1)
            assert changed.min() > 0.5


@kinds
def test_mask_shows_an_object_and_leaves_ground(split, variant, number):
    share = Scenes(split, variant, count=100).masks.float().mean((1, 2))
    assert share.min() > 0.02
    assert share.max() < 0.6


def test_object_stands_out_where_the_mask_is():
    """The same pictures in other hues differ inside the masks, and outside by their smooth edge at most."""
    scenes = Scenes("test", count=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HUES", [(1 - r, 1 - g, 1 - b) for r, g, b in module.HUES])
        other = Scenes("test", count=100)
    changed = (scenes.images != other.images).any(1)
    grown = torch.nn.functional.max_pool2d(scenes.masks[:, None].float(), 3, 1, 1)[:, 0] > 0
    assert torch.equal(scenes.masks, other.masks)
    assert changed[scenes.masks].float().mean() > 0.7
    assert not changed[~grown].any()


@kinds
def test_labels_are_balanced(split, variant, number):
    labels = Scenes(split, variant, count=10 * number, size=16).labels
    if variant == "multi":
        assert set(labels.sum(1).tolist()) == {1, 2, 3}
        assert labels.sum(0).min() >= 10
    else:
        assert labels.bincount(minlength=number).tolist() == [10] * number
        assert labels[:number].tolist() != sorted(labels[:number].tolist())


@pytest.mark.parametrize(("split", "variant"), [("train", "single"), ("train", "fine"), ("base", "few_shot")])
@pytest.mark.parametrize("rho", [0, 0.7, 1])
def test_ground_goes_with_the_class_as_often_as_rho_says(split, variant, rho):
    scenes = Scenes(split, variant, count=1000, size=16, rho=rho)
    kinds_of_ground = len(scenes.ground_names)
    own = (scenes.grounds == scenes.labels % kinds_of_ground).double().mean().item()
    expected = rho + (1 - rho) / kinds_of_ground
    assert abs(own - expected) <= 4 * (expected * (1 - expected) / 1000) ** 0.5


@pytest.mark.parametrize(("split", "variant"), [("test", "single"), ("validation", "few_shot"), ("novel", "few_shot")])
def test_ground_is_independent_of_the_class_in_the_test(split, variant):
    scenes = Scenes(split, variant, count=1600, size=16, rho=1)
    rows, columns = len(scenes.classes), len(scenes.ground_names)
    counts = (scenes.labels * columns + scenes.grounds).bincount(minlength=rows * columns).double()
    expected = 1600 / (rows * columns)
    freedom = rows * (columns - 1)
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5  # chi-squared


def test_rho_changes_the_ground_and_nothing_else():
    tied, free = (Scenes("train", count=200, rho=rho) for rho in (1, 0))
    assert torch.equal(tied.labels, free.labels)
    assert torch.equal(tied.masks, free.masks)
    equal = (tied.images == free.images).flatten(1).all(1)
    assert torch.equal(equal, tied.grounds == free.grounds)
    assert 0 < equal.sum() < 200
    assert same(Scenes("test", count=20, rho=1), Scenes("test", count=20, rho=0))


def test_class_masks_show_the_labelled_classes_without_overlap():
    scenes = Scenes("train", "multi", count=150)
    assert torch.equal(scenes.class_masks.flatten(2).any(2), scenes.labels.bool())
    assert torch.equal(scenes.class_masks.sum(1), scenes.masks.long())
    single = Scenes("test", count=30)
    assert torch.equal(single.class_masks[torch.arange(30), single.labels], single.masks)


def test_first_object_of_multi_has_its_ground():
    scenes = Scenes("train", "multi", count=200, rho=1)
    own = torch.arange(10) % len(scenes.ground_names) == scenes.grounds[:, None]
    assert ((scenes.labels == 1) & own).any(1).all()


def test_fine_classes_differ_in_one_part_only(monkeypatch):
    assert [len(change) for change in module.FINE.values()] == [0] + [1] * 9
    scenes = Scenes("test", "fine", count=200)
    monkeypatch.setattr(module, "FINE", {name: {} for name in module.FINE})
    plain = Scenes("test", "fine", count=200)
    changed = (scenes.images != plain.images).any(1)
    assert torch.equal(changed.flatten(1).any(1), scenes.labels != 0)
    bird = scenes.masks & plain.masks
    assert (changed & bird).flatten(1).sum(1).double().div(bird.flatten(1).sum(1)).max() < 0.5


def test_few_shot_splits_share_no_class_but_every_attribute():
    names = [set(Scenes(split, "few_shot", count=1).classes) for split in ("base", "validation", "novel")]
    assert len(set.union(*names)) == sum(map(len, names)) == 40
    attributes = [{word for name in group for word in name.split()} for group in names]
    assert attributes[0] == attributes[1] == attributes[2]


def test_few_shot_tone_is_the_colour_of_the_trunk():
    scenes = Scenes("novel", "few_shot", count=160)
    warm = torch.tensor([name.startswith("warm") for name in scenes.classes])[scenes.labels]
    inside = scenes.masks[:, None]
    red, _, blue = ((scenes.images * inside).sum((2, 3)) / inside.sum((2, 3))).T
    assert (red - blue)[warm].mean() > 20
    assert (red - blue)[~warm].mean() < -10


def test_every_shape_encloses_something():
    """A polygon whose corners run clockwise would enclose nothing."""
    u, v = np.meshgrid(np.linspace(-1.4, 1.4, 57), np.linspace(-1.4, 1.4, 57))
    changes = [text for change in module.FINE.values() for text in change.values()]
    for text in [
        *module.THINGS.values(),
        *module.LIMBS.values(),
        *module.TRUNKS.values(),
        module.FACE,
        *changes,
    ]:
        for _, shape in module.drawing(text):
            assert 0 < (shape(u, v) < 0).mean() < 0.5, text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split 'dev' is unknown; choose one of 'train', 'test'"),
        ({"split": "train", "variant": "few_shot"}, "split 'train' .* 'base', 'validation', 'novel'"),
        ({"split": "train", "variant": "one"}, "variant 'one' .* 'single', 'multi', 'fine', 'few_shot'"),
        ({"split": "train", "count": 0}, "count is 0; ask for at least 1"),
        ({"split": "train", "size": 15}, "size is 15; .* at least 16"),
        ({"split": "train", "rho": 1.1}, r"rho is 1\.1; .* between 0 and 1"),
        ({"split": "train", "rho": -0.1}, r"rho is -0\.1; .* between 0 and 1"),
        ({"split": "train", "seed": -1}, "seed is -1; choose a non-negative"),
    ],
)
def test_errors_name_the_value_and_the_way_out(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**arguments)
