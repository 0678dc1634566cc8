"""Residual nets for small images (He et al. 2016, §4.2), with torchvision's module names and blocks."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class CifarResNet(nn.Module):
    """Residual net with three stages of 16, 32 and 64 channels, at strides 1, 2 and 4.

    Depth is 6 · `blocks` + 2. Where a block changes the shape its shortcut is a 1×1 convolution
    ("projection"), as the parameter counts of the papers ask.

    Args:
        blocks: residual blocks in each stage.
        num_classes: K, the number of logits.
        in_channels: channels of the images, 3 for colour.
    """

    def __init__(self, blocks: int, num_classes: int, in_channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, in_channels, H, W)."""
        maps = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(images))))))
        return self.fc(self.avgpool(maps).flatten(1))


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
        )
    first = BasicBlock(in_channels, channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))
