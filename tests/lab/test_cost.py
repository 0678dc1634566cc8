"""What a run costs: from records of such a device, else from timed steps, and what does not fit is told apart."""

import json
import math

import pytest
import samples
import torch
from torch.utils.flop_counter import FlopCounterMode

from camlib.lab import cost, presets, record
from camlib.lab.runs import RUNS, Run
from camlib.models import create
from camlib.objective import State
from camlib.provenance import device_name

CPU = torch.device("cpu")
RUN = Run("scenes/resnet8/ce", "quick")


@pytest.fixture
def here(tmp_path):
    return lambda run=RUN: cost.of_run(run, CPU, tmp_path, (tmp_path / "records",))


@pytest.fixture
def recorded(tmp_path):
    def add(seconds, memory=10**9, seed=0, device=None, preset="quick", run=RUN.name):
        made = samples.record(
            seed=seed, run=run, preset=preset, wall_seconds=float(seconds), peak_memory_bytes=memory,
            device=device or device_name(CPU), history=[{"seconds": float(seconds)}],
        )  # fmt: skip
        record.append(made, tmp_path / "records")

    return add


@pytest.fixture
def untimed(monkeypatch):
    """A second and a byte a step, without a process; counts how often."""
    calls = []
    monkeypatch.setattr(cost, "_timed", lambda run, device: calls.append(run) or (1.0, 1.0))
    return calls


def test_the_median_of_records_made_on_such_a_device(here, recorded, untimed):
    for seed, (seconds, memory) in enumerate(((100, 1), (120, 3), (900, 2))):
        recorded(seconds, memory, seed)
    recorded(1, device="an accelerator of another kind", seed=3)
    recorded(2, preset="paper", seed=4)
    found = here()
    assert (found.seconds, found.memory, found.source) == (120, 2, "records")
    assert untimed == []


def test_records_of_other_devices_presets_and_runs_say_nothing(here, recorded, untimed):
    recorded(1, device="an accelerator of another kind")
    recorded(2, preset="paper")
    recorded(3, run="scenes/resnet8/cam")
    assert here().source == "timed steps"


def test_timed_steps_count_for_every_step_of_the_schedule(here, untimed):
    """At `quick` 1000 images in batches of 128 over 4 epochs; Scenes has 2000 images, cifar100_tenth 5000."""
    assert here().seconds == 8 * 4
    tenth = RUNS["cifar100_tenth/resnet20/ce"]
    assert here(Run("cifar100_tenth/resnet20/ce", "paper")).seconds == math.ceil(5000 / 128) * tenth.schedule.epochs
    assert here(Run("cub200_few_shot/resnet18/ce", "paper")).seconds == 400 * math.ceil(11788 * 120 / 200 / 16)


def test_timed_steps_are_remembered(here, untimed, tmp_path):
    assert here() == here()
    assert untimed == [RUN]
    assert list(json.loads((tmp_path / "costs.json").read_text()).values()) == [[1.0, 1.0]]
    assert list(tmp_path.iterdir()) == [tmp_path / "costs.json"]


def test_what_another_process_measured_meanwhile_is_kept(tmp_path):
    file = tmp_path / "costs.json"

    def measure():
        file.write_text('{"of another": 3}')
        return {1: 2.5}

    assert cost.remembered(file, RUN, CPU, measure) == {"1": 2.5}
    assert list(json.loads(file.read_text()).values()) == [3, {"1": 2.5}]


def test_checkpoints_hold_weights_and_what_the_optimiser_keeps(here, untimed):
    weights = sum(p.numel() for p in RUNS["scenes/resnet8/ce"].model(10).parameters())
    assert here().disk == 2 * 2 * 4 * weights
    adam = RUNS["cub200_few_shot/resnet18/ce"]
    assert adam.schedule.optimizer == "adam"
    weights = sum(p.numel() for p in adam.model(120).parameters())
    assert here(Run("cub200_few_shot/resnet18/ce", "paper")).disk == 2 * 3 * 4 * weights


def test_what_does_not_fit_has_no_time(here, monkeypatch):
    monkeypatch.setattr(cost, "_timed", lambda run, device: None)
    found = here()
    assert math.isnan(found.seconds)
    assert math.isnan(found.memory)


