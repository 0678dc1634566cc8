"""The losses of the tables against their own papers' formulas, as loops in float64."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from outputs import ROWS, C, H, K, N, W, output, random_output, row_target

from camlib.losses import AMSoftmax, ASoftmax, CenterLoss, CrossEntropy, FocalLoss, LSoftmax, NegativeCAM, SMSoftmax
from camlib.objective import Objective, State
from camlib.observe import Output

rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
LABELS = [row.index(1) for row in ROWS["one-hot"]]
TARGET = row_target(ROWS["one-hot"])


def center_loss():
    centers = torch.randn(K, C, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    term = CenterLoss(K, C).double().eval()
    term.centers.copy_(centers)
    return term


TERMS = [
    center_loss(),
    SMSoftmax(0.5),
    AMSoftmax(),
    LSoftmax().eval(),
    ASoftmax().eval(),
    FocalLoss(),
    NegativeCAM(k=2),
    NegativeCAM("kd", k=2),
]
terms = pytest.mark.parametrize("term", TERMS, ids=repr)
single_label = pytest.mark.parametrize("term", TERMS[:5], ids=repr)


def with_bias(maps, weight):
    """A net's output with the logits of a linear head that has a bias."""
    out = output(maps, weight)
    return out._replace(logits=out.logits + torch.linspace(-1, 2, len(weight), dtype=maps.dtype))


def of_features(pooled, weight):
    return Output(pooled @ weight.T, (), pooled, weight)


def cross_entropy(logits, label):
    return math.log(sum(math.exp(z) for z in logits)) - logits[label]


def length(values):
    return math.sqrt(sum(value * value for value in values))


def cosine(x, w):
    return sum(a * b for a, b in zip(x, w, strict=True)) / (length(x) * length(w))


# Center loss


def test_center_loss_is_the_mean_square_distance_to_the_center_of_the_class():
    term, out = center_loss(), random_output()
    expected = 0.0
    for n, y in enumerate(LABELS):
        expected += sum((out.pooled[n, c].item() - term.centers[y, c].item()) ** 2 for c in range(C)) / N
    assert term(out, TARGET, State()).item() == pytest.approx(expected, rel=1e-12)


def test_centers_follow_the_update_of_their_paper():
    """Wen et al.: Δc_j = Σ_{y_i = j} (c_j - x_i) / (1 + n_j), c_j <- c_j - 0.5 Δc_j, from 0 on."""
    term = CenterLoss(K, C).double()
    centers = [[0.0] * C for _ in range(K)]
    for step, labels in enumerate([[1, 0, 4], [1, 1, 2], [2, 2, 2], [0, 1, 4]]):
        out = random_output(seed=step)
        old = term.centers.clone()
        loss = term(out, F.one_hot(torch.tensor(labels), K).double(), State())
        before = (out.pooled - old[labels]).square().sum(1).mean()
        assert loss.item() == pytest.approx(before.item(), rel=1e-12)  # the centers move after the loss
        for j in range(K):
            own = [out.pooled[n].tolist() for n in range(N) if labels[n] == j]
            for c in range(C):
                centers[j][c] -= 0.5 * sum(centers[j][c] - x[c] for x in own) / (1 + len(own))
        torch.testing.assert_close(term.centers, torch.tensor(centers, dtype=torch.float64))
    assert centers[3] == [0.0] * C  # a class without images


def test_centers_move_alike_whatever_the_weight_of_the_term():
    """And no optimiser moves them."""
    moved = []
    for weight in (0.003, 3.0, 0.0):
        objective = Objective(center=(weight, CenterLoss(K, C)))
        assert objective.parameter_groups() == []
        objective(lambda images: random_output(dtype=torch.float32), None, TARGET.float())
        moved.append(objective.terms["center"][1].centers)
    assert torch.equal(moved[0], moved[1])
    assert moved[0].abs().sum() > 0
    assert moved[2].abs().sum() == 0  # a term of weight 0 is not computed


