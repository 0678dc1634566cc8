"""Aggregated residual transformations (Xie et al. 2017), for small images."""

from functools import partial

from torch import Tensor, nn

from camlib.models.layers import Head, conv
from camlib.models.resnet import CifarResNet, projection


class ResNeXtBlock(nn.Module):
    """A 1×1, a grouped 3×3 and a 1×1 convolution beside a shortcut (form c of the paper's Figure 3).

    Args:
        in_channels: channels of the maps that enter.
        channels: channels of the maps that leave, 256 in the first stage.
        stride: 2 to halve the resolution.
        groups: number of groups of the 3×3 convolution ("cardinality").
        group_width: channels of each group in the first stage.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int, group_width: int):
        super().__init__()
        inner = groups * group_width * channels // 256
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, channels, 1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(in_channels, channels, stride)
        self.residual_drop = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(maps))))))
        return self.relu(self.downsample(maps) + self.residual_drop(self.bn3(self.conv3(inner))))


def resnext(
    depth: int, groups: int, group_width: int, num_classes: int, in_channels: int = 3, head: Head = nn.Linear
) -> CifarResNet:
    """ResNeXt-29 and relatives: three stages of 256, 512 and 1024 channels, (depth − 2) / 9 blocks in each."""
    widths = [[channels] * ((depth - 2) // 9) for channels in (256, 512, 1024)]
    block = partial(ResNeXtBlock, groups=groups, group_width=group_width)
    return CifarResNet(block, 64, widths, num_classes, in_channels, head)
