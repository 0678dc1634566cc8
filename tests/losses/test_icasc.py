"""ICASC's losses against the paper's formulas, as loops in float64 (ICASC, Eq. 2–6 and ICASC, Figures 3 and 6)."""

import math

import pytest
import torch
import torch.nn.functional as F
from outputs import ROWS, row_target
from torch import nn

from camlib.losses import (
    ICASC,
    AttentionConsistency,
    AttentionSeparation,
    CrossEntropy,
    FixedConfuserICASC,
    MultiLabelSoftMargin,
    RandomConfuserICASC,
)
from camlib.losses.icasc import overlap, share_outside, target_region
from camlib.names import UnknownName
from camlib.objective import Objective, State
from camlib.observe import Output, observe
from camlib.target import one_hot

N, K, INNER, C = 3, 5, 6, 4
rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
kinds = pytest.mark.parametrize("kind", ["channel_weighted", "grad_cam"])


class Net(nn.Module):
    """Two stages without batch normalisation, smooth between them, so that finite differences work."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stage = nn.Conv2d(INNER, C, 3, stride=2, padding=1)
        self.fc = nn.Linear(C, K)
        with torch.no_grad():
            self.stage.weight.mul_(8)  # maps that differ from place to place, so that none is negative everywhere

    def forward(self, inner):
        last = F.softplus(self.stage(inner))
        pooled = last.mean((2, 3))
        return Output(self.fc(pooled), (inner, last), pooled, self.fc.weight)


@pytest.fixture
def net():
    return Net().double()


def inner_maps(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(N, INNER, 4, 4, dtype=torch.float64, generator=generator).requires_grad_()


def attention_by_hand(net, inner, layer, row, kind):
    """One image's map as a list of rows: the gradient by finite differences of the score, then the formula."""
    with torch.no_grad():
        last = net(inner[None]).maps[-1][0]
        maps = inner if layer == -2 else last

        def score(changed):
            logits = net(changed[None]).logits[0] if layer == -2 else net.fc(changed.mean((1, 2)))
            return sum(float(logit) * share for logit, share in zip(logits, row, strict=True))

        channels, height, width = maps.shape
        total = [[0.0] * width for _ in range(height)]
        for k in range(channels):
            gradients = []
            for i in range(height):
                for j in range(width):
                    up, down = maps.clone(), maps.clone()
                    up[k, i, j] += 1e-5
                    down[k, i, j] -= 1e-5
                    gradients.append((score(up) - score(down)) / 2e-5)
            if kind == "channel_weighted":
                gradients = [max(g, 0.0) for g in gradients]
            weight = sum(gradients) / len(gradients)
            for i in range(height):
                for j in range(width):
                    total[i][j] += weight * float(maps[k, i, j])
        return [[max(value, 0.0) for value in line] for line in total]


def scaled_by_hand(grid):
    top = max(map(max, grid))
    return [[value / top if top > 0 else value for value in line] for line in grid]


def mask_by_hand(grid):
    top = max(map(max, grid))
    return [[1 / (1 + math.exp(-100 * (value - 0.55 * top))) for value in line] for line in grid]


def resized_by_hand(grid, size):
    """Bilinear, with pixel centres at (i + 1/2)."""
    n = len(grid)

    def at(i):
        place = min(max((i + 0.5) * n / size - 0.5, 0), n - 1)
        low = min(int(place), n - 1)
        return low, min(low + 1, n - 1), place - low

    def value(i, j):
        i0, i1, t = at(i)
        j0, j1, u = at(j)
        top = grid[i0][j0] * (1 - u) + grid[i0][j1] * u
        return top * (1 - t) + (grid[i1][j0] * (1 - u) + grid[i1][j1] * u) * t

    return [[value(i, j) for j in range(size)] for i in range(size)]


