"""Trained nets that ship with the book."""

from pathlib import Path

import pytest
import torch

from camlib import models
from camlib.data import Loader, Scenes, statistics
from camlib.lab import record, weights
from camlib.lab.runs import RUNS, Run
from camlib.names import UnknownName
from camlib.package_data import package_data
from camlib.train import checkpoint

RUN = Run("scenes/resnet8/ce", "paper", 3)


@pytest.fixture(scope="module")
def loader():
    images = Scenes("train", count=50)
    mean, std = statistics(images.images)
    return Loader(images.images, images.labels, 10, 50, mean=mean, std=std)


def save_run(folder, epoch, run=RUN):
    net = models.create("resnet8", 10)
    state = {"epoch": epoch, "model": net.state_dict(), "made_with": {"commit": "abc"}}
    checkpoint.save(state, folder / run.path, epoch, 0)
    return net


def keep(tmp_path, loader, run=RUN):
    net = save_run(tmp_path / "runs", run.experiment.schedule.epochs, run)
    return net, weights.keep(run, tmp_path / "runs", loader, tmp_path / "kept")


def test_kept_weights_come_back_to_half_precision_with_their_normalisation(tmp_path, loader):
    net, path = keep(tmp_path, loader)
    state = torch.load(path, weights_only=True)["state"]
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float16}
    back = weights.trained(RUN.name, RUN.preset, RUN.seed, tmp_path / "kept")
    assert not back.observed.training
    assert (back.run, back.commit) == (RUN, "abc")
    assert torch.equal(back.mean, loader.mean.flatten())
    assert torch.equal(back.std, loader.std.flatten())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(back.observed(images).logits, net.eval()(images), rtol=1e-2, atol=1e-2)


def test_images_are_normalised_as_in_the_training(tmp_path, loader):
    keep(tmp_path, loader)
    back = weights.trained(RUN.name, RUN.preset, RUN.seed, tmp_path / "kept")
    in_training = next(iter(loader))[0]
    assert torch.equal(back.normalised(Scenes("train", count=50).images), in_training)
    torch.testing.assert_close(in_training.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)


def test_the_seeds_that_were_kept(tmp_path, loader):
    assert weights.kept(RUN.name, folder=tmp_path / "kept") == []
    for seed in (10, 2):
        keep(tmp_path, loader, RUN._replace(seed=seed))
    assert weights.kept(RUN.name, folder=tmp_path / "kept") == [2, 10]
    assert weights.kept(RUN.name, "quick", tmp_path / "kept") == []
    assert weights.kept("scenes/resnet8/cam", folder=tmp_path / "kept") == []


@pytest.mark.parametrize("unknown", [("scenes/resnet8/cem", "paper"), (RUN.name, "papre")])
def test_seeds_of_an_unknown_run_or_preset_are_not_looked_for(unknown, tmp_path):
    with pytest.raises(UnknownName):
        weights.kept(*unknown, tmp_path)


def test_an_unfinished_run_is_not_kept(tmp_path, loader):
    save_run(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="no checkpoint of a finished run"):
        weights.keep(RUN, tmp_path, loader, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_missing_weights_name_the_command_that_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m camlib run scenes/resnet8/ce --preset paper --seed 9"):
        weights.trained(RUN.name, "paper", 9, tmp_path)


def test_every_kept_net_loads_and_has_its_record():
    folder = package_data("weights")
    kept = {
        (name, preset, seed) for name in RUNS for preset in ("short", "paper") for seed in weights.kept(name, preset)
    }
    assert {weights.path_of(Run(*one)) for one in kept} == set(folder.rglob("*.pt"))
    for name, preset, seed in kept:
        assert seed in record.counting(name, preset), f"{name}, {preset}, seed {seed} has no record"
        net = weights.trained(name, preset, seed).observed
        assert all(tensor.isfinite().all() for tensor in net.state_dict().values())
        assert weights.path_of(Run(name, preset, seed)).stat().st_size < 4_000_000


def test_the_net_of_another_run_is_refused(tmp_path, loader):
    _, path = keep(tmp_path, loader)
    other = RUN._replace(name="scenes/resnet8/cam")
    place = weights.path_of(other, tmp_path / "kept")
    place.parent.mkdir(parents=True)
    path.rename(place)
    with pytest.raises(weights.WeightsError, match="holds the net of scenes/resnet8/ce/paper/seed-3"):
        weights.trained(other.name, other.preset, other.seed, tmp_path / "kept")


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
    with pytest.raises(weights.WeightsError):
        weights.read(tmp_path / "net.pt")
    assert not (tmp_path / "executed").exists()
