import copy
import dataclasses
import errno
import functools
import json
import math
import os
import random
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import samples
import torch
import torch.nn.functional as F
from torch import multiprocessing, nn

from camlib import Objective, Schedule, after_accuracy, evaluate, fit, models, observe, step_at
from camlib.__main__ import main
from camlib.data import ImageSet, Loader
from camlib.distributed import process_group
from camlib.lab import presets, run
from camlib.losses import CAMLoss, CrossEntropy
from camlib.losses.cam import RandomClassCAMLoss
from camlib.measure import spatial_rank
from camlib.measure.accuracy import hits
from camlib.train import NotFiniteError, Result, ResumeError, checkpoint, loop

CLASSES, IMAGES, BATCH = 4, 50, 16  # three batches of 16 and one of 2
ODD = 15  # of which two processes get unequal shares: three batches of 15 and one of 5
STEPS = 4
SCHEDULE = Schedule(epochs=3, learning_rate=0.1)


def net(norm=nn.BatchNorm2d, classes=CLASSES, width=8):
    torch.manual_seed(0)
    normalised = norm(width) if norm is nn.BatchNorm2d else norm(2, width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        normalised,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def loaders(images=IMAGES, batch=BATCH, seed=0, changed=0, augment=("crop", "flip")):
    """Training images whose brightness tells the class, most of the time, and test images alike."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, CLASSES, (images + 20,), generator=generator)
    noise = torch.randint(0, 100, (images + 20, 3, 8, 8), generator=generator)
    pixels = (noise + 50 * labels[:, None, None, None]).to(torch.uint8)
    pixels[0, 0, 0, 0] += changed
    common = {
        "num_classes": CLASSES,
        "mean": torch.full((3,), 0.5),
        "std": torch.full((3,), 0.25),
        "seed": seed,
    }
    return (
        Loader(pixels[:images], labels[:images], batch_size=batch, augment=augment, shuffle=True, **common),
        Loader(pixels[images:], labels[images:], batch_size=8, **common),
    )


class Centres(nn.Module):
    """A term with parameters, trained at a rate of their own."""

    optimizer_group = {"lr": 0.5, "weight_decay": 0.0}  # noqa: RUF012 - as the contract of terms has it

    def __init__(self, width=8):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(CLASSES, width))

    def forward(self, out, target, state):
        return (out.pooled - target @ self.centres).square().sum(1).mean()


class Spy(nn.Module):
    """A term that is 0 and calls a function on what it is given; it counts the steps of this process."""

    def __init__(self, spy):
        super().__init__()
        self.spy, self.steps = spy, 0

    def extra_repr(self):
        return "same in every session"

    def forward(self, out, target, state):
        value = self.spy(self.steps, out, target, state)
        self.steps += 1
        return out.logits.sum() * 0 if value is None else value

    def __repr__(self):
        return "Spy()"


def objective(**more):
    """Terms of every kind: with a draw, with parameters, weighted by the time or by the past."""
    return Objective(
        ce=(1.0, CrossEntropy()),
        cam=(step_at(1, 0.3), CAMLoss()),
        random=(after_accuracy(0.25, 0.2), RandomClassCAMLoss()),
        centres=(0.1, Centres()),
        **more,
    )


def quiet(model, terms, images, schedule=SCHEDULE, **options):
    return fit(model, terms, images, schedule, progress=False, **options)


def weights(model, terms=None):
    return {**model.state_dict(), **(terms.state_dict() if terms is not None else {})}


def assert_same(ours, theirs, **tolerance):
    """Equal to the last bit, unless a tolerance is given."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **(tolerance or {"rtol": 0, "atol": 0}))


def comparable(record):
    """The record without what may differ between two equal runs; a commit may be made during the tests."""
    plain = dataclasses.asdict(record)
    for name in ("wall_seconds", "peak_memory_bytes", "commit"):
        plain.pop(name)
    return plain | {"history": [{k: v for k, v in e.items() if k != "seconds"} for e in plain["history"]]}


@pytest.fixture(scope="module")
def uninterrupted():
    """Weights and record of a run in one piece, of `net()`, `objective()` and `loaders()` by `SCHEDULE`."""
    model, terms = net(), objective()
    record = quiet(model, terms, loaders())
    return weights(model, terms), comparable(record)


# What a schedule says


def test_cosine_schedule():
    schedule = Schedule(epochs=4, learning_rate=0.2)
    rates = [schedule.learning_rate_at(epoch) for epoch in range(4)]
    assert rates == pytest.approx([0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1, 0.1 * (1 - math.sqrt(0.5))])


def test_step_schedule():
    schedule = Schedule(epochs=5, learning_rate=0.2, annealing="steps", milestones=(2, 3), decay=0.5)
    assert [schedule.learning_rate_at(epoch) for epoch in range(5)] == pytest.approx([0.2, 0.2, 0.1, 0.05, 0.05])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected more than 0"),
        ({"annealing": "linear"}, "annealing is 'linear', expected 'cosine' or 'steps'"),
        ({"precision": "int8"}, "precision is 'int8', expected"),
    ],
)
def test_impossible_recipes(wrong, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**({"epochs": 1} | wrong))


