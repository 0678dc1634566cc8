"""Running: from a run's name to a record that the tables accept."""

import math
from dataclasses import replace

import pytest
import samples
import torch
from PIL import Image

from camlib.data import DataError, datasets, load
from camlib.lab import presets, runs, weights
from camlib.lab import record as records
from camlib.lab.experiment import Experiment, call
from camlib.lab.run import _trained, loaders, run
from camlib.lab.runs import RUNS, Run
from camlib.losses import CAMLoss, CrossEntropy
from camlib.models import create
from camlib.names import UnknownName
from camlib.objective import step_at
from camlib.observe import observe
from camlib.train import ResumeError, Schedule, checkpoint

TERMS = {"ce": (1.0, call(CrossEntropy)), "cam": (call(step_at, start=1, value=3.0), call(CAMLoss))}
SCHEDULE = Schedule(epochs=2)
TINY = Experiment("resnet8", "scenes", SCHEDULE, TERMS, 32, train_images=96, test_images=40)
NAME = "scenes/resnet8/cam"


@pytest.fixture(autouse=True)
def tiny_runs(monkeypatch):
    """Every run of these tests takes a second; names are looked up anew."""
    monkeypatch.setitem(RUNS, NAME, TINY)
    monkeypatch.setitem(RUNS, "scenes/resnet8/ce", replace(TINY, terms={"ce": TERMS["ce"]}))
    monkeypatch.setitem(presets.PRESETS, "quick", samples.tiny)
    runs._names.cache_clear()
    yield
    runs._names.cache_clear()


def put(monkeypatch, experiment, name=NAME):
    monkeypatch.setitem(RUNS, name, experiment)
    runs._names.cache_clear()


@pytest.fixture(scope="module")
def scenes():
    return {split: load("scenes", split, count=100) for split in ("train", "test")}


def train(name, out, seed=0, **more):
    return run(Run(name, "paper", seed), out=out, progress=False, **more)


def test_the_record_holds_what_was_run_and_can_be_appended(tmp_path, scenes):
    made = train(NAME, tmp_path, seed=3)
    assert made.finished
    assert records.append(made, tmp_path / "records")
    (line,) = records.load(NAME, tmp_path / "records")
    assert (line.run, line.preset, line.seed, line.net, line.data) == (NAME, "paper", 3, "resnet8", "scenes")
    assert line.loader["images"] == 96
    assert line.metrics["accuracy"] * 40 == pytest.approx(round(line.metrics["accuracy"] * 40))
    first = scenes["train"]._replace(images=scenes["train"].images[:96], labels=scenes["train"].labels[:96])
    assert line.data_checksum["train"] == first.checksum != scenes["train"].checksum
    assert len(line.history) == 2
    assert "train_cam" not in line.history[0]  # its weight is 0 before epoch 1
    assert math.isfinite(line.history[1]["train_cam"])


def test_a_finished_run_started_again_is_the_same_run(tmp_path):
    first, again = (train(NAME, tmp_path) for _ in range(2))
    assert first.history == again.history
    assert records.append(first, tmp_path)
    assert not records.append(again, tmp_path)


def test_checkpoints_of_every_run_have_a_folder_of_their_own(tmp_path):
    train(NAME, tmp_path, seed=2)
    assert list((tmp_path / "scenes/resnet8/cam/paper/seed-2").glob("*.pt"))


def test_a_run_is_trained_under_its_one_name(tmp_path):
    made = run(Run(NAME, "short", 1), out=tmp_path, progress=False)
    assert (made.run, made.preset) == (NAME, "paper")
    assert not (tmp_path / NAME / "short").exists()


def test_two_arms_of_one_seed_start_alike_and_two_seeds_do_not(tmp_path):
    """Before epoch 1 the weight of L_cam is 0, so the first epochs are the same to the last bit."""
    made = {
        (arm, seed): train(f"scenes/resnet8/{arm}", tmp_path, seed) for arm, seed in (("ce", 0), ("cam", 0), ("ce", 1))
    }
    assert records.differences(made["ce", 0].fingerprint, made["cam", 0].fingerprint) == []
    assert "order" in records.differences(made["ce", 0].fingerprint, made["ce", 1].fingerprint)
    losses = {which: [entry["train_loss"] for entry in record.history] for which, record in made.items()}
    assert losses["ce", 0][0] == losses["cam", 0][0]
    assert losses["ce", 0][1] != losses["cam", 0][1]
    assert losses["ce", 0][0] != losses["ce", 1][0]


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    whole = train(NAME, tmp_path / "whole")
    stopped = train(NAME, tmp_path / "parts", time_limit=0)
    assert not stopped.finished
    with pytest.raises(records.RecordError, match="epochs are done"):
        records.append(stopped, tmp_path)
    resumed = train(NAME, tmp_path / "parts")
    assert resumed.finished
    assert resumed.metrics == whole.metrics


def test_another_schedule_in_the_same_folder_is_refused_with_the_difference(tmp_path, monkeypatch):
    train(NAME, tmp_path)
    put(monkeypatch, replace(TINY, schedule=replace(SCHEDULE, learning_rate=0.05)))
    with pytest.raises(ResumeError, match=r"schedule\.learning_rate was 0\.1, now 0\.05"):
        train(NAME, tmp_path)