def parts_by_hand(net, inner, rows, kind, scale=True):
    """Mean of L_AS^in, of L_AS^la, and of L_AC over the images."""
    sums = [0.0, 0.0, 0.0]
    for image, row in zip(inner.detach(), rows, strict=True):
        logits = net(image[None]).logits[0].tolist()
        others = [k for k in range(K) if row[k] == 0]
        confusing = max(others, key=lambda k: logits[k])
        confusing_row = [float(k == confusing) for k in range(K)]
        maps = {}
        for layer in (-2, -1):
            pair = [attention_by_hand(net, image, layer, r, kind) for r in (row, confusing_row)]
            maps[layer] = [scaled_by_hand(grid) for grid in pair] if scale else pair
        mask = mask_by_hand(maps[-1][0])
        masks = {-1: mask, -2: resized_by_hand(mask, 4)}
        for place, layer in enumerate((-2, -1)):
            shared = total = 0.0
            for a, b, m in zip(*maps[layer], masks[layer], strict=True):
                shared += sum(min(p, q) * r for p, q, r in zip(a, b, m, strict=True))
                total += sum(a) + sum(b)
            sums[place] += 2 * shared / total if total else 0.0
        inside = sum(p * r for a, m in zip(maps[-2][0], masks[-2], strict=True) for p, r in zip(a, m, strict=True))
        total = sum(map(sum, maps[-2][0]))
        sums[2] += 0.8 - (inside / total if total else 0.0)
    return [value / N for value in sums]


@rows
@kinds
@pytest.mark.parametrize("scale", [True, False])
def test_every_part_is_what_the_paper_writes(net, rows, kind, scale):
    """ICASC, Eq. 2–5."""
    expected = parts_by_hand(net, inner_maps(), rows, kind, scale)
    out, target = net(inner_maps()), row_target(rows)
    terms = (
        AttentionSeparation(-2, kind, scale),
        AttentionSeparation(-1, kind, scale),
        AttentionConsistency(attention=kind, scale=scale),
    )
    found = [term(out, target, State()).item() for term in terms]
    assert found == pytest.approx(expected, abs=1e-6)
    assert min(found[:2]) > 0
    total = ICASC(kind, scale=scale)(out, target, State()).item()
    assert total == pytest.approx(sum(expected), abs=1e-6)


@kinds
def test_the_ablation_leaves_parts_out(net, kind):
    """ICASC, Table 3."""
    out, target = net(inner_maps()), row_target(ROWS["one-hot"])
    inner, _, consistency = parts_by_hand(net, inner_maps(), ROWS["one-hot"], kind)
    assert ICASC(kind, (-2,), False)(out, target, State()).item() == pytest.approx(inner, abs=1e-6)
    assert ICASC(kind, (-2,))(out, target, State()).item() == pytest.approx(inner + consistency, abs=1e-6)


def test_separation_is_1_for_one_map_and_0_for_disjoint_ones():
    """ICASC, Eq. 3."""
    one = torch.tensor([[[0.2, 1.0], [0.0, 0.4]]])
    assert overlap(one, one).tolist() == [1.0]
    assert overlap(one, torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])).tolist() == [0.0]
    assert overlap(one, torch.zeros_like(one)).tolist() == [0.0]
    assert overlap(0 * one, 0 * one).tolist() == [0.0]
    assert overlap(7 * one, 7 * one).tolist() == [1.0]  # so 1/Z may stand anywhere


def test_the_total_inside_the_mask_does_not_fall_when_attention_leaves_it():
    """Ours: ICASC, Eq. 3 divides by all of the two maps."""
    pair = torch.tensor([[[0.5, 1.0], [0.0, 0.5]]]), torch.tensor([[[1.0, 0.5], [0.25, 0.0]]])
    mask = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    away = pair[0] + torch.tensor([[[0.0, 0.0], [4.0, 0.0]]])
    assert overlap(*pair, mask).item() == pytest.approx(2 * 0.75 / 3.75)
    assert overlap(away, pair[1], mask).item() == pytest.approx(2 * 0.75 / 7.75)
    inside = 2 * 0.75 / (1.5 + 0.5 * 1.5)
    for first in (pair[0], away):
        assert overlap(first, pair[1], mask, mask_total=True).item() == pytest.approx(inside)


