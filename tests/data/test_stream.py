"""Images read from files: transforms of CAM-loss, §4.1, and batches that depend on seed, epoch and step alone."""

import itertools
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from camlib.data import stream
from camlib.data.augment import AUGMENTATIONS
from camlib.data.datasets import DataError, FileSet
from camlib.data.loader import derived_seed
from camlib.data.stream import TRANSFORMS, StreamLoader

COUNT, CLASSES = 11, 3
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
LABELS = torch.arange(COUNT) % CLASSES


def processors(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count)), raising=False)


@pytest.fixture(autouse=True)
def one_processor(monkeypatch):
    """The loader reads by itself, as on a machine with one processor."""
    processors(monkeypatch, 1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Transforms to few pixels, for quick tests."""
    training = v2.Compose([v2.RandomResizedCrop(8), v2.RandomHorizontalFlip()])
    monkeypatch.setitem(TRANSFORMS, "tiny", (training, v2.Compose([v2.Resize((9, 9)), v2.CenterCrop(8)])))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pictures of several forms; the names hold letters outside ASCII."""
    folder = tmp_path_factory.mktemp("bilder") / "Vögel"
    folder.mkdir()
    generator = np.random.default_rng(0)
    paths = []
    for n in range(COUNT):
        pixels = generator.integers(0, 256, (10 + n, 14, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(("RGB", "L", "CMYK", "RGB")[n % 4])
        paths.append(folder / f"{n}.{'jpg' if n % 4 < 3 else 'png'}")
        image.save(paths[-1])
    return FileSet(tuple(paths), LABELS, ("a", "b", "c"))


def loader(files, batch_size=4, **settings):
    return StreamLoader(files, CLASSES, batch_size, **{"transform": "tiny", **settings})


def same(first, second):
    pairs = list(itertools.zip_longest(first, second))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_test_images_are_read_in_order_and_normalised(files):
    batches = list(loader(files))
    assert [len(images) for images, _ in batches] == [4, 4, 3]
    images, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.dtype == target.dtype == torch.float32
    assert target.argmax(1).tolist() == LABELS.tolist()
    assert target.sum(1).tolist() == [1.0] * COUNT
    for path, found in zip(files.paths, images, strict=True):
        picture = Image.open(path).convert("RGB").resize((9, 9), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(picture)[0:8, 0:8].copy()).double() / 255
        for c in range(3):
            torch.testing.assert_close(found[c], ((pixels[..., c] - MEAN[c]) / STD[c]).float())


def test_an_epoch_of_training_shows_every_image_once(files):
    ours = loader(files, shuffle=True)
    assert (len(ours), ours.count, len(list(ours.batches(2)))) == (3, COUNT, 3)
    labels = torch.cat([target.argmax(1) for _, target in ours.batches(2)])
    assert sorted(labels.tolist()) == sorted(LABELS.tolist())
    assert labels.tolist() != LABELS.tolist()


def test_every_image_has_a_seed_of_its_own(files):
    """Derived here: order by (seed, epoch), transform by (seed, epoch, number of the image)."""
    seed, epoch = 5, 3
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(derived_seed(seed, epoch))).tolist()
    images = torch.cat([images for images, _ in loader(files, shuffle=True, seed=seed).batches(epoch)])
    for n, found in zip(order, images, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(seed, epoch, n))
            picture = TRANSFORMS["tiny"][0](Image.open(files.paths[n]).convert("RGB"))
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).double() / 255
        expected = (pixels - MEAN[:, None, None]) / STD[:, None, None]
        torch.testing.assert_close(found, expected.float())


def test_reading_does_not_depend_on_the_default_device(files):
    """On a GPU a chapter's default device is the GPU, and what reads beside it must not touch it."""
    ours = loader(files, shuffle=True, seed=1, device="cpu")
    reference = list(ours.batches(1))
    with torch.device("meta"):  # whatever is made there has no numbers
        found = list(ours.batches(1))
    assert same(found, reference)


# Python from 3.12 on warns of a fork while threads run, as those of torch do.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_batches_do_not_depend_on_the_number_of_processes_that_read(files, monkeypatch):
    ours = loader(files, shuffle=True, augment=("mixup",), seed=1)
    reference = list(ours.batches(1))
    assert stream._readers(1) == 0
    processors(monkeypatch, 3)
    assert stream._readers(1) == 3
    assert same(ours.batches(1), reference)


@pytest.mark.parametrize(("count", "world", "readers"), [(1, 1, 0), (2, 1, 2), (2, 2, 0), (8, 2, 4), (96, 2, 16)])
def test_processes_that_train_share_the_processors(monkeypatch, count, world, readers):
    processors(monkeypatch, count)
    assert stream._readers(world) == readers
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert stream._readers(world) == readers
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert stream._readers(world) == 0


def test_batches_do_not_depend_on_what_was_drawn_before_and_draw_nothing(files):
    ours = loader(files, shuffle=True, augment=("flip", "mixup"), seed=1)
    torch.manual_seed(0)
    reference = list(ours.batches(1))
    list(ours.batches(4))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert same(ours.batches(1), reference)
    assert torch.equal(torch.get_rng_state(), state), "the global generator stays as it was"
    others = [ours.batches(2), loader(files, shuffle=True, augment=("flip", "mixup"), seed=2).batches(1)]
    assert not any(same(other, reference) for other in others)


@pytest.mark.parametrize("first_step", range(4))
def test_an_epoch_can_be_taken_up_at_any_step(files, first_step):
    ours = loader(files, shuffle=True, augment=("crop", "mixup"))
    assert same(ours.batches(1, first_step), list(ours.batches(1))[first_step:])


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_share_each_batch_and_read_only_their_share(files, world, monkeypatch):
    ours = loader(files, shuffle=True)
    whole, read = list(ours.batches(4)), []
    opened = Image.open
    monkeypatch.setattr(stream.Image, "open", lambda path: read.append(path) or opened(path))
    parts = [list(ours.batches(4, 0, rank, world)) for rank in range(world)]
    assert sorted(read) == sorted(str(path) for path in files.paths)
    for step, (images, target) in enumerate(whole):
        joined_images, joined_target = torch.full_like(images, torch.nan), torch.full_like(target, torch.nan)
        for rank in range(world):
            part, rows = parts[rank][step]
            if len(joined_images[rank::world]):
                joined_images[rank::world], joined_target[rank::world] = part, rows
            else:
                assert len(part) == len(rows) == 0
        assert torch.equal(joined_images, images)
        assert torch.equal(joined_target, target)


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_are_augmented_before_they_are_normalised(files, rank, monkeypatch):
    seen = []

    def darker(images, target, generator):
        seen.append((images.dtype, generator.initial_seed()))
        return images // 2, target.flip(1)

    monkeypatch.setitem(AUGMENTATIONS, "darker", darker)
    plain = list(loader(files, seed=3).batches(2, 1, rank, 2))
    for (images, target), (before, rows) in zip(
        loader(files, augment=("darker",), seed=3).batches(2, 1, rank, 2), plain, strict=True
    ):
        pixels = ((before * STD[:, None, None] + MEAN[:, None, None]) * 255).round()
        expected = (pixels // 2 / 255 - MEAN[:, None, None]) / STD[:, None, None]
        torch.testing.assert_close(images, expected)
        assert torch.equal(target, rows.flip(1))
    assert seen == [(torch.uint8, derived_seed(3, 2, step, rank)) for step in (1, 2)]


def test_describe_tells_loaders_apart(files):
    settings = {"augment": ("flip",), "shuffle": True, "seed": 2}
    described = loader(files, **settings).describe()
    assert described == {
        "checksum": files.checksum,
        "images": COUNT,
        "classes": CLASSES,
        "batch_size": 4,
        "augment": ["flip"],
        "shuffle": True,
        "seed": 2,
        "transform": "tiny",
    }
    others = [
        loader(files, **settings | {"seed": 3}),
        loader(files, **settings | {"shuffle": False}),
        loader(files, **settings | {"augment": ()}),
        loader(files, **settings | {"transform": "few_shot"}),
        loader(files, 5, **settings),
        loader(files._replace(labels=LABELS.flip(0)), **settings),
        loader(files._replace(paths=files.paths[::-1]), **settings),
    ]
    assert all(other.describe() != described for other in others)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("imagenet", 224),
        ("fine_grained", 448),
        ("cub_448", 448),
        ("whole_299", 299),
        ("whole_64", 64),
        ("few_shot", 224),
        ("few_shot_112", 112),
    ],
)
def test_transforms_give_squares_of_their_size(name, size):
    picture = Image.new("RGB", (300, 200), (10, 200, 30))
    for transform in TRANSFORMS[name]:
        assert transform(picture).size == (size, size)


