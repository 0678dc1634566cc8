"""The nets of the papers, by name. Every model returns logits and knows no loss."""

from functools import partial

from torch import nn

from camlib.models.resnet import CifarResNet
from camlib.names import lookup

# ResNet-8 is in no paper: it is the net of the quick preset, small enough for a chapter on two cores.
NETS = {f"resnet{depth}": partial(CifarResNet, (depth - 2) // 6) for depth in (8, 20, 32, 44, 56, 110)}


def create(name: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Build a net with fresh weights.

    Args:
        name: one of `camlib.models.NETS`, as "resnet20".
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour and 1 for grey.

    Returns:
        A module that maps images (N, in_channels, H, W) to logits (N, K).

    Raises:
        KeyError: the name is unknown; the message holds the nearest ones.
    """
    return lookup(NETS, name, "net")(num_classes=num_classes, in_channels=in_channels)
