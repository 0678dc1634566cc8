"""Augmentations against loops over single pixels (CAM-loss, §4.1: padded by 4, cropped, flipped; Table 2)."""

import pytest
import torch

from camlib.data.augment import AUGMENTATIONS, crop, cutmix, cutmix_always, cutout, flip, mixup
from camlib.data.loader import Loader

N, C, H, W = 60, 2, 5, 6  # wider than the padding, so that no window is all black
IMAGES = torch.randint(1, 256, (N, C, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGET = torch.rand(N, 4)
ROWS = torch.eye(N)
operations = pytest.mark.parametrize("operation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)


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


def painted(image, row, column, length, colour):
    """An image with a square around (row, column) in one colour, pixel by pixel."""
    result = image.clone()
    for y in range(row - length // 2, row - length // 2 + length):
        for x in range(column - length // 2, column - length // 2 + length):
            if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
                result[:, y, x] = colour
    return result


def test_cutout_paints_one_square_around_any_pixel():
    images, length = IMAGES.repeat(4, 1, 1, 1), 2
    total = [sum(images[:, c].flatten().tolist()) for c in range(C)]
    colour = torch.tensor([total[c] // (len(images) * H * W) for c in range(C)], dtype=torch.uint8)
    cut, target = cutout(images, TARGET, drawn())
    assert target is TARGET
    assert cut.dtype == torch.uint8
    centres = set()
    for image, found in zip(images, cut, strict=True):
        squares = {(y, x): painted(image, y, x, length, colour) for y in range(H) for x in range(W)}
        (centre,) = [centre for centre, expected in squares.items() if torch.equal(found, expected)]
        centres.add(centre)
    assert centres == {(y, x) for y in range(H) for x in range(W)}, "240 draws from 30 pixels"


@pytest.mark.parametrize(("height", "width", "length"), [(32, 32, 16), (224, 224, 112), (28, 40, 14), (9, 3, 1)])
def test_the_square_of_cutout_is_half_as_long_as_the_shorter_side(height, width, length):
    images = torch.full((50, 1, height, width), 200, dtype=torch.uint8)
    images[::2] = 100
    cut, _ = cutout(images, TARGET, drawn())
    areas = (cut == 150).sum((1, 2, 3))
    assert areas.max() == length**2
    assert areas.min() >= (length // 2) ** 2


def test_a_cut_out_square_is_near_0_after_normalisation():
    images = IMAGES.repeat(1, 1, 2, 2)
    mean, std = (images.double() / 255).mean((0, 2, 3)), (images.double() / 255).std((0, 2, 3))
    loader = Loader(images, torch.zeros(N, dtype=torch.long), 2, N, mean=mean, std=std, augment=("cutout",))
    ((found, _),) = loader
    untouched = (images.float() / 255 - mean[:, None, None].float()) / std[:, None, None].float()
    square = (found - untouched).abs().amax(1) > 1e-3
    assert square.any((1, 2)).all()
    assert found.permute(0, 2, 3, 1)[square].abs().max() < 1 / 255 / std.min(), "rounded down to a whole level"


def test_mixup_blends_neighbours():
    images, target = mixup(IMAGES, ROWS, drawn())
    assert images.dtype == target.dtype == torch.float32
    share = target[0, 0].item()
    assert 0.01 < share < 0.99
    for n in range(N):
        expected_row = [share * (k == n) + (1 - share) * (k == (n - 1) % N) for k in range(N)]
        assert target[n].tolist() == pytest.approx(expected_row)
        expected = share * IMAGES[n].double() + (1 - share) * IMAGES[n - 1].double()
        torch.testing.assert_close(images[n].double(), expected, rtol=0, atol=1e-3)


def test_shares_of_mixup_are_spread_evenly():
    generator = drawn()
    shares = [mixup(IMAGES[:2, :, :1, :1], torch.eye(2), generator)[1][0, 0].item() for _ in range(600)]
    for quarter in range(4):
        count = sum(quarter / 4 <= share < (quarter + 1) / 4 for share in shares)
        assert 110 < count < 190, "600 draws of Beta(1, 1) in quarters"


def test_loader_normalises_what_mixup_returns():
    settings = {"mean": torch.tensor([0.4, 0.6]), "std": torch.tensor([0.2, 0.3])}
    ((images, target),) = Loader(IMAGES, torch.arange(N), N, N, augment=("mixup",), **settings)
    ((plain, rows),) = Loader(IMAGES, torch.arange(N), N, N, **settings)
    share = target[0, 0].item()
    # Normalisation is affine, so it may come before mixing or after it.
    torch.testing.assert_close(images, share * plain + (1 - share) * plain.roll(1, 0), rtol=0, atol=1e-5)
    torch.testing.assert_close(target, share * rows + (1 - share) * rows.roll(1, 0))


def test_cutmix_pastes_a_rectangle_and_mixes_by_its_area():
    pictures = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, C, 8, 11)
    generator, untouched, areas, borders = drawn(), 0, [], 0
    for _ in range(200):
        images, target = cutmix(pictures, ROWS, generator)
        assert images.dtype == torch.uint8
        pasted = images[1, 0] == 0
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns), "a rectangle"
        area = int(pasted.sum()) / (8 * 11)
        areas.append(area)
        untouched += torch.equal(target, ROWS)
        borders += bool(rows[0] | rows[-1] | columns[0] | columns[-1])
        for n in range(N):
            previous = (n - 1) % N
            expected = [previous if pasted[y, x] else n for y in range(8) for x in range(11)] if n < 3 else None
            assert expected is None or images[n, 1].flatten().tolist() == expected
            assert target[n, n].item() == pytest.approx(1 - area)
            assert target[n, previous].item() == pytest.approx(area)
        assert torch.equal(target.count_nonzero(1), torch.full((N,), 1 if area in (0, 1) else 2))
    assert 70 < untouched < 140, "half of 200, and empty rectangles"
    assert borders > 20, "rectangles are clipped"
    assert max(areas) > 0.6


def test_rectangles_of_cutmix_cover_a_uniform_share_before_they_are_clipped():
    """λ ~ Beta(1, 1), and a centre anywhere: areas against a sum over evenly spread shares and centres."""
    even = [(i + 0.5) / 40 for i in range(40)]
    expected = []
    for uncovered in even:
        half = (1 - uncovered) ** 0.5 / 2
        sides = [min(1, centre + half) - max(0, centre - half) for centre in even]
        expected += [height * width for height in sides for width in sides]
    images, rows, generator = torch.zeros(2, 1, 64, 64, dtype=torch.uint8), torch.eye(2), drawn()
    areas = [cutmix(images, rows, generator)[1][0, 1].item() for _ in range(2000)]
    mixed = [area for area in areas if area > 0]
    assert len(mixed) / len(areas) == pytest.approx(0.5, abs=0.04)
    always = [cutmix_always(images, rows, generator)[1][0, 1].item() for _ in range(1000)]
    for limit in (0.1, 0.2, 0.4, 0.6):
        share = sum(area < limit for area in expected) / len(expected)
        for found in (mixed, always):
            assert sum(area < limit for area in found) / len(found) == pytest.approx(share, abs=0.05)


@operations
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (7, 1, 8, 8), (5, 3, 9, 6)], ids=["one image", "grey", "not square"])
def test_shapes_and_sums(operation, shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=drawn())
    rows = torch.eye(10)[: len(images)]
    generator = drawn()
    for _ in range(10):
        found, target = operation(images, rows, generator)
        assert found.shape == images.shape
        assert target.shape == rows.shape
        assert target.dtype == torch.float32
        torch.testing.assert_close(target.sum(1), torch.ones(len(images)))
        assert 0 <= found.min() <= found.max() <= 255


@operations
def test_the_generator_alone_decides(operation):
    torch.manual_seed(0)
    first, _ = operation(IMAGES, TARGET, drawn(5))
    before, rows = IMAGES.clone(), TARGET.clone()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second, _ = operation(IMAGES, TARGET, drawn(5))
    others = [operation(IMAGES, TARGET, drawn(seed))[0] for seed in range(6, 12)]
    assert torch.equal(torch.get_rng_state(), state), "the global generator stays as it was"
    assert torch.equal(first, second)
    assert any(not torch.equal(first, other) for other in others)
    assert torch.equal(IMAGES, before)
    assert torch.equal(TARGET, rows)


@operations
def test_the_generator_moves_on(operation):
    generator = drawn()
    found = [operation(IMAGES, TARGET, generator)[0] for _ in range(8)]
    assert any(not torch.equal(found[0], other) for other in found[1:])


def test_augmentations_follow_one_another():
    settings = {"mean": torch.full((C,), 0.5), "std": torch.full((C,), 0.25)}
    for last in ("mixup", "cutmix"):
        loader = Loader(IMAGES, torch.arange(N), N, 16, augment=("crop", "flip", "cutout", last), **settings)
        for first, second in zip(loader.batches(0), loader.batches(0), strict=True):
            assert torch.equal(first[0], second[0])
            assert torch.equal(first[1], second[1])
            assert first[0].dtype == torch.float32
            assert first[0].isfinite().all()
