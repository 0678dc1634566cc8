"""Presets: sizes and lengths, decided in one place, never longer than a run's own protocol."""

from dataclasses import asdict

import pytest
import torch

from camlib.data.stream import TRANSFORMS
from camlib.lab import cost, presets
from camlib.lab.experiment import call
from camlib.lab.presets import PRESETS
from camlib.lab.runs import RUNS, Run
from camlib.objective import step_at
from camlib.train import Schedule


@pytest.mark.parametrize(
    ("preset", "net", "data", "epochs", "start"),
    [
        ("quick", "resnet8", "scenes", 4, 1),  # 20 · 4/160 = 0.5
        ("short", "resnet20", "cifar100", 12, 2),  # 1.5
        ("paper", "resnet56", "cifar100", 160, 20),
    ],
)
def test_presets_change_sizes_and_lengths_and_never_the_method(preset, net, data, epochs, start):
    paper = RUNS["cifar100/resnet56/cam"]
    experiment = Run("cifar100/resnet56/cam", preset).experiment
    assert (experiment.net, experiment.data, experiment.schedule.epochs) == (net, data, epochs)
    weight, term = experiment.terms["cam"]
    assert weight == call(step_at, start=start, value=3.0)
    assert term == paper.terms["cam"][1]
    different = asdict(experiment.schedule).items() - asdict(paper.schedule).items()
    assert {name for name, _ in different} <= {"epochs"}


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_trains_longer_or_on_more_images_than_the_runs_own_protocol(preset):
    for name, paper in RUNS.items():
        experiment = Run(name, preset).experiment
        assert experiment.schedule.epochs <= paper.schedule.epochs, name
        if paper.train_images:
            assert experiment.train_images <= paper.train_images, name


def operations(net, size):
    """Of one image's pass."""
    return cost._in_net((net, 100, 3), size)[0]


def test_short_costs_at_most_resnet_20_at_32_pixels_or_resnet_18_at_112():
    seen = {(e.net, e.transform) for e in (Run(name, "short").experiment for name in RUNS)}
    for net, transform in seen:
        if transform is None:
            assert operations(net, (32, 32)) <= operations("resnet20", (32, 32)), net
        else:
            size = TRANSFORMS[transform][0](torch.zeros(3, 300, 200, dtype=torch.uint8)).shape[-2:]
            assert operations(net, size) <= operations("resnet18", (112, 112)), (net, transform)
    assert {Run(name, "short").experiment.schedule.epochs for name in RUNS} <= set(range(1, 121))
    real = [name for name in RUNS if not name.startswith("scenes")]
    assert max(Run(name, "short").experiment.schedule.epochs for name in real) == 12


def test_large_batches_shrink_for_a_chapter_and_their_rate_with_them():
    paper, quick = (Run("imagenet/resnet50/cam", preset).experiment for preset in ("paper", "quick"))
    assert (paper.batch_size, paper.schedule.learning_rate) == (1024, 0.4)
    assert (quick.batch_size, quick.schedule.learning_rate) == (128, 0.05)
    assert quick.transform is None


def test_quick_takes_what_a_call_says_for_it():
    few = Run("cub50_few_shot/resnet18/ce", "quick").experiment.tests[0]
    assert few.arguments["episodes"] == 100
    negative = Run("cifar100/resnet20/negative_cam", "quick").experiment.terms["negative_cam"][1]
    assert negative.arguments["k"] == 3


def test_arithmetic_follows_the_device(monkeypatch):
    schedule, cpu, cuda = Schedule(epochs=1), torch.device("cpu"), torch.device("cuda")
    assert presets.on(cpu, "quick", schedule).precision == "float32"
    for supported, precision in ((True, "bfloat16"), (False, "float16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, s=supported, **b: s)
        assert presets.on(cuda, "paper", schedule).precision == precision
    assert presets.on(torch.device("mps"), "short", schedule).precision == "float32"
    assert presets.on(cpu, "paper", schedule).channels_last