@kinds
def test_separation_with_the_total_inside_the_mask(net, kind):
    out, target = net(inner_maps()), row_target(ROWS["one-hot"])
    found = ICASC(kind, (-1,), consistent=False, mask_total=True)(out, target, State()).item()
    expected = 0.0
    for image, row in zip(inner_maps().detach(), ROWS["one-hot"], strict=True):
        logits = net(image[None]).logits[0].tolist()
        confusing = max((k for k in range(K) if row[k] == 0), key=lambda k: logits[k])
        pair = [
            scaled_by_hand(attention_by_hand(net, image, -1, r, kind))
            for r in (row, [float(k == confusing) for k in range(K)])
        ]
        shared = total = 0.0
        for a, b, m in zip(*pair, mask_by_hand(pair[0]), strict=True):
            shared += sum(min(p, q) * r for p, q, r in zip(a, b, m, strict=True))
            total += sum((p + q) * r for p, q, r in zip(a, b, m, strict=True))
        expected += 2 * shared / total / N
    assert found == pytest.approx(expected, abs=1e-6)


def test_consistency_is_theta_less_the_share_inside():
    """ICASC, Eq. 5."""
    inner = torch.tensor([[[3.0, 1.0]], [[3.0, 1.0]], [[0.0, 0.0]]])
    mask = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 1.0]]])
    torch.testing.assert_close(share_outside(inner, mask), torch.tensor([0.05, -0.2, 0.8]))


def test_the_mask_marks_more_than_55_percent_of_the_maximum():
    """ICASC, Eq. 4."""
    last = torch.tensor([[[1.0, 0.65, 0.55, 0.45]]], requires_grad=True)
    mask = target_region(last, (1, 4))
    assert not mask.requires_grad
    assert (mask[0, 0] > 0.99).tolist() == [True, True, False, False]
    assert mask[0, 0, 2].item() == pytest.approx(0.5, abs=1e-4)
    assert mask[0, 0, 3] < 0.01
    assert target_region(last, (2, 8)).shape == (1, 2, 8)


def test_without_scaling_small_maps_have_a_mask_of_one_half_everywhere():
    last = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0)) / 1e4
    assert (target_region(last, (4, 4)) - 0.5).abs().max() < 0.01


@rows
def test_multi_label_soft_margin(net, rows):
    """ICASC, §3.4."""
    out = net(inner_maps())
    expected = 0.0
    for logits, row in zip(out.logits.tolist(), rows, strict=True):
        for z, share in zip(logits, row, strict=True):
            expected -= share * math.log(1 / (1 + math.exp(-z))) + (1 - share) * math.log(1 / (1 + math.exp(z)))
    found = MultiLabelSoftMargin()(out, row_target(rows).float(), State())
    assert found.item() == pytest.approx(expected / N / K, rel=1e-6)


@kinds
def test_channel_weights_are_constants_and_the_classifier_is_left_alone(net, kind):
    inner = inner_maps()
    out = net(inner)
    ICASC(kind)(out, row_target(ROWS["one-hot"]), State()).backward()
    assert net.fc.weight.grad is None
    assert net.stage.weight.grad.abs().max() > 0
    assert inner.grad.abs().max() > 0