def test_centers_rest_in_evaluation_mode():
    term = center_loss()
    before = term.centers.clone()
    term(random_output(), TARGET, State())
    assert torch.equal(term.centers, before)


def test_center_loss_draws_features_to_their_centers():
    term, out = center_loss(), random_output()
    features = out.pooled.clone().requires_grad_()
    term(out._replace(pooled=features), TARGET, State()).backward()
    torch.testing.assert_close(features.grad, 2 * (out.pooled - term.centers[LABELS]) / N)


def test_centers_are_the_same_in_every_process(monkeypatch):
    """Two processes with two images and one end where one process with all three does."""
    out = random_output()
    shares = [(out._replace(pooled=out.pooled[part]), TARGET[part]) for part in (slice(0, 2), slice(2, 3))]
    alone, sums = CenterLoss(K, C).double(), []
    alone(out, TARGET, State())
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: sums.append(tensor.clone()))
    for share in shares:
        CenterLoss(K, C).double()(*share, State())
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor.copy_(sum(sums)))
    for share in shares:
        term = CenterLoss(K, C).double()
        term(*share, State())
        torch.testing.assert_close(term.centers, alone.centers, rtol=1e-12, atol=1e-14)


def test_a_net_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"centers have shape \(5, 7\), .* use CenterLoss\(num_classes=5, features=4\)"
    ):
        CenterLoss(K, 7)(random_output(), TARGET, State())


# Margins


def test_sm_softmax_lowers_the_logit_of_the_target():
    out = random_output()
    expected = 0.0
    for z, y in zip(out.logits.tolist(), LABELS, strict=True):
        z[y] -= 0.7
        expected += cross_entropy(z, y) / N
    assert SMSoftmax(0.7)(out, TARGET, State()).item() == pytest.approx(expected, rel=1e-12)


def test_am_softmax_lowers_the_cosine_of_the_target():
    out = random_output()
    expected = 0.0
    for x, y in zip(out.pooled.tolist(), LABELS, strict=True):
        expected += (
            cross_entropy([12 * (cosine(x, w) - 0.2 * (j == y)) for j, w in enumerate(out.weight.tolist())], y) / N
        )
    assert AMSoftmax(scale=12, margin=0.2)(out, TARGET, State()).item() == pytest.approx(expected, rel=1e-12)


def large_margin(pooled, weight, labels, margin, lambda_, unit_rows=False):
    """L-Softmax, or A-Softmax with rows of length 1, by the arc cosine."""
    total = 0.0
    for x, y in zip(pooled.tolist(), labels, strict=True):
        logits = []
        for j, w in enumerate(weight.tolist()):
            norm = length(x) * (1 if unit_rows else length(w))
            if j != y:
                logits.append(norm * cosine(x, w))
                continue
            theta = math.acos(max(-1, min(1, cosine(x, w))))
            k = min(int(theta * margin / math.pi), margin - 1)
            psi = (-1) ** k * math.cos(margin * theta) - 2 * k
            logits.append(norm * (lambda_ * math.cos(theta) + psi) / (1 + lambda_))
        total += cross_entropy(logits, y) / len(labels)
    return total


def at_angles(count):
    """Features of several lengths at angles 0 … pi to the row of their class, which is always class 0."""
    angles = torch.linspace(0, math.pi, count, dtype=torch.float64)
    lengths = torch.linspace(0.5, 3, count, dtype=torch.float64)[:, None]
    weight = torch.tensor([[1.5, 0], [0.3, -0.8], [-1, 1]], dtype=torch.float64)
    return of_features(lengths * torch.stack([angles.cos(), angles.sin()], 1), weight)


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("lambda_", [0.0, 5.0])
@pytest.mark.parametrize(("term", "unit_rows"), [(LSoftmax, False), (ASoftmax, True)])
def test_large_margins(margin, lambda_, term, unit_rows):
    """At 0 and pi, at every multiple of pi / m and between them."""
    out = at_angles(121)
    labels = [0] * len(out.pooled)
    target = F.one_hot(torch.tensor(labels), 3).double()
    loss = term(margin=margin, gamma=1, lambda_min=lambda_).eval()
    loss.steps.fill_(10**12)  # lambda is at its least
    expected = large_margin(out.pooled, out.weight, labels, margin, lambda_, unit_rows)
    assert loss(out, target, State()).item() == pytest.approx(expected, rel=1e-6)


