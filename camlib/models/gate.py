"""Channel attention: a gate that scales every channel of every image's maps (Hu et al. 2018)."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """Squeeze and excitation: one number between 0 and 1 for each channel of each image.

    v = σ(W2 relu(W1 mean_xy f)), computed in the precision of the weights, also under automatic mixed precision.

    Args:
        channels: C.
        units: of the layer in between. By default a sixteenth of C, but at least 32, as in nets of 512 channels:
            with fewer, in a narrow net, the gates of a batch can take a handful of values only.

    Raises:
        ValueError: there are no units.
    """

    def __init__(self, channels: int, units: int | None = None):
        super().__init__()
        inner = max(channels // 16, 32) if units is None else units
        if inner < 1:
            raise ValueError(f"units is {units}, expected at least 1")
        self.squeeze = nn.Linear(channels, inner)
        self.relu = nn.ReLU(inplace=True)
        self.excite = nn.Linear(inner, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """v (N, C) of maps (N, C, H, W)."""
        # Distances between gates are small beside the steps of half precision. Without mixed precision, as on the
        # meta device, there is none to switch off.
        kind = maps.device.type
        mixed = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
        with mixed:
            pooled = maps.mean((2, 3), dtype=self.squeeze.weight.dtype)
            return self.excite(self.relu(self.squeeze(pooled))).sigmoid()


class Gate(nn.Module):
    """Maps times their channel attention, f · v: the "channel attention module" of CC-Loss.

    Put it in front of the global average pooling of any classifier, as
    `model.avgpool = nn.Sequential(Gate(2048), model.avgpool)` does for torchvision's ResNet-50. `camlib.observe` finds
    it there: `Output.gate` is v then, and `Output.maps[-1]` is f · v, what is pooled.

    Under automatic mixed precision the product has the precision of the attention, that of the weights.

    CC-Loss says no more of the module than its name. Squeeze and excitation with a reduction of 16, once, after the
    last stage, is our reading.

    Args:
        channels: C, of the maps.
        units: as in `ChannelAttention`.

    Raises:
        ValueError: there are no units.

    Source: Hu et al., "Squeeze-and-excitation networks", 2018.
    """

    def __init__(self, channels: int, units: int | None = None):
        super().__init__()
        self.attention = ChannelAttention(channels, units)

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.attention(maps)[:, :, None, None]
