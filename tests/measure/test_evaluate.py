"""Tests of trained nets: ten crops, several labels, confusion (ICASC, Tables 6 and 8, ICASC, Figures 9 and 10)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import loader_of
from torch import nn

from camlib import models, observe
from camlib.attention import attention
from camlib.data import Loader, Scenes, load, normalised
from camlib.data.datasets import FileSet
from camlib.data.stream import MEAN, STD, StreamLoader
from camlib.maps import Cells
from camlib.measure import (
    Confusion,
    FreeGrounds,
    Grouping,
    MultiLabel,
    TenCrop,
    attention_overlap,
    confusion,
    distance_ratio,
    energy_inside,
    evaluate,
    ks,
    pointing_game,
    silhouette,
    threshold_iou,
)
from camlib.target import one_hot


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.create("resnet8", 10).train()


def test_confusion_is_measured_over_all_images(model):
    loader = loader_of("scenes")
    found = Confusion()(model, loader)
    assert model.training
    whole = Loader(loader.images, loader.source.labels, 10, 60, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))
    images, target = next(iter(whole))
    out = observe(model).eval()(images)
    for name, pair in (("ks", False), ("ks_pair", True)):
        expected = ks(*confusion(out.logits, target, pair))
        assert found[name] == pytest.approx(expected.statistic)
        assert found[f"{name}_location"] == pytest.approx(expected.location, rel=1e-4)
    top5 = out.logits.topk(5, 1).indices
    maps = torch.stack([attention(out, one_hot(k, 10)).detach() for k in top5.unbind(1)], 1)
    assert found["top5_overlap"] == pytest.approx(attention_overlap(maps).mean().item(), rel=1e-4)
    assert found.items() >= evaluate(model, loader).items()


def test_confusion_of_fewer_than_five_classes():
    """The maps of all classes count: of two, the overlap of the two."""
    torch.manual_seed(0)
    source = load("scenes", "test", count=20)
    grey = {"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.25)}
    loader, model = Loader(source.images, source.labels % 2, 2, 20, **grey), models.create("resnet8", 2)
    out = observe(model).eval()(next(loader.batches(0))[0])
    maps = torch.stack([attention(out, one_hot(torch.full((20,), k), 2)).detach() for k in range(2)], 1)
    assert Confusion()(model, loader)["top5_overlap"] == pytest.approx(attention_overlap(maps).mean().item(), rel=1e-4)


def test_multi_label_by_loops(model):
    loader = loader_of("scenes_multi")
    found = MultiLabel()(model, loader)
    assert model.training
    net = observe(model).eval()
    logits = torch.cat([net(images).logits.detach() for images, _ in loader.batches(0)])
    rows = loader.source.labels
    precisions, areas = [], []
    for k in range(10):
        ranked = [rows[n, k].item() for n in logits[:, k].argsort(descending=True).tolist()]
        hits = [sum(ranked[: place + 1]) / (place + 1) for place in range(len(ranked)) if ranked[place]]
        precisions.append(sum(hits) / len(hits))
        good, bad = logits[rows[:, k] == 1, k].tolist(), logits[rows[:, k] == 0, k].tolist()
        areas.append(sum((g > b) + (g == b) / 2 for g in good for b in bad) / len(good) / len(bad))
        name = loader.source.classes[k].replace(" ", "_")
        assert found[f"average_precision_{name}"] == pytest.approx(precisions[-1])
    assert found["mean_average_precision"] == pytest.approx(sum(precisions) / 10)
    assert found["auc"] == pytest.approx(sum(areas) / 10)
    top = logits.argmax(1).tolist()
    assert found["accuracy"] == pytest.approx(sum(rows[n, k].item() for n, k in enumerate(top)) / 60)
    losses = [
        math.log1p(math.exp(-logit if shown else logit))
        for logit, shown in zip(logits.double().flatten().tolist(), rows.flatten().tolist(), strict=True)
    ]
    assert found["loss"] == pytest.approx(sum(losses) / 600, rel=1e-5)


def test_attention_to_each_class_is_held_against_its_own_pixels(model):
    loader = loader_of("scenes_multi", 20)
    found = MultiLabel()(model, loader)
    net = observe(model).eval()
    images = next(loader.batches(0))[0]
    out, measured = net(images), {"energy_inside": [], "pointing_game": [], "iou": []}
    blocks = Cells(1.5, 4)
    for n, row in enumerate(loader.source.labels):
        for k in row.nonzero().flatten().tolist():
            mask = loader.source.segments[n : n + 1] == k + 1
            if mask.any():
                row = one_hot(torch.full((20,), k), 10)
                maps = attention(out, row).detach()[n : n + 1]
                measured["energy_inside"].append(energy_inside(maps, mask, blocks).item())
                measured["pointing_game"].append(pointing_game(maps, mask, blocks).item())
                measured["iou"].append(threshold_iou(maps, mask, cells=blocks).item())
    for name, values in measured.items():
        assert found[name] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_pixels_of_a_class_that_an_image_is_not_said_to_show_do_not_count(model):
    """Whatever the other images of its batch show."""
    loader = loader_of("scenes_multi", 20)
    alone = Loader(loader.images, loader.target, 10, 1, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))
    loader.source = alone.source = loader.source._replace(segments=loader.source.segments.clamp_min(1))
    together, found = MultiLabel()(model, loader), MultiLabel()(model, alone)
    for name in ("energy_inside", "pointing_game", "iou"):
        assert together[name] == pytest.approx(found[name], rel=1e-4)


def test_without_segments_nothing_is_located(model):
    loader = loader_of("scenes_multi")
    loader.source = loader.source._replace(segments=None)
    assert "iou" not in MultiLabel()(model, loader)


def test_classes_that_few_images_show_are_left_out(model):
    loader = loader_of("scenes_multi", 20)
    counts = loader.source.labels.sum(0)
    least = int(counts.median()) + 1
    found = MultiLabel(least=least)(model, loader)
    named = [name for name in found if name.startswith("average_precision_")]
    assert len(named) == (counts >= least).sum() < 10
    with pytest.raises(ValueError, match="no class is shown by 50 or more of the 20 test images"):
        MultiLabel(least=50)(model, loader)


def picture(path: Path, pixels) -> Path:
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(path)
    return path


class Brightness(nn.Module):
    """Says class 1 for crops with a larger bright share than that, class 0 for darker ones."""

    def __init__(self, share):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1, 2)
        black, white = (sum((level - mean) / std for mean, std in zip(MEAN, STD, strict=True)) for level in (0, 1))
        scale = 25 / (white - black)
        with torch.no_grad():
            self.conv.weight.fill_(1)
            self.fc.weight.copy_(torch.tensor([[-scale], [scale]]))
            self.fc.bias.copy_(torch.tensor([1.0, -1.0]) * scale * (black + share * (white - black)))

    def forward(self, images):
        return self.fc(self.pool(self.conv(images)).flatten(1))


def test_ten_crops_vote_and_the_centre_is_among_them(tmp_path):
    """The corners, a little too dark, outvote a far brighter centre, which a mean of the logits would follow.

    The centre holds a whole bright frame, 26.5 % of it, every corner two sides of it, 12.8 %; bright begins at 15 %.
    """
    pixels = np.zeros((256, 256, 3))
    pixels[16:240, 16:240] = 255
    pixels[32:224, 32:224] = 0
    bright = picture(tmp_path / "bright.png", pixels)
    files = FileSet((bright,), torch.tensor([1]), ("dark", "bright"))
    loader = StreamLoader(files, 2, 1, transform="imagenet_ten_crop")
    images = next(loader.batches(0))[0]
    assert images.shape == (1, 10, 3, 224, 224)
    centre = normalised(torch.from_numpy(pixels[16:240, 16:240]).permute(2, 0, 1).byte(), loader.mean, loader.std)
    torch.testing.assert_close(images[0, 4], centre)
    found = TenCrop()(Brightness(0.15), loader)
    margin = 50 * ((224**2 - 192**2) / 224**2 - 0.15)  # of the centre's logits
    corner = 50 * ((208**2 - 192**2) / 224**2 - 0.15)
    assert 2 * margin + 8 * corner > 0
    assert 2 / (1 + math.exp(-margin)) + 8 / (1 + math.exp(-corner)) < 5
    assert found["accuracy"] == 0.0
    assert found["accuracy_centre"] == 1.0
    assert found["loss"] == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-3)
    assert found["top5_accuracy"] == found["top5_accuracy_centre"] == 1.0


@pytest.mark.parametrize("test", [evaluate, TenCrop()])
def test_sums_do_not_depend_on_the_default_device(model, test):
    loader, model = loader_of("scenes"), observe(model)
    expected = test(model, loader)
    with torch.device("meta"):  # a chapter's default device is the GPU; here, one on which nothing has numbers
        assert test(model, loader) == expected


def test_one_crop_is_its_own_centre(model):
    loader = loader_of("scenes")
    found = TenCrop()(model, loader)
    plain = evaluate(model, loader)
    for name in ("accuracy", "top5_accuracy"):
        assert found[name] == found[f"{name}_centre"] == pytest.approx(plain[name])
    assert found["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_embedding_measures_pooled_features_and_gates():
    torch.manual_seed(0)
    loader = loader_of("scenes")
    for gate in (False, True):
        model = models.create("resnet8", 10, gate=gate)
        found = Grouping()(model, loader)
        net = observe(model).eval()
        outs = [net(images) for images, _ in loader.batches(0)]
        pooled = torch.cat([out.pooled.detach() for out in outs])
        assert found["distance_ratio"] == pytest.approx(distance_ratio(pooled, loader.source.labels), rel=1e-5)
        assert found["silhouette"] == pytest.approx(silhouette(pooled, loader.source.labels), rel=1e-4)
        assert ("gate_distance_ratio" in found) == gate
        assert found.items() >= evaluate(model, loader).items()
    gates = torch.cat([out.gate.detach() for out in outs])
    assert found["gate_distance_ratio"] == pytest.approx(distance_ratio(gates, loader.source.labels), rel=1e-4)
    with pytest.raises(ValueError, match="Grouping needs one class per image"):
        Grouping()(model, loader_of("scenes_multi"))


def test_free_grounds_are_tested_apart_own_and_foreign(model):
    loader = loader_of("scenes")
    found = FreeGrounds(count=300)(model, loader)
    assert model.training
    net, free = observe(model).eval(), Scenes("test", count=300)
    right = {True: [], False: []}
    for image, label, ground in zip(free.images, free.labels.tolist(), free.grounds.tolist(), strict=True):
        logits = net((image[None] / 255 - 0.5) / 0.25).logits[0].tolist()
        right[ground == label % 5].append(logits.index(max(logits)) == label)
    assert found["accuracy_own_ground"] == pytest.approx(sum(right[True]) / len(right[True]))
    assert found["accuracy_foreign_ground"] == pytest.approx(sum(right[False]) / len(right[False]))
    assert found["accuracy_free_grounds"] == pytest.approx((sum(right[True]) + sum(right[False])) / 300)


def test_a_set_without_free_grounds_is_refused(model):
    with pytest.raises(ValueError, match="no test images with free grounds"):
        FreeGrounds()(model, loader_of("scenes_free"))
