"""Objectives: which terms are computed when, what they are given, and what is refused (CAM-loss, Eq. 6–7)."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import camlib
from camlib.losses import CAMLoss, CrossEntropy
from camlib.models import create
from camlib.objective import Objective, State, after_accuracy, step_at
from camlib.observe import observe

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGET = camlib.one_hot(torch.tensor([0, 2, 1, 1]), 3)


@pytest.fixture
def observed():
    torch.manual_seed(0)
    return observe(create("resnet8", 3))


class Spy(nn.Module):
    """A term that notes what it is given, and is worth the square of its one parameter."""

    def __init__(self, value=2.0):
        super().__init__()
        self.value, self.calls = nn.Parameter(torch.tensor(value)), []

    def forward(self, out, target, state):
        self.calls.append((out, target, state))
        return self.value.square()


@pytest.mark.parametrize(("start", "value"), [(20, 3.0), (30, 1.0), (0, 2.0)])
def test_step_at(start, value):
    """CAM-loss, Eq. 7: α = 0 for x < t, c for x ≥ t."""
    weight = step_at(start, value)
    assert [weight(State(epoch=x)) for x in range(40)] == [0.0 if x < start else value for x in range(40)]


def test_loss_is_the_weighted_sum_of_the_terms(observed):
    """CAM-loss, Eq. 6: α L_cam + L_ce."""
    objective = Objective(ce=(1.0, CrossEntropy()), cam=(step_at(20, 3.0), CAMLoss()))
    before = objective(observed, IMAGES, TARGET, State(epoch=19))
    after = objective(observed, IMAGES, TARGET, State(epoch=20))
    assert list(before) == ["loss", "ce", "logits"]
    assert list(after) == ["loss", "ce", "cam", "logits"]
    assert before["loss"].item() == before["ce"].item() == after["ce"].item()
    assert after["loss"].item() == pytest.approx(after["ce"].item() + 3 * after["cam"].item(), rel=1e-6)
    assert torch.equal(after["logits"], observed(IMAGES).logits)
    assert after["cam"].item() == CAMLoss()(observed(IMAGES), TARGET, State()).item()
    assert [name for name, value in after.items() if value.requires_grad] == ["loss"]


@pytest.mark.parametrize("off", [0, 0.0, step_at(1, 3.0), after_accuracy(0.5, 1.0), lambda state: 0], ids=range(5))
def test_a_term_of_zero_weight_is_not_computed(observed, off):
    spy = Spy()
    parts = Objective(ce=(1.0, CrossEntropy()), spy=(off, spy))(observed, IMAGES, TARGET, State())
    assert spy.calls == []
    assert "spy" not in parts


def test_terms_see_the_output_the_target_and_the_state(observed):
    spy, state = Spy(), State(epoch=3, train_accuracy=0.25)
    parts = Objective(spy=(lambda state: 1 + state.epoch, spy))(observed, IMAGES, TARGET, state)
    ((out, target, seen),) = spy.calls
    assert isinstance(out, camlib.Output)
    assert target is TARGET
    assert seen == state
    assert parts["spy"].item() == 4
    assert parts["loss"].item() == 16
    parts["loss"].backward()
    assert spy.value.grad.item() == 16


def test_the_model_is_called_once(observed):
    calls = []
    observed.register_forward_hook(lambda *call: calls.append(call))
    Objective(ce=(1.0, CrossEntropy()), one=(1.0, Spy()), two=(1.0, Spy()))(observed, IMAGES, TARGET)
    assert len(calls) == 1


def test_a_plain_function_is_a_term(observed):
    parts = Objective(size=(-0.5, lambda out, target, state: out.pooled.square().mean()))(observed, IMAGES, TARGET)
    assert parts["loss"].item() == pytest.approx(-0.5 * observed(IMAGES).pooled.square().mean().item())
    parts["loss"].backward()
    assert observed.graph.conv1.weight.grad.abs().sum() > 0


def test_after_accuracy_switches_on_above_the_threshold_and_stays_on():
    weight = after_accuracy(0.5, 3.0)
    accuracies = [0.0, 0.5, 0.51, 0.2, 0.9]
    assert [weight(State(x, accuracy)) for x, accuracy in enumerate(accuracies)] == [0.0, 0.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("switched_on", [False, True])
def test_after_accuracy_is_remembered_in_the_state(switched_on):
    def build():
        return Objective(ce=(1.0, CrossEntropy()), cam=(after_accuracy(0.5, 3.0), CAMLoss()))

    first, second = build(), build()
    first.terms["cam"][0](State(5, 0.6 if switched_on else 0.4))
    second.load_state_dict(first.state_dict())
    assert second.terms["cam"][0](State(6, 0.1)) == (3.0 if switched_on else 0.0)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, 50])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}, expected an accuracy between 0 and 1"):
        after_accuracy(threshold, 1.0)


def test_the_teacher_is_frozen_and_seen_by_the_terms(observed):
    torch.manual_seed(1)
    teacher, spy = observe(create("resnet8", 3).train()), Spy()
    objective = Objective(teacher=teacher, spy=(1.0, spy), ce=(1.0, CrossEntropy()))
    objective.train()
    teacher.train()
    running = [buffer.clone() for buffer in teacher.buffers()]
    objective(observed, IMAGES, TARGET)["loss"].backward()
    seen = spy.calls[0][2].teacher
    assert not any(module.training for module in teacher.graph.modules() if isinstance(module, nn.BatchNorm2d))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(tensor.requires_grad for tensor in (seen.logits, seen.maps[-1], seen.pooled, seen.weight))
    assert all(map(torch.equal, running, teacher.buffers()))
    assert torch.equal(seen.logits, teacher(IMAGES).logits)
    assert objective.training
    assert spy.training
    assert observed.graph.conv1.weight.grad.abs().sum() > 0


def test_without_a_teacher_there_is_none(observed):
    spy = Spy()
    Objective(spy=(1.0, spy))(observed, IMAGES, TARGET)
    assert spy.calls[0][2] == State(epoch=0, train_accuracy=0.0, teacher=None)


@pytest.mark.parametrize("weight", [step_at(20, 3.0), after_accuracy(0.5, 3.0)])
def test_a_weight_that_depends_on_the_state_asks_for_one(observed, weight):
    objective = Objective(ce=(1.0, CrossEntropy()), cam=(weight, CAMLoss()))
    with pytest.raises(ValueError, match=r"the weight of 'cam' depends on .* pass camlib\.State\(epoch=epoch\)"):
        objective(observed, IMAGES, TARGET)
    assert "cam" in objective(observed, IMAGES, TARGET, State(epoch=20, train_accuracy=0.6))


def test_parameter_groups():
    own, plain = Spy(), Spy()
    own.optimizer_group = {"lr": 0.5, "weight_decay": 0.0}
    terms = {
        "ce": (1.0, CrossEntropy()),
        "own": (0.0, own),
        "plain": (1.0, plain),
        "f": (1.0, lambda o, t, s: 0),
    }
    teacher = observe(create("resnet8", 3))
    groups = Objective(teacher=teacher, **terms, cam=(after_accuracy(0.5, 1.0), CAMLoss())).parameter_groups()
    assert groups == [{"params": [own.value], "lr": 0.5, "weight_decay": 0.0}, {"params": [plain.value]}]
    assert groups[0]["params"][0] is own.value
    assert Objective(ce=(1.0, CrossEntropy())).parameter_groups() == []


def test_terms_and_weights_move_with_the_objective():
    objective = Objective(spy=(after_accuracy(0.5, 1.0), Spy())).to("meta")
    weight, term = objective.terms["spy"]
    assert weight.switched_on.device.type == term.value.device.type == "meta"


def test_describe_says_what_is_trained():
    objective = Objective(ce=(1.0, CrossEntropy()), cam=(step_at(20, 3.0), CAMLoss(p=2)))
    assert objective.describe() == {
        "ce": "1.0 * CrossEntropy()",
        "cam": "step_at(start=20, value=3.0) * CAMLoss(p=2, detach_cam=False)",
    }
    assert Objective(cam=(after_accuracy(0.5, 3.0), CAMLoss())).describe() == {
        "cam": "after_accuracy(threshold=0.5, value=3.0) * CAMLoss(p=1, detach_cam=False)"
    }


@pytest.mark.parametrize(
    "pair", [CrossEntropy(), (CrossEntropy(), 1.0), (1.0, 2.0), (1.0,), (1.0, CrossEntropy(), 3), None]
)
def test_a_term_is_a_pair_of_weight_and_callable(pair):
    with pytest.raises(ValueError, match=r"term 'ce' is .*, expected \(weight, term\), as \(1.0, CrossEntropy\(\)\)"):
        Objective(ce=pair)


def test_an_objective_needs_a_term():
    with pytest.raises(ValueError, match=r"at least one term, as ce=\(1.0, CrossEntropy\(\)\)"):
        Objective()


@pytest.mark.parametrize("name", ["loss", "logits"])
def test_names_of_results_are_taken(name):
    with pytest.raises(ValueError, match=f"a term cannot be called '{name}'"):
        Objective(**{name: (1.0, CrossEntropy())})


def test_labels_in_place_of_rows_are_refused_with_the_remedy():
    observed, images = observe(create("resnet8", 100)), torch.zeros(128, 3, 8, 8)
    with pytest.raises(ValueError, match="target has shape") as error:
        Objective(ce=(1.0, CrossEntropy()))(observed, images, torch.zeros(128, dtype=torch.int64))
    assert str(error.value) == ("target has shape (128,), expected (128, 100): pass camlib.one_hot(labels, 100)")


def test_the_lines_of_the_readme_train_a_foreign_model():
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf8")
    (lines,) = (block for block in re.findall(r"```python\n(.+?)```", readme, re.DOTALL) if "observe" in block)
    names = {}
    exec(lines, names)
    assert type(names["model"]).__module__.startswith("torchvision.models")
    for parameter in names["model"].parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


def test_the_teacher_moves_with_the_objective_and_is_none_of_its_parts():
    teacher = observe(create("resnet8", 3))
    objective = Objective(teacher=teacher, ce=(1.0, CrossEntropy()))
    assert objective.state_dict() == {}
    assert list(objective.parameters()) == []
    objective.to("meta")
    assert {parameter.device.type for parameter in teacher.parameters()} == {"meta"}


def test_the_teacher_is_named_by_its_weights():
    torch.manual_seed(0)
    teacher = observe(create("resnet8", 3))
    objective = Objective(teacher=teacher, ce=(1.0, CrossEntropy()))
    first = objective.describe()
    assert list(first) == ["ce", "teacher"]
    assert objective.describe() == first
    with torch.no_grad():
        teacher.head.bias[0] += 1e-3
    assert objective.describe()["teacher"] != first["teacher"]


def test_statistics_of_the_teacher_are_part_of_its_name():
    """Two nets of the same weights that normalise differently teach differently."""
    teacher = observe(create("resnet8", 3))
    objective = Objective(teacher=teacher, ce=(1.0, CrossEntropy()))
    first = objective.describe()["teacher"]
    next(module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)).running_mean[0] += 1e-3
    assert objective.describe()["teacher"] != first


def test_mix_runs_the_model_and_gives_the_target(observed):
    """The terms see what `mix` returned, and the history remembers its name."""

    class Halves:
        def __call__(self, model, images, target):
            return model(images / 2), (target + target.flip(0)) / 2

        def __repr__(self):
            return "Halves()"

    spy = Spy()
    objective = Objective(mix=Halves(), spy=(1.0, spy))
    objective(observed, IMAGES, TARGET)
    out, target, _ = spy.calls[0]
    assert torch.equal(out.logits, observed(IMAGES / 2).logits)
    assert torch.equal(target, (TARGET + TARGET.flip(0)) / 2)
    assert objective.describe()["mix"] == "Halves()"


@pytest.mark.parametrize("name", ["loss", "logits", "correct", "images", "accuracy"])
def test_names_that_the_history_needs_are_taken(name):
    with pytest.raises(ValueError, match=f"a term cannot be called '{name}'"):
        Objective(**{name: (1.0, CrossEntropy())})