def test_a_larger_angle_is_always_worse():
    """psi falls from 1 to 1 - 2m: with one length and no other class to come near, the loss grows."""
    loss = LSoftmax(margin=4).eval()
    loss.steps.fill_(10**9)
    angles = torch.linspace(0, math.pi, 200, dtype=torch.float64)
    features, weight = torch.stack([angles.cos(), angles.sin()], 1), torch.eye(2, dtype=torch.float64)
    weight[1] = 0
    losses = torch.stack([loss(of_features(x[None], weight), torch.eye(2)[:1], State()) for x in features])
    assert (losses.diff() > 0).all()
    psi = -(losses.exp() - 1).log()
    assert psi[[0, -1]].tolist() == pytest.approx([1, -7])


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (LSoftmax(), lambda n: 1000 * (1 + 2.5e-5 * n) ** -35),
        (LSoftmax(gamma=0.1, lambda_min=2), lambda n: max(2, 1000 * (1 + 0.1 * n) ** -35)),
        (ASoftmax(), lambda n: max(5, 1000 / (1 + 0.12 * n))),
    ],
    ids=["L-Softmax", "L-Softmax with a floor", "A-Softmax"],
)
def test_lambda_falls_with_the_steps_of_training(term, expected):
    out = random_output()
    for n in (1, 2, 3, 8001):
        term.steps.fill_(n - 1)
        by_hand = large_margin(out.pooled, out.weight, LABELS, 4, expected(n), isinstance(term, ASoftmax))
        assert term.train()(out, TARGET, State()).item() == pytest.approx(by_hand, rel=1e-5)
        assert term.steps == n
        assert term.eval()(out, TARGET, State()).item() == pytest.approx(by_hand, rel=1e-5)
        assert term.steps == n  # no step of training


@pytest.mark.parametrize("term", [CenterLoss(K, C), LSoftmax(gamma=0.1), ASoftmax()], ids=repr)
def test_a_resumed_run_goes_on_where_it_stopped(term):
    for step in range(3):
        term(random_output(step, torch.float32), TARGET.float(), State())
    resumed = {CenterLoss: lambda: CenterLoss(K, C), LSoftmax: lambda: LSoftmax(gamma=0.1), ASoftmax: ASoftmax}[
        type(term)
    ]()
    fresh = resumed(random_output(3, torch.float32), TARGET.float(), State()).item()
    resumed.load_state_dict(term.state_dict())
    losses = [one(random_output(3, torch.float32), TARGET.float(), State()).item() for one in (term, resumed)]
    assert losses[0] == losses[1] != fresh


@pytest.mark.parametrize("margin", [1, 4])
def test_without_a_margin_or_before_it_grows_this_is_softmax(margin):
    out = with_bias(random_output().maps[0], random_output().weight)
    plain = CrossEntropy()(random_output(), TARGET.float(), State()).item()
    tolerance = 1e-6 if margin == 1 else 0.02
    assert LSoftmax(margin).eval()(out, TARGET, State()).item() == pytest.approx(plain, rel=tolerance)


@pytest.mark.parametrize("term", [AMSoftmax(), ASoftmax().eval()], ids=repr)
def test_lengths_of_rows_do_not_count(term):
    out = random_output()
    scaled = of_features(out.pooled, out.weight * torch.linspace(0.1, 9, K, dtype=torch.float64)[:, None])
    assert term(scaled, TARGET, State()).item() == pytest.approx(term(out, TARGET, State()).item(), rel=1e-12)


