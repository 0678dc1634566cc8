"""Residual nets for small images (He et al. 2016, §4.2), with torchvision's module names."""

from torch import Tensor, nn

from camlib.models.layers import Block, Head, classifier, conv, he_normal_, stages


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, the activation after the addition.

    Where the block changes the shape its shortcut is a 1×1 convolution ("projection").

    Args:
        in_channels: channels of the maps that enter.
        channels: channels of the maps that leave.
        stride: 2 to halve the resolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection(in_channels, channels, stride)
        self.residual_drop = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps)))))
        return self.relu(self.downsample(maps) + self.residual_drop(residual))


def projection(in_channels: int, channels: int, stride: int) -> nn.Module:
    """The shortcut of a block: a 1×1 convolution with BatchNorm where the shape changes, else nothing."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))


class CifarResNet(nn.Sequential):
    """Residual net for small images: one 3×3 convolution, stages at strides 1, 2, 4 …, pooling, classifier.

    It maps images (N, in_channels, H, W) to logits (N, K). He's initialisation, see `layers.he_normal_`.

    Args:
        block: makes a residual block from its channels in, channels out and stride.
        stem: channels of the first convolution.
        widths: for each stage the channels that leave each of its blocks.
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour.
        head: makes the classifier from C and K.
    """

    def __init__(
        self,
        block: Block,
        stem: int,
        widths: list[list[int]],
        num_classes: int,
        in_channels: int = 3,
        head: Head = nn.Linear,
    ):
        super().__init__()
        self.conv1 = conv(in_channels, stem, 3)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        for name, module in (stages(block, stem, widths) | classifier(widths[-1][-1], num_classes, head)).items():
            self.add_module(name, module)
        he_normal_(self)


def resnet(depth: int, num_classes: int, in_channels: int = 3, head: Head = nn.Linear) -> CifarResNet:
    """ResNet-20, 32, 44, 56, 110: three stages of 16, 32 and 64 channels, (depth − 2) / 6 blocks in each."""
    blocks = (depth - 2) // 6
    widths = [[channels] * blocks for channels in (16, 32, 64)]
    return CifarResNet(BasicBlock, 16, widths, num_classes, in_channels, head)


def resnet18_cifar(num_classes: int, in_channels: int = 3, head: Head = nn.Linear, width: int = 64) -> CifarResNet:
    """ResNet-18 of `width` to 8 · `width` channels whose stem keeps the resolution: 3×3 at stride 1, no max-pooling."""
    widths = [[width * factor] * 2 for factor in (1, 2, 4, 8)]
    return CifarResNet(BasicBlock, width, widths, num_classes, in_channels, head)
