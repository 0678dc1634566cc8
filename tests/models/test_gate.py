"""The gate: squeeze and excitation by loops, its size, and nets that have one."""

import math

import pytest
import torch
import torchvision
from torch import nn

from camlib.models import NETS, Gate, create
from camlib.models.gate import ChannelAttention
from camlib.observe import observe

N, C, H, W, K = 3, 32, 2, 3, 5
SMALL = ["resnet8", "wrn16_2", "vgg8_slim", "vgg16_bn", "resnet18_slim", "resnet18"]  # one of each way to end


def maps(dtype=torch.float64):
    return torch.randn(N, C, H, W, dtype=dtype, generator=torch.Generator().manual_seed(0))


def pixels(count=4, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_channel_attention_by_hand():
    """v = σ(W2 relu(W1 mean_xy f)), of 32 units, as C / 16 are fewer."""
    torch.manual_seed(0)
    attention, f = ChannelAttention(C).double(), maps()
    first, second = attention.squeeze, attention.excite
    found = attention(f)
    assert found.shape == (N, C)
    for n in range(N):
        means = [sum(f[n, c, y, x].item() for y in range(H) for x in range(W)) / (H * W) for c in range(C)]
        units = [
            max(0.0, first.bias[u].item() + sum(first.weight[u, c].item() * means[c] for c in range(C)))
            for u in range(32)
        ]
        for c in range(C):
            z = second.bias[c].item() + sum(second.weight[c, u].item() * units[u] for u in range(32))
            assert found[n, c].item() == pytest.approx(1 / (1 + math.exp(-z)), rel=1e-9)


def test_the_gate_scales_each_channel_of_each_image_by_its_attention():
    torch.manual_seed(0)
    gate, f = Gate(C).double(), maps()
    expected = gate.attention(f)
    found = gate(f)
    for n in range(N):
        for c in range(C):
            torch.testing.assert_close(found[n, c], f[n, c] * expected[n, c])
    assert torch.autograd.gradcheck(gate, f.requires_grad_())


@pytest.mark.parametrize(("channels", "units"), [(2048, 128), (512, 32), (64, 32), (8, 32)])
def test_the_layer_in_between_is_a_sixteenth_but_no_bottleneck(channels, units):
    gate = Gate(channels)
    assert gate.attention.squeeze.out_features == units
    assert sum(p.numel() for p in gate.parameters()) == 2 * channels * units + units + channels


@pytest.mark.parametrize("name", NETS)
def test_every_net_can_have_a_gate(name):
    with torch.device("meta"):
        plain, gated = create(name, 7), create(name, 7, gate=True)
    features = plain.fc.in_features
    units = max(features // 16, 32)
    without = plain.state_dict().keys()
    more = {key: tuple(value.shape) for key, value in gated.state_dict().items() if key not in without}
    assert without < gated.state_dict().keys(), "the names of what both have are the same"
    assert more == {
        "avgpool.gate.attention.squeeze.weight": (units, features),
        "avgpool.gate.attention.squeeze.bias": (units,),
        "avgpool.gate.attention.excite.weight": (features, units),
        "avgpool.gate.attention.excite.bias": (features,),
    }
    out = observe(gated.eval())(torch.zeros(2, 3, 64, 64, device="meta"))
    assert out.gate.shape == out.pooled.shape == (2, features)
    if features == 512:
        assert sum(math.prod(shape) for shape in more.values()) == 33_312


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_gives_the_same_net_with_and_without_gate(name):
    states = []
    for gate in (False, True):
        torch.manual_seed(0)
        states.append(create(name, K, gate=gate).state_dict())
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


@pytest.mark.parametrize("name", SMALL)
def test_a_gated_net_shows_what_scaled_its_maps(name):
    """And the last maps, gated, explain the logits as before (CAM-loss, Eq. 1)."""
    torch.manual_seed(0)
    model = create(name, K, gate=True).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    seen = {}
    model.avgpool.gate.attention.register_forward_pre_hook(lambda module, inputs: seen.update(f=inputs[0].clone()))
    with torch.no_grad():
        model(pixels(size=64))
        expected = model.eval()(pixels(size=64))
    out = observe(model)(pixels(size=64))
    torch.testing.assert_close(out.logits, expected)
    torch.testing.assert_close(out.maps[-1], seen["f"] * out.gate[:, :, None, None])
    assert 0 < out.gate.min() < out.gate.max() < 1
    torch.testing.assert_close(out.pooled, out.maps[-1].mean((2, 3)))
    cam = torch.einsum("ik,nkyx->niyx", out.weight, out.maps[-1])
    torch.testing.assert_close(cam.mean((2, 3)) + model.fc.bias, expected, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(out.gate.square().sum(), list(model.avgpool.parameters()))
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_other_heads_and_grey_images():
    model = create("resnet8", K, in_channels=1, head="cosine", gate=True)
    out = observe(model)(torch.randn(2, 1, 28, 28))
    assert (out.logits.shape, out.gate.shape) == ((2, K), (2, 64))


def test_under_autocast_the_gate_stays_in_single_precision():
    torch.manual_seed(0)
    gate, f = Gate(C), maps(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        attention = gate.attention(f)
    assert attention.dtype == torch.float32
    assert torch.equal(attention, gate.attention(f))


def test_maps_in_half_precision_are_scaled_in_that_of_the_weights():
    torch.manual_seed(0)
    gate, f = Gate(C), maps(torch.bfloat16)
    assert gate(f).dtype == gate.attention(f).dtype == torch.float32
    torch.testing.assert_close(gate(f), gate(f.float()))


@pytest.mark.parametrize("units", [0, -1])
def test_a_gate_without_units_is_refused(units):
    with pytest.raises(ValueError, match=f"units is {units}, expected at least 1"):
        Gate(C, units)


def test_a_narrow_gate_leaves_the_rest_of_the_net_alone():
    torch.manual_seed(0)
    wide = create("resnet8", K, gate=True).state_dict()
    torch.manual_seed(0)
    narrow = create("resnet8", K, gate=True, gate_units=4).state_dict()
    different = {key for key in wide if wide[key].shape != narrow[key].shape or not torch.equal(wide[key], narrow[key])}
    assert {key.rsplit(".", 1)[0] for key in different} == {
        "avgpool.gate.attention.squeeze",
        "avgpool.gate.attention.excite",
    }
    assert narrow["avgpool.gate.attention.squeeze.weight"].shape == (4, 64)


def test_in_front_of_the_pooling_of_torchvisions_net():
    with torch.device("meta"):
        model = torchvision.models.resnet50(num_classes=K).eval()
        model.avgpool = nn.Sequential(Gate(2048), model.avgpool)
    out = observe(model)(torch.zeros(2, 3, 64, 64, device="meta"))
    assert out.gate.shape == out.pooled.shape == (2, 2048)


@pytest.mark.parametrize("classes", [4, 10])
def test_channels_for_each_class(classes):
    torch.manual_seed(0)
    model = create("resnet8", classes, head="no_bias", channels_per_class=3, gate=True)
    out = observe(model)(pixels())
    assert out.maps[-1].shape == (4, 3 * classes, 8, 8)
    assert out.gate.shape == out.pooled.shape == (4, 3 * classes)
    assert out.weight.shape == (classes, 3 * classes)
    assert model.fc.bias is None
    convolution = model.avgpool.expand[0]
    assert convolution.weight.shape == (3 * classes, 64, 1, 1)
    assert out.maps[-1].min() == 0