def test_memory_errors_are_told_from_others():
    assert cost.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert cost.out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not cost.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    "name", ["scenes/resnet8/cam", "scenes_multi/resnet8/icasc", "cifar100/resnet8/ccm_from_resnet20"]
)
def test_steps_are_timed_with_every_term(name, monkeypatch):
    """Several labels, a late term, a teacher: what a step costs is measured on made-up images."""
    seen = []

    def fit(observed, objective, loaders, schedule, **_):
        loader = loaders[0]
        seen.append((len(loader), schedule.epochs, set(objective.terms), objective.teacher is not None))
        images, target = next(iter(loader.batches(0)))
        assert objective(observed, images, target, State(epoch=0))["loss"].isfinite()
        return type("", (), {"wall_seconds": 2.0 * len(loader), "peak_memory_bytes": 7})

    monkeypatch.setattr(cost, "fit", fit)
    run = Run(name, "quick")
    assert cost._measure(run, "cpu", torch.get_num_threads()) == (2.0, 7)
    terms, taught = set(run.experiment.terms), run.experiment.teacher is not None
    assert seen == [(2, 1, terms, taught)]  # two steps of two seconds: twenty would try one's patience
    monkeypatch.setattr(cost, "PATIENCE", 100)
    cost._measure(run, "cpu", torch.get_num_threads())
    assert [count for count, *_ in seen[1:]] == [2, cost.STEPS]


def test_real_steps_in_a_process_of_their_own(tmp_path, monkeypatch):
    found = cost.of_run(RUN, CPU, tmp_path, ())
    assert 0 < found.seconds < math.inf
    assert found.memory > 10**6
    assert presets.PRESETS["quick"](RUNS[RUN.name]) == RUN.experiment


def test_operations_are_counted_for_every_image_and_epoch_three_times():
    """ResNet-20 at 32 pixels: 40.8 million multiplications and as many additions (He et al. 2016 say 41 million)."""
    found = cost.operations(Run("cifar100/resnet20/ce"))
    assert found == pytest.approx(2 * 40.8e6 * 3 * 50_000 * 160, rel=2e-3)
    assert cost.operations(Run("cifar100/resnet20/ce", "short")) == pytest.approx(found * 12 / 160)


@pytest.mark.parametrize("net", ["resnet8", "wrn16_2", "resnext29_8x64d", "vgg16_bn", "resnet18"])
def test_operations_are_those_that_torch_counts(net):
    with torch.device("meta"):
        model, images = create(net, 10).eval(), torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert cost._in_net((net, 10, 3), (32, 32))[0] == counter.get_total_flops()


def test_a_teacher_adds_its_pass():
    alone, taught = (cost.operations(Run(f"cifar100/resnet8/{arm}")) for arm in ("ce", "kd_from_resnet20"))
    teacher = cost.operations(Run("cifar100/resnet20/ce"))
    assert taught == alone + teacher // 3


def test_the_rate_is_that_of_the_device_with_most_records(tmp_path, recorded, monkeypatch):
    recorded(10)
    recorded(20, seed=1)
    recorded(40, seed=2)
    recorded(1, seed=3, device="an accelerator")
    load = record.load
    monkeypatch.setattr(record, "load", lambda name: load(name, tmp_path / "records"))
    monkeypatch.setattr(cost, "REFERENCE", RUN.name)
    assert cost.rate() == (cost.operations(RUN) / 20, device_name(CPU))


@pytest.mark.parametrize(("seconds", "text"), [(89, "89 s"), (91, "2 min"), (5401, "1.5 h"), (180_000, "2.1 d")])
def test_durations(seconds, text):
    assert cost.duration(seconds) == text


def test_what_a_step_keeps_is_counted_by_layer():
    """ResNet-8: what each convolution, batch normalisation, ReLU and the classifier keep of an image of 32 pixels."""
    found = cost.activations(Run("scenes/resnet8/ce")) / RUNS["scenes/resnet8/ce"].batch_size
    first, second, third = 16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8
    # A convolution keeps its input, which is the image or what a ReLU keeps as its output; batch normalisation keeps
    # its input, and for all images of a batch, two here, a mean and a deviation of each of 336 channels.
    relus = first + 2 * (first + second + third)
    normalised = first + 2 * (first + second + third) + second + third  # the last two are the shortcuts'
    assert found == 4 * (3 * 32 * 32 + relus + normalised + 2 * 336 / 2 + 64)


def test_twice_the_batch_keeps_twice_as_much():
    small, large = (cost.activations(Run(f"mnist_batch_{size}/vgg8_slim/cc")) for size in (8, 16))
    assert large == 2 * small
