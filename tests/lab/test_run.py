"""Running a cell: from its name to a record that the tables accept."""

import math
from dataclasses import replace

import pytest
import samples
import torch
from camlib.run import _trained, loaders, run
from camlib.weights import checkpoints
from PIL import Image

from camlib.data import DataError, datasets, load
from camlib.models import create
from camlib.names import UnknownName
from camlib.recipes import Cell, Experiment, NotRunnable, call, cell
from camlib.train import ResumeError, Schedule, checkpoint, recipes, records, weights

TERMS = {"ce": (1.0, call("CrossEntropy")), "cam": (call("step_at", start=1, value=3.0), call("CAMLoss"))}
TINY = Experiment("resnet8", "scenes", TERMS, Schedule(epochs=2), 32, train_images=96, test_images=40)


@pytest.fixture(scope="module")
def scenes():
    return {split: load("scenes", split, count=100) for split in ("train", "test")}


def tiny(column="cam", experiment=TINY, shared=None):
    return Cell("cam-table-1", "resnet20", column, experiment=experiment, shared=shared)


def train(cell, out, seed=0, **more):
    return run(cell, "paper", seed, out=out, progress=False, **more)


def test_the_record_holds_what_the_schema_asks_and_can_be_appended(tmp_path, scenes):
    record = train(tiny(), tmp_path, seed=3)
    assert record.finished
    assert records.append(record, tmp_path / "records")
    line = records.load("cam-table-1", tmp_path / "records").iloc[0]
    assert (line["table"], line["row"], line["column"]) == ("cam-table-1", "resnet20", "cam")
    assert (line["preset"], line["seed"], line["net"], line["data"]) == ("paper", 3, "resnet8", "scenes")
    assert line["loader"]["images"] == 96
    assert line["metrics.accuracy"] * 40 == pytest.approx(round(line["metrics.accuracy"] * 40))
    first = scenes["train"]._replace(images=scenes["train"].images[:96], labels=scenes["train"].labels[:96])
    assert line["data_checksum"]["train"] == first.checksum != scenes["train"].checksum
    assert len(line["history"]) == 2
    assert "train_cam" not in line["history"][0]  # its weight is 0 before epoch 1
    assert math.isfinite(line["history"][1]["train_cam"])


def test_a_finished_run_started_again_is_the_same_run(tmp_path):
    first, again = (train(tiny(), tmp_path) for _ in range(2))
    assert first.history == again.history
    assert records.append(first, tmp_path)
    assert not records.append(again, tmp_path)


def test_checkpoints_of_every_run_have_a_folder_of_their_own(tmp_path):
    train(tiny(), tmp_path, seed=2)
    folder = checkpoints(tiny(), "paper", 2, tmp_path)
    assert folder == tmp_path / "cam-table-1/resnet20/cam/paper/seed-2"
    assert list(folder.glob("*.pt"))


def test_a_shared_cell_runs_and_records_as_the_cell_it_shares(tmp_path):
    shared = Cell("cam-controls", "resnet56", "uniform", experiment=TINY, shared="cam-table-1/resnet20/cam")
    record = train(shared, tmp_path)
    names = [record.about[name] for name in ("table", "row", "column")]
    assert names == ["cam-table-1", "resnet20", "cam"]
    assert checkpoints(shared, "paper", 0, tmp_path) == checkpoints(tiny(), "paper", 0, tmp_path)


def test_two_arms_of_one_seed_start_alike_and_two_seeds_do_not(tmp_path):
    """Before epoch 1 the weight of L_cam is 0, so the first epochs are the same to the last bit."""
    ce = tiny("ce", replace(TINY, terms={"ce": TERMS["ce"]}))
    losses = {
        (arm.column, seed): [entry["train_loss"] for entry in train(arm, tmp_path, seed=seed).history]
        for arm, seed in ((ce, 0), (tiny(), 0), (ce, 1))
    }
    assert losses["ce", 0][0] == losses["cam", 0][0]
    assert losses["ce", 0][1] != losses["cam", 0][1]
    assert losses["ce", 0][0] != losses["ce", 1][0]


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    whole = train(tiny(), tmp_path / "whole")
    stopped = train(tiny(), tmp_path / "parts", time_limit=0)
    assert not stopped.finished
    with pytest.raises(records.RecordError, match="epochs are done"):
        records.append(stopped, tmp_path)
    resumed = train(tiny(), tmp_path / "parts")
    assert resumed.finished
    assert resumed.metrics == whole.metrics


