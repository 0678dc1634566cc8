"""Tests of trained nets: ten crops, several labels, confusion (ICASC, Tables 6 and 8, ICASC, Figures 9 and 10)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camlib import models, observe
from camlib.analysis import attention_overlap, confusion, distance_ratio, energy_inside, ks, silhouette
from camlib.attention import attention
from camlib.data import Loader, load
from camlib.data.datasets import FileSet
from camlib.data.stream import StreamLoader
from camlib.target import one_hot
from camlib.testing import Confusion, Embedding, MultiLabel, TenCrop
from camlib.train import evaluate


def loader_of(name, count=60):
    source = load(name, "test", count=count)
    grey = {"mean": torch.full((3,), 0.5), "std": torch.full((3,), 0.25)}
    loader = Loader(source.images, source.labels, 10, 25, **grey)
    loader.source = source
    return loader


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


def test_attention_to_each_class_is_held_against_its_own_pixels(model):
    loader = loader_of("scenes_multi", 20)
    found = MultiLabel()(model, loader)
    net = observe(model).eval()
    images = next(loader.batches(0))[0]
    out, shares = net(images), []
    for n, row in enumerate(loader.source.labels):
        for k in row.nonzero().flatten().tolist():
            mask = loader.source.segments[n : n + 1] == k + 1
            if mask.any():
                row = one_hot(torch.full((20,), k), 10)
                shares.append(energy_inside(attention(out, row)[n : n + 1], mask).item())
    assert found["energy_inside"] == pytest.approx(sum(shares) / len(shares), rel=1e-4)
    assert 0 < found["iou"] < 1
    assert 0 <= found["pointing_game"] <= 1


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
    """Says class 1 for bright crops, class 0 for dark ones."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.fill_(1)
            self.fc.weight.copy_(torch.tensor([[-1.0], [1.0]]))

    def forward(self, images):
        return self.fc(self.pool(self.conv(images)).flatten(1))


def test_ten_crops_vote_and_the_centre_is_among_them(tmp_path):
    """Bright at the centre, dark at the corners: the crops at the corners outvote it."""
    pixels = np.zeros((256, 256, 3))
    pixels[32:224, 32:224] = 255
    bright = picture(tmp_path / "bright.png", pixels)
    files = FileSet((bright,), torch.tensor([1]), ("dark", "bright"))
    loader = StreamLoader(files, 2, 1, transform="imagenet_ten_crop")
    images = next(loader.batches(0))[0]
    assert images.shape == (1, 10, 3, 224, 224)
    centre = loader._normalised(torch.from_numpy(pixels[16:240, 16:240]).permute(2, 0, 1).byte())
    torch.testing.assert_close(images[0, 4], centre)
    net = Brightness()
    found = TenCrop()(net, loader)
    votes = observe(net)(images[0]).logits.softmax(1).mean(0)
    assert found["accuracy"] == float(votes.argmax() == 1)
    assert found["accuracy_centre"] == 1.0
    assert found["top5_accuracy"] == found["top5_accuracy_centre"] == 1.0


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
        found = Embedding()(model, loader)
        net = observe(model).eval()
        outs = [net(images) for images, _ in loader.batches(0)]
        pooled = torch.cat([out.pooled.detach() for out in outs])
        assert found["distance_ratio"] == pytest.approx(distance_ratio(pooled, loader.source.labels), rel=1e-5)
        assert found["silhouette"] == pytest.approx(silhouette(pooled, loader.source.labels), rel=1e-4)
        assert ("gate_distance_ratio" in found) == gate
        assert found.items() >= evaluate(model, loader).items()
    gates = torch.cat([out.gate.detach() for out in outs])
    assert found["gate_distance_ratio"] == pytest.approx(distance_ratio(gates, loader.source.labels), rel=1e-4)
    with pytest.raises(ValueError, match="Embedding needs one class per image"):
        Embedding()(model, loader_of("scenes_multi"))
