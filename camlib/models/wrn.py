"""Wide residual nets (Zagoruyko and Komodakis 2016), without dropout."""

from torch import nn

from camlib.models.layers import Head, conv
from camlib.models.preresnet import PreActivationBlock, PreActivationResNet


def wide(in_channels: int, channels: int, stride: int) -> PreActivationBlock:
    """A pre-activation block of two 3×3 convolutions; the first takes the stride."""
    residual = nn.Sequential(
        conv(in_channels, channels, 3, stride),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        conv(channels, channels, 3),
    )
    return PreActivationBlock(in_channels, channels, stride, residual)


def wrn(depth: int, width: int, num_classes: int, in_channels: int = 3, head: Head = nn.Linear) -> PreActivationResNet:
    """WRN-depth-width: stages of 16, 32 and 64 times `width` channels, (depth − 4) / 6 blocks in each."""
    widths = [[channels * width] * ((depth - 4) // 6) for channels in (16, 32, 64)]
    return PreActivationResNet(wide, widths, num_classes, in_channels, head)
