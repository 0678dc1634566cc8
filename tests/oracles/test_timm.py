"""timm's models under `observe` (CAM-loss, Eq. 1)."""

import pytest
import timm
import torch
from torch import nn

from camlib.losses import CAMLoss
from camlib.objective import State
from camlib.observe import NotObservable, observe
from camlib.target import one_hot

K = 5
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name",
    [
        "densenet121",
        "efficientnet_b0",
        "legacy_xception",
        "mobilenetv2_100",
        "regnety_004",
        "repvgg_a0",
        "resnet18",
        "resnest14d",
        "rexnet_100",
    ],
)
def test_timm_models_show_what_they_classify_by(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=K, drop_rate=0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 64, 64))
        nn.init.normal_(model.get_classifier().weight)
    observed = observe(model.eval())
    with torch.no_grad():
        out, expected = observed(IMAGES), model(IMAGES)
    assert torch.equal(out.logits, expected)
    explained = expected - observed.head.bias
    assert explained.std() > 1e-4
    means = torch.einsum("ik,nkyx->ni", out.weight, out.maps[-1]) / out.maps[-1][0, 0].numel()
    torch.testing.assert_close(means, explained, rtol=1e-4, atol=1e-4 * explained.abs().max().item())

    trained = observed.train()(IMAGES)
    CAMLoss()(trained, one_hot(torch.tensor([0, 3]), K), State()).backward()
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.grad.isfinite().all()
    assert first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tiny_patch16_224",
            r"features by 'getitem\w*' \(getitem\): .* timm\.create_model\(…, global_pool='avg'\)",
        ),
        ("crossvit_tiny_240", r"CrossVit cannot be traced symbolically at 'if H != .*' \(crossvit\.py, line \d+\)"),
        ("vgg11", r"VGG does not average maps over all their positions, but makes its features by 'pre_logits'"),
    ],
)
def test_timm_models_without_maps_are_refused(name, message):
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(NotObservable, match=message):
        observe(model)
