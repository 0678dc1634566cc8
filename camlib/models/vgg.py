"""VGG with BatchNorm (Simonyan and Zisserman 2015), global average pooling in place of its dense layers."""

from torch import nn

from camlib.models.layers import Head, classifier, he_normal_

# For each stage, the number of its convolutions. VGG-8 is in no paper: VGG-16 without its last two stages, for images
# of 28 pixels, which would leave these no room.
_CONVOLUTIONS = {8: (2, 2, 3), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nn.Sequential):
    """VGG-16 or VGG-19: five stages of 3×3 convolutions, global average pooling, one linear layer; or three as VGG-8.

    It maps images (N, in_channels, H, W) to logits (N, K). The max-pooling after the last stage is left out, as in
    CAM's own nets (Zhou et al. 2016), so that the maps are 14×14 at 224 pixels and 2×2 at 32. The convolutions keep
    their biases. Module names of `features` and He's initialisation are torchvision's, see `layers.he_normal_`.

    Args:
        depth: 16, 19 or 8.
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour.
        head: makes the classifier from C and K.
        width: channels of the first stage; the later ones have 2, 4, 8 and 8 times as many.
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int = 3, head: Head = nn.Linear, width: int = 64):
        super().__init__()
        layers = []
        for factor, count in zip((1, 2, 4, 8, 8), _CONVOLUTIONS[depth], strict=False):
            channels = width * factor
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(count):
                convolution = nn.Conv2d(in_channels, channels, 3, padding=1)
                layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
                in_channels = channels
        self.features = nn.Sequential(*layers)
        for name, module in classifier(channels, num_classes, head).items():
            self.add_module(name, module)
        he_normal_(self)
