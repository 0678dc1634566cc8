"""Augmentations against loops over single pixels (CAM-loss, §4.1: padded by 4, cropped, flipped)."""

import pytest
import torch

from camlib.data.augment import AUGMENTATIONS, crop, flip

N, C, H, W = 60, 2, 5, 6  # wider than the padding, so that no window is all black
IMAGES = torch.randint(1, 256, (N, C, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGET = torch.rand(N, 4)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def window(image, top, left):
    """The H × W window at (top, left) of an image with 4 black pixels on every side, pixel by pixel."""
    result = torch.zeros(C, H, W, dtype=torch.uint8)
    for y in range(H):
        for x in range(W):
            row, column = y + top - 4, x + left - 4
            if 0 <= row < H and 0 <= column < W:
                result[:, y, x] = image[:, row, column]
    return result


def test_every_crop_is_a_window_of_the_padded_image():
    places = set()
    cropped, target = crop(IMAGES, TARGET, drawn())
    assert target is TARGET
    assert cropped.dtype == torch.uint8
    for image, found in zip(IMAGES, cropped, strict=True):
        windows = {(top, left): window(image, top, left) for top in range(9) for left in range(9)}
        (place,) = [place for place, expected in windows.items() if torch.equal(found, expected)]
        places.add(place)
    assert len(places) > 35, "60 draws from 81 windows"
    tops, lefts = zip(*places, strict=True)
    assert set(tops) == set(lefts) == set(range(9))


def test_flip_mirrors_about_half_of_the_images():
    images = IMAGES.repeat(10, 1, 1, 1)
    flipped, target = flip(images, TARGET, drawn())
    assert target is TARGET
    count = 0
    for image, found in zip(images, flipped, strict=True):
        mirror = torch.zeros_like(image)
        for x in range(W):
            mirror[:, :, x] = image[:, :, W - 1 - x]
        count += torch.equal(found, mirror)
        assert torch.equal(found, mirror) or torch.equal(found, image)
    assert 240 < count < 360, "600 coins"


@pytest.mark.parametrize("operation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_the_generator_alone_decides(operation):
    torch.manual_seed(0)
    first, _ = operation(IMAGES, TARGET, drawn(5))
    before = IMAGES.clone()
    torch.manual_seed(1)
    second, _ = operation(IMAGES, TARGET, drawn(5))
    other, _ = operation(IMAGES, TARGET, drawn(6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(IMAGES, before)
