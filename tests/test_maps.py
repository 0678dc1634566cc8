"""The maps against the paper's sums, written out as loops in float64 (CAM-loss, Eq. 1–3)."""

import math
import re

import pytest
import torch

from camlib.maps import Cells, attend, caam, cam, channel_weighted, cover, grad_cam, grad_cam_pp, minmax, stretch
from camlib.names import UnknownName

N, C, K, H, W = 3, 4, 5, 2, 3
ROWS = {
    "one-hot": [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]],
    "mixed": [[0.3, 0.7, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0]],
    "multi-hot": [[1, 1, 0, 0, 1], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]],
}
rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)


@pytest.fixture
def maps():
    return torch.randn(N, C, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weight():
    return torch.randn(K, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def target_of(rows):
    return torch.tensor(rows, dtype=torch.float64)


def by_loops(entry, shape=(N, H, W)):
    """A map whose value at each place is entry(image, row, column)."""
    values = [[[float(entry(n, y, x)) for x in range(shape[2])] for y in range(shape[1])] for n in range(shape[0])]
    return torch.tensor(values, dtype=torch.float64)


@rows
def test_cam_is_the_weighted_sum_of_the_maps(maps, weight, rows):
    """CAM-loss, Eq. 2: CAM_i(x, y) = Σ_k w_k^i f_k(x, y); other rows mix the CAMs of the classes."""

    def entry(n, y, x):
        return sum(rows[n][i] * weight[i, k] * maps[n, k, y, x] for i in range(K) for k in range(C))

    torch.testing.assert_close(cam(maps, weight, target_of(rows)), by_loops(entry))


def test_mean_of_cam_is_the_logit_without_bias(maps, weight):
    """CAM-loss, Eq. 1: z_i = 1/(HW) Σ_xy Σ_k w_k^i f_k(x, y)."""
    bias = torch.arange(K, dtype=torch.float64)
    logits = torch.nn.functional.linear(maps.mean((2, 3)), weight, bias)
    for i in range(K):
        target = torch.eye(K, dtype=torch.float64)[[i] * N]
        torch.testing.assert_close(cam(maps, weight, target).mean((1, 2)) + bias[i], logits[:, i])


def test_caam_is_the_plain_sum_of_the_maps(maps):
    """CAM-loss, Eq. 3: CAAM(x, y) = Σ_k f_k(x, y)."""
    expected = by_loops(lambda n, y, x: sum(maps[n, k, y, x] for k in range(C)))
    torch.testing.assert_close(caam(maps), expected)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_minmax_stretches_each_map(maps, eps):
    a = maps[:, 0]

    def entry(n, y, x):
        values = [float(a[n, i, j]) for i in range(H) for j in range(W)]
        return (a[n, y, x] - min(values)) / (max(values) - min(values) + eps)

    torch.testing.assert_close(minmax(a, eps), by_loops(entry))


def test_minmax_reaches_0_and_nearly_1_in_every_image(maps):
    stretched = minmax(1e3 * maps[:, 1] - 7)
    assert (stretched.amin((1, 2)) == 0).all()
    assert (stretched.amax((1, 2)) < 1).all()
    assert (stretched.amax((1, 2)) > 1 - 1e-6).all()


def test_minmax_of_a_constant_map_is_0():
    assert torch.equal(minmax(torch.full((2, 3, 3), 7.0)), torch.zeros(2, 3, 3))


def test_gradients_of_cam(maps, weight):
    target = target_of(ROWS["mixed"])
    inputs = (maps.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda f, w: cam(f, w, target), inputs)


def test_gradients_of_caam_and_minmax(maps):
    """Through the minimum and the maximum too."""
    assert torch.autograd.gradcheck(lambda f: minmax(caam(f)), (maps.requires_grad_(),))


@rows
def test_grad_cam_at_the_last_layer_is_relu_of_cam_over_its_size(maps, weight, rows):
    """ICASC, Eq. 1 with ∂Y/∂F = w / Z."""
    maps.requires_grad_()
    target = target_of(rows)
    logits = maps.mean((2, 3)) @ weight.T + 3
    f = maps.detach()

    def entry(n, y, x):
        return max(0, sum(rows[n][i] * weight[i, k] * f[n, k, y, x] for i in range(K) for k in range(C))) / (H * W)

    expected = by_loops(entry)
    assert expected.min() == 0
    assert expected.max() > 0
    torch.testing.assert_close(grad_cam(logits, maps, target), expected)


@rows
def test_grad_cam_at_an_inner_layer(maps, weight, rows):
    """With z_i = Σ_k w_k^i mean(f_k³), the mean gradient of channel k is w_k^i mean(3 f_k²)/(HW)."""
    maps.requires_grad_()
    logits = maps.pow(3).mean((2, 3)) @ weight.T
    f = maps.detach()

    def alpha(n, k):
        gradient = [
            sum(rows[n][i] * weight[i, k] for i in range(K)) * 3 * f[n, k, y, x] ** 2 / (H * W)
            for y in range(H)
            for x in range(W)
        ]
        return sum(gradient) / (H * W)

    expected = by_loops(lambda n, y, x: max(0, sum(alpha(n, k) * f[n, k, y, x] for k in range(C))))
    torch.testing.assert_close(grad_cam(logits, maps, target_of(rows)), expected)


def test_grad_cam_holds_its_channel_weights_constant(maps, weight):
    maps.requires_grad_()
    target = target_of(ROWS["one-hot"])
    logits = maps.pow(3).mean((2, 3)) @ weight.T
    (gradient,) = torch.autograd.grad(logits.mul(target).sum(), maps, retain_graph=True)
    map_ = grad_cam(logits, maps, target)
    (found,) = torch.autograd.grad(map_.sum(), maps, retain_graph=True)
    expected = gradient.mean((2, 3))[:, :, None, None] * (map_ > 0)[:, None]
    torch.testing.assert_close(found, expected)
    logits.sum().backward()  # the graph is still there
    assert maps.grad.abs().sum() > 0


@rows
def test_grad_cam_pp_follows_its_paper(maps, weight, rows):
    """w = Σ alpha relu(∂Y/∂f), alpha = ∂²Y / (2 ∂²Y + Σ f ∂³Y), with Y = exp(score).

    z_i = Σ_k w_k^i mean(r_k f_k) is linear in the maps and has another gradient at each place.
    """
    ramp = torch.linspace(0.1, 3, C * H * W, dtype=torch.float64).view(C, H, W)
    maps = maps.abs().requires_grad_()
    logits = (maps * ramp).mean((2, 3)) @ weight.T
    f, places = maps.detach().tolist(), [(y, x) for y in range(H) for x in range(W)]

    def channel_weight(n, k):
        y = math.exp(sum(rows[n][i] * logits[n, i].item() for i in range(K)))
        total = 0.0
        for a, b in places:
            g = sum(rows[n][i] * weight[i, k].item() for i in range(K)) * ramp[k, a, b].item() / (H * W)
            first, second, third = y * g, y * g**2, y * g**3
            alpha = second / (2 * second + sum(f[n][k][i][j] * third for i, j in places))
            total += alpha * max(0, first)
        return total / y

    expected = by_loops(lambda n, y, x: max(0, sum(channel_weight(n, k) * f[n][k][y][x] for k in range(C))))
    assert expected.max() > 0
    torch.testing.assert_close(grad_cam_pp(logits, maps, target_of(rows)), expected)


@rows
def test_grad_cam_pp_at_the_last_layer(maps, weight, rows):
    """With g = w_k^i / (HW) at every place: relu(Σ_k relu(w_k^i) / (2 + w_k^i F_k) f_k)."""
    f = maps.clone()
    maps.requires_grad_()
    logits = maps.mean((2, 3)) @ weight.T + 3

    def channel_weight(n, k):
        w = sum(rows[n][i] * weight[i, k].item() for i in range(K))
        return max(0, w) / (2 + w * f[n, k].mean().item())

    expected = by_loops(lambda n, y, x: max(0, sum(channel_weight(n, k) * f[n, k, y, x].item() for k in range(C))))
    assert expected.min() == 0 < expected.max()
    torch.testing.assert_close(grad_cam_pp(logits, maps, target_of(rows)), expected)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_channel_weighted_at_the_last_layer_is_the_closed_form(maps, weight, rows):
    """ICASC, Eq. 2 with ∂Y/∂F = w / Z."""
    maps.requires_grad_()
    logits = maps.mean((2, 3)) @ weight.T

    def entry(n, y, x):
        total = 0.0
        for k in range(C):
            score_weight = sum(rows[n][i] * weight[i, k].item() for i in range(K))
            total += max(score_weight, 0) * maps[n, k, y, x].item()
        return max(total, 0) / (H * W)

    torch.testing.assert_close(channel_weighted(logits, maps, target_of(rows)), by_loops(entry))


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_channel_weighted_at_an_inner_layer(maps, weight, rows):
    """ICASC, Eq. 2: every position's gradient is cut off at 0 before the sum, here that of a square."""
    maps.requires_grad_()
    logits = (maps**2).mean((2, 3)) @ weight.T
    values = maps.tolist()

    def channel_weight(n, k):
        total = 0.0
        for y in range(H):
            for x in range(W):
                gradient = sum(rows[n][i] * weight[i, k].item() for i in range(K)) * 2 * values[n][k][y][x] / (H * W)
                total += max(gradient, 0)
        return total / (H * W)

    def entry(n, y, x):
        return max(sum(channel_weight(n, k) * values[n][k][y][x] for k in range(C)), 0)

    torch.testing.assert_close(channel_weighted(logits, maps, target_of(rows)), by_loops(entry))


def test_channel_weighted_holds_its_channel_weights_constant_unless_asked(maps, weight):
    weight.requires_grad_()
    maps.requires_grad_()
    for create_graph in (False, True):
        logits = (maps**2).mean((2, 3)) @ weight.T
        map_ = channel_weighted(logits, maps, target_of(ROWS["one-hot"]), create_graph)
        (to_weight,) = torch.autograd.grad(map_.sum(), weight, allow_unused=True)
        assert (to_weight is not None) == create_graph

    def function(maps):
        return channel_weighted((maps**2).mean((2, 3)) @ weight.T, maps, target_of(ROWS["one-hot"]), True)

    assert torch.autograd.gradcheck(function, maps)


def test_grad_cam_pp_of_tiny_gradients_is_not_lost_in_float32(maps, weight):
    """The cube of 1e-16 is 0 in float32; alpha is 1/2 there."""
    maps, tiny, target = maps.float().abs().requires_grad_(), 1e-16 * weight.float(), torch.tensor(ROWS["mixed"])
    expected = torch.einsum("nc,nchw->nhw", (target @ tiny).relu() / 2, maps.detach())
    torch.testing.assert_close(grad_cam_pp(maps.mean((2, 3)) @ tiny.T, maps, target), expected, rtol=1e-5, atol=0)


def test_grad_cam_pp_holds_its_channel_weights_constant(maps, weight):
    maps = maps.abs().requires_grad_()
    target = target_of(ROWS["one-hot"])
    logits = maps.pow(3).mean((2, 3)) @ weight.T
    (g,) = torch.autograd.grad(logits.mul(target).sum(), maps, retain_graph=True)
    channel_weights = (g.relu() / (2 + g * maps.detach().sum((2, 3), keepdim=True))).sum((2, 3))
    map_ = grad_cam_pp(logits, maps, target)
    (found,) = torch.autograd.grad(map_.sum(), maps)
    torch.testing.assert_close(found, channel_weights[:, :, None, None] * (map_ > 0)[:, None])
    assert found.abs().sum() > 0


def test_a_batch_gives_each_image_its_own_map(maps, weight):
    target = target_of(ROWS["mixed"])

    def all_maps(f, t):
        f = f.detach().requires_grad_()
        logits = f.square().mean((2, 3)) @ weight.T
        return torch.stack([cam(f, weight, t), minmax(caam(f)), grad_cam(logits, f, t), grad_cam_pp(logits, f, t)])

    alone = [all_maps(maps[n : n + 1], target[n : n + 1]) for n in range(N)]
    torch.testing.assert_close(all_maps(maps, target), torch.cat(alone, 1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_maps_are_summed_in_float32(maps, weight, dtype, autocast):
    maps, weight, target = maps.to(dtype), weight.float(), torch.tensor(ROWS["mixed"])
    with torch.autocast("cpu", dtype, enabled=autocast):
        found = cam(maps, weight, target), caam(maps), minmax(caam(maps))
    expected = cam(maps.float(), weight, target), caam(maps.float()), minmax(caam(maps.float()))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, w, t: cam(f[0], w, t), r"maps have shape \(4, 2, 3\), expected \(N, C, H, W\)"),
        (lambda f, w, t: caam(f[0]), r"maps have shape \(4, 2, 3\), expected \(N, C, H, W\)"),
        (
            lambda f, w, t: cam(f, w.T, t),
            r"weight has shape \(4, 5\), expected \(K, 4\) .* last linear layer",
        ),
        (lambda f, w, t: cam(f, w[0], t), r"weight has shape \(4,\), expected \(K, 4\)"),
        (
            lambda f, w, t: cam(f, w, t[:2]),
            r"target has shape \(2, 5\), expected \(3, 5\): pass camlib.one_hot",
        ),
        (lambda f, w, t: cam(f, w, t.argmax(1)), r"target has shape \(3,\), expected \(3, 5\)"),
        (lambda f, w, t: cam(f, w, t.long()), r"target has dtype torch.int64, expected floating-point rows"),
        (lambda f, w, t: minmax(f), r"a has shape \(3, 4, 2, 3\), expected \(N, H, W\)"),
        (lambda f, w, t: grad_cam(t @ w @ w.T, f, t), "do not depend on maps .* with gradients enabled"),
        (lambda f, w, t: grad_cam(f.mean((2, 3)) @ w.T, f.clone(), t), "not computed from these maps"),
        (lambda f, w, t: grad_cam_pp(f.mean((2, 3)) @ w.T, f.clone(), t), "not computed from these maps"),
        (
            lambda f, w, t: grad_cam(f.mean((2, 3)) @ w.T, f, t[:, :2]),
            r"target has shape \(3, 2\), expected \(3, 5\)",
        ),
    ],
)
def test_errors(maps, weight, call, message):
    with pytest.raises(ValueError, match=message):
        call(maps.requires_grad_(), weight, target_of(ROWS["one-hot"]))


@pytest.mark.parametrize("gradient_map", [grad_cam, grad_cam_pp])
def test_gradient_maps_need_gradients(maps, weight, gradient_map):
    with torch.no_grad():
        logits = maps.requires_grad_().mean((2, 3)) @ weight.T
    with pytest.raises(ValueError, match=r"not inside torch\.no_grad"):
        gradient_map(logits, maps, target_of(ROWS["one-hot"]))


@pytest.mark.parametrize("kind", ["gradcam", "grad_cam++", ""])
def test_attention_of_an_unknown_kind_is_refused(maps, kind):
    with pytest.raises(UnknownName, match=f"no kind of attention is called '{re.escape(kind)}'; .*grad_cam"):
        attend(kind, maps, maps)


def test_maps_laid_over_blocks_are_resized_as_torch_does_it():
    maps = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.3
    blocks = Cells(1.5, 4)
    torch.testing.assert_close(
        stretch(maps, (16, 16), blocks),
        torch.nn.functional.interpolate(maps[:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0],
    )
    torch.testing.assert_close(
        cover(masks, (4, 4), blocks), torch.nn.functional.adaptive_avg_pool2d(masks.float(), (4, 4))
    )


def test_a_cell_stands_on_its_pixel_and_holds_what_is_nearest():
    """Cells at pixels 0, 4 and 8 of twelve."""
    maps = torch.tensor([[[0.0, 1.0, 3.0]]])
    assert stretch(maps, (1, 12), Cells(0, 4))[0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3, 3, 3]
    masks = torch.zeros(1, 1, 12)
    masks[..., 2] = 1  # half of it is nearer to the first cell, half to the second
    assert cover(masks, (1, 3), Cells(0, 4))[0, 0].tolist() == pytest.approx([0.5 / 2.5, 0.5 / 4, 0])
    assert torch.equal(stretch(maps, (1, 3)), maps)
