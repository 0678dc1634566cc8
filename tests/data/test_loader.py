import itertools

import pytest
import torch

from camlib.data.datasets import statistics
from camlib.data.loader import Loader, derived_seed

COUNT, CLASSES = 23, 4
IMAGES = torch.randint(0, 256, (COUNT, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES[:, 0, 0, 0] = torch.arange(COUNT)  # so that an image can be told
LABELS = torch.arange(COUNT) % CLASSES
MEAN, STD = statistics(IMAGES)


def loader(batch_size=5, **settings):
    return Loader(IMAGES, LABELS, CLASSES, batch_size, mean=MEAN, std=STD, **settings)


def numbers(batches):
    """Which images the batches hold, read from the first pixel."""
    return [((images[:, 0, 0, 0] * STD[0] + MEAN[0]) * 255).round().int().tolist() for images, _ in batches]


def same(first, second):
    pairs = list(itertools.zip_longest(first, second))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.parametrize(("batch_size", "batches"), [(5, 5), (23, 1), (100, 1), (1, 23)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_image_once_an_epoch(batch_size, batches, shuffle):
    ours = loader(batch_size, shuffle=shuffle)
    found = numbers(ours.batches(3))
    assert len(found) == len(ours) == batches
    assert ours.count == COUNT
    assert all(len(batch) == batch_size for batch in found[:-1])
    order = [n for batch in found for n in batch]
    assert sorted(order) == list(range(COUNT))
    assert (order == sorted(order)) is not shuffle


def test_images_are_normalised_and_labels_become_rows():
    for images, target in loader(6):
        assert images.dtype == target.dtype == torch.float32
        for picture, row in zip(images, target, strict=True):
            n = round(((picture[0, 0, 0] * STD[0] + MEAN[0]) * 255).item())
            expected = torch.stack([(IMAGES[n, c].double() / 255 - MEAN[c]) / STD[c] for c in range(3)])
            torch.testing.assert_close(picture, expected.float())
            assert row.tolist() == [float(k == n % CLASSES) for k in range(CLASSES)]


def test_normalised_images_have_mean_0_and_deviation_1():
    everything = torch.cat([images for images, _ in loader(4)]).double()
    torch.testing.assert_close(everything.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(everything.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-5)


def test_order_and_augmentation_depend_on_seed_and_epoch_alone():
    settings = {"shuffle": True, "augment": ("crop", "flip")}
    first, second = loader(**settings, seed=3), loader(**settings, seed=3)
    reference = list(first.batches(2))
    torch.manual_seed(99)
    list(second.batches(7))
    assert same(second.batches(2), reference)
    plain, other = loader(shuffle=True, seed=3), loader(shuffle=True, seed=4)
    orders = [numbers(plain.batches(2)), numbers(plain.batches(3)), numbers(other.batches(2))]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


def test_augmentation_differs_between_epochs_and_steps():
    repeated = Loader(IMAGES[[0] * 12], LABELS[[0] * 12], CLASSES, 4, mean=MEAN, std=STD, augment=("crop",))
    batches = [images for epoch in (0, 1) for images, _ in repeated.batches(epoch)]
    assert len(batches) == 6
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(batches, 2))


def test_augmentations_are_applied_in_the_order_given():
    crop_first, flip_first = (loader(23, augment=order) for order in (("crop", "flip"), ("flip", "crop")))
    assert not same(crop_first, flip_first)


@pytest.mark.parametrize("first_step", range(6))
def test_an_epoch_can_be_taken_up_at_any_step(first_step):
    settings = {"shuffle": True, "augment": ("crop", "flip")}
    whole = list(loader(**settings).batches(1))
    rest = list(loader(**settings).batches(1, first_step))
    assert len(rest) == 5 - first_step
    assert same(rest, whole[first_step:])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_each_batch(world):
    ours = loader(6, shuffle=True, augment=("crop", "flip"), seed=1)
    parts = [list(ours.batches(4, 0, rank, world)) for rank in range(world)]
    for step, (images, target) in enumerate(ours.batches(4)):
        joined_images, joined_target = torch.full_like(images, torch.nan), torch.full_like(target, torch.nan)
        for rank in range(world):
            joined_images[rank::world], joined_target[rank::world] = parts[rank][step]
        assert torch.equal(joined_images, images)
        assert torch.equal(joined_target, target)


def test_rows_are_taken_as_they_are():
    rows = torch.rand(COUNT, CLASSES)
    ours = Loader(IMAGES, rows, CLASSES, 5, mean=MEAN, std=STD)
    assert torch.equal(torch.cat([target for _, target in ours]), rows)


def test_describe_tells_loaders_apart():
    """Whatever changes a batch changes the description, or a resumed run would go on with other data."""
    rows = LABELS.clone()
    rows[3] = 0
    pixels = IMAGES.clone()
    pixels[5, 1, 2, 3] ^= 1
    ours = loader(augment=("flip",), shuffle=True, seed=2).describe()
    assert ours == loader(augment=("flip",), shuffle=True, seed=2).describe()
    others = [
        loader(augment=("flip",), shuffle=True, seed=3),
        loader(augment=("flip",), shuffle=False, seed=2),
        loader(augment=("crop",), shuffle=True, seed=2),
        loader(6, augment=("flip",), shuffle=True, seed=2),
        Loader(IMAGES, rows, CLASSES, 5, mean=MEAN, std=STD, augment=("flip",), shuffle=True, seed=2),
        Loader(pixels, LABELS, CLASSES, 5, mean=MEAN, std=STD, augment=("flip",), shuffle=True, seed=2),
        Loader(IMAGES, LABELS, CLASSES, 5, mean=MEAN, std=2 * STD, augment=("flip",), shuffle=True, seed=2),
    ]
    assert all(other.describe() != ours for other in others)


def test_the_description_keeps_its_form():
    """A checkpoint with another one would be refused."""
    assert loader(augment=("flip",), shuffle=True, seed=2).describe() == {
        "checksum": "df1b1c4a",
        "images": 23,
        "classes": 4,
        "batch_size": 5,
        "augment": ["flip"],
        "shuffle": True,
        "seed": 2,
    }


def test_derived_seeds_differ():
    seeds = {derived_seed(a, b, c) for a in range(8) for b in range(8) for c in range(8)}
    seeds |= {derived_seed(a, b) for a in range(8) for b in range(8)} | {derived_seed(a) for a in range(8)}
    assert len(seeds) == 512 + 64 + 8
    assert max(seeds) < 2**63


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": IMAGES.float()},
            r"images have dtype torch.float32 .*, expected uint8 \(N, C, H, W\): pass the pixels",
        ),
        ({"images": IMAGES[0]}, r"shape \(3, 8, 8\), expected uint8 \(N, C, H, W\)"),
        ({"labels": LABELS[:-1]}, "23 images but 22 labels"),
        ({"labels": LABELS + 1}, r"label 4 is outside 0 … 3: check num_classes=4 or the labels"),
        ({"labels": LABELS.float()}, "dtype torch.float32, expected integers"),
        ({"labels": torch.rand(COUNT, 5)}, r"target has shape \(23, 5\), expected \(23, 4\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "no images"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"mean": MEAN[:1]}, "mean and std have 1 and 3 entries, expected 3, one per channel"),
        ({"std": torch.ones(4)}, "mean and std have 3 and 4 entries, expected 3"),
    ],
)
def test_errors(change, message):
    settings = {
        "images": IMAGES,
        "labels": LABELS,
        "num_classes": CLASSES,
        "batch_size": 5,
        "mean": MEAN,
        "std": STD,
    }
    with pytest.raises(ValueError, match=message):
        Loader(**settings | change)


def test_an_unknown_augmentation_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match="no augmentation is called 'flipp'; the nearest: flip"):
        loader(augment=("crop", "flipp"))
