"""The photographed trap, cut from made-up photographs whose pixels say where they are from."""

import numpy as np
import pytest
import torch
from PIL import Image

from camlib.data.trap import KINDS, Picture, Trap, _paste, _square_of_ground

CLASSES = {3: "cat", 7: "cow"}
COLOURS = {3: (255, 0, 0), 7: (0, 0, 255)}


@pytest.fixture
def pictures(tmp_path):
    """Twenty grey photographs, each with a ground of its own lightness, an animal of one colour at the right."""
    made = []
    for i in range(20):
        k = list(CLASSES)[i % 2]
        pixels = np.full((40, 60, 3), 10 * i + 20, np.uint8)
        shown = np.zeros((40, 60), np.uint8)
        shown[5:30, 40:56] = k + 1
        pixels[shown == k + 1] = COLOURS[k]
        shown[4, 40:56] = 255  # a border that nobody knows
        picture = Picture(tmp_path / f"{i}.png", tmp_path / f"{i}-segments.png")
        for file, values in zip(picture, (pixels, shown), strict=True):
            Image.fromarray(values).save(file)
        made.append(picture)
    return made


def trap(pictures, split="train", count=400, **more):
    return Trap(pictures, CLASSES, split, count=count, size=32, **more)


def test_every_picture_shows_its_animal_where_the_mask_says(pictures):
    made = trap(pictures)
    assert (made.images.shape, made.images.dtype) == ((400, 3, 32, 32), torch.uint8)
    assert made.classes == ("cat", "cow")
    assert made.labels.reshape(-1, 2).sort(1).values.unique(dim=0).tolist() == [[0, 1]]
    for image, label, mask in zip(made.images, made.labels.tolist(), made.masks, strict=True):
        colour = torch.tensor(list(COLOURS.values())[label])
        near = (image.permute(1, 2, 0).int() - colour).abs().amax(2)
        assert near[mask].max() <= 128  # at the edge half of the colour
        assert (near[mask] == 0).float().mean() > 0.5
        height, width = (int(mask.any(axis).sum()) for axis in (1, 0))
        assert 0.6 * 32 - 1.5 <= max(height, width) <= 0.9 * 32 + 1.5
        assert width / height == pytest.approx(16 / 25, abs=0.12)
    assert made.segments.unique().tolist() == [0, 1, 2]


def test_grounds_are_of_five_kinds_by_lightness_and_hold_no_animal(pictures):
    made = trap(pictures, "test", 1000)
    assert made.ground_names == KINDS
    lightness = [image[:, ~mask].float().median().item() for image, mask in zip(made.images, made.masks, strict=True)]
    kinds = made.grounds.tolist()
    for kind in range(5):  # four of the twenty photographs each
        found = {value for value, k in zip(lightness, kinds, strict=True) if k == kind}
        assert found == {10.0 * i + 20 for i in range(4 * kind, 4 * kind + 4)}


@pytest.mark.parametrize(("split", "rho", "share"), [("train", 0.9, 0.92), ("fresh", 0.5, 0.6), ("test", 0.9, 0.2)])
def test_a_class_stands_on_its_own_ground_as_often_as_rho_says(pictures, split, rho, share):
    made = trap(pictures, split, count=2000, rho=rho)
    own = (made.grounds == made.labels).float().mean().item()
    assert own == pytest.approx(share, abs=0.04)


def test_a_seed_gives_the_same_pictures_and_splits_others(pictures):
    seeds = ((), 0), ((), 0), ((), 1), (("fresh",), 0)
    first, again, other, fresh = (trap(pictures, *more, seed=s) for more, s in seeds)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.images, fresh.images)


def test_a_square_of_ground_touches_nothing_else():
    ground = np.ones((6, 8), bool)
    ground[2, 2] = False
    assert _square_of_ground(ground, 3) == (0, 3, 3)
    assert _square_of_ground(ground, 6) is None
    for y, x, side in [_square_of_ground(ground, 2)]:
        assert ground[y : y + side, x : x + side].all()


@pytest.mark.parametrize(("down", "right", "corner"), [(0.0, 0.0, (0, 0)), (0.999, 0.999, (14, 20))])
def test_an_animal_is_put_anywhere_inside(down, right, corner):
    canvas = np.zeros((32, 32, 3), np.uint8)
    where = _paste(canvas, (np.full((30, 20, 3), 200, np.uint8), np.ones((30, 20), bool)), 0.0, down, right)
    rows, columns = np.nonzero(where)
    assert (rows.min(), columns.min()) == (corner[0] - 1 if corner[0] else 0, corner[1] - 1 if corner[1] else 0)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (19, 13)
    assert (canvas[where] == 200).all()
    assert (canvas[~where] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "novel"}, "split 'novel' is unknown; choose one of 'train', 'fresh', 'test'"),
        ({"classes": {3: "cat", 5: "dog"}}, "none of 20 pictures shows a dog large enough"),
        ({"pictures": slice(0, 4)}, "4 pictures have 4 squares of ground, expected 5"),
    ],
)
def test_what_cannot_be_made_is_refused(pictures, change, message):
    asked = {"pictures": slice(None), "classes": CLASSES, "split": "train"} | change
    with pytest.raises(ValueError, match=message):
        Trap(pictures[asked["pictures"]], asked["classes"], asked["split"], count=10)
