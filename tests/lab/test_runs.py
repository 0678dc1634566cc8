"""Runs: one name for every training, whose experiment can be built and trained.

The protocols themselves are held against the papers by the sheets, see `test_sheets`.
"""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from camlib.data import manifest
from camlib.data.augment import AUGMENTATIONS
from camlib.data.stream import TRANSFORMS
from camlib.lab import runs
from camlib.lab.arms import ARMS, with_arm
from camlib.lab.experiment import CROSS_ENTROPY, Experiment, call
from camlib.lab.presets import PRESETS
from camlib.lab.runs import RUNS, Run, canonical
from camlib.losses import CAMLoss, CCLoss, CrossEntropy
from camlib.models import HEADS, NETS
from camlib.names import UnknownName
from camlib.objective import State, after_accuracy, step_at
from camlib.observe import observe
from camlib.train import Schedule

HEAD = nn.Linear(64, 100)


def test_no_two_names_stand_for_one_experiment():
    texts = [repr(experiment) for experiment in RUNS.values()]
    assert len(set(texts)) == len(texts)


def test_a_name_is_setting_net_and_arm():
    for name, experiment in RUNS.items():
        setting, net, arm = name.split("/")
        assert net == experiment.net
        assert experiment.data.split("_")[0] == setting.split("_")[0]
        method = arm.split("_from_")[0]
        assert set(method.split("+")) <= set(ARMS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", RUNS)
def test_every_experiment_can_be_built_and_recorded(name, preset):
    experiment = Run(name, preset).experiment
    described = experiment.objective(HEAD).describe()
    assert set(described) - {"mix"} == set(experiment.terms)
    assert "<" not in "".join(described.values()), "a size that was not filled in"
    assert experiment.data in manifest()
    assert experiment.net in NETS
    assert experiment.head in HEADS
    assert experiment.transform is None or experiment.transform in TRANSFORMS
    assert set(experiment.augment) <= set(AUGMENTATIONS)
    assert callable(experiment.tester())
    json.dumps(asdict(experiment.schedule), allow_nan=False)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", [name for name, experiment in RUNS.items() if experiment.start or experiment.teacher])
def test_a_net_to_start_from_or_to_learn_from_fits(name, preset):
    experiment = Run(name, preset).experiment
    if experiment.start:
        assert Run(experiment.start, preset).experiment.net == experiment.net
    if experiment.teacher:
        teacher = Run(experiment.teacher, preset).experiment
        assert (teacher.data, teacher.teacher) == (experiment.data, None)


@pytest.mark.parametrize("arm", ARMS)
def test_at_quick_every_objective_gives_a_finite_loss_and_gradient(arm):
    torch.manual_seed(0)
    experiment = PRESETS["quick"](with_arm(RUNS["scenes/resnet8/ce"], arm))
    observed = observe(experiment.model(10)).train()
    distilled = {"kd", "at", "ccm"} & set(experiment.terms)
    teacher = observe(RUNS["scenes/resnet8/ce"].model(10)) if distilled else None
    images, target = torch.randn(4, 3, 32, 32), torch.eye(10)[:4]
    late = State(epoch=10**6, train_accuracy=1.0)
    loss = experiment.objective(observed.head, teacher)(observed, images, target, late)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in observed.parameters())


def test_arms_add_to_what_an_experiment_has():
    base = Experiment("resnet20", "cifar100", Schedule(epochs=160))
    both = with_arm(base, "cutmix+cam")
    assert both.augment == ("crop", "flip", "cutmix")
    assert both.terms == CROSS_ENTROPY | {"cam": (call(step_at, start=20, value=3.0), call(CAMLoss))}
    assert with_arm(base, "l_softmax").terms.keys() == {"ce"}
    assert with_arm(base, "cc") == replace(base, gate=True, terms=CROSS_ENTROPY | {"cc": (1.0, call(CCLoss))})
    with pytest.raises(UnknownName, match=r"no arm is called 'camm'; the nearest: cam"):
        with_arm(base, "camm")


def test_each_call_builds_a_fresh_term():
    experiment = RUNS["cifar100/resnet20/cam"]
    terms = [experiment.objective(HEAD).terms["cam"][1] for _ in range(2)]
    assert terms[0] is not terms[1]


def test_calls_of_one_function_with_the_same_arguments_are_equal():
    assert call(CAMLoss, p=2) == call(CAMLoss, p=2) != call(CAMLoss)
    assert call(CrossEntropy) != call(CAMLoss)


# One name for one training


def test_a_preset_that_makes_one_experiment_of_two_has_one_name_for_them():
    assert canonical(Run("cifar100/resnet56/cam", "short", 3)) == Run("cifar100/resnet20/cam", "short", 3)
    assert canonical(Run("cifar100/resnet56/cam", "paper")) == Run("cifar100/resnet56/cam", "paper")
    teacher = Run("cifar100/wrn16_4/kd_from_wrn28_4", "short").experiment.teacher
    assert teacher == canonical(Run("cifar100/wrn28_4/ce", "short")).name == "cifar100/wrn28_10/ce"