def frame(width, height, left, top, right, bottom):
    """A white picture with a red window: what stands inside it is all red."""
    picture = Image.new("RGB", (width, height), "white")
    picture.paste((255, 0, 0), (left, top, right, bottom))
    return picture


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        # Where the window lies that the test transform sees, in a picture of the size that it scales to.
        ("imagenet", frame(256, 300, 16, 38, 240, 262)),
        ("fine_grained", frame(600, 600, 76, 76, 524, 524)),
        ("few_shot", frame(257, 257, 16, 16, 240, 240)),
        ("few_shot_112", frame(128, 128, 8, 8, 120, 120)),
    ],
)
def test_test_transforms_cut_out_the_centre(name, picture):
    test = TRANSFORMS[name][1]
    pixels = np.asarray(test(picture))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (pixels == (255, 0, 0)).all()
    assert (border == (255, 0, 0)).all()
    # One pixel less on any side, and its border is seen.
    left, top, right, bottom = picture.convert("L").point(lambda level: 255 * (level < 200)).getbbox()
    for window in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, -1, 0), (0, 0, 0, -1)):
        smaller = frame(*picture.size, *(np.array((left, top, right, bottom)) + window))
        assert not (np.asarray(test(smaller)) == (255, 0, 0)).all()


@pytest.mark.parametrize("name", ["imagenet", "fine_grained", "few_shot", "few_shot_112"])
def test_training_transforms_mirror_half_of_the_pictures(name):
    picture = frame(64, 64, 0, 0, 32, 64)
    torch.manual_seed(0)
    mirrored = 0
    for _ in range(100):
        pixels = np.asarray(TRANSFORMS[name][0](picture), dtype=int)
        redness = pixels[..., 0] - pixels[..., 1]
        left, right = redness[:, 0].mean(), redness[:, -1].mean()
        mirrored += 1 if right > left else 0 if left > right else 0.5  # a crop of one side says nothing
    assert 30 < mirrored < 70


