"""Pyramidal residual nets (Han et al. 2017): every block has some channels more than the one before."""

import torch.nn.functional as F
from torch import Tensor, nn

from camlib.models.layers import Head, classifier, conv, he_normal_, recompute, stages


class PyramidBlock(nn.Module):
    """Bottleneck with a BatchNorm before each convolution and behind the last, and no ReLU before the first.

    The shortcut has no parameters: average pooling where the resolution halves, zeros in the channels that are new.
    In training a block keeps its input only and is computed anew in the backward pass, see `layers.recompute`.

    Args:
        in_channels: channels of the maps that enter.
        channels: channels of the maps that leave, not fewer.
        stride: 2 to halve the resolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        inner = channels // 4
        self.residual = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            conv(in_channels, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            conv(inner, inner, 3, stride),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            conv(inner, channels, 1),
            nn.BatchNorm2d(channels),
        )
        # The last, smaller window of an odd size counts, as it does for the convolution beside it.
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(2, stride, ceil_mode=True)
        self.new_channels = channels - in_channels
        self.residual_drop = nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return recompute(self, self._forward, maps)

    def _forward(self, maps: Tensor) -> Tensor:
        shortcut = F.pad(self.pool(maps), (0, 0, 0, 0, 0, self.new_channels))
        return shortcut + self.residual_drop(self.residual(maps))


class PyramidNet(nn.Sequential):
    """PyramidNet with bottlenecks, for small images; maps images (N, in_channels, H, W) to logits (N, K).

    Block i of 3 · `blocks` has 4 · round(16 + i α / (3 · `blocks`)) channels. Depth is 9 · `blocks` + 2. He's
    initialisation, see `layers.he_normal_`.

    Args:
        blocks: blocks in each of the three stages.
        alpha: α, how many channels the bottlenecks gain from the first block to the last.
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour.
        head: makes the classifier from C and K.
    """

    def __init__(self, blocks: int, alpha: int, num_classes: int, in_channels: int = 3, head: Head = nn.Linear):
        super().__init__()
        widths = [4 * round(16 + i * alpha / (3 * blocks)) for i in range(1, 3 * blocks + 1)]
        self.conv1 = conv(in_channels, 16, 3)
        self.bn1 = nn.BatchNorm2d(16)
        by_stage = [widths[start : start + blocks] for start in range(0, 3 * blocks, blocks)]
        for name, stage in stages(PyramidBlock, 16, by_stage).items():
            self.add_module(name, stage)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU()
        for name, module in classifier(widths[-1], num_classes, head).items():
            self.add_module(name, module)
        he_normal_(self)