# What the loop does


def by_hand(model, terms, images, schedule):
    """Training as a textbook has it: the same batches, nothing else in common with camlib."""
    observed = observe(model).train()
    centres = terms.terms["centres"][1].centres
    velocity = [torch.zeros_like(p) for p in [*observed.parameters(), centres]]
    losses = []
    for epoch in range(schedule.epochs):
        rate = schedule.learning_rate_at(epoch)
        total = 0.0
        for batch, target in images[0].batches(epoch):
            out = observed(batch)
            distance = (out.pooled - centres[target.argmax(1)]).square().sum(1).mean()
            loss = -(target * out.logits.log_softmax(1)).sum(1).mean() + 0.1 * distance
            total += loss.item() * len(batch)
            parameters = [*observed.parameters(), centres]
            for p, v, gradient in zip(parameters, velocity, torch.autograd.grad(loss, parameters), strict=True):
                mine = p is centres
                decayed = gradient + (0 if mine else 0.01) * p.detach()
                v.mul_(0.9).add_(decayed)
                step = decayed + 0.9 * v if schedule.nesterov else v
                p.data -= (5 * rate if mine else rate) * step
        losses.append(total / IMAGES)
    return losses


@pytest.mark.parametrize("settings", [{}, {"annealing": "steps", "milestones": (1,)}, {"nesterov": True}])
def test_the_loop_is_the_textbooks(settings):
    schedule = Schedule(epochs=3, learning_rate=0.1, weight_decay=0.01, **settings)

    def terms():
        return Objective(ce=(1.0, CrossEntropy()), centres=(0.1, Centres()))

    ours, our_terms, theirs, their_terms = net(), terms(), net(), terms()
    record = quiet(ours, our_terms, loaders(), schedule)
    losses = by_hand(theirs, their_terms, loaders(), schedule)
    assert_same(weights(ours, our_terms), weights(theirs, their_terms), rtol=1e-3, atol=1e-4)
    assert [entry["train_loss"] for entry in record.history] == pytest.approx(losses, rel=1e-4)
    assert not torch.equal(our_terms.terms["centres"][1].centres, torch.zeros(CLASSES, 8))
    rates = [schedule.learning_rate_at(epoch) for epoch in range(3)]
    assert [entry["learning_rate"] for entry in record.history] == pytest.approx(rates)


def test_the_result_holds_what_a_record_needs():
    record = quiet(net(), objective(), loaders())
    assert isinstance(record, Result)
    assert record.finished
    assert (record.epochs_done, record.epochs_asked, record.seed, record.processes) == (3, 3, 0, 1)
    assert record.loader["images"] == IMAGES
    assert record.schedule["learning_rate"] == 0.1
    assert record.objective["cam"] == "step_at(start=1, value=0.3) * CAMLoss(p=1, detach_cam=False)"
    assert record.versions["torch"] == torch.__version__
    assert record.wall_seconds >= sum(entry["seconds"] for entry in record.history) > 0
    json.dumps(dataclasses.asdict(record), allow_nan=False)


def test_the_last_epoch_is_the_result_and_the_best_stands_beside_it():
    model = net()
    images = loaders()
    record = quiet(model, objective(), images)
    assert record.metrics == {
        name.removeprefix("test_"): value for name, value in record.history[-1].items() if name.startswith("test_")
    }
    assert record.metrics == evaluate(model, images[1])
    accuracies = [entry["test_accuracy"] for entry in record.history]
    best = record.best["accuracy"]
    assert best["value"] == max(accuracies) == accuracies[best["epoch"]]


def test_history_names_the_terms_that_were_computed():
    record = quiet(net(), Objective(ce=(1.0, CrossEntropy()), cam=(step_at(2, 1.0), CAMLoss())), loaders())
    assert ["train_cam" in entry for entry in record.history] == [False, False, True]
    assert all(0 <= entry["train_accuracy"] <= 1 for entry in record.history)
    assert record.history[-1]["train_loss"] == pytest.approx(
        record.history[-1]["train_ce"] + record.history[-1]["train_cam"], rel=1e-6
    )


def test_every_image_is_seen_once_an_epoch_and_terms_know_the_epoch():
    seen = {}
    spy = Spy(lambda step, out, target, state: seen.setdefault(state.epoch, []).append(target.argmax(1)))
    images = loaders()
    quiet(net(), Objective(ce=(1.0, CrossEntropy()), spy=(1.0, spy)), images)
    assert list(seen) == [0, 1, 2]
    for labels in seen.values():
        assert torch.cat(labels).bincount().tolist() == images[0].target.sum(0).tolist()


