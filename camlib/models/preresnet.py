"""Pre-activation residual nets (He et al. 2016, "Identity mappings in deep residual networks")."""

from torch import Tensor, nn

from camlib.models.layers import Block, Head, classifier, conv, he_normal_, stages


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU, then the convolutions beside a shortcut; nothing after the addition.

    Where the block changes the shape its shortcut is a 1×1 convolution that starts behind BatchNorm and ReLU,
    as in the authors' code; elsewhere the shortcut takes the maps as they come.

    Args:
        in_channels: channels of the maps that enter.
        channels: channels of the maps that leave.
        stride: 2 to halve the resolution.
        residual: the convolutions, from the activated maps to the addition.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, residual: nn.Module):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.residual = residual
        changes = stride != 1 or in_channels != channels
        self.shortcut = conv(in_channels, channels, 1, stride) if changes else None
        self.residual_drop = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        active = self.relu(self.bn(maps))
        residual = self.residual_drop(self.residual(active))
        return residual + (maps if self.shortcut is None else self.shortcut(active))


def bottleneck(in_channels: int, channels: int, stride: int) -> PreActivationBlock:
    """1×1, 3×3 and 1×1 convolution at a quarter of the channels; the 3×3 takes the stride."""
    inner = channels // 4
    residual = nn.Sequential(
        conv(in_channels, inner, 1),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        conv(inner, inner, 3, stride),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        conv(inner, channels, 1),
    )
    return PreActivationBlock(in_channels, channels, stride, residual)


class PreActivationResNet(nn.Sequential):
    """Pre-activation net for small images: one 3×3 convolution, stages, the last BatchNorm and ReLU, classifier.

    It maps images (N, in_channels, H, W) to logits (N, K). Global average pooling takes the maps behind the
    last ReLU; what leaves a stage before it is a sum without activation. He's initialisation, see
    `layers.he_normal_`.

    Args:
        block: makes a residual block from its channels in, channels out and stride.
        widths: for each stage the channels that leave each of its blocks.
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour.
        head: makes the classifier from C and K.
    """

    def __init__(
        self,
        block: Block,
        widths: list[list[int]],
        num_classes: int,
        in_channels: int = 3,
        head: Head = nn.Linear,
    ):
        super().__init__()
        features = widths[-1][-1]
        self.conv1 = conv(in_channels, 16, 3)
        for name, stage in stages(block, 16, widths).items():
            self.add_module(name, stage)
        self.bn = nn.BatchNorm2d(features)
        self.relu = nn.ReLU()
        for name, module in classifier(features, num_classes, head).items():
            self.add_module(name, module)
        he_normal_(self)


def preresnet(depth: int, num_classes: int, in_channels: int = 3, head: Head = nn.Linear) -> PreActivationResNet:
    """ResNet-164 and relatives: bottlenecks of 64, 128 and 256 channels, (depth − 2) / 9 in each stage."""
    widths = [[channels] * ((depth - 2) // 9) for channels in (64, 128, 256)]
    return PreActivationResNet(bottleneck, widths, num_classes, in_channels, head)
