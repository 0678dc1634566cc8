"""`recompute`: nets that keep less than they use, with the gradients and statistics of those that keep everything."""

import copy

import pytest
import torch
from torch import nn

from camlib.models import densenet, pyramidnet, residual_blocks
from camlib.models.densenet import DenseLayer, DenseNet
from camlib.models.pyramidnet import PyramidBlock, PyramidNet
from camlib.observe import observe

K = 5
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def pyramid():
    """With something random in its slots, so that a second run without the same numbers would show."""
    model = PyramidNet(2, 24, K)
    for block in residual_blocks(model):
        block.residual_drop = nn.Dropout(0.5)
    return model


NETS = {"pyramidnet": pyramid, "densenet": lambda: DenseNet(3, 12, K)}
nets = pytest.mark.parametrize("build", NETS.values(), ids=NETS)


@pytest.fixture
def plain(monkeypatch):
    """Switches `recompute` off."""

    def switch():
        for module in (pyramidnet, densenet):
            monkeypatch.setattr(module, "recompute", lambda module, forward, *inputs: forward(*inputs))

    return switch


def step(observed):
    """Gradients by maps, twice, then by the parameters, from one forward pass."""
    torch.manual_seed(1)
    out = observed(IMAGES)
    score = out.logits[:, 0].sum()
    by_maps = [torch.autograd.grad(score, out.maps, retain_graph=True) for _ in range(2)]
    out.logits.square().mean().backward()
    return {
        "logits": out.logits.detach(),
        "by maps": by_maps,
        "by parameters": {name: parameter.grad for name, parameter in observed.named_parameters()},
        "statistics": dict(observed.named_buffers()),
        "random": torch.rand(()),
    }


@nets
def test_a_step_is_that_of_a_net_that_keeps_everything(build, plain):
    torch.manual_seed(0)
    kept = observe(build()).train()
    twin = copy.deepcopy(kept)
    found = step(kept)
    plain()
    expected = step(twin)
    assert all(gradient.abs().sum() > 0 for gradient in expected["by maps"][0])
    counts = {value.item() for name, value in found["statistics"].items() if name.endswith("num_batches_tracked")}
    assert counts == {1}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@nets
def test_parts_of_a_net_run_again_in_backward_and_only_in_training(build):
    model, calls = build(), []
    parts = [module for module in model.modules() if isinstance(module, (PyramidBlock, DenseLayer))]
    for part in parts:
        first = next(module for module in part.modules() if isinstance(module, nn.BatchNorm2d))
        first.register_forward_hook(lambda *call: calls.append(call))
    logits = model.train()(IMAGES)
    assert len(calls) == len(parts) > 0
    logits.sum().backward()
    assert len(calls) == 2 * len(parts)
    calls.clear()
    model.eval()(IMAGES).sum().backward()
    assert len(calls) == len(parts)


@nets
def test_less_is_kept(build, plain):
    def kept():
        """Bytes that the graph of one forward pass holds."""
        sizes = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = model(IMAGES)
        assert logits.requires_grad
        return sum(sizes.values())

    model = build().train()
    less = kept()
    plain()
    assert 0 < less < 0.6 * kept()


@nets
def test_statistics_that_are_fixed_stay_fixed(build):
    model = build().train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.eval()
    before = copy.deepcopy(dict(model.named_buffers()))
    model(IMAGES).sum().backward()
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # raised and hidden by torch.compile itself
# Few parts, of every kind: each is compiled by itself, which takes a second.
@pytest.mark.parametrize("build", [lambda: PyramidNet(1, 24, K), lambda: DenseNet(2, 12, K)], ids=NETS)
def test_recomputed_parts_compile(build):
    torch.manual_seed(0)
    eager = observe(build()).train()
    compiled = copy.deepcopy(eager)
    for part in compiled.modules():
        if isinstance(part, (PyramidBlock, DenseLayer)):
            part.compile(dynamic=False, backend="aot_eager")
    with torch._dynamo.config.patch(recompile_limit=1000):  # blocks of one class share one
        torch.testing.assert_close(step(compiled), step(eager), rtol=1e-4, atol=1e-5)


def test_a_net_in_bfloat16_with_recomputation():
    torch.manual_seed(0)
    observed = observe(PyramidNet(2, 24, K)).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = observed(IMAGES).logits.float().square().mean()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in observed.parameters())
    assert observed.graph.conv1.weight.grad.abs().sum() > 0