@pytest.mark.parametrize(
    ("name", "jitters"), [("imagenet", True), ("fine_grained", False), ("few_shot", True), ("few_shot_112", True)]
)
def test_colours_change_by_up_to_two_fifths(name, jitters):
    """A grey picture has neither contrast nor saturation to change: what is left is brightness, 0.6 … 1.4."""
    torch.manual_seed(0)
    grey = Image.new("RGB", (40, 40), (100, 100, 100))
    levels = [TRANSFORMS[name][0](grey).getpixel((0, 0))[0] for _ in range(60)]
    if jitters:
        assert 59 <= min(levels) < 68
        assert 132 < max(levels) <= 140
    else:
        assert set(levels) == {100}
    half = Image.new("RGB", (40, 40), (200, 40, 40))
    saturations = set()
    for _ in range(60):
        red, green, _ = TRANSFORMS[name][0](half).getpixel((0, 0))
        saturations.add(round((red - green) / (red + 2 * green), 2))
    assert (len(saturations) > 10) is jitters


@pytest.mark.parametrize("name", ["imagenet", "imagenet_ten_crop", "few_shot", "few_shot_112"])
def test_hues_stay(name):
    """A red picture stays red, if brighter, paler or of less contrast: green and blue remain equal."""
    torch.manual_seed(0)
    red = Image.new("RGB", (40, 40), (200, 40, 40))
    found = [TRANSFORMS[name][0](red).getpixel((0, 0)) for _ in range(60)]
    assert all(green == blue < pixel for pixel, green, blue in found)


