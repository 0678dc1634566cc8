"""What several nets are made of. Every net is a chain of modules: images in, logits (N, K) out."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Block = Callable[[int, int, int], nn.Module]  # (in_channels, channels, stride) -> residual block
Head = Callable[[int, int], nn.Module]  # (features, num_classes) -> classifier


def conv(in_channels: int, channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution of odd size, padded to keep the resolution, without bias: a BatchNorm follows it."""
    return nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, groups=groups, bias=False)


def stages(block: Block, in_channels: int, widths: list[list[int]]) -> dict[str, nn.Sequential]:
    """Residual stages, named layer1, layer2 …; each but the first begins by halving the resolution.

    Args:
        block: makes one residual block.
        in_channels: channels that enter the first stage.
        widths: for each stage the channels that leave each of its blocks.
    """
    found = {}
    for number, stage in enumerate(widths, 1):
        blocks = []
        for position, channels in enumerate(stage):
            blocks.append(block(in_channels, channels, 2 if number > 1 and position == 0 else 1))
            in_channels = channels
        found[f"layer{number}"] = nn.Sequential(*blocks)
    return found


def classifier(features: int, num_classes: int, head: Head) -> dict[str, nn.Module]:
    """The end of every net: global average pooling and one linear layer."""
    return {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": head(features, num_classes)}


def he_normal_(model: nn.Module) -> None:
    """Draw the convolutions of a net from a normal distribution of variance 2 / (k² · output channels), in place.

    This is He's initialisation by fan-out, which the authors' code of every residual and dense net here uses, and
    torchvision's VGG too. BatchNorm starts at 1 and 0, the classifier as PyTorch starts it (bias included, which some
    of the authors set to 0).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def recompute(module: nn.Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Run `forward(*inputs)`, a part of `module`; in training keep its inputs only and run it again in backward.

    The second run draws the same random numbers and leaves the running statistics of BatchNorm alone, so that
    nothing but memory and time tells it from a plain call.
    """
    if not (module.training and torch.is_grad_enabled()):
        return forward(*inputs)
    if torch.compiler.is_compiling():  # it takes no contexts, and does not repeat what forward writes
        return checkpoint(forward, *inputs, use_reentrant=False)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _SpareBuffers(module)))


class _SpareBuffers:
    """A context in which a module works on copies of its buffers; entered anew by every backward pass."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __enter__(self) -> None:
        parts = self.module.modules()
        self.own = [(part, name, buffer) for part in parts for name, buffer in part.named_buffers(recurse=False)]
        for part, name, buffer in self.own:
            setattr(part, name, buffer.clone())

    def __exit__(self, *error: object) -> None:
        for part, name, buffer in self.own:
            setattr(part, name, buffer)