@pytest.mark.parametrize("term", [LSoftmax(), ASoftmax(), AMSoftmax()], ids=repr)
@pytest.mark.parametrize("factor", [0.0, 1.0, -1.0, 1e-30])
def test_gradients_are_finite_at_angles_0_and_pi_and_without_features(term, factor):
    weight = random_output(dtype=torch.float32).weight
    features = (factor * weight[LABELS]).requires_grad_()
    weight.requires_grad_()
    loss = term(of_features(features, weight), TARGET.float(), State())
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_am_softmax_without_features_has_a_slope_that_a_step_survives():
    """The direction of a vector of zeros is not defined; its slope is 1 / eps of the scaling to length 1, 1e5."""
    weight = random_output(dtype=torch.float32).weight
    features = torch.zeros(N, C, requires_grad=True)
    AMSoftmax(scale=30.0)(of_features(features, weight), TARGET.float(), State()).backward()
    slope = features.grad.norm(dim=1)
    assert (slope > 0).all()
    assert (slope < 2 * 30 / N / 1e-5).all()


# Focal loss


@rows
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss(rows, gamma):
    """-Σ T_k (1 - p_k)^γ log p_k."""
    out = random_output()
    expected = 0.0
    for z, row in zip(out.logits.tolist(), rows, strict=True):
        for k in range(K):
            p = math.exp(z[k]) / sum(map(math.exp, z))
            expected -= row[k] * (1 - p) ** gamma * math.log(p) / N
    assert FocalLoss(gamma)(out, row_target(rows), State()).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_a_sure_and_of_a_hopeless_class_has_finite_gradients(gamma):
    logits = torch.tensor([[200.0, 0, 0], [0, 200.0, 0]], requires_grad=True)
    loss = FocalLoss(gamma)(Output(logits, (), None, None), torch.eye(3)[[0, 0]], State())
    loss.backward()
    assert loss.item() == pytest.approx(100)
    assert logits.grad.isfinite().all()
    assert logits.grad[1].tolist() == pytest.approx([-0.5, 0.5, 0])


# NegativeCAM


def strongest_negative_cams(out, bias, row, n, k):
    """The CAMs with bias of the k classes of largest sum among those that the row rules out."""
    maps, weight = out.maps[-1][n].flatten(1).tolist(), out.weight.tolist()
    cams = []
    for i in range(K):
        if row[i] == 0:
            positions = range(H * W)
            cams.append([sum(w * f[z] for w, f in zip(weight[i], maps, strict=True)) + bias[i] for z in positions])
    return sorted(cams, key=sum)[-k:]


@rows
@pytest.mark.parametrize("k", [1, 2])
def test_negative_cam(rows, k):
    """Sun et al.: the mean of the squared CAMs, or the cross-entropy of their softmax to a uniform map."""
    out = with_bias(random_output().maps[0], random_output().weight)
    bias = torch.linspace(-1, 2, K, dtype=torch.float64).tolist()
    mse, kd = 0.0, 0.0
    for n, row in enumerate(rows):
        for cam in strongest_negative_cams(out, bias, row, n, k):
            mse += sum(value**2 for value in cam) / (H * W) / k / N
            kd += sum(cross_entropy(cam, z) for z in range(H * W)) / (H * W) / N
    assert NegativeCAM("mse", k)(out, row_target(rows), State()).item() == pytest.approx(mse, rel=1e-12)
    assert NegativeCAM("kd", k)(out, row_target(rows), State()).item() == pytest.approx(kd, rel=1e-12)


@pytest.mark.parametrize("form", ["mse", "kd"])
def test_negative_cam_moves_the_classifier_too(form):
    out = random_output()
    weight, maps = out.weight.requires_grad_(), out.maps[0].requires_grad_()
    NegativeCAM(form, k=2)(output(maps, weight), TARGET, State()).backward()
    assert weight.grad.abs().sum() > 0
    assert maps.grad.abs().sum() > 0


