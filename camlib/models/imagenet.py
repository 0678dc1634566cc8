"""Residual nets for images of 224 pixels and more: torchvision's, with fresh weights."""

import torchvision
from torch import nn

from camlib.models.layers import Head


def imagenet(name: str, num_classes: int, in_channels: int = 3, head: Head = nn.Linear) -> nn.Module:
    """A residual net of `torchvision.models`, initialised by torchvision, with a first and last layer that fit.

    Args:
        name: torchvision's name, as "resnet50".
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour.
        head: makes the classifier from C and K.
    """
    model = torchvision.models.get_model(name, weights=None)
    if in_channels != 3:
        model.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.fc = head(model.fc.in_features, num_classes)
    return model