@kinds
@pytest.mark.parametrize("layer", [-2, -1])
def test_gradients_with_channel_weights_held_constant(net, kind, layer):
    """What backward gives is the derivative of the formula with the weights at their values."""
    inner, target = inner_maps(), row_target(ROWS["one-hot"])
    out = net(inner)
    confusing = ICASC(kind).confuser(out, target)
    maps, last = out.maps[layer], out.maps[-1].detach()
    weights = []
    for row in (target, one_hot(confusing, K).double()):
        (gradient,) = torch.autograd.grad((out.logits * row).sum(), maps, retain_graph=True)
        gradient = gradient.relu() if kind == "channel_weighted" else gradient
        weights.append(gradient.mean((2, 3), keepdim=True))
    last_weights = target @ net.fc.weight.detach()
    last_weights = last_weights.relu() if kind == "channel_weighted" else last_weights

    def scaled(grid):
        top = grid.amax((1, 2), keepdim=True)
        return grid / top.where(top > 0, 1)

    region = scaled((last_weights[:, :, None, None] * last).sum(1).relu())
    region = target_region(region, maps.shape[2:])

    def loss(maps):
        return overlap(*(scaled((weight * maps).sum(1).relu()) for weight in weights), region).mean()

    (expected,) = torch.autograd.grad(loss(maps), maps, retain_graph=True)
    (found,) = torch.autograd.grad(AttentionSeparation(layer, kind)(out, target, State()), maps, retain_graph=True)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(loss, maps.detach().requires_grad_())


@kinds
def test_second_order_gradients_reach_the_classifier(net, kind, monkeypatch):
    # The mask is constant by definition, which finite differences do not know.
    monkeypatch.setattr("camlib.losses.icasc.target_region", lambda last, size: torch.ones(N, *size) / 2)
    target = row_target(ROWS["one-hot"])

    def loss(weight, inner):
        out = torch.func.functional_call(net, {"fc.weight": weight}, inner)
        return ICASC(kind, create_graph=True)(out._replace(weight=weight), target, State())

    weight = net.fc.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (weight, inner_maps()))
    (gradient,) = torch.autograd.grad(loss(weight, inner_maps()), weight)
    assert gradient.abs().max() > 0


def test_scaled_loss_does_not_gain_by_shrinking_a_map(net):
    """A factor on the classifier scales every map of the last layer: with scaling, nothing changes."""
    out, target = net(inner_maps()), row_target(ROWS["one-hot"])
    smaller = out._replace(logits=0.1 * out.logits)
    for scale, same in ((True, True), (False, False)):
        term = AttentionSeparation(-1, scale=scale)
        pair = [term(o, target, State()).item() for o in (out, smaller)]
        assert (pair[0] == pytest.approx(pair[1], rel=1e-9)) == same


@kinds
def test_one_image_does_not_depend_on_the_others(net, kind):
    target = row_target(ROWS["multi-hot"])
    together = ICASC(kind)(net(inner_maps()), target, State()).item()
    alone = [ICASC(kind)(net(inner_maps()[n : n + 1]), target[n : n + 1], State()).item() for n in range(N)]
    assert together == pytest.approx(sum(alone) / N, rel=1e-9)


def test_random_confuser_never_draws_a_class_of_the_image(net):
    out, target = net(inner_maps()), row_target(ROWS["multi-hot"])
    torch.manual_seed(0)
    drawn = torch.stack([RandomConfuserICASC().confuser(out, target) for _ in range(200)])
    for n, row in enumerate(ROWS["multi-hot"]):
        assert set(drawn[:, n].tolist()) == {k for k in range(K) if row[k] == 0}
    assert RandomConfuserICASC()(out, target, State()).isfinite()


def test_random_confuser_draws_no_class_that_was_mixed_in(net):
    """However small its share: the image shows it."""
    out = net(inner_maps())
    target = torch.tensor([[0.9, 0.1, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0.3, 0, 0, 0.7]], dtype=torch.float64)
    torch.manual_seed(0)
    drawn = torch.stack([RandomConfuserICASC().confuser(out, target) for _ in range(200)])
    assert [set(column.tolist()) for column in drawn.T] == [{2, 3, 4}, {0, 1, 4}, {0, 2, 3}]


