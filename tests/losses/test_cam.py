"""CAM-loss and its controls against the paper's formulas, as loops in float64 (CAM-loss, Eq. 4–6)."""

import math

import pytest
import torch
from outputs import ROWS, C, H, K, N, W, output, random_output, row_target, stretched
from torch import nn

from camlib.losses import CAMLoss, CrossEntropy, RandomClassCAMLoss, UniformCAMLoss
from camlib.objective import Objective, State
from camlib.observe import Output, observe

rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
powers = pytest.mark.parametrize("p", [1, 2])


def l_cam(maps, weight, rows, p=1, guides=None):
    """L_cam by hand; `guides` replaces the CAMs (lists of H · W numbers) where given."""
    maps, weight = maps.detach().flatten(2).tolist(), weight.tolist()
    total = 0.0
    for n, channels in enumerate(maps):
        positions = range(len(channels[0]))
        caam = [sum(channel[z] for channel in channels) for z in positions]
        cam = [
            sum(
                rows[n][i] * weight[i][k] * channel[z] for i in range(len(weight)) for k, channel in enumerate(channels)
            )
            for z in positions
        ]
        guide = stretched(cam) if guides is None else guides[n]
        distance = [abs(a - b) ** p for a, b in zip(stretched(caam), guide, strict=True)]
        total += sum(distance) / len(distance)
    return total / len(maps)


@rows
@powers
def test_l_cam_is_the_mean_distance_of_the_stretched_maps(rows, p):
    """CAM-loss, Eq. 4."""
    out = random_output()
    expected = l_cam(out.maps[0], out.weight, rows, p)
    assert 0.1 < expected < 1
    assert CAMLoss(p=p)(out, row_target(rows), State()).item() == pytest.approx(expected, rel=1e-12)


@rows
def test_cross_entropy(rows):
    """CAM-loss, Eq. 5, weighted by the row."""
    out = random_output()
    expected = 0.0
    for z, row in zip(out.logits.tolist(), rows, strict=True):
        for i in range(K):
            expected -= row[i] * math.log(math.exp(z[i]) / sum(math.exp(z_j) for z_j in z))
    assert CrossEntropy()(out, row_target(rows).float(), State()).item() == pytest.approx(expected / N, rel=1e-6)


@powers
def test_gradients_flow_through_both_maps(p):
    out = random_output()
    target = row_target(ROWS["mixed"])

    def loss(maps):
        return CAMLoss(p=p)(output(maps, out.weight), target, State())

    assert torch.autograd.gradcheck(loss, (out.maps[0].requires_grad_(),))


@powers
def test_detach_cam_holds_the_guide_fixed(p):
    """The gradient is that of the distance to the guide's present values."""
    out, rows = random_output(), ROWS["mixed"]
    maps = out.maps[0]
    cams = torch.einsum("ni,ik,nkhw->nhw", row_target(rows), out.weight, maps).flatten(1)
    guides = [stretched(cam) for cam in cams.tolist()]
    maps.requires_grad_()
    loss = CAMLoss(p=p, detach_cam=True)(output(maps, out.weight), row_target(rows), State())
    loss.backward()
    for place in [(0, 0, 0, 0), (0, 3, 1, 1), (1, 2, 2, 0), (2, 1, 0, 1)]:
        step = torch.zeros_like(maps).index_put_([torch.tensor(i) for i in place], torch.tensor(1e-6).double())
        up, down = (l_cam(maps.detach() + s * step, out.weight, rows, p, guides) for s in (1, -1))
        assert maps.grad[place].item() == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-9)
    assert loss.item() == pytest.approx(l_cam(maps, out.weight, rows, p), rel=1e-12)


@powers
def test_the_gradient_is_the_sum_of_those_with_either_map_held_fixed(p):
    out, target = random_output(), row_target(ROWS["mixed"])
    maps, gradients = out.maps[0].requires_grad_(), {}
    for held in ({}, {"detach_cam": True}, {"detach_caam": True}):
        loss = CAMLoss(p=p, **held)(output(maps, out.weight), target, State())
        gradients[tuple(held)] = torch.autograd.grad(loss, maps)[0]
    free, *parts = gradients.values()
    assert all(part.abs().max() > 1e-3 for part in parts)
    torch.testing.assert_close(free, sum(parts))


