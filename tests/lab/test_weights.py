"""Trained nets that ship with the book."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from camlib.package_data import package_data
from camlib.train import checkpoint, models, recipes, records, weights

CELL = recipes.cell("cam-scenes/resnet8/ce")


def save_run(folder, epoch):
    net = models.create("resnet8", 10)
    checkpoint.save({"epoch": epoch, "model": net.state_dict()}, folder / CELL.runs / "paper" / "seed-3", epoch, 0)
    return net


def test_kept_weights_come_back_to_half_precision(tmp_path):
    net = save_run(tmp_path / "runs", CELL.experiment.recipe.epochs)
    path = weights.keep(CELL, "paper", 3, tmp_path / "runs", tmp_path / "kept")
    kept = torch.load(path, weights_only=True)
    assert {tensor.dtype for tensor in kept.values() if tensor.is_floating_point()} == {torch.float16}
    back = weights.trained(CELL.name, "paper", 3, tmp_path / "kept")
    assert not back.training
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_an_unfinished_run_is_not_kept(tmp_path):
    save_run(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="no checkpoint of a finished run"):
        weights.keep(CELL, "paper", 3, tmp_path, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_missing_weights_name_the_command_that_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m camlib run cam-scenes/resnet8/ce --preset paper --seed 9"):
        weights.trained(CELL.name, "paper", 9, tmp_path)


def test_every_kept_net_loads_and_has_its_record():
    kept = sorted(package_data("checkpoints").rglob("*.pt"))
    assert kept
    for path in kept:
        row, column, preset, _, seed = path.stem.rsplit("-", 4)
        frame = records.load(path.parent.name)
        found = frame[(frame["row"] == row) & (frame["column"] == column) & (frame["preset"] == preset)]
        assert int(seed) in set(found["seed"]), f"{path} has no record"
        net = weights.trained(f"{path.parent.name}/{row}/{column}", preset, int(seed))
        assert all(tensor.isfinite().all() for tensor in net.state_dict().values())
        assert path.stat().st_size < 4_000_000


def test_the_net_of_another_cell_is_refused(tmp_path):
    save_run(tmp_path / "runs", CELL.experiment.recipe.epochs)
    weights.keep(CELL, "paper", 3, tmp_path / "runs", tmp_path)
    other = replace(CELL, column="cam")
    with pytest.raises(FileNotFoundError):
        weights.trained(other.name, "paper", 3, tmp_path)


def test_start_from_lends_everything_but_the_classifier():
    torch.manual_seed(0)
    source, model = models.create("resnet8", 10), models.create("resnet8", 3)
    source.train()(torch.randn(4, 3, 32, 32))  # statistics that are not those of a fresh net
    own = model.fc.weight.clone()
    weights.start_from(model, source.state_dict())
    assert torch.equal(model.fc.weight, own)
    for name, tensor in source.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(model.state_dict()[name], tensor), name


def test_start_from_needs_the_same_architecture():
    deeper = models.create("resnet20", 10).state_dict()
    with pytest.raises(ValueError, match=r"belong to another net: 'layer1.1.conv1.weight' is .* and nothing in the"):
        weights.start_from(models.create("resnet8", 10), deeper)
    grey = models.create("resnet8", 10, in_channels=1).state_dict()
    with pytest.raises(ValueError, match=r"'conv1.weight' is \(16, 1, 3, 3\) in them and \(16, 3, 3, 3\) in the model"):
        weights.start_from(models.create("resnet8", 10), grey)


def test_a_file_of_weights_is_read_in_single_precision(tmp_path):
    net = models.create("resnet8", 10)
    torch.save(net.half().state_dict(), tmp_path / "net.pt")
    state = weights.read(tmp_path / "net.pt")
    assert state["conv1.weight"].dtype == torch.float32
    assert state["bn1.num_batches_tracked"].dtype == torch.int64
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt does not hold the named tensors"):
        weights.read(tmp_path / "other.pt")


def test_a_file_that_holds_code_is_refused_and_not_executed(tmp_path):
    class Code:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    torch.save({"conv1.weight": Code()}, tmp_path / "net.pt")
    with pytest.raises(pickle.UnpicklingError):
        weights.read(tmp_path / "net.pt")
    assert not (tmp_path / "executed").exists()