def test_a_fixed_confuser_is_the_one_that_was_given(net):
    out, target = net(inner_maps()), row_target(ROWS["one-hot"])
    term = FixedConfuserICASC((3, 4, 0, 0, 2), separate=(-1,), consistent=False)
    assert term.confuser(out, target).tolist() == [4, 3, 2]
    wanted = one_hot(torch.tensor([4, 3, 2]), K).double()
    most = out._replace(logits=out.logits + 0 * out.pooled.sum() + 100 * wanted)  # what ICASC itself would take then
    expected = ICASC(separate=(-1,), consistent=False)(most, target, State())
    assert term(out, target, State()).item() == pytest.approx(expected.item(), rel=1e-9)
    assert not term.state_dict()


@pytest.mark.parametrize("confusers", [(0, 0, 1, 2, 3), (1, 0, 5, 2, 3), (1, 0, -1, 2, 3)])
def test_a_fixed_confuser_is_another_of_the_classes(confusers):
    with pytest.raises(ValueError, match="the confuser of class"):
        FixedConfuserICASC(confusers)


def test_fixed_confusers_fit_the_target(net):
    out = net(inner_maps())
    with pytest.raises(ValueError, match="confusers for 2 classes, but the target has 5"):
        FixedConfuserICASC((1, 0))(out, row_target(ROWS["one-hot"]), State())
    with pytest.raises(ValueError, match="mixed or multi-hot"):
        FixedConfuserICASC((1, 2, 3, 4, 0))(out, row_target(ROWS["mixed"]), State())


@pytest.mark.parametrize("term", [ICASC, RandomConfuserICASC])
def test_a_row_with_every_class_positive_adds_nothing_to_separation(net, term):
    target = torch.ones(N, K, dtype=torch.float64)
    inner = inner_maps()
    loss = term(consistent=False)(net(inner), target, State())
    loss.backward()
    assert loss.item() == 0
    assert inner.grad.isfinite().all()
    assert term()(net(inner), target, State()).isfinite()


@kinds
@pytest.mark.parametrize("create_graph", [False, True])
def test_equal_logits_and_maps_of_zeros_give_finite_losses_and_gradients(net, kind, create_graph):
    target = row_target(ROWS["one-hot"])
    with torch.no_grad():
        net.fc.weight.zero_()
        net.fc.bias.zero_()
    inner = inner_maps()
    loss = ICASC(kind, create_graph=create_graph)(net(inner), target, State())
    loss.backward()
    assert loss.item() == pytest.approx(0.8)  # nothing overlaps, and nothing lies inside
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert inner.grad.isfinite().all()


def test_equal_logits_take_the_first_other_class(net):
    out = net(inner_maps())
    equal = out._replace(logits=0 * out.logits)
    assert ICASC().confuser(equal, row_target(ROWS["one-hot"])).tolist() == [0, 1, 0]


def test_nothing_to_compute_is_refused():
    with pytest.raises(ValueError, match="nothing is left of the loss"):
        ICASC(separate=(), consistent=False)


def test_unknown_attention_is_refused():
    with pytest.raises(UnknownName, match="grad_cam"):
        ICASC("gradcam")


def test_no_inner_stage_is_refused(net):
    out = net(inner_maps())
    with pytest.raises(ValueError, match="no layer -2: the model shows 1 of its stages"):
        ICASC()(out._replace(maps=out.maps[-1:]), row_target(ROWS["one-hot"]), State())


def test_no_gradients_are_refused(net):
    with torch.no_grad():
        out = net(inner_maps())
    with pytest.raises(ValueError, match="gradients enabled"):
        ICASC()(out, row_target(ROWS["one-hot"]), State())


def test_it_trains_an_observed_net_in_mixed_precision():
    torch.manual_seed(0)
    from camlib import models

    observed = observe(models.create("resnet8", 10))
    images, target = torch.randn(4, 3, 32, 32), one_hot(torch.arange(4), 10)
    with torch.autocast("cpu", torch.bfloat16):
        parts = Objective(ce=(1.0, CrossEntropy()), icasc=(1.0, ICASC()))(observed, images, target)
    parts["loss"].backward()
    assert parts["icasc"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in observed.parameters())