def test_both_maps_held_fixed_leave_nothing_to_train():
    with pytest.raises(ValueError, match="together leave no map to move"):
        CAMLoss(detach_cam=True, detach_caam=True)


def test_cross_entropy_alone_moves_the_classifier_and_both_terms_the_backbone():
    """CAM-loss, Algorithm 1, with the weighted sum of Eq. 6: slopes of the losses computed by hand."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, C, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, K)).double()
    images, rows, alpha = torch.randn(N, 2, 5, 4, dtype=torch.float64), ROWS["mixed"], 3.0

    def losses():
        with torch.no_grad():
            maps = net[1](net[0](images))
        weight, bias = net[4].weight.tolist(), net[4].bias.tolist()
        l_ce = 0.0
        for n in range(N):
            pooled = [sum(channel) / len(channel) for channel in maps[n].flatten(1).tolist()]
            z = [sum(w * f for w, f in zip(weight[i], pooled, strict=True)) + bias[i] for i in range(K)]
            l_ce += sum(rows[n][i] * (math.log(sum(map(math.exp, z))) - z[i]) for i in range(K)) / N
        return l_ce, l_cam(maps, net[4].weight, rows)

    def slope(parameter, place, which):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter[place] += step
                values.append(which(*losses()))
                parameter[place] -= step
        return (values[0] - values[1]) / 2e-6

    objective = Objective(ce=(1.0, CrossEntropy()), cam=(alpha, CAMLoss()))
    parts = objective(observe(net), images, row_target(rows))
    parts["loss"].backward()
    l_ce, l_cam_ = losses()
    assert parts["ce"].item() == pytest.approx(l_ce, rel=1e-6)
    assert parts["cam"].item() == pytest.approx(l_cam_, rel=1e-12)
    assert parts["loss"].item() == pytest.approx(l_ce + alpha * l_cam_, rel=1e-6)
    for place in [(0, 0), (1, 3), (2, 2)]:
        by_ce = slope(net[4].weight, place, lambda ce, cam: ce)
        assert net[4].weight.grad[place].item() == pytest.approx(by_ce, rel=1e-4, abs=1e-7)
        assert abs(slope(net[4].weight, place, lambda ce, cam: cam)) > 1e-3  # which Algorithm 1 leaves out
    for place in [(0, 0, 0, 0), (1, 1, 2, 1), (3, 0, 1, 2)]:
        by_both = slope(net[0].weight, place, lambda ce, cam: ce + alpha * cam)
        assert net[0].weight.grad[place].item() == pytest.approx(by_both, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    "term",
    [
        CAMLoss(),
        CAMLoss(p=2),
        CAMLoss(detach_cam=True),
        CAMLoss(detach_caam=True),
        CAMLoss(attention="grad_cam"),
        CAMLoss(attention="grad_cam_pp"),
        RandomClassCAMLoss(),
    ],
    ids=repr,
)
def test_the_classifier_gets_no_gradient(term):
    out = random_output()
    out.weight.requires_grad_()
    maps = out.maps[0].requires_grad_()
    term(output(maps, out.weight), row_target(ROWS["one-hot"]), State()).backward()
    assert out.weight.grad is None
    assert maps.grad.abs().sum() > 0


def gradient_guides(maps, weight, rows, attention):
    """Grad-CAM and Grad-CAM++ in closed form, stretched: lists of H · W numbers."""
    guides = []
    for n, channels in enumerate(maps.detach().flatten(2).tolist()):
        weights = [sum(rows[n][i] * weight[i][k].item() for i in range(len(weight))) for k in range(len(channels))]
        if attention == "grad_cam":
            weights = [w / len(channels[0]) for w in weights]
        else:
            means = [sum(channel) / len(channel) for channel in channels]
            weights = [max(0, w) / (2 + w * mean) for w, mean in zip(weights, means, strict=True)]
        positions = range(len(channels[0]))
        sums = [sum(w * channel[z] for w, channel in zip(weights, channels, strict=True)) for z in positions]
        guides.append(stretched([max(0, value) for value in sums]))
    return guides


@rows
@powers
@pytest.mark.parametrize("attention", ["grad_cam", "grad_cam_pp"])
def test_a_gradient_map_may_replace_the_cam(rows, p, attention):
    """CAM-loss, §3.1."""
    out = random_output()
    maps = out.maps[0].requires_grad_()
    guides = gradient_guides(maps, out.weight, rows, attention)
    assert sum(map(max, guides)) > 0.9
    found = CAMLoss(p=p, attention=attention)(output(maps, out.weight), row_target(rows), State())
    assert found.item() == pytest.approx(l_cam(maps, out.weight, rows, p, guides), rel=1e-9)


def test_grad_cam_guides_as_the_cam_does_where_that_is_not_negative():
    """Grad-CAM is then CAM / (H · W), and stretching removes the factor but for its eps."""
    out = random_output()
    maps, weight, target = out.maps[0].abs().requires_grad_(), out.weight.abs(), row_target(ROWS["mixed"])
    by_cam, by_grad_cam = (
        CAMLoss(attention=attention)(output(maps, weight), target, State()) for attention in ("cam", "grad_cam")
    )
    assert by_cam.item() == pytest.approx(by_grad_cam.item(), rel=1e-4)
    assert by_cam.item() > 0.01
    (a,), (b,) = torch.autograd.grad(by_cam, maps), torch.autograd.grad(by_grad_cam, maps)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@powers
def test_gradients_flow_through_both_maps_with_grad_cam(p):
    """Its channel weights do not depend on the last maps, so that nothing is left out of the gradient."""
    out = random_output()
    target = row_target(ROWS["mixed"])

    def loss(maps):
        return CAMLoss(p=p, attention="grad_cam")(output(maps, out.weight), target, State())

    assert torch.autograd.gradcheck(loss, (out.maps[0].requires_grad_(),))


def test_gradient_maps_need_gradients():
    with pytest.raises(ValueError, match=r"with gradients enabled, not inside torch\.no_grad"):
        CAMLoss(attention="grad_cam")(random_output(), row_target(ROWS["one-hot"]), State())


@pytest.mark.parametrize("attention", ["cam", "grad_cam", "grad_cam_pp"])
def test_a_step_under_autocast(attention):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, C, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, K))
    images, target = torch.randn(N, 2, 6, 5), torch.tensor(ROWS["one-hot"]).float()
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(CAMLoss(attention=attention)(observe(net)(images), target, State()))
    assert losses[1].dtype == torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=0.02)
    losses[1].backward()
    assert net[0].weight.grad.abs().sum() > 0
    assert net[4].weight.grad is None


@pytest.mark.parametrize("attention", ["CAM", "gradcam", None])
def test_unknown_attention_is_refused(attention):
    with pytest.raises(ValueError, match=f"attention is {attention!r}, expected 'cam', 'grad_cam' or 'grad_cam_pp'"):
        CAMLoss(attention=attention)


def test_attention_shows_in_the_text_of_the_term():
    """Runs of the CAM keep the text they had before there was a choice: it stands in checkpoints."""
    assert repr(CAMLoss()) == "CAMLoss(p=1, detach_cam=False)"
    assert repr(CAMLoss(attention="grad_cam")) == "CAMLoss(p=1, detach_cam=False, attention='grad_cam')"
    assert repr(CAMLoss(detach_caam=True)) == "CAMLoss(p=1, detach_cam=False, detach_caam=True)"


@pytest.mark.parametrize("factor", [1e-2, 1e3])
def test_scaling_the_maps_changes_nothing(factor):
    out = random_output()
    target = row_target(ROWS["one-hot"])
    scaled = CAMLoss()(output(factor * out.maps[0], out.weight), target, State())
    assert scaled.item() == pytest.approx(CAMLoss()(out, target, State()).item(), rel=1e-4)


def rank_1(sign):
    """Every channel shows one pattern s, so that CAAM = (Σ c) s and CAM = (w · c) s."""
    generator = torch.Generator().manual_seed(4)
    pattern = torch.rand(N, 1, H, W, dtype=torch.float64, generator=generator)
    c = torch.rand(C, dtype=torch.float64, generator=generator) + 0.5
    weight = torch.randn(K, C, dtype=torch.float64, generator=generator)
    weight *= sign * (weight @ c).sign()[:, None]
    return output(pattern * c[:, None, None], weight)


def test_rank_1_maps_are_a_trivial_solution():
    """L_cam vanishes where w · c > 0, whatever the pattern; where w · c < 0 the maps are opposites."""
    target = row_target(ROWS["one-hot"])
    assert CAMLoss()(rank_1(1), target, State()) < 1e-5
    assert CAMLoss()(rank_1(-1), target, State()) > 0.1


@pytest.mark.parametrize("term", [CAMLoss(), CAMLoss(p=2), CAMLoss(detach_cam=True), UniformCAMLoss()], ids=repr)
@rows
def test_a_batch_gives_the_mean_over_its_images(term, rows):
    out, target = random_output(), row_target(rows)
    alone = [term(output(out.maps[0][[n]], out.weight), target[[n]], State()).item() for n in range(N)]
    assert term(out, target, State()).item() == pytest.approx(sum(alone) / N, rel=1e-12)
    assert 0 < min(alone) < max(alone) < 1


@pytest.mark.parametrize("term", [CrossEntropy(), CAMLoss(), CAMLoss(p=2), UniformCAMLoss()], ids=repr)
def test_half_precision_maps_give_a_float32_loss(term):
    out = random_output(dtype=torch.float32)
    half = Output(out.logits.bfloat16(), (out.maps[0].bfloat16(),), out.pooled.bfloat16(), out.weight)
    target = torch.tensor(ROWS["mixed"])
    with torch.autocast("cpu", torch.bfloat16):
        loss = term(half, target, State())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(term(out, target, State()).item(), abs=0.02)


def test_only_the_last_maps_count():
    out = random_output()
    more = out._replace(maps=(torch.randn(N, 7, 9, 9), *out.maps))
    target = row_target(ROWS["one-hot"])
    assert torch.equal(CAMLoss()(more, target, State()), CAMLoss()(out, target, State()))


@pytest.mark.parametrize("p", [0, 3, 1.5, "1"])
def test_unknown_distance_is_refused(p):
    with pytest.raises(ValueError, match=f"p is {p}, expected 1 .* or 2"):
        CAMLoss(p=p)


def marked():
    """Channel k is bright at place k alone, the classifier is the identity: a CAM's peak is its class."""
    maps = torch.zeros(N, K, 1, K)
    maps[:, range(K), 0, range(K)] = 1
    return output(maps, torch.eye(K))