def test_another_recipe_in_the_same_folder_is_refused_with_the_difference(tmp_path):
    train(tiny(), tmp_path)
    other = tiny(experiment=replace(TINY, recipe=replace(TINY.recipe, learning_rate=0.05)))
    with pytest.raises(ResumeError, match=r"recipe\.learning_rate was 0\.1, now 0\.05"):
        train(other, tmp_path)


def test_unknown_preset_and_a_cell_without_recipe(tmp_path):
    with pytest.raises(UnknownName, match="no preset is called 'papper'"):
        run(tiny(), "papper", 0, out=tmp_path)
    with pytest.raises(NotRunnable, match="has no recipe"):
        run(cell("cam-table-2/pyramid_cutout/ce"), "paper", 0, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_data_are_an_error_before_anything_is_written(tmp_path):
    real = tiny(experiment=replace(TINY, data="cifar100"))
    with pytest.raises(DataError, match=r"CIFAR-100 is not in .*empty.*data get cifar100"):
        train(real, tmp_path / "out", data=tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_grey_images_get_a_net_with_one_channel(tmp_path, monkeypatch, scenes):
    def grey(name, split, root, count):
        return scenes[split]._replace(images=scenes[split].images[:, :1], masks=None)

    monkeypatch.setattr("camlib.run.load", grey)
    record = train(tiny(experiment=replace(TINY, data="mnist")), tmp_path)
    assert record.finished
    assert record.about["data"] == "mnist"


def test_loaders_normalise_both_splits_by_the_training_images_and_augment_only_those(scenes):
    train_loader, test_loader = loaders(TINY, scenes["train"], scenes["test"], seed=5)
    mean, std = datasets.statistics(scenes["train"].images)
    assert train_loader.source is scenes["train"]
    assert test_loader.source is scenes["test"]
    for loader in (train_loader, test_loader):
        torch.testing.assert_close(loader.mean.flatten(), mean)
        torch.testing.assert_close(loader.std.flatten(), std)
        assert loader.seed == 5
    assert (train_loader.batch_size, train_loader.augment, train_loader.shuffle) == (
        32,
        ("crop", "flip"),
        True,
    )
    assert (test_loader.augment, test_loader.shuffle) == ((), False)


def test_a_teacher_is_trained_first_and_the_same_for_every_student(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.PRESETS, "quick", samples.tiny)
    students = [cell(f"cam-table-7/f/{arm}") for arm in ("kd", "ccm")]
    made = [run(student, "quick", 1, out=tmp_path, progress=False) for student in students]
    folder = tmp_path / "weights"
    assert [path.name for path in folder.rglob("*.pt")] == ["resnet20-ce-quick-seed-0.pt"]
    assert {record.about["teacher"] for record in made} == {"cam-table-1/resnet20/ce"}
    assert made[0].objective["teacher"] == made[1].objective["teacher"]
    again = run(students[0], "quick", 1, out=tmp_path, progress=False)
    assert again.history == made[0].history


def test_a_student_starts_from_the_same_weights_with_and_without_a_teacher(tmp_path, monkeypatch):
    """Making a teacher draws numbers; the seed of the student is set after that."""
    monkeypatch.setitem(recipes.PRESETS, "quick", samples.tiny)
    starts = []

    def before_training(observed, *arguments, **options):
        starts.append({name: tensor.clone() for name, tensor in observed.graph.state_dict().items()})
        raise InterruptedError

    monkeypatch.setattr("camlib.run._trained", lambda *names, **how: create("resnet8", 10))
    monkeypatch.setattr("camlib.run.fit", before_training)
    for arm in ("ce", "kd"):
        with pytest.raises(InterruptedError):
            run(cell(f"cam-table-7/f/{arm}"), "quick", 1, out=tmp_path, progress=False)
    alone, taught = starts
    assert all(torch.equal(alone[name], taught[name]) for name in alone)


def test_one_process_keeps_the_weights_of_a_teacher_that_all_trained(tmp_path, monkeypatch):
    """As process 1 of 2 sees it: it trains along, waits, and leaves the file to process 0."""
    events = []
    monkeypatch.setattr("camlib.run.run", lambda *_, **__: events.append("trained"))
    monkeypatch.setattr(weights, "keep", lambda *_: events.append("kept"))
    monkeypatch.setattr(weights, "trained", lambda *_: events.append("read"))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: events.append("waited"))
    for rank, expected in ((0, ["trained", "kept", "waited", "read"]), (1, ["trained", "waited", "read"])):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        events.clear()
        _trained("cam-table-1/resnet20/ce", preset="quick", seed=0, out=tmp_path)
        assert events == expected


def test_a_run_starts_from_the_net_of_its_own_seed(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.PRESETS, "quick", samples.tiny)
    record = run(cell("cam-table-5/cub200/cam"), "quick", 2, out=tmp_path, progress=False)
    assert record.about["start"] == {"from": "cam-table-1/resnet50/cam"}
    assert record.about["data"] == "scenes_fine"
    assert [path.name for path in (tmp_path / "weights").rglob("*.pt")] == ["resnet50-cam-quick-seed-2.pt"]


def test_a_run_can_start_from_a_file(tmp_path):
    still = tiny(experiment=replace(TINY, recipe=Schedule(epochs=1, learning_rate=1e-12), terms={"ce": TERMS["ce"]}))
    torch.manual_seed(9)
    source = create("resnet8", 10)
    torch.save(source.state_dict(), tmp_path / "source.pt")
    record = train(still, tmp_path, start=tmp_path / "source.pt")
    assert record.about["start"] == {"from": "source.pt"}
    trained = checkpoint.load_last(checkpoints(still, "paper", 0, tmp_path))["model"]
    torch.testing.assert_close(trained["layer3.0.conv1.weight"], source.layer3[0].conv1.weight.detach())
    other = tmp_path / "other.pt"
    torch.save(create("resnet20", 10).state_dict(), other)
    with pytest.raises(ValueError, match="belong to another net"):
        train(tiny("ce"), tmp_path, start=other)


def test_a_few_shot_cell_trains_on_base_classes_and_is_tested_on_novel_ones(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.PRESETS, "quick", samples.tiny)
    record = run(cell("cam-table-6/cub_5_shot/cam"), "quick", 0, out=tmp_path, progress=False)
    assert record.about["row"] == "cub_1_shot"
    assert 0 <= record.metrics["accuracy_5_shot"] <= 1
    assert records.append(record, tmp_path / "records")
    assert set(records.results("cam-table-6", tmp_path / "records")["row"]) == {"cub_1_shot", "cub_5_shot"}


def test_images_in_files_are_streamed(tmp_path):
    for number in range(8):
        Image.new("RGB", (50, 40), (30 * number, 0, 0)).save(tmp_path / f"{number}.png")
    paths = tuple(sorted(tmp_path.glob("*.png")))
    files = datasets.FileSet(paths, torch.arange(8) % 2, ("dark", "light"))
    experiment = replace(TINY, transform="few_shot_112", batch_size=4, augment=("cutmix",))
    train_loader, test_loader = loaders(experiment, files, files, seed=5)
    assert (train_loader.augment, test_loader.augment) == (("cutmix",), ())
    assert (train_loader.transform, test_loader.transform) == ("few_shot_112", "few_shot_112")
    assert (train_loader.shuffle, test_loader.shuffle) == (True, False)
    assert (len(train_loader), train_loader.count, test_loader.count) == (2, 8, 8)
    images, target = next(train_loader.batches(0))
    assert images.shape == (4, 3, 112, 112)
    assert target.shape == (4, 2)
