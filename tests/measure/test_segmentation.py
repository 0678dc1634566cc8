"""Weak segmentation: on maps of a few cells, and from end to end on Scenes (ICASC, Table 2 and ICASC, Figure 8)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from samples import loader_of

from camlib import models, observe
from camlib.attention import KINDS, attention
from camlib.data import Loader, load
from camlib.data.datasets import DataError, FileSet
from camlib.data.stream import StreamLoader
from camlib.measure import segmentation
from camlib.measure.segmentation import (
    WeakSegmentation,
    attention_scores,
    confusion_matrix,
    mean_iou,
    refine,
    seed_scores,
    segments,
)
from camlib.target import one_hot


def test_seeds_by_hand():
    """A fifth of each map's maximum makes a class; the higher one of two classes wins."""
    maps = torch.tensor([[[[10.0, 1.0], [5.0, 3.0]], [[0.0, 0.1], [0.4, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]])
    scores = seed_scores(maps, (2, 2))
    assert scores.shape == (1, 4, 2, 2)
    assert scores.argmax(1).tolist() == [[[1, 0], [2, 2]]]  # 1/10 and 0.1/0.5: exactly a fifth goes to the ground
    a_quarter = torch.tensor([[[[1.0, 0.25], [0.21, 0.19]]]])
    assert seed_scores(a_quarter, (2, 2)).argmax(1).tolist() == [[[1, 1], [1, 0]]]
    assert seed_scores(maps, (2, 2), foreground=0.05).argmax(1).tolist() == [[[1, 2], [2, 2]]]
    assert seed_scores(0 * maps, (4, 4)).argmax(1).unique().tolist() == [0]


def test_refining_a_flat_image_is_a_blur():
    scores = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    found = refine(scores, torch.full((1, 3, 9, 9), 0.3), radius=1)
    blur = scores
    for _ in range(2):
        blur = torch.stack(
            [
                torch.stack([blur[..., max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean((2, 3)) for x in range(9)], 2)
                for y in range(9)
            ],
            2,
        )
    torch.testing.assert_close(found, blur)


def test_refined_scores_follow_the_edge_of_the_image():
    """Scores reach two columns too far; the image's edge cuts them off there, and a blur does not."""
    image = torch.zeros(1, 1, 12, 12)
    image[..., 6:] = 1
    scores = torch.zeros(1, 1, 12, 12)
    scores[..., 4:] = 1
    found = refine(scores, image)[0, 0, 6]
    drop = (found[1:] - found[:-1]).abs()
    assert drop.argmax() == 5  # between columns 5 and 6
    assert found[6:].min() > found[:6].max() + 0.3


def test_refining_does_not_depend_on_the_other_images_or_their_range():
    generator = torch.Generator().manual_seed(0)
    scores, images = torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 3, 8, 8, generator=generator)
    both = refine(scores, images)
    torch.testing.assert_close(both[1:], refine(scores[1:], 7 * images[1:] - 3))


def test_mean_iou_by_loops():
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(4, (2, 5, 5), generator=generator)
    guess = torch.randint(4, (2, 5, 5), generator=generator)
    true[true == 2] = 255
    guess[guess == 2] = 1
    matrix = sum(confusion_matrix(guess[n], true[n], 5) for n in range(2))
    shares = []
    for k in range(6):
        both = either = 0
        for t, g in zip(true.flatten().tolist(), guess.flatten().tolist(), strict=True):
            if t != 255:
                both += t == k and g == k
                either += t == k or g == k
        if either:
            shares.append(both / either)
    assert len(shares) == 3  # class 2 is unknown in the truth and never guessed, 4 and 5 are nowhere
    assert mean_iou(matrix) == pytest.approx(sum(shares) / 3)
    assert mean_iou(confusion_matrix(true[true != 255], true[true != 255], 5)) == 1
    with pytest.raises(ValueError, match="no pixel"):
        mean_iou(confusion_matrix(guess, torch.full_like(true, 255), 5))


def picture(path, pixels):
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(path)
    return path


def test_segments_come_at_the_size_of_the_images_and_void_where_there_are_none(tmp_path):
    image = picture(tmp_path / "image.png", np.zeros((4, 6, 3)))
    segment = picture(tmp_path / "segment.png", [[0, 7], [255, 3]])
    files = FileSet((image, image), torch.eye(2), ("a", "b"), (segment, None))
    loader = StreamLoader(files, 2, 2, transform="whole_64")
    found = segments(loader, torch.tensor([0, 1]), (4, 4))
    assert found[0].tolist() == [[0, 0, 7, 7], [0, 0, 7, 7], [255, 255, 3, 3], [255, 255, 3, 3]]
    assert (found[1] == 255).all()
    segment.write_bytes(segment.read_bytes()[:40])
    with pytest.raises(DataError, match=r"segment.png cannot be read as an image \(.*\): put it there again"):
        segments(loader, torch.tensor([0]), (4, 4))
    loader.source = files._replace(segments=None)
    with pytest.raises(ValueError, match="no segments"):
        segments(loader, torch.tensor([0]), (4, 4))


@pytest.fixture
def loader():
    return loader_of("scenes_multi", count=12, batch_size=5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.create("resnet8", 10).train()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_attention_to_the_classes_that_are_shown(model, loader, kind):
    observed = observe(model).eval()
    images, target = next(loader.batches(0))
    scores = attention_scores(observed, images, target, kind)
    out = observed(images)
    for k in range(10):
        maps = attention(out, one_hot(torch.full((5,), k), 10), kind=kind).detach()
        wide = F.interpolate(maps[:, None], size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
        expected = wide / maps.amax((1, 2), keepdim=True).clamp_min(1e-12) * target[:, k, None, None]
        torch.testing.assert_close(scores[:, k + 1], expected, rtol=1e-4, atol=1e-5)


def test_weak_segmentation_scores_seeds_and_refined_seeds_of_every_kind(model, loader):
    found = WeakSegmentation()(model, loader)
    assert model.training
    assert set(found) == {f"{stage}_{kind}" for stage in ("seeds", "refined") for kind in KINDS}
    whole = Loader(loader.images, loader.target, 10, 12, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))
    images, target = next(whole.batches(0))
    scores = attention_scores(observe(model).eval(), images, target, "grad_cam")
    true = loader.source.segments
    assert found["seeds_grad_cam"] == pytest.approx(mean_iou(confusion_matrix(scores.argmax(1), true, 10)), rel=1e-3)
    refined = refine(scores, images).argmax(1)
    assert found["refined_grad_cam"] == pytest.approx(mean_iou(confusion_matrix(refined, true, 10)), rel=1e-3)


def test_deeplab_learns_from_seeds_and_is_told_no_classes(model, loader, monkeypatch):
    """A stand-in that is quick to train takes DeepLab's place."""
    told = []

    class Tiny(torch.nn.Conv2d):
        def forward(self, images):
            told.append(self.training)
            return {"out": super().forward(images)}

    def build(num_classes, **settings):
        assert settings == {"weights": None, "weights_backbone": None, "aux_loss": None}
        return Tiny(3, num_classes, 3, padding=1)

    small = load("scenes_multi", "train", count=33)  # the last batch is one image, which is left out
    monkeypatch.setattr(segmentation, "deeplabv3_resnet50", build)
    monkeypatch.setattr(segmentation, "load", lambda name, split, count: small)
    rates, step = [], torch.optim.SGD.step

    def watched(optimizer):
        rates.append(optimizer.param_groups[0]["lr"])
        step(optimizer)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    found = WeakSegmentation(deeplab=2, data="scenes_multi")(model, loader)
    # It falls to 0 over all batches of both epochs, the third and sixth of which are that one image.
    assert rates == pytest.approx(3 * [0.01 * (1 - batch / 6) ** 0.9 for batch in (0, 1, 3, 4)])
    assert set(found) >= {f"deeplab_{kind}" for kind in KINDS}
    assert all(0 <= value <= 1 for value in found.values())
    assert told.count(True) == 3 * 2 * 2
    assert told.count(False) == 3 * 3


def test_training_images_of_files_are_read_with_the_test_loaders_transform(tmp_path):
    paths = tuple(picture(tmp_path / f"{n}.png", np.zeros((4, 6, 3))) for n in range(3))
    files = FileSet(paths, torch.eye(3), ("a", "b", "c"), (None,) * 3)
    training = segmentation._training_loader(files, StreamLoader(files, 3, 2, transform="whole_64", seed=5))
    assert (training.shuffle, training.seed, training.transform, len(training)) == (True, 5, "whole_64", 1)
