"""Attention of an observed net: the short way at the last layer is the long one, for any classifier (ICASC, §3.1)."""

import pytest
import torch

from camlib import models, observe, one_hot
from camlib.attention import KINDS, attention, run_for_attention
from camlib.maps import channel_weighted, grad_cam, grad_cam_pp
from camlib.names import UnknownName

LONG = {"grad_cam": grad_cam, "grad_cam_pp": grad_cam_pp, "channel_weighted": channel_weighted}
kinds = pytest.mark.parametrize("kind", KINDS)


def output(head="linear"):
    torch.manual_seed(0)
    observed = observe(models.create("resnet8", 5, head=head)).double().eval()
    return observed(torch.randn(3, 3, 32, 32, dtype=torch.float64))


@pytest.fixture
def target():
    return one_hot(torch.tensor([4, 0, 2]), 5).double()


@kinds
@pytest.mark.parametrize("layer", [-3, -2, -1, 0, 2])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_it_is_the_map_of_that_name(target, kind, layer, head):
    out = output(head)
    expected = LONG[kind](out.logits, out.maps[layer], target)
    assert expected.max() > 0
    torch.testing.assert_close(attention(out, target, layer, kind), expected)


@kinds
def test_closed_forms_of_a_linear_classifier(target, kind):
    out = output()
    weight = (target @ out.weight)[:, :, None, None].detach()
    maps = out.maps[-1]
    size = maps[0, 0].numel()
    expected = {
        "grad_cam": (weight * maps).sum(1).relu() / size,
        "grad_cam_pp": (weight.relu() / (2 + weight.relu() * maps.mean((2, 3), keepdim=True)) * maps).sum(1).relu(),
        "channel_weighted": (weight.relu() * maps).sum(1).relu() / size,
    }
    torch.testing.assert_close(attention(out, target, kind=kind), expected[kind])


@kinds
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_at_the_last_layer_nothing_goes_back_through_the_net(target, kind, head):
    out = output(head)
    torch.manual_seed(0)
    observed = observe(models.create("resnet8", 5, head=head)).double().eval()
    cut = run_for_attention(observed, torch.randn(3, 3, 32, 32, dtype=torch.float64))
    assert not any(maps.requires_grad for maps in cut.maps)
    torch.testing.assert_close(cut.logits, out.logits)
    torch.testing.assert_close(attention(cut, target, kind=kind), attention(out, target, kind=kind))


def test_gradients_reach_the_classifier_only_when_asked(target):
    out = output()
    for create_graph in (False, True):
        total = attention(out, target, create_graph=create_graph).sum()
        (gradient,) = torch.autograd.grad(total, out.weight, retain_graph=True, allow_unused=True)
        assert (gradient is not None) == create_graph


def test_what_cannot_be_is_refused(target):
    out = output()
    with pytest.raises(UnknownName, match="grad_cam"):
        attention(out, target, kind="gradcam")
    with pytest.raises(ValueError, match="no layer -4: the model shows 3 of its stages"):
        attention(out, target, -4)
    with torch.no_grad(), pytest.raises(ValueError, match="gradients enabled"):
        attention(output(), target)