def test_terms_are_told_the_training_accuracy_of_the_last_epoch():
    told = []
    spy = Spy(lambda step, out, target, state: told.append(state.train_accuracy))
    record = quiet(net(), Objective(ce=(1.0, CrossEntropy()), spy=(1.0, spy)), loaders())
    assert told[::STEPS] == [0.0, *(entry["train_accuracy"] for entry in record.history[:-1])]


def test_the_readers_own_seed_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    model, terms, images = net(), objective(), loaders()
    torch.manual_seed(3)
    quiet(model, terms, images)
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)


def test_draws_depend_on_the_loaders_seed_alone(uninterrupted):
    model, terms, images = net(), objective(), loaders()
    torch.manual_seed(12345)
    quiet(model, terms, images)
    assert_same(weights(model, terms), uninterrupted[0])
    other, other_terms = net(), objective()
    quiet(other, other_terms, loaders(seed=1))
    assert not torch.equal(other[0].weight, model[0].weight)


def test_every_step_of_every_epoch_draws_anew():
    drawn = []
    spy = Spy(lambda *_: drawn.append(torch.rand(()).item()))
    quiet(net(), Objective(ce=(1.0, CrossEntropy()), spy=(1.0, spy)), loaders())
    assert len({*drawn}) == len(drawn) == 3 * STEPS


def test_what_was_in_evaluation_mode_is_trained_in_training_mode():
    modes = []
    model = net()
    spy = Spy(lambda *_: modes.append((model[1].training, spy.training)))
    terms = Objective(ce=(1.0, CrossEntropy()), spy=(1.0, spy))
    model.eval()
    terms.eval()
    quiet(model, terms, loaders())
    assert modes == [(True, True)] * 3 * STEPS


def test_a_model_is_trained_in_place_and_ready_to_look_at():
    model = net()
    observed = observe(model)
    before = copy.deepcopy(model.state_dict())
    quiet(observed, objective(), loaders())
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert not observed.training
    assert not model[1].training


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_precision_and_layout(precision, channels_last, uninterrupted):
    def look(step, out, target, state):
        assert out.maps[-1].dtype == getattr(torch, precision)
        assert out.maps[-1].is_contiguous(memory_format=torch.channels_last) == channels_last

    schedule = dataclasses.replace(SCHEDULE, precision=precision, channels_last=channels_last)
    spy = Spy(look)
    model = net()
    record = quiet(model, objective(spy=(1.0, spy)), loaders(), schedule)
    assert spy.steps == 3 * STEPS
    assert record.precision == precision
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    expected = [entry["train_loss"] for entry in uninterrupted[1]["history"]]
    assert [entry["train_loss"] for entry in record.history] == pytest.approx(expected, rel=0.05)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's compiler causes it itself
def test_compiled_blocks_train_alike(monkeypatch):
    # Without the last stage, the C++ compiler, which would take a minute.
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    terms = Objective(ce=(1.0, CrossEntropy()), cam=(1.0, CAMLoss()))
    torch.manual_seed(0)
    model = models.create("resnet8", CLASSES)
    same = copy.deepcopy(model)
    plain = quiet(model, terms, loaders())
    assert graphs["unique_graphs"] == 0
    before = torch._functorch.config.donated_buffer, torch._dynamo.config.recompile_limit
    compiled = quiet(same, terms, loaders(), dataclasses.replace(SCHEDULE, compile=True))
    assert graphs["unique_graphs"] >= 4  # the stem and three blocks
    assert (torch._functorch.config.donated_buffer, torch._dynamo.config.recompile_limit) == before
    for ours, theirs in zip(compiled.history, plain.history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": "always"}, "resume is 'always', expected 'auto' or 'never'"),
        ({"time_limit": 1.0}, "time_limit needs out="),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        quiet(net(), objective(), loaders(), **options)


# Evaluation


def test_evaluate_counts_right():
    model, (_, test) = net(classes=CLASSES), loaders()
    measured = evaluate(model, test)
    logits = model.eval()((test.images.float() / 255 - 0.5) / 0.25)
    labels = test.target.argmax(1)
    assert measured["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert measured["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert measured["top5_accuracy"] == 1  # of four classes
    assert 1 <= measured["spatial_rank"] <= 8
    assert 0 < measured["first_share"] <= 1


def test_top5_is_counted_among_five():
    """One image for each place that the right class can take: five of ten are among five."""
    model, (_, test) = net(classes=10), loaders()
    logits = model.eval()((test.images[:10].float() / 255 - 0.5) / 0.25)
    places = logits.argsort(1, descending=True)
    images = Loader(test.images[:10], places.diagonal(), num_classes=10, batch_size=4, mean=[0.5] * 3, std=[0.25] * 3)
    measured = evaluate(model, images)
    assert (measured["accuracy"], measured["top5_accuracy"]) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ([0, 1, 0, 0], [False, True, False]),
        ([0.3, 0.7, 0, 0], [False, True, False]),
        ([0.5, 0, 0.5, 0], [True, False, True]),
        ([0, 1, 1, 0], [False, True, True]),
    ],
    ids=["one class", "a larger share", "equal shares", "several classes"],
)
def test_a_hit_is_a_class_with_the_largest_share(row, right):
    logits, target = torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([row])
    assert hits(logits, target, 3).tolist() == [right]
    assert hits(logits, target).tolist() == [right[:1]]