@pytest.mark.parametrize("split", [0, 1], ids=["training", "test"])
@pytest.mark.parametrize(
    ("name", "shares"),
    [
        # Of each side, how much is shown in training and in the test.
        ("fine_grained", (448 / 600, 448 / 600)),
        ("cub_448", (434 / 448, 1)),  # 420 to 448 of them, by the padding
        ("few_shot", (None, 224 / 257)),
        ("few_shot_112", (None, 112 / 128)),
        ("whole_299", (1, 1)),
        ("whole_64", (1, 1)),
    ],
)
def test_a_picture_that_is_not_square_is_squeezed_into_a_square(name, shares, split):
    """As much is shown from left to right as from top to bottom; crops of any shape aside."""
    if shares[split] is None:
        assert isinstance(TRANSFORMS[name][split].transforms[0], v2.RandomResizedCrop)
        return
    torch.manual_seed(0)
    across = np.broadcast_to(np.arange(50, 250, dtype=np.uint8)[None, :, None], (100, 200, 3))
    down = np.broadcast_to(np.arange(50, 250, 2, dtype=np.uint8)[:, None, None], (100, 200, 3))
    for ramp in (across, down):
        pixels = np.asarray(TRANSFORMS[name][split](Image.fromarray(ramp.copy())), dtype=int)
        shown = pixels[pixels > 0]  # padding is black
        assert (shown.max() - shown.min()) / 199 == pytest.approx(shares[split], abs=0.04)


def test_a_training_crop_of_fine_grained_pictures_lies_anywhere():
    """600 by 600 pixels, whatever the shape was, and a window of 448 of them."""
    ramp = Image.fromarray(np.broadcast_to(np.arange(150, dtype=np.uint8)[:, None, None], (150, 300, 3)).copy())
    torch.manual_seed(0)
    tops = [TRANSFORMS["fine_grained"][0](ramp).getpixel((0, 0))[0] for _ in range(200)]
    assert min(tops) == 0
    assert 36 <= max(tops) <= 38, "152 rows of 600 are 38 of 150"


@pytest.mark.parametrize("content", [b"", b"no image", "half a png", "half a jpg"])
def test_a_file_that_cannot_be_read_is_named(files, content, tmp_path):
    if isinstance(content, str):
        kind = {"half a png": 3, "half a jpg": 0}[content]
        content = files.paths[kind].read_bytes()
        content = content[: len(content) // 2]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(content)
    ours = loader(files._replace(paths=(*files.paths[:5], broken, *files.paths[6:])))
    batches = ours.batches(0)
    next(batches)
    with pytest.raises(DataError, match=rf"{broken} cannot be read as an image \(.*\): put it there again"):
        next(batches)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_file_that_another_process_cannot_read_is_one_line(files, monkeypatch, tmp_path):
    processors(monkeypatch, 2)
    ours = loader(files._replace(paths=(tmp_path / "gone.jpg", *files.paths[1:])))
    with pytest.raises(DataError, match=r"gone.jpg cannot be read as an image \(.*No such file.*\)") as error:
        list(ours)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": FileSet((), torch.zeros(0, dtype=torch.long), ())}, "no images"),
        ({"num_classes": 2}, r"label 2 is outside 0 … 1: check num_classes=2 or the labels"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
    ],
)
def test_errors(files, change, message):
    settings = {"files": files, "num_classes": CLASSES, "batch_size": 4, "transform": "tiny"}
    with pytest.raises(ValueError, match=message):
        StreamLoader(**settings | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": "few_shots"}, "no transform is called 'few_shots'; the nearest: few_shot"),
        ({"augment": ("flipp",)}, "no augmentation is called 'flipp'; the nearest: flip"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(files, change, message):
    with pytest.raises(KeyError, match=message):
        loader(files, **change)


def test_whole_pictures_keep_their_borders():
    picture = frame(300, 200, 0, 0, 300, 200)
    picture.paste((0, 0, 255), (0, 0, 150, 200))  # left blue, right red
    assert TRANSFORMS["whole_64"][1](picture).getpixel((0, 0)) == (0, 0, 255)
    sides = {TRANSFORMS["whole_64"][0](picture).getpixel((0, 0)) for _ in range(60)}
    assert sides == {(0, 0, 255), (255, 0, 0)}


def test_rows_of_several_labels_come_out_as_they_are(files):
    rows = torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 1, 0]])[LABELS % 3]
    several = loader(files._replace(labels=rows))
    found = torch.cat([target for _, target in several.batches(0)])
    assert torch.equal(found, rows)
    with pytest.raises(ValueError, match="target has shape"):
        loader(files._replace(labels=rows[:, :2]))