def test_more_classes_than_a_row_rules_out_are_refused():
    with pytest.raises(ValueError, match="k is 3, but a target row rules out only 2 of 5 classes"):
        NegativeCAM(k=3)(random_output(), row_target(ROWS["multi-hot"]), State())


# All of them


@terms
def test_gradients(term):
    """With a bias in the head, so that a part of the logits does not come from W and f."""

    def loss(maps, weight):
        return term(with_bias(maps, weight), TARGET, State())

    out = random_output()
    assert torch.autograd.gradcheck(loss, (out.maps[0].requires_grad_(), out.weight.requires_grad_()))


@terms
def test_a_batch_gives_the_mean_over_its_images(term):
    out = random_output()
    alone = [term(output(out.maps[0][[n]], out.weight), TARGET[[n]], State()).item() for n in range(N)]
    assert term(out, TARGET, State()).item() == pytest.approx(sum(alone) / N, rel=1e-12)
    assert min(alone) < max(alone)


@terms
def test_half_precision_gives_a_float32_loss(term):
    out = random_output()
    half = Output(out.logits.bfloat16(), (out.maps[0].bfloat16(),), out.pooled.bfloat16(), out.weight.float())
    term = center_loss().float() if isinstance(term, CenterLoss) else term
    with torch.autocast("cpu", torch.bfloat16):
        loss = term(half, TARGET.float(), State())
    exact = Output(*(half.logits.float(), (half.maps[0].float(),), half.pooled.float(), half.weight))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(term(exact, TARGET.float(), State()).item(), rel=1e-6)


@single_label
@pytest.mark.parametrize("rows", [ROWS["mixed"], ROWS["multi-hot"]], ids=["mixed", "multi-hot"])
def test_one_class_per_image_is_needed(term, rows):
    with pytest.raises(ValueError, match=rf"{type(term).__name__} needs one class per image, but row 0"):
        term(random_output(), row_target(rows), State())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CenterLoss(K, C, rate=1.5), r"rate is 1\.5, expected 0 … 1"),
        (lambda: SMSoftmax(-0.1), r"margin is -0\.1, expected at least 0"),
        (lambda: AMSoftmax(scale=0), r"scale is 0 and margin 0\.35, expected a positive scale"),
        (lambda: AMSoftmax(margin=-1), r"scale is 30\.0 and margin -1, expected a positive scale"),
        (lambda: LSoftmax(2.5), r"margin is 2\.5, expected a whole number from 1"),
        (lambda: ASoftmax(0), "margin is 0, expected a whole number from 1"),
        (lambda: LSoftmax(gamma=-1), "gamma is -1 and lambda_min 0.0, expected 0 or more"),
        (lambda: FocalLoss(-1), "gamma is -1, expected at least 0"),
        (lambda: NegativeCAM("l2"), "form is 'l2', expected 'mse' or 'kd'"),
        (lambda: NegativeCAM(k=0), "k is 0, expected at least 1"),
    ],
)
def test_unknown_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_settings_show_in_the_text_of_the_term():
    built = CenterLoss(5, 4), SMSoftmax(0.5), AMSoftmax(), LSoftmax(), ASoftmax(), FocalLoss(), NegativeCAM()
    assert [repr(term) for term in built] == [
        "CenterLoss(num_classes=5, features=4, rate=0.5)",
        "SMSoftmax(margin=0.5)",
        "AMSoftmax(scale=30.0, margin=0.35)",
        "LSoftmax(margin=4, gamma=2.5e-05, lambda_min=0.0)",
        "ASoftmax(margin=4, gamma=0.12, lambda_min=5.0)",
        "FocalLoss(gamma=2.0)",
        "NegativeCAM(form='mse', k=10)",
    ]