def test_the_rank_of_maps_is_a_mean_over_images_of_a_batch_that_is_not_full():
    model, (_, test) = net(), loaders()
    test.batch_size = 3 * test.count
    measured = evaluate(model, test)
    with torch.no_grad():
        patterns = spatial_rank(observe(model).eval()((test.images.float() / 255 - 0.5) / 0.25).maps[-1])
    assert measured["spatial_rank"] == pytest.approx(patterns.effective.mean().item(), rel=1e-4)
    assert measured["first_share"] == pytest.approx(patterns.first_share.mean().item(), rel=1e-4)


def test_evaluate_leaves_modes_and_statistics_as_they_were():
    model = net()
    model.train()
    model[1].eval()  # a reader may have frozen it
    before = copy.deepcopy(model.state_dict())
    evaluate(model, loaders()[1])
    assert model[0].training
    assert not model[1].training
    assert_same(model.state_dict(), before)


# Stopping and going on


def test_a_time_limit_stops_at_a_step_and_the_run_goes_on_to_the_same_end(tmp_path, uninterrupted):
    done = []
    for _ in range(3 * STEPS):
        assert not done or not done[-1].finished
        model, terms = net(), objective()
        done.append(quiet(model, terms, loaders(), out=tmp_path, time_limit=0.0))
    assert [record.epochs_done for record in done] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert_same(weights(model, terms), uninterrupted[0])
    assert comparable(done[-1]) == uninterrupted[1]
    costs = [record.wall_seconds for record in done]
    assert costs == sorted(costs)


def test_an_unfinished_record_has_no_result_yet(tmp_path):
    record = quiet(net(), objective(), loaders(), out=tmp_path, time_limit=0.0)
    assert (record.metrics, record.best, record.history) == ({}, {}, [])


