"""Densely connected nets with bottlenecks and compression, DenseNet-BC (Huang et al. 2017), for small images."""

import torch
from torch import Tensor, nn

from camlib.models.layers import Head, classifier, conv, he_normal_, recompute


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1×1 convolution to 4 k channels; BatchNorm, ReLU, 3×3 convolution to k channels.

    In training a layer keeps none of its own tensors and is computed anew in the backward pass, concatenation
    included (see `layers.recompute`): memory grows with the layers of a block, not with their square.

    Args:
        in_channels: channels of all maps that enter, together.
        growth: k, the channels that the layer adds.
    """

    def __init__(self, in_channels: int, growth: int):
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            conv(in_channels, 4 * growth, 1),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            conv(4 * growth, growth, 3),
        )

    def forward(self, *maps: Tensor) -> Tensor:
        return recompute(self, self._forward, *maps)

    def _forward(self, *maps: Tensor) -> Tensor:
        return self.new(torch.cat(maps, 1))


class DenseBlock(nn.Module):
    """Layers that each take in the maps of all before them; returns all maps, side by side."""

    def __init__(self, in_channels: int, layers: int, growth: int):
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(in_channels + i * growth, growth) for i in range(layers))

    def forward(self, maps: Tensor) -> Tensor:
        found = [maps]
        for layer in self.layers:
            found.append(layer(*found))
        return torch.cat(found, 1)


class Transition(nn.Module):
    """BatchNorm, ReLU, 1×1 convolution, and average pooling to half the resolution."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = conv(in_channels, channels, 1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, maps: Tensor) -> Tensor:
        return self.pool(self.conv(self.relu(self.bn(maps))))


class DenseNet(nn.Sequential):
    """DenseNet-BC without dropout; maps images (N, in_channels, H, W) to logits (N, K).

    Three dense blocks, the first after 2 k channels, and between them transitions that halve the channels. Depth
    is 6 · `layers` + 4. He's initialisation, see `layers.he_normal_`.

    Args:
        layers: layers in each of the three dense blocks.
        growth: k, the channels that each layer adds.
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour.
        head: makes the classifier from C and K.
    """

    def __init__(self, layers: int, growth: int, num_classes: int, in_channels: int = 3, head: Head = nn.Linear):
        super().__init__()
        channels = 2 * growth
        self.conv1 = conv(in_channels, channels, 3)
        for number in (1, 2, 3):
            self.add_module(f"block{number}", DenseBlock(channels, layers, growth))
            channels += layers * growth
            if number < 3:
                self.add_module(f"transition{number}", Transition(channels, channels // 2))
                channels //= 2
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        for name, module in classifier(channels, num_classes, head).items():
            self.add_module(name, module)
        he_normal_(self)