@rows
def test_random_class_is_every_class_that_the_target_rules_out(rows):
    torch.manual_seed(0)
    target = torch.tensor(rows).float()
    drawn = [set() for _ in range(N)]
    for _ in range(100):
        for n, place in enumerate(RandomClassCAMLoss().guide(marked(), target).flatten(1).argmax(1).tolist()):
            drawn[n].add(place)
    assert drawn == [{k for k in range(K) if row[k] == 0} for row in rows]


def test_random_class_gives_l_cam_of_the_drawn_class():
    """With two classes there is only one to draw."""
    out = random_output()
    out = output(out.maps[0], out.weight[:2])
    found = RandomClassCAMLoss()(out, row_target([[1, 0], [0, 1], [1, 0]]), State()).item()
    assert found == pytest.approx(l_cam(out.maps[0], out.weight, [[0, 1], [1, 0], [0, 1]]), rel=1e-12)


def test_random_class_follows_the_global_seed():
    out, target = random_output(), row_target(ROWS["one-hot"])
    values = []
    for seed in (1, 1, 2, 3, 4):
        torch.manual_seed(seed)
        values.append(RandomClassCAMLoss()(out, target, State()).item())
    assert values[0] == values[1]
    assert len(set(values)) > 2


def test_random_class_needs_a_class_to_draw():
    target = row_target([[1, 0, 0, 0, 0], [1, 1, 0.5, 1, 1], [0, 1, 0, 0, 0]])
    with pytest.raises(ValueError, match="a target row has every class positive, so no other class can be drawn"):
        RandomClassCAMLoss()(random_output(), target, State())


@powers
def test_uniform_guide_is_one_half(p):
    out = random_output()
    expected = l_cam(out.maps[0], out.weight, ROWS["one-hot"], p, guides=[[0.5] * (H * W)] * N)
    assert UniformCAMLoss(p=p)(out, row_target(ROWS["one-hot"]), State()).item() == pytest.approx(expected, rel=1e-12)