def test_a_finished_run_is_returned_and_not_trained_again(tmp_path):
    first = quiet(net(), objective(), loaders(), out=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    model = net()
    assert quiet(model, objective(), loaders(), out=tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert evaluate(model, loaders()[1]) == first.metrics


def test_no_folder_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet(net(), objective(), loaders())
    assert list(tmp_path.iterdir()) == []


def test_a_switch_that_went_on_stays_on(tmp_path):
    def terms():
        return Objective(ce=(1.0, CrossEntropy()), cam=(after_accuracy(1.0, 0.3), CAMLoss()))

    switched = terms()
    switched.cam_weight.switched_on.fill_(True)
    quiet(net(), switched, loaders(), out=tmp_path, time_limit=0.0)
    fresh = terms()
    record = quiet(net(), fresh, loaders(), out=tmp_path)
    assert fresh.cam_weight.switched_on
    assert all("train_cam" in entry for entry in record.history)


def test_interrupted_by_hand_it_goes_on_from_the_last_checkpoint(tmp_path, uninterrupted):
    def interrupt(step, out, target, state):
        if step == STEPS + 2:
            raise KeyboardInterrupt

    model = net()
    with pytest.raises(KeyboardInterrupt):
        quiet(model, objective(spy=(0.0, Spy(print)), stop=(1.0, Spy(interrupt))), loaders(), out=tmp_path)
    assert not model[1].training
    model, terms = net(), objective(spy=(0.0, Spy(print)), stop=(1.0, Spy(lambda *_: None)))
    record = quiet(model, terms, loaders(), out=tmp_path)
    assert_same(weights(model, terms), uninterrupted[0])
    assert record.metrics == uninterrupted[1]["metrics"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path, uninterrupted):
    quiet(net(), objective(), loaders(), out=tmp_path)
    last = max(tmp_path.glob("*.pt"))
    os.truncate(last, 1000)
    model, terms = net(), objective()
    with pytest.warns(UserWarning, match=f"{last.name} is damaged"):
        record = quiet(model, terms, loaders(), out=tmp_path)
    assert_same(weights(model, terms), uninterrupted[0])
    assert comparable(record) == uninterrupted[1]


def test_all_checkpoints_damaged(tmp_path):
    quiet(net(), objective(), loaders(), out=tmp_path)
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(OSError, match=f"no checkpoint in {tmp_path} can be read"),
    ):
        quiet(net(), objective(), loaders(), out=tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schedule": dataclasses.replace(SCHEDULE, learning_rate=0.2)}, "schedule.learning_rate was 0.1, now 0.2"),
        ({"terms": Objective(ce=(1.0, CrossEntropy()))}, r"objective.cam was 'step_at.*CAMLoss.*', now None"),
        ({"terms": objective(more=(2.0, CAMLoss()))}, r"objective.more was None, now '2.0 \* CAMLoss"),
        ({"images": loaders(images=48)}, "loader.images was 50, now 48"),
        ({"images": loaders(batch=10)}, "loader.batch_size was 16, now 10"),
        ({"images": loaders(seed=1)}, "loader.seed was 0, now 1"),
        ({"images": loaders(augment=("crop",))}, r"loader.augment was \['crop', 'flip'\], now \['crop'\]"),
        ({"images": loaders(changed=1)}, "loader.checksum was"),
        (
            {"model": net(width=6), "terms": objective()},
            r"net.0.weight was \(8, 3, 3, 3\), now \(6, 3, 3, 3\)",
        ),
        ({"model": net(nn.GroupNorm)}, r"net.1.running_mean was \(8,\), now None"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changed, message):
    quiet(net(), objective(), loaders(), out=tmp_path, time_limit=0.0)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    now = {"model": net(), "terms": objective(), "images": loaders(), "schedule": SCHEDULE} | changed
    with pytest.raises(ResumeError, match=message):
        quiet(**now, out=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_other_test_images_make_another_run(tmp_path):
    """Or the history would hold accuracies of two tests."""
    quiet(net(), objective(), loaders(), out=tmp_path, time_limit=0.0)
    training, test = loaders()
    test.images[0, 0, 0, 0] += 1
    with pytest.raises(ResumeError, match=r"test_loader\.checksum was"):
        quiet(net(), objective(), (training, test), out=tmp_path)


def test_the_highest_use_of_memory_outlives_the_session(tmp_path, monkeypatch):
    used = iter([7_000_000, *[3_000_000] * 99])
    monkeypatch.setattr(loop.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=next(used)))
    first = quiet(net(), objective(), loaders(), out=tmp_path, time_limit=0.0)
    whole = quiet(net(), objective(), loaders(), out=tmp_path)
    assert next(used) == 3_000_000
    assert first.peak_memory_bytes == whole.peak_memory_bytes >= 7_000_000


def test_a_resumed_run_in_float16_goes_on_with_the_scale_that_it_had_found(tmp_path):
    def terms():
        # Too steep for float16 at the first scales that are tried.
        steep = Spy(lambda step, out, target, state: 500 * out.logits.float().square().mean())
        return Objective(ce=(1.0, CrossEntropy()), steep=(lambda state: float(state.epoch == 0), steep))

    schedule = dataclasses.replace(SCHEDULE, precision="float16")
    model = net()
    quiet(model, terms(), loaders(), schedule, out=tmp_path / "whole")
    quiet(net(), terms(), loaders(), schedule, out=tmp_path / "parts", time_limit=0.0)
    resumed = net()
    quiet(resumed, terms(), loaders(), schedule, out=tmp_path / "parts")
    whole, parts = (checkpoint.load_last(tmp_path / name)["scaler"] for name in ("whole", "parts"))
    assert parts == whole
    assert whole["scale"] < 2.0**16, "no step overflowed"
    assert_same(resumed.state_dict(), model.state_dict())


def test_a_weight_written_as_a_function_is_known_again(tmp_path):
    for _ in range(2):
        terms = Objective(ce=(1.0, CrossEntropy()), cam=(lambda state: 0.5, CAMLoss()))
        record = quiet(net(), terms, loaders(), out=tmp_path, time_limit=0.0)
    assert record.loader["images"] == IMAGES


def test_starting_afresh_leaves_nothing_of_a_longer_run(tmp_path):
    quiet(net(), objective(), loaders(), out=tmp_path)
    short = Schedule(epochs=1, learning_rate=0.05)
    quiet(net(), objective(), loaders(), short, out=tmp_path, resume="never", time_limit=0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0000-000001.pt"]
    model, alone = net(), net()
    quiet(model, objective(), loaders(), short, out=tmp_path)
    quiet(alone, objective(), loaders(), short)
    assert_same(model.state_dict(), alone.state_dict())


def test_starting_afresh_forgets_the_old_run_at_once(tmp_path):
    quiet(net(), objective(), loaders(), out=tmp_path)

    def fail(step, out, target, state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quiet(net(), Objective(spy=(1.0, Spy(fail))), loaders(), out=tmp_path, resume="never")
    assert list(tmp_path.iterdir()) == []


def test_a_record_says_so_when_a_run_went_on_with_something_else(tmp_path, monkeypatch):
    for commit in ("old", "old", "new", "new"):
        monkeypatch.setattr(loop, "commit", lambda commit=commit: commit)
        record = quiet(net(), objective(), loaders(), out=tmp_path, time_limit=0.0)
    assert record.commit == "old, then new"
    assert record.versions["torch"] == torch.__version__
    quiet(net(), objective(), loaders(), out=tmp_path)
    monkeypatch.setattr(loop, "commit", lambda: "newest")
    assert quiet(net(), objective(), loaders(), out=tmp_path).commit == "old, then new"


# What can go wrong


def spoilt(at, value=float("nan")):
    """A term that becomes `value` at a step."""
    return Spy(lambda step, out, target, state: out.logits.sum() * 0 + value if step == at else None)


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    terms = objective(spoilt=(1.0, spoilt(STEPS + 1)))
    with pytest.raises(NotFiniteError, match=r"loss is nan at epoch 1, step 1 .* in 'spoilt'\.") as error:
        quiet(net(), terms, loaders(), out=tmp_path)
    assert f"Checkpoints in {tmp_path} are from before" in str(error.value)
    kept = checkpoint.load_last(tmp_path)
    assert (kept["epoch"], kept["step"]) == (1, 0)
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())


def test_it_is_noticed_before_a_checkpoint_is_written(tmp_path):
    with pytest.raises(NotFiniteError, match="step 0"):
        quiet(net(), objective(spoilt=(1.0, spoilt(0, math.inf))), loaders(), out=tmp_path, time_limit=0.0)
    assert list(tmp_path.iterdir()) == []


def test_several_terms_and_their_sum():
    terms = Objective(ce=(1.0, CrossEntropy()), one=(1.0, spoilt(2)), two=(1.0, spoilt(2)))
    with pytest.raises(NotFiniteError, match="in 'one' and 'two'"):
        quiet(net(), terms, loaders())
    with pytest.raises(NotFiniteError, match=r"loss is inf at epoch 0, step 0 .* in the weighted sum"):
        quiet(net(), Objective(ce=(1e39, CrossEntropy())), loaders())


def test_a_gradient_that_is_not_a_number_does_not_reach_a_checkpoint(tmp_path):
    def steep(step, out, target, state):
        return (out.weight * 0).sum().sqrt() if step == 2 * STEPS - 1 else None

    with pytest.raises(NotFiniteError, match=r"weight '5.weight' is not finite after epoch 1, step 3"):
        quiet(net(), objective(steep=(1.0, Spy(steep))), loaders(), out=tmp_path)
    kept = checkpoint.load_last(tmp_path)
    assert kept["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())


def test_a_test_loss_that_is_not_a_number_stops_the_run(tmp_path):
    images = loaders()
    images[1].mean = images[1].mean + math.inf
    with pytest.raises(NotFiniteError, match="test's loss is nan after epoch 0"):
        quiet(net(), objective(), images, out=tmp_path)


def test_a_full_disk(tmp_path, monkeypatch, uninterrupted):
    saved = []

    def full(descriptor):
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"checkpoint-0003-000000.pt could not be written: .*No space left"):
            quiet(net(), objective(), loaders(), out=tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["checkpoint-0001-000000.pt", "checkpoint-0002-000000.pt"]
    model, terms = net(), objective()
    record = quiet(model, terms, loaders(), out=tmp_path)
    assert_same(weights(model, terms), uninterrupted[0])
    assert comparable(record) == uninterrupted[1]


def test_a_folder_that_cannot_be_made_is_noticed_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    spy = Spy(lambda *_: None)
    with pytest.raises(OSError, match="file"):
        quiet(net(), Objective(spy=(1.0, spy)), loaders(), out=tmp_path / "file" / "run")
    assert spy.steps == 0


# Killed. In a process of its own, which forks once for each life of the run.


def live(folder, events_left):
    """Train until done, or until SIGKILL at the n-th event: a step, or a moment of writing a checkpoint."""

    def dies_before(function, half_way=None):
        def wrapped(*arguments, **options):
            nonlocal events_left
            events_left -= 1
            if events_left == 0:
                if half_way is not None:
                    half_way(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapped

    if events_left:
        loop.SAVE_EVERY = 0.0  # a checkpoint after every step
        os.fsync = dies_before(os.fsync, lambda file: os.ftruncate(file, os.fstat(file).st_size // 2))
        Path.replace = dies_before(Path.replace)
        Path.unlink = dies_before(Path.unlink)
        loop._Run.train_step = dies_before(loop._Run.train_step)
        torch.optim.SGD.step = dies_before(torch.optim.SGD.step)
    model, terms = net(), objective()
    record = quiet(model, terms, loaders(), out=folder)
    torch.save((weights(model, terms), comparable(record)), folder.with_suffix(".result"))


def live_and_die(folder):
    def life(name, events_left):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                live(folder / name, events_left)
                code = 0
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    chance = random.Random(0)
    ends = [life("killed", chance.randint(1, 20)) for _ in range(4)]
    while ends[-1] != 0 and len(ends) < 60:
        ends.append(life("killed", chance.randint(5, 20)))
    ends.append(life("whole", 0))
    (folder / "ends.json").write_text(json.dumps(ends))


def test_killed_at_any_moment_it_ends_with_the_same_weights_and_record(tmp_path):
    process = samples.FORKS.Process(target=live_and_die, args=(tmp_path,))
    process.start()
    process.join()
    *lives, last, whole = json.loads((tmp_path / "ends.json").read_text())
    assert len(lives) >= 4
    assert set(lives) == {-signal.SIGKILL}
    assert (last, whole) == (0, 0)
    killed, uninterrupted = (torch.load(tmp_path / f"{name}.result") for name in ("killed", "whole"))
    assert_same(killed[0], uninterrupted[0])
    assert killed[1] == uninterrupted[1]
    assert len(list((tmp_path / "killed").glob("*.pt"))) == 2


# Two processes, as torchrun starts them


def without_statistics():
    return net(nn.GroupNorm)


def no_draws():
    """Terms that are means over the images: their gradient does not depend on how a batch is shared."""
    return Objective(
        ce=(1.0, CrossEntropy()),
        cam=(step_at(1, 0.3), CAMLoss()),
        centres=(after_accuracy(0.2, 0.1), Centres()),
    )


def run_a_cell(folder):
    """The command line, with little data and one epoch."""
    images, _ = loaders()
    few = ImageSet(images.images, images.target.argmax(1), ("a", "b", "c", "d"))
    run.load = lambda *arguments: few
    presets.PRESETS["quick"] = lambda cell: dataclasses.replace(cell, tests=()).lasting(1)
    command = ["run", "scenes/resnet8/ce", "--preset", "quick", "--device", "cpu"]
    return main([*command, "--out", str(folder)])


def worker(rank, ports, folder):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    os.environ["MASTER_PORT"] = str(ports[0])
    results = {"command": run_a_cell(folder / "command")}
    os.environ["MASTER_PORT"] = str(ports[1])
    with process_group(torch.device("cpu")):
        seen, drawn = [], []
        spy = Spy(lambda step, out, target, state: seen.append(target) or drawn.append(torch.rand(()).item()))
        model, terms = without_statistics(), no_draws()
        with torch.no_grad():  # as if the reader had not seeded: the first process decides
            model[0].weight += rank
            terms.centres_term.centres += rank
        record = quiet(model, terms, loaders(batch=ODD), out=folder / "run")
        results["equal"] = weights(model, terms), comparable(record)
        for _ in range(STEPS):  # looks, and so stops, fall at the end of an epoch, or after 50 steps
            loop.LOOK_EVERY = 2
            model, terms = without_statistics(), no_draws()
            record = quiet(model, terms, loaders(batch=ODD), out=folder / "stopped", time_limit=0.0)
        results["stopped"] = record.epochs_done
        record = quiet(model, terms, loaders(batch=ODD), out=folder / "stopped")
        results["resumed"] = weights(model, terms), comparable(record)
        quiet(without_statistics(), Objective(ce=(1.0, CrossEntropy()), spy=(1.0, spy)), loaders(), SCHEDULE)
        results["seen"], results["drawn"] = torch.cat(seen), drawn
        model = net()
        record = quiet(model, objective(), loaders(), out=folder / "statistics")
        results["statistics"] = model.state_dict(), evaluate(model, loaders()[1])
        results["tested"] = record.metrics
        for name, terms, images in [
            ("nan", Objective(ce=(1.0, CrossEntropy()), spoilt=(1.0, spoilt(1 if rank else -1))), loaders()),
            ("small", no_draws(), loaders(images=33)),
        ]:
            try:
                quiet(without_statistics(), terms, images, out=folder / name)
            except (NotFiniteError, ValueError) as error:
                results[name] = str(error)
    torch.save(results, folder / f"{rank}.results")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    # A place to meet for each of the two groups, kept by this process, as torchrun does: a group that keeps its own
    # takes it down at its end, maybe while the other process is looking there for the next.
    stores = [torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(2)]
    ports = [store.port for store in stores]
    multiprocessing.start_processes(worker, (ports, folder), nprocs=2, start_method="forkserver")
    return folder, [torch.load(folder / f"{rank}.results") for rank in range(2)]


def test_two_processes_train_like_one(both):
    """Shares of a batch count by their images: 8 and 7 of 15, 3 and 2 of the last 5."""
    model, terms = without_statistics(), no_draws()
    alone = comparable(quiet(model, terms, loaders(batch=ODD)))
    for results in both[1]:
        shared, record = results["equal"]
        assert_same(shared, weights(model, terms), rtol=1e-4, atol=1e-5)
        assert record["processes"] == 2
        for ours, theirs in zip(record["history"], alone["history"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)
        assert record["metrics"]["accuracy"] == alone["metrics"]["accuracy"]


def test_two_processes_end_with_the_same_weights_and_the_same_record(both):
    (folder, (first, second)) = both
    assert_same(first["equal"][0], second["equal"][0])
    assert first["equal"][1] == second["equal"][1]
    assert sorted(path.name for path in (folder / "run").iterdir()) == [
        "checkpoint-0002-000000.pt",
        "checkpoint-0003-000000.pt",
    ]


def test_two_processes_see_every_image_once_an_epoch(both):
    first, second = (results["seen"] for results in both[1])
    assert len(first) == len(second) == 3 * IMAGES / 2
    expected = 3 * loaders()[0].target.sum(0)
    assert (first.sum(0) + second.sum(0)).tolist() == expected.tolist()


def test_two_processes_draw_different_numbers(both):
    first, second = (results["drawn"] for results in both[1])
    assert len({*first, *second}) == 2 * 3 * STEPS


def test_two_processes_stop_together_and_go_on_to_the_same_end(both):
    for results in both[1]:
        assert results["stopped"] == 2
        assert_same(results["resumed"][0], results["equal"][0])
        assert results["resumed"][1] == results["equal"][1]


def test_two_processes_share_the_statistics_that_are_tested_and_kept(both):
    folder, results = both
    kept = checkpoint.load_last(folder / "statistics")["model"]
    for state, measured in (result["statistics"] for result in results):
        assert_same(state, kept)
        assert measured == results[0]["tested"]


def test_two_processes_write_one_record(both):
    folder, results = both
    assert [result["command"] for result in results] == [0, 0]
    (file,) = (folder / "command" / "records").rglob("*.jsonl")
    (record,) = file.read_text().splitlines()
    assert json.loads(record)["processes"] == 2


def test_a_loss_spoilt_in_one_process_stops_both(both):
    for results in both[1]:
        assert "loss is nan at epoch 0, step 1 (counted from 0) in 'spoilt'" in results["nan"]
    assert not list((both[0] / "nan").iterdir())


def test_a_last_batch_smaller_than_the_processes_is_refused(both):
    for results in both[1]:
        assert "the last batch has 1 images and cannot be shared among 2 processes" in results["small"]


def test_adam_is_torchs(monkeypatch):
    """Two steps by hand, with weight decay in the gradient."""
    schedule = Schedule(epochs=1, learning_rate=1e-2, annealing="steps", optimizer="adam", weight_decay=0.1)
    images = loaders(images=2 * BATCH, augment=())
    mine, ours = observe(net()), observe(net())
    optimizer = torch.optim.Adam(mine.parameters(), lr=1e-2, weight_decay=0.1)
    mine.train()
    for batch, target in images[0].batches(0):
        optimizer.zero_grad()
        F.cross_entropy(mine(batch).logits, target).backward()
        optimizer.step()
    quiet(ours, Objective(ce=(1.0, CrossEntropy())), images, schedule)
    assert_same(ours.state_dict(), mine.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_schedule_in_steps_without_milestones_is_constant():
    schedule = Schedule(epochs=9, learning_rate=0.3, annealing="steps")
    assert {schedule.learning_rate_at(epoch) for epoch in range(9)} == {0.3}


@pytest.mark.parametrize(("every", "tested"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (5, [4]), (99, [4])])
def test_the_last_epoch_is_always_tested(every, tested):
    record = quiet(net(), Objective(ce=(1.0, CrossEntropy())), loaders(), Schedule(epochs=5, test_every=every))
    assert [epoch for epoch, entry in enumerate(record.history) if "test_accuracy" in entry] == tested
    assert all("train_accuracy" in entry for entry in record.history)
    assert record.metrics["accuracy"] == record.history[-1]["test_accuracy"]
    best = max(tested, key=lambda epoch: record.history[epoch]["test_accuracy"])
    assert record.best["accuracy"] == {"value": record.history[best]["test_accuracy"], "epoch": best}


def test_another_test_takes_the_place_of_evaluate():
    seen = []

    def half(model, loader, precision):
        seen.append((model.in_channels, loader.count, precision))
        return {"accuracy_1_shot": 0.5}

    images = loaders()
    record = quiet(net(), Objective(ce=(1.0, CrossEntropy())), images, test=half)
    assert seen == [(3, images[1].count, "float32")]  # at the end; before it, `evaluate`
    assert "test_loss" in record.history[0]
    assert record.metrics == {"accuracy_1_shot": 0.5}
    assert record.best["accuracy"]["epoch"] in (0, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"optimizer": "sdg"}, "optimizer is 'sdg'"), ({"test_every": 0}, "test_every is 0, expected at least 1")],
)
def test_values_of_a_recipe_that_are_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        Schedule(epochs=1, **values)


def test_a_student_with_another_teacher_is_another_run(tmp_path):
    def terms(seed):
        torch.manual_seed(seed)
        return Objective(teacher=observe(models.create("resnet8", CLASSES)), ce=(1.0, CrossEntropy()))

    quiet(net(), terms(0), loaders(), out=tmp_path, time_limit=0.0)
    with pytest.raises(ResumeError, match=r"objective\.teacher was '[0-9a-f]{8}', now '[0-9a-f]{8}'"):
        quiet(net(), terms(1), loaders(), out=tmp_path)
    assert "teacher" not in str(checkpoint.load_last(tmp_path)["objective"].keys())
