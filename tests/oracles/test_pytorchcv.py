"""The nets of `camlib.models` against pytorchcv's for CIFAR: the same logits with the same weights."""

import pytest
import torch
from pytorchcv.model_provider import get_model
from pytorchcv.models.pyramidnet_cifar import get_pyramidnet_cifar
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from torch import nn

from camlib.models import create
from camlib.models.densenet import DenseNet
from camlib.models.preresnet import preresnet
from camlib.models.pyramidnet import PyramidNet
from camlib.models.resnext import resnext
from camlib.models.wrn import wrn

K = 100
FULL = {
    "resnet20": "resnet20_cifar100",
    "resnet56": "resnet56_cifar100",
    "resnet110": "resnet110_cifar100",
    "preresnet164": "preresnet164bn_cifar100",
    "wrn28_10": "wrn28_10_cifar100",
    "densenet_bc_190_40": "densenet190_k40_bc_cifar100",
    "pyramidnet200_a240": "pyramidnet200_a240_bn_cifar100",
}
SMALL = {  # quick relatives of the nets that are slow
    "resnet20": (lambda: create("resnet20", K), lambda: get_model("resnet20_cifar100")),
    "resnet56": (lambda: create("resnet56", K), lambda: get_model("resnet56_cifar100")),
    "preresnet164": (lambda: preresnet(164, K), lambda: get_model("preresnet164bn_cifar100")),
    "wrn16_2": (lambda: wrn(16, 2, K), lambda: get_wrn_cifar(K, blocks=16, width_factor=2)),
    "resnext29_32x4d": (lambda: resnext(29, 32, 4, K), lambda: get_model("resnext29_32x4d_cifar100")),
    "densenet_bc_40_12": (lambda: DenseNet(6, 12, K), lambda: get_model("densenet40_k12_bc_cifar100")),
    "pyramidnet38_a42": (
        lambda: PyramidNet(4, 42, K),
        lambda: get_pyramidnet_cifar(K, blocks=38, alpha=42, bottleneck=True),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), FULL.items())
def test_every_tensor_of_a_net_has_its_counterpart(ours, theirs):
    with torch.device("meta"):
        found, expected = create(ours, K).state_dict(), get_model(theirs).state_dict()
    assert [t.shape for t in found.values()] == [t.shape for t in expected.values()]


@pytest.mark.parametrize(("ours", "theirs"), SMALL.values(), ids=SMALL)
def test_logits(ours, theirs):
    torch.manual_seed(0)
    ours, theirs = ours(), theirs()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        theirs.train()(images)
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
        found, expected = ours.eval()(images), theirs.eval()(images)
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
