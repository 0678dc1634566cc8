"""The nets of the papers, by name. Every model returns logits and knows no loss."""

from collections import OrderedDict
from functools import partial

from torch import nn

from camlib.models.densenet import DenseNet
from camlib.models.gate import Gate
from camlib.models.heads import HEADS, CosineHead
from camlib.models.imagenet import imagenet
from camlib.models.layers import conv, he_normal_
from camlib.models.preresnet import preresnet
from camlib.models.pyramidnet import PyramidNet
from camlib.models.resnet import resnet, resnet18_cifar
from camlib.models.resnext import resnext
from camlib.models.vgg import VGG
from camlib.models.wrn import wrn
from camlib.names import lookup

# ResNet-8 is in no paper: it is the net of the quick preset, small enough for a chapter on two cores. Nor are the slim
# nets, which have the layers of VGG-16 and ResNet-18 and an eighth of their channels.
NETS = {
    **{f"resnet{depth}": partial(resnet, depth) for depth in (8, 20, 32, 44, 56, 110)},
    "preresnet164": partial(preresnet, 164),
    **{f"wrn{depth}_{width}": partial(wrn, depth, width) for depth, width in ((16, 2), (16, 4), (28, 2), (28, 4))},
    "wrn28_10": partial(wrn, 28, 10),
    "resnext29_8x64d": partial(resnext, 29, 8, 64),
    "densenet_bc_190_40": partial(DenseNet, 31, 40),
    "pyramidnet200_a240": partial(PyramidNet, 22, 240),
    "vgg16_bn": partial(VGG, 16),
    "vgg19_bn": partial(VGG, 19),
    "vgg8_slim": partial(VGG, 8, width=16),
    "resnet18_cifar": resnet18_cifar,
    "resnet18_slim": partial(resnet18_cifar, width=8),
    **{
        name: partial(imagenet, name)
        for name in ("resnet18", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d")
    },
}


def create(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    head: str = "linear",
    gate: bool = False,
    channels_per_class: int | None = None,
    gate_units: int | None = None,
) -> nn.Module:
    """Build a net with fresh weights.

    Args:
        name: one of `camlib.models.NETS`, as "resnet20". "resnet18", "resnet50", "resnet101", "resnext50_32x4d" and
            "resnext101_32x8d" are torchvision's, for ImageNet's sizes; the others take small images, VGG any.
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour and 1 for grey.
        head: one of `camlib.models.HEADS`: "linear", "no_bias" or "cosine".
        gate: scale the maps by their channel attention in front of the pooling, see `Gate`. With one seed the rest
            of the net starts from the same weights as without.
        channels_per_class: pool so many channels for each class, as `camlib.losses.MCLoss` asks for: a 1×1
            convolution with BatchNorm and ReLU makes them of those of the net. Its source gives the last
            convolution itself this number of channels, which not every net here has to give.
        gate_units: as `units` of `Gate`.

    Returns:
        A module that maps images (N, in_channels, H, W) to logits (N, K).

    Raises:
        KeyError: the name of the net or of the head is unknown; the message holds the nearest ones.
    """
    net, kind = lookup(NETS, name, "net"), lookup(HEADS, head, "head")
    model = net(num_classes=num_classes, in_channels=in_channels, head=kind)
    before = OrderedDict()
    if channels_per_class:
        channels = num_classes * channels_per_class
        convolution = conv(model.fc.in_features, channels, 1)
        before["expand"] = nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())
        he_normal_(before["expand"])
        model.fc = kind(channels, num_classes)
    if gate:
        before["gate"] = Gate(model.fc.in_features, gate_units)
    if before:
        model.avgpool = nn.Sequential(before | {"pool": model.avgpool})
    return model


def residual_blocks(model: nn.Module) -> list[nn.Module]:
    """The residual blocks of a net of camlib, or of its observed form, from input to output.

    Each has a slot: what `block.residual_drop` is set to, `nn.Identity` at first, transforms the residual branch
    before it is added to the shortcut. Nets without such blocks (VGG, DenseNet, torchvision's) give an empty list.
    """
    return [module for module in model.modules() if hasattr(module, "residual_drop")]