def test_unknown_preset_and_unknown_run(tmp_path):
    with pytest.raises(UnknownName, match="no preset is called 'papper'"):
        run(Run(NAME, "papper"), out=tmp_path)
    with pytest.raises(UnknownName, match="no run is called 'scenes/resnet8/camm'"):
        run(Run("scenes/resnet8/camm"), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_data_are_an_error_before_anything_is_written(tmp_path, monkeypatch):
    put(monkeypatch, replace(TINY, data="cifar100"))
    with pytest.raises(DataError, match=r"CIFAR-100 is not in .*empty.*data get cifar100"):
        train(NAME, tmp_path / "out", data=tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_grey_images_get_a_net_with_one_channel(tmp_path, monkeypatch, scenes):
    def grey(name, split, root, count):
        return scenes[split]._replace(images=scenes[split].images[:, :1], masks=None)

    monkeypatch.setattr("camlib.lab.run.load", grey)
    put(monkeypatch, replace(TINY, data="mnist"))
    made = train(NAME, tmp_path)
    assert made.finished
    assert made.data == "mnist"


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


def test_a_teacher_is_trained_first_and_the_same_for_every_student(tmp_path):
    students = [Run(f"cifar100/resnet8/{arm}_from_resnet20", "quick", 1) for arm in ("kd", "ccm")]
    made = [run(student, out=tmp_path, progress=False) for student in students]
    kept = [path.relative_to(tmp_path / "weights").as_posix() for path in (tmp_path / "weights").rglob("*.pt")]
    assert len(kept) == 1  # one net of seed 0, by the one name that cross-entropy has at quick
    assert kept[0].endswith("/ce/quick/seed-0.pt")
    assert {record.teacher for record in made} == {kept[0].removesuffix("/quick/seed-0.pt")}
    assert made[0].objective["teacher"] == made[1].objective["teacher"]
    again = run(students[0], out=tmp_path, progress=False)
    assert again.history == made[0].history


def test_a_student_starts_from_the_same_weights_with_and_without_a_teacher(tmp_path, monkeypatch):
    """Making a teacher draws numbers; the seed of the student is set after that."""
    starts = []

    def before_training(observed, *arguments, **options):
        starts.append({name: tensor.clone() for name, tensor in observed.graph.state_dict().items()})
        raise InterruptedError

    half = torch.full((3,), 0.5)
    teacher = weights.Trained(observe(create("resnet8", 10)), Run(NAME), half, half, "")
    monkeypatch.setattr("camlib.lab.run._trained", lambda *names, **how: create("resnet8", 10) and teacher)
    monkeypatch.setattr("camlib.lab.run.fit", before_training)
    for name in ("cifar100/resnet8/ce", "cifar100/resnet8/kd_from_resnet20"):
        with pytest.raises(InterruptedError):
            run(Run(name, "quick", 1), out=tmp_path, progress=False)
    alone, taught = starts
    assert all(torch.equal(alone[name], taught[name]) for name in alone)


def test_a_run_starts_from_the_net_of_its_own_seed(tmp_path):
    made = run(Run("cub200/resnet50/ce_from_cam", "quick", 2), out=tmp_path, progress=False)
    assert made.start.endswith("/cam")
    assert made.data == "scenes_fine"
    (kept,) = (tmp_path / "weights").rglob("*.pt")
    assert kept == tmp_path / "weights" / f"{made.start}/quick/seed-2.pt"


def test_a_run_can_start_from_a_file(tmp_path, monkeypatch):
    still = replace(TINY, schedule=Schedule(epochs=1, learning_rate=1e-12), terms={"ce": TERMS["ce"]})
    put(monkeypatch, still)
    torch.manual_seed(9)
    source = create("resnet8", 100)
    torch.save(source.state_dict(), tmp_path / "source.pt")
    made = train(NAME, tmp_path, start=tmp_path / "source.pt")
    assert made.start == "source.pt"
    trained = checkpoint.load_last(tmp_path / Run(NAME).path)["model"]
    torch.testing.assert_close(trained["layer3.0.conv1.weight"], source.layer3[0].conv1.weight.detach())
    other = tmp_path / "other.pt"
    torch.save(create("resnet20", 10).state_dict(), other)
    with pytest.raises(weights.WeightsError, match="belong to another net"):
        train(NAME, tmp_path, seed=1, start=other)


def test_the_net_of_a_finished_run_is_kept_where_it_is_asked_for(tmp_path):
    folders = (tmp_path / "one", tmp_path / "two")
    made = train(NAME, tmp_path / "out", keep=folders)
    for folder in folders:
        assert weights.trained(NAME, "paper", 0, folder).commit == made.commit


def test_one_of_two_processes_keeps_the_net(tmp_path, monkeypatch):
    monkeypatch.setattr("camlib.lab.run.place", lambda: (1, 2))
    train(NAME, tmp_path / "out", keep=(tmp_path / "kept",))
    assert not (tmp_path / "kept").exists()


def test_a_teacher_is_read_where_it_was_kept_after_all_processes_have_met(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr("camlib.lab.run.run", lambda *_, keep, **__: events.append(keep))
    monkeypatch.setattr("camlib.lab.run.barrier", lambda: events.append("met"))
    monkeypatch.setattr(weights, "trained", lambda *which: events.append(which[-1]))
    _trained(Run(NAME, "quick"), tmp_path)
    assert events == [(tmp_path / "weights",), "met", tmp_path / "weights"]


def test_few_shots_train_on_base_classes_and_are_tested_on_novel_ones(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "quick", lambda e: samples.quick(e).lasting(1))
    runs._names.cache_clear()
    made = run(Run("cub200_few_shot/resnet18/cam", "quick"), out=tmp_path, progress=False)
    assert made.loader["classes"] == 24
    assert 0 <= made.metrics["accuracy_1_shot"] <= 1
    assert 0 <= made.metrics["accuracy_5_shot"] <= 1


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