def test_a_run_whose_short_protocol_is_its_whole_one_is_recorded_as_that():
    assert canonical(Run("scenes/resnet8/icasc", "short", 1)) == Run("scenes/resnet8/icasc", "paper", 1)
    assert canonical(Run("scenes/resnet8/icasc", "quick", 1)).preset == "quick"


def test_the_one_name_stays_the_same():
    for name in RUNS:
        for preset in PRESETS:
            one = canonical(Run(name, preset))
            assert canonical(one) == one
            assert repr(one.experiment) == repr(Run(name, preset).experiment)


def test_unknown_names_answer_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no run is called 'cifar100/resnet56/kam'.*cifar100/resnet56/cam"):
        canonical(Run("cifar100/resnet56/kam"))
    with pytest.raises(UnknownName, match=r"no preset is called 'quik'; the nearest: quick"):
        canonical(Run("cifar100/resnet56/cam", "quik"))


def test_a_run_tells_its_path_and_its_command():
    run = Run("scenes/resnet8/ce", "quick", 3)
    assert run.path == "scenes/resnet8/ce/quick/seed-3"
    assert run.command == "python -m camlib run scenes/resnet8/ce --preset quick --seed 3"


def test_a_weight_that_names_no_epoch_stays():
    adaptive = (call(after_accuracy, threshold=0.5, value=3.0), call(CAMLoss))
    assert RUNS["cifar100/resnet20/cam_adaptive"].terms["cam"] == adaptive
    assert RUNS["cifar100/resnet20/cam_adaptive"].lasting(30).terms["cam"] == adaptive


@pytest.mark.parametrize(
    ("epochs", "milestones", "start"),
    [(160, (81, 122), 20), (30, (15, 23), 4), (80, (41, 61), 10), (4, (2, 3), 1), (320, (162, 244), 40)],
)
def test_epochs_that_are_named_move_in_proportion(epochs, milestones, start):
    """Rounded half up: 122 · 30/160 = 22.875, 81 · 80/160 = 40.5, 20 · 4/160 = 0.5."""
    schedule = Schedule(epochs=160, annealing="steps", milestones=(81, 122))
    moved = with_arm(Experiment("resnet110", "cifar100", schedule), "cam").lasting(epochs)
    assert (moved.schedule.epochs, moved.schedule.milestones) == (epochs, milestones)
    assert moved.terms["cam"] == (call(step_at, start=start, value=3.0), call(CAMLoss))


def test_all_settings_are_reached_from_the_module():
    assert runs.FIVE == ("ce", "cam", "icasc", "gate", "cc")
    assert all(f"cifar100_tenth/resnet20/{arm}" in RUNS for arm in runs.FIVE)


def test_a_protocol_is_said_in_one_line():
    """CAM-loss, §4.2 and Table 6; ICASC, A.2."""
    assert RUNS["cifar100/resnet56/cam"].protocol == (
        "resnet56 on cifar100; 160 epochs, batch 128; SGD, momentum 0.9, rate 0.1 by cosine, weight decay 0.0001; "
        "crop, flip"
    )
    assert RUNS["cub200_icasc/resnet50/icasc"].protocol == (
        "resnet50 on cub200; 90 epochs, batch 10; SGD, momentum 0.9, rate 0.001, times 0.1 at epochs 30, 60, weight "
        "decay 0.0005; cub_448; starts from imagenet/resnet50/ce"
    )
    few = RUNS["cub200_few_shot/resnet18/ce"].protocol
    assert few.endswith("batch 16; Adam, rate 0.001 throughout, weight decay 0; few_shot; cosine classifier")
    assert "; dropout" in RUNS["cifar100_isda/wrn28_10/ce"].protocol
    assert "first 1,200 images" in RUNS["mnist_few/vgg8_slim/ce"].protocol
    assert "; teacher cifar100/resnet20/ce" in RUNS["cifar100/resnet8/kd_from_resnet20"].protocol
    assert "; ManifoldMixup()" in RUNS["cifar100/resnet56/manifold_mixup"].protocol


def test_an_objective_is_said_in_one_line():
    """CAM-loss, Eq. 6 and 7."""
    text = RUNS["cifar100/resnet56/cam_detached"].terms_text
    assert text == "1 CrossEntropy() + step_at(start=20, value=3.0) CAMLoss(detach_cam=True)"
    assert RUNS["cifar100/resnet56/ce"].terms_text == "1 CrossEntropy()"


def test_no_two_experiments_read_alike():
    """What a page prints of a run, its protocol and its objective, is all that tells it from every other."""
    printed: dict[tuple[str, str], str] = {}
    for name, experiment in RUNS.items():
        said = experiment.protocol, experiment.terms_text
        assert said not in printed, f"{name} reads like {printed.get(said)}: {said}"
        printed[said] = name
