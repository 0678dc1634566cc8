"""CC-Loss in all its readings, and MC-Loss, ICAL and FICAL, as loops in float64 (CC-Loss, Tables 1 and 3)."""

import math
from functools import partial

import pytest
import torch
import torch.distributed as dist
from outputs import ROWS, output, random_output, row_target

from camlib.losses import FICAL, ICAL, CCLoss, GateTriplet, MCLoss
from camlib.models import create
from camlib.objective import State
from camlib.observe import Output, observe
from camlib.target import one_hot

C, K = 5, 4
LABELS = [1, 0, 1, 3, 1, 0]
FORMS = {
    "ratio": CCLoss(),
    "normalised": CCLoss("normalised"),
    "hinge": CCLoss("hinge", 0.8),
    "difference": CCLoss("difference"),
}
forms = pytest.mark.parametrize("form", FORMS)


def gates(count, seed=0, channels=C, dtype=torch.float64):
    return torch.rand(count, channels, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def loss(term, gate, labels):
    out = Output(torch.zeros(len(gate), K), (), torch.zeros(len(gate), 2), torch.zeros(K, 2), gate)
    return term(out, one_hot(torch.tensor(labels), K), State())


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def by_hand(form, gate, labels):
    """Over unordered pairs."""
    same, different = [], []
    for i in range(len(labels)):
        for j in range(i):
            (same if labels[i] == labels[j] else different).append(distance(gate[i], gate[j]))

    def mean(values):
        return sum(values) / len(values) if values else 0.0

    if form == "difference":
        return mean(same) - mean(different)
    if form == "normalised":
        return (mean(same) - mean(different)) / math.sqrt(len(gate[0]))
    if form == "hinge":
        return mean(same) + mean([max(0.0, 0.8 - d) for d in different])
    return (mean(same) + 1e-3) / (mean(different) + 1e-3 if different else 1.0)


# CC-Loss


@forms
@pytest.mark.parametrize(
    "labels",
    [LABELS, [0, 1], [2, 2], [0, 1, 2, 3], [3, 3, 3], [0], [k % K for k in range(40)]],
    ids=["both", "one pair apart", "one pair alike", "no positive pair", "one class", "one image", "many"],
)
def test_cc_loss_by_hand(form, labels):
    gate = gates(len(labels)).requires_grad_()
    found = loss(FORMS[form], gate, labels)
    assert found.item() == pytest.approx(by_hand(form, gate, labels), rel=1e-9)
    found.backward()
    assert gate.grad.isfinite().all()
    assert bool(gate.grad.any()) == (len(labels) > 1)


@forms
def test_cc_loss_has_the_gradient_of_its_formula(form):
    assert torch.autograd.gradcheck(lambda gate: loss(FORMS[form], gate, LABELS), gates(6).requires_grad_())


@forms
@pytest.mark.parametrize(("labels", "sign"), [([2, 2], -1), ([0, 1], 1)])
def test_a_step_brings_a_class_together_and_moves_classes_apart(form, labels, sign):
    gate = (gates(2) / 4).requires_grad_()
    loss(FORMS[form], gate, labels).backward()
    moved = gate.detach() - 0.01 * gate.grad / gate.grad.norm()
    assert sign * (distance(*moved) - distance(*gate)) == pytest.approx(0.01 * 2**0.5)


@forms
@pytest.mark.parametrize("count", [6, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_gates_have_finite_gradients(form, count, dtype):
    gate = gates(1, dtype=dtype).expand(count, C).clone().requires_grad_()
    value = loss(FORMS[form], gate, [k % K for k in range(count)])
    value.backward()
    assert value.item() == pytest.approx({"difference": 0, "normalised": 0, "ratio": 1, "hinge": 0.8}[form], abs=1e-3)
    assert gate.grad.abs().max() < 1e-2


def test_distances_of_many_gates_in_single_precision_are_those_of_double():
    """Products of rows are used from 26 rows on; gates lie close together, far from 0."""
    gate = 0.5 + 1e-3 * gates(64, channels=512)
    labels = [k % K for k in range(64)]
    found, expected = (loss(FORMS["ratio"], gate.to(dtype), labels).item() for dtype in (torch.float32, torch.float64))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_gates_that_have_come_together_keep_their_gradient(form):
    """What training ends in: classes far apart, each nearly a point."""
    labels = [k % K for k in range(64)]
    corners = (gates(K, seed=1, channels=64) > 0.5).double()
    gate = corners[labels] + 1e-4 * gates(64, channels=64)
    found, expected = (gate.to(dtype).requires_grad_() for dtype in (torch.float32, torch.float64))
    for rows in (found, expected):
        loss(FORMS[form], rows, labels).backward()
    # What is left is the rounding of the gates themselves.
    assert (found.grad - expected.grad).norm() < 0.01 * expected.grad.norm()


def test_gates_of_half_precision_are_told_apart_in_single():
    gate = gates(40, dtype=torch.bfloat16)
    labels = [k % K for k in range(40)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(FORMS["difference"], gate, labels)
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(loss(FORMS["difference"], gate.double(), labels).item(), rel=1e-5)


def test_nothing_larger_than_the_distances_is_kept():
    sizes = []
    gate = gates(100, channels=300, dtype=torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        loss(FORMS["hinge"], gate, [k % K for k in range(100)])
    assert max(sizes) <= 100 * 300


def test_the_gate_learns_from_cc_loss_and_so_do_the_layers_before_it():
    torch.manual_seed(0)
    model = create("resnet8", K, gate=True)
    out = observe(model)(torch.randn(8, 3, 32, 32))
    CCLoss()(out, one_hot(torch.arange(8) % K, K), State()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.avgpool.parameters())
    assert model.conv1.weight.grad.abs().sum() > 0
    assert model.fc.weight.grad is None


@pytest.mark.parametrize("make", [CCLoss, GateTriplet])
def test_a_net_without_a_gate_is_answered_with_how_to_get_one(make):
    out = observe(create("resnet8", K))(torch.randn(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"no gate: build it with camlib\.models\.create\(…, gate=True\), or put"):
        make()(out, one_hot(torch.tensor([0, 1]), K), State())


# A triplet loss on the gates


def triplet_by_hand(gate, labels, margin):
    unit = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in gate.tolist()]
    losses = []
    for i, label in enumerate(labels):
        same = [math.dist(unit[i], unit[j]) for j in range(len(labels)) if j != i and labels[j] == label]
        others = [math.dist(unit[i], unit[j]) for j in range(len(labels)) if labels[j] != label]
        if same:
            losses.append(max(0.0, margin + max(same) - min(others)) if others else 0.0)
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("labels", [LABELS, [0, 1, 2, 3], [3, 3, 3], [0], [k % K for k in range(40)]])
@pytest.mark.parametrize("margin", [0.2, 0.05, 1.0])
def test_triplet_loss_by_hand(labels, margin):
    gate = gates(len(labels)).requires_grad_()
    found = loss(GateTriplet(margin), gate, labels)
    assert found.item() == pytest.approx(triplet_by_hand(gate, labels, margin), abs=1e-9)
    found.backward()
    assert gate.grad.isfinite().all()


def test_triplet_loss_has_the_gradient_of_its_formula():
    assert torch.autograd.gradcheck(lambda gate: loss(GateTriplet(), gate, LABELS), gates(6).requires_grad_())


def test_triplet_loss_is_0_once_classes_stand_apart():
    gate = torch.eye(K, C, dtype=torch.float64)[LABELS] + 1e-3
    assert loss(GateTriplet(), gate, LABELS).item() == 0
    assert loss(GateTriplet(), gate, [1, 0, 0, 3, 1, 0]).item() > 0.2


@pytest.mark.parametrize("rows", ["mixed", "multi-hot"])
@pytest.mark.parametrize("make", [CCLoss, GateTriplet, partial(FICAL, 5)])
def test_rows_of_several_classes_are_refused(make, rows):
    out = random_output()._replace(gate=gates(3))
    with pytest.raises(
        ValueError, match=r"(CCLoss|GateTriplet|FICAL) needs one class per image, but row 0 of the target is mixed"
    ):
        make()(out, row_target(ROWS[rows]), State())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CCLoss("triplet"), "form is 'triplet', expected one of 'ratio', 'normalised', 'hinge', 'difference'"),
        (lambda: CCLoss("hinge", 0.0), r"margin is 0\.0, expected a finite number above 0"),
        (lambda: CCLoss("hinge", math.inf), "margin is inf, expected a finite number above 0"),
        (lambda: CCLoss("hinge", math.nan), "margin is nan, expected a finite number above 0"),
        (lambda: GateTriplet(0.0), r"margin is 0\.0, expected a finite number above 0"),
        (lambda: MCLoss(channels_per_class=0), "channels_per_class is 0, expected at least 1"),
        (lambda: FICAL(5, rate=1.5), r"rate is 1\.5, expected 0 … 1"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# MC-Loss


XI, H, W = 3, 2, 2


def of_channels(seed=0, count=2):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, K * XI, H, W, dtype=torch.float64, generator=generator)
    return output(maps, torch.zeros(K, K * XI, dtype=torch.float64))


def mc_by_hand(out, labels, mask):
    maps, count = out.maps[-1], len(labels)
    discriminative = diversity = 0.0
    for n, y in enumerate(labels):
        logits = []
        for k in range(K):
            places = [(h, w) for h in range(H) for w in range(W)]
            own = [[maps[n, k * XI + j, h, w].item() for h, w in places] for j in range(XI)]
            highest = [max(mask[k][j] * own[j][p] for j in range(XI)) for p in range(H * W)]
            logits.append(sum(highest) / (H * W))
            shares = [[math.exp(v) / sum(map(math.exp, values)) for v in values] for values in own]
            diversity += sum(max(shares[j][p] for j in range(XI)) for p in range(H * W)) / (K * XI * count)
        discriminative += (math.log(sum(map(math.exp, logits))) - logits[y]) / count
    return 1.5 * discriminative + 20 * (1 - diversity)


def test_mc_loss_in_evaluation_mode_uses_every_channel():
    out, labels = of_channels(), [2, 0]
    found = MCLoss().eval()(out, one_hot(torch.tensor(labels), K).double(), State())
    assert found.item() == pytest.approx(mc_by_hand(out, labels, [[1] * XI] * K), rel=1e-12)


def test_mc_loss_in_training_leaves_out_one_channel_of_each_class():
    """Each of the 3⁴ masks is as likely as any other, and shared by the images of a batch."""
    out, labels = of_channels(), [2, 0]
    keeps = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    values = [mc_by_hand(out, labels, [a, b, c, d]) for a in keeps for b in keeps for c in keeps for d in keeps]
    torch.manual_seed(0)
    term, target = MCLoss(), one_hot(torch.tensor(labels), K).double()
    found = [term(out, target, State()).item() for _ in range(300)]
    assert all(min(abs(value - expected) for expected in values) < 1e-9 for value in found)
    assert len({round(value, 9) for value in found}) > 60
    assert sum(found) / 300 == pytest.approx(sum(values) / 81, abs=4 * torch.tensor(values).std().item() / 300**0.5)


def test_diversity_is_rewarded():
    """Channels of a class at one place against each at its own."""
    together, apart = torch.zeros(2, 1, K * XI, 2, 2)
    together[0, :, 0, 0] = 50
    for channel in range(K * XI):
        apart[0, channel].flatten()[channel % XI] = 50
    term, target = MCLoss(alpha=0, beta=1).eval(), one_hot(torch.tensor([0]), K)
    weight = torch.zeros(K, K * XI)
    assert term(output(together, weight), target, State()).item() == pytest.approx(1 - 1 / XI, abs=1e-6)
    assert term(output(apart, weight), target, State()).item() == pytest.approx(0, abs=1e-6)


def test_mc_loss_has_the_gradient_of_its_formula():
    out, target = of_channels(), one_hot(torch.tensor([2, 0]), K).double()

    def value(maps):
        return MCLoss().eval()(out._replace(maps=(maps,)), target, State())

    assert torch.autograd.gradcheck(value, out.maps[-1].requires_grad_())


def test_mc_loss_on_a_net_with_channels_for_each_class():
    out = observe(create("resnet8", K, channels_per_class=XI))(torch.randn(2, 3, 32, 32))
    value = MCLoss()(out, one_hot(torch.tensor([2, 0]), K), State())
    value.backward()
    assert value.isfinite()


def test_a_net_with_other_channels_is_answered_with_how_to_get_them():
    out = observe(create("resnet8", K))(torch.randn(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"has 64 channels, expected 3 for each of 4 classes: .*channels_per_class=3"):
        MCLoss()(out, one_hot(torch.tensor([0, 1]), K), State())


# ICAL and FICAL


def cosine(a, b):
    a, b = a.tolist(), b.tolist()
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_ical_is_the_mean_cosine_of_the_rows():
    out, target = random_output(), row_target(ROWS["multi-hot"])
    classes = range(len(out.weight))
    expected = sum(cosine(out.weight[i], out.weight[j]) for i in classes for j in classes) / len(classes) ** 2
    assert ICAL()(out, target, State()).item() == pytest.approx(expected, rel=1e-12)


def test_ical_of_rows_that_point_away_from_each_other_is_0():
    weight = torch.tensor([[2.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert ICAL()(Output(torch.zeros(1, 4), (), torch.zeros(1, 2), weight), torch.eye(4)[:1], State()).item() == 0


def fical_by_hand(weight, confusion):
    classes = range(len(weight))
    rates = {(i, j): confusion[i][j] + confusion[j][i] for i in classes for j in classes if i != j}
    mean = sum(rates.values()) / len(rates)
    return sum(rate / mean * cosine(weight[i], weight[j]) for (i, j), rate in rates.items()) / len(weight) ** 2


def test_fical_follows_what_the_net_confuses():
    term = FICAL(5, rate=0.3).double()
    term.confusion.fill_(0.2)  # as it starts, but for the rounding of single precision
    confusion = [[0.2] * 5 for _ in range(5)]
    for step, labels in enumerate([[1, 0, 4], [1, 1, 2], [3, 3, 3]]):
        out = random_output(seed=step)
        found = term(out, one_hot(torch.tensor(labels), 5).double(), State())
        for k in set(labels):
            own = [out.logits[n].softmax(0).tolist() for n in range(3) if labels[n] == k]
            for j in range(5):
                confusion[k][j] += 0.3 * (sum(p[j] for p in own) / len(own) - confusion[k][j])
        assert found.item() == pytest.approx(fical_by_hand(out.weight, confusion), rel=1e-9)
        torch.testing.assert_close(term.confusion, torch.tensor(confusion, dtype=torch.float64))


def test_fical_of_equal_confusion_is_ical_up_to_a_constant():
    out, target = random_output(), row_target(ROWS["one-hot"])
    found = FICAL(5).double().eval()(out, target, State())
    assert found.item() == pytest.approx(ICAL()(out, target, State()).item() - 1 / 5, rel=1e-6)


def test_fical_rests_in_evaluation_mode_and_survives_a_net_that_confuses_nothing():
    term = FICAL(5).double().eval()
    before = term.confusion.clone()
    term(random_output(), row_target(ROWS["one-hot"]), State())
    assert torch.equal(term.confusion, before)
    term.confusion.copy_(torch.eye(5))
    assert term(random_output(), row_target(ROWS["one-hot"]), State()).item() == 0


def test_fical_for_another_number_of_classes():
    with pytest.raises(ValueError, match=r"made for 7 classes, but the net has 5: use FICAL\(num_classes=5\)"):
        FICAL(7)(random_output(), row_target(ROWS["one-hot"]), State())


@pytest.mark.parametrize("term", [ICAL(), FICAL(5).double().eval()], ids=["ICAL", "FICAL"])
def test_angular_losses_have_the_gradient_of_their_formula(term):
    out, target = random_output(), row_target(ROWS["one-hot"])

    def value(weight):
        return term(out._replace(weight=weight), target, State())

    assert torch.autograd.gradcheck(value, out.weight.requires_grad_())


def test_confusion_is_the_same_in_every_process(monkeypatch):
    """Two processes with two images and one end where one process with all three does."""
    out, target = random_output(), row_target(ROWS["one-hot"])
    alone = FICAL(5).double()
    alone(out, target, State())
    parts = [slice(0, 2), slice(2, 3)]
    sums = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: sums.append(tensor.clone()))
    shares = [(out._replace(logits=out.logits[part]), target[part]) for part in parts]
    for share in shares:
        FICAL(5).double()(*share, State())
    together = sum(sums)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.copy_(together))
    for share in shares:
        term = FICAL(5).double()
        term(*share, State())
        torch.testing.assert_close(term.confusion, alone.confusion)
