"""Trained nets that ship with the book, with their normalisation and the images that belong to them."""

import pickle

import pytest
import torch
from torch import nn

from camlib.data import Loader
from camlib.lab import record, weights
from camlib.lab.runs import RUNS, Run
from camlib.models import create
from camlib.names import UnknownName
from camlib.package_data import package_data
from camlib.train import checkpoint

RUN = Run("scenes/resnet8/ce", "paper", 3)
EPOCHS = RUN.experiment.schedule.epochs
MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])


def loader():
    return Loader(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), 10, 2, mean=MEAN, std=STD)


def save_run(folder, epoch=EPOCHS):
    net = create("resnet8", 10)
    nn.init.uniform_(net.bn1.running_mean)
    state = {"epoch": epoch, "model": net.state_dict(), "made_with": {"commit": "abc"}}
    checkpoint.save(state, folder / RUN.path, epoch, 0)
    return net


def test_kept_weights_come_back_to_half_precision_with_all_that_belongs_to_them(tmp_path):
    net = save_run(tmp_path / "runs")
    path = weights.keep(RUN, tmp_path / "runs", loader(), tmp_path / "kept")
    assert path == tmp_path / "kept" / "scenes/resnet8/ce/paper/seed-3.pt"
    content = torch.load(path, weights_only=True)
    assert {t.dtype for t in content["state"].values() if t.is_floating_point()} == {torch.float16}
    back = weights.trained(*RUN, tmp_path / "kept")
    assert not back.observed.training
    for name, tensor in net.state_dict().items():  # statistics of batch normalisation among them
        torch.testing.assert_close(back.observed.graph.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)
    assert (back.run, back.commit) == (RUN, "abc")
    assert torch.equal(back.mean, MEAN)
    assert torch.equal(back.std, STD)


def test_the_images_of_a_net_are_normalised_as_in_its_training(tmp_path):
    save_run(tmp_path)
    weights.keep(RUN, tmp_path, loader(), tmp_path)
    images = weights.trained(*RUN, tmp_path).images("test", 6)
    batch, target = next(iter(images))
    expected = (images.source.images.float() / 255 - MEAN[:, None, None]) / STD[:, None, None]
    torch.testing.assert_close(batch, expected)
    torch.testing.assert_close(weights.trained(*RUN, tmp_path).normalised(images.source.images), expected)
    assert target.argmax(1).tolist() == images.source.labels.tolist()
    assert images.source.masks.shape == (6, 32, 32)


def test_an_unfinished_run_is_not_kept(tmp_path):
    save_run(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="no checkpoint of a finished run"):
        weights.keep(RUN, tmp_path, loader(), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_missing_weights_name_the_command_that_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m camlib run scenes/resnet8/ce --preset paper --seed 9"):
        weights.trained("scenes/resnet8/ce", "paper", 9, tmp_path)
    with pytest.raises(UnknownName, match="no run is called"):
        weights.trained("scenes/resnet8/cee", folder=tmp_path)


def test_every_kept_net_loads_and_has_its_record():
    kept = sorted(package_data("weights").rglob("*.pt"))
    assert kept
    for path in kept:
        name = path.relative_to(package_data("weights")).parents[1].as_posix()
        preset, seed = path.parent.name, int(path.stem.removeprefix("seed-"))
        assert seed in record.counting(name, preset), f"{path} has no record"
        net = weights.trained(name, preset, seed)
        assert all(tensor.isfinite().all() for tensor in net.observed.state_dict().values())
        assert path.stat().st_size < 4_000_000
    assert sum(path.stat().st_size for path in kept) < 40_000_000


def test_the_net_of_another_run_is_refused(tmp_path):
    save_run(tmp_path)
    path = weights.keep(RUN, tmp_path, loader(), tmp_path)
    other = weights.path_of(RUN._replace(seed=4), tmp_path)
    path.rename(other)
    with pytest.raises(weights.WeightsError, match="holds the net of scenes/resnet8/ce/paper/seed-3, expected that of"):
        weights.trained("scenes/resnet8/ce", "paper", 4, tmp_path)
    weights.write({"run": RUN.path}, path)
    with pytest.raises(weights.WeightsError, match="lacks channels, classes, commit"):
        weights.trained(*RUN, tmp_path)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "content", [b"", b"no zip", b"PK\x03\x04 broken", pickle.dumps(Malicious()), pickle.dumps({"a": 1})]
)
def test_a_file_that_is_no_checkpoint_or_holds_code_is_refused_in_one_line_and_not_executed(tmp_path, content, capsys):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(weights.WeightsError, match=f"{path} "):
        weights.read(path)
    torch.save(Malicious(), path)
    with pytest.raises(weights.WeightsError, match="which is not executed"):
        weights.read(path)
    assert "executed" not in capsys.readouterr().out


def test_read_takes_a_state_dict_and_a_kept_net_alike(tmp_path):
    net = save_run(tmp_path)
    torch.save(net.state_dict(), tmp_path / "plain.pt")
    kept = weights.keep(RUN, tmp_path, loader(), tmp_path)
    plain, ours = weights.read(tmp_path / "plain.pt"), weights.read(kept)
    assert plain.keys() == ours.keys()
    assert ours["conv1.weight"].dtype == torch.float32


def test_a_net_starts_from_all_weights_of_another_but_the_classifiers(tmp_path):
    source, model = create("resnet8", 100), create("resnet8", 10)
    nn.init.uniform_(source.bn1.running_var)
    own = model.fc.weight.clone()
    weights.start_from(model, source.state_dict())
    assert torch.equal(model.fc.weight, own)
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    assert torch.equal(model.bn1.running_var, source.bn1.running_var)
    with pytest.raises(weights.WeightsError, match=r"belong to another net: 'layer1\.1\.conv1\.weight' is"):
        weights.start_from(model, create("resnet20", 10).state_dict())


def test_every_run_can_name_its_file():
    assert {weights.path_of(Run(name)).suffix for name in RUNS} == {".pt"}


def test_the_seeds_that_were_kept(tmp_path):
    assert weights.kept(RUN.name, folder=tmp_path) == []
    for seed in (10, 2):
        weights.write({}, weights.path_of(RUN._replace(seed=seed), tmp_path))
    assert weights.kept(RUN.name, folder=tmp_path) == [2, 10]
    assert weights.kept(RUN.name, "quick", tmp_path) == []
    for unknown in (("scenes/resnet8/cem", "paper"), (RUN.name, "papre")):
        with pytest.raises(UnknownName):
            weights.kept(*unknown, tmp_path)
