"""Regularisers inside a net: what fills the slots of its residual blocks, and Manifold Mixup.

All draws come from torch's global generator, which the training loop seeds at every step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torchvision.ops import DropBlock2d, StochasticDepth, drop_block2d

from camlib.models import residual_blocks
from camlib.observe import Observed, Output
from camlib.target import check_target


def stochastic_depth(model: nn.Module, last: float = 0.5) -> None:
    """Make a net skip each residual branch at random (Huang et al. 2016), in place.

    The branch of block l of L is dropped with probability `last` · l / L, for each image by itself; the paper
    drops it for a whole batch. What is kept is divided by the probability to be kept, where the paper
    multiplies in evaluation: the expectation is the same.

    Args:
        model: a net with residual blocks.
        last: the last block's probability, 0 … 1. The paper takes 0.5, Yun et al. (CutMix, 2019), whose result
            CAM-loss, Table 2 quotes, 0.25.

    Raises:
        ValueError: the net has no residual blocks or they are regularised already; `last` is no probability.
    """
    _fill(model, last, lambda p: StochasticDepth(p, "row"))


def shake_drop(model: nn.Module, last: float = 0.5) -> None:
    """Shake a net's residual branches (Yamada et al. 2018), in place: see `ShakeDrop`.

    Args:
        model: a net with residual blocks; block l of L is shaken with probability `last` · l / L.
        last: the last block's probability, 0 … 1; the paper takes 0.5.

    Raises:
        ValueError: the net has no residual blocks or they are regularised already; `last` is no probability.
    """
    _fill(model, last, ShakeDrop)


def drop_block(model: nn.Module, last: float = 0.1, block_size: int = 5) -> None:
    """Drop squares from each channel of a net's residual branches (Ghiasi et al. 2018), in place: see `DropBlock`.

    Where and how much is our reading. Yun et al. (CutMix, 2019), whose result CAM-loss, Table 2 quotes, name a
    share of 0.1 and a block size of 4, but no layers. Ghiasi et al. drop in the deeper half of the net and raise
    the share while training. Here it rises with depth, as in stochastic depth, and blocks have an odd size,
    as torchvision asks.

    Args:
        model: a net with residual blocks; block l of L drops a share of `last` · l / L.
        last: the share that the last block drops, 0 … 1.
        block_size: side of the squares in positions of the map, odd.

    Raises:
        ValueError: the net has no residual blocks or they are regularised already; `last` is no probability;
            the block size is not odd.
    """
    if block_size < 1 or block_size % 2 == 0:
        raise ValueError(f"block_size is {block_size}, expected an odd number, as 3 or 5: a block has a centre")
    _fill(model, last, lambda p: DropBlock(p, block_size))


def dropout(model: nn.Module, rate: float = 0.3) -> None:
    """Drop single values in front of the last convolution of each residual branch, in place.

    As in wide residual nets (Zagoruyko and Komodakis 2016), whose rate of 0.3 CAM-loss, Table 3 takes over.

    Args:
        model: a net with residual blocks.
        rate: the share of values that are dropped, 0 … 1.

    Raises:
        ValueError: the net has no residual blocks.
    """
    for block in _blocks(model):
        branch = getattr(block, "residual", block)  # shortcuts are no direct children of either
        name = [name for name, part in branch.named_children() if isinstance(part, nn.Conv2d)][-1]
        setattr(branch, name, nn.Sequential(nn.Dropout(rate), getattr(branch, name)).train(block.training))


def _blocks(model: nn.Module) -> list[nn.Module]:
    blocks = residual_blocks(model)
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no residual blocks to regularise: choose a residual net, as 'resnet56'"
        )
    return blocks


def _fill(model: nn.Module, last: float, regularizer: Callable[[float], nn.Module]) -> None:
    """Put a regulariser into the slot of every residual block, with a probability that is linear in depth."""
    blocks = _blocks(model)
    if not 0 <= last <= 1:
        raise ValueError(f"last is {last}, expected a probability between 0 and 1, as 0.5")
    for number, block in enumerate(blocks, 1):
        if not isinstance(block.residual_drop, nn.Identity):
            raise ValueError(
                f"the residual blocks of {type(model).__name__} already have {block.residual_drop}: "
                "one regulariser fits, so start from a net without"
            )
        block.residual_drop = regularizer(last * number / len(blocks)).train(block.training)


class ShakeDrop(nn.Module):
    """Scales a residual branch by a random number in forward, by another one in backward (Yamada et al. 2018).

    In training forward multiplies by b + α - bα and backward by b + β - bβ: the branch stays as it is where b is
    1, with probability 1 - p, and is shaken where b is 0. α is drawn from -1 … 1 and β from 0 … 1 for each image.
    b is drawn once for the batch, as in the public implementations; the paper has one b for a block. Evaluation
    multiplies by the expectation of the forward factor, 1 - p.

    Args:
        p: probability of b = 0, 0 … 1.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, residual: Tensor) -> Tensor:
        """Maps (N, C, H, W) in, maps of the same shape and type out."""
        if not self.training:
            return residual * (1 - self.p)
        # β is drawn here, too, so that all backward passes of a step, as a gradient map adds one, agree.
        shape = (len(residual), *[1] * (residual.ndim - 1))
        kept = torch.rand((), device=residual.device) >= self.p
        alpha = torch.rand(shape, device=residual.device) * 2 - 1
        beta = torch.rand(shape, device=residual.device)
        # 1 where b is 1, not 1 + α - α, which may round to another number.
        forward, backward = (torch.where(kept, 1.0, factor).to(residual.dtype) for factor in (alpha, beta))
        return _Scale.apply(residual, forward, backward)


class _Scale(torch.autograd.Function):
    """Multiplies by one factor in forward, by another in backward."""

    @staticmethod
    def forward(ctx, residual: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        ctx.save_for_backward(backward)
        return residual * forward

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None, None


class DropBlock(DropBlock2d):
    """torchvision's DropBlock (Ghiasi et al. 2018), for small maps and half precision, too.

    On maps smaller than a block, blocks have the largest odd size that fits. The share that is kept is counted
    in float32 at least: float16 ends at 65504, which a batch of maps exceeds.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        size = min(self.block_size, *input.shape[2:])
        size -= size % 2 == 0
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        return drop_block2d(wide, self.p, size).to(input.dtype)


@dataclass(frozen=True)
class ManifoldMixup:
    """Mixes the hidden states of pairs of images, and their targets alike (Verma et al. 2019).

    At every call one share λ ~ Beta(α, α), one order of the batch and one of three places are drawn: the images,
    or the first or second of `Observed.stages`, as in the authors' code. (In a net with a stem at a resolution of
    its own, as torchvision's ResNets, the stem is the first; `observe(model, stages=…)` chooses others.) Maps
    before that place are of single images, those behind it mixed. In evaluation mode nothing is mixed.

    Attributes:
        alpha: α. The authors take 2, Yun et al. (CutMix, 2019), whose result CAM-loss, Table 2 quotes, 1.

    Raises:
        ValueError: α is not above 0.
    """

    alpha: float = 2.0

    def __post_init__(self):
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}, expected more than 0")

    def __call__(self, observed: Observed, images: Tensor, target: Tensor) -> tuple[Output, Tensor]:
        """Run an observed model on images, mixing on the way.

        Args:
            observed: the model.
            images: (N, C, H, W), floating point.
            target: (N, K) rows.

        Returns:
            The model's output and the target rows that belong to it.

        Raises:
            ValueError: the model has fewer than two stages before its last, or the target does not fit.
        """
        check_target(target, len(images), observed.num_classes)
        if not observed.training:
            return observed(images), target
        if len(observed.stages) < 3:
            raise ValueError(
                f"Manifold Mixup needs two stages before the last, but the stages are {', '.join(observed.stages)}: "
                "pass observe(model, stages=…) the names of two more"
            )
        share = torch.distributions.Beta(self.alpha, self.alpha).sample().item()
        place = int(torch.randint(3, ()))
        order = torch.randperm(len(images)).to(images.device)

        def mix(rows: Tensor) -> Tensor:
            return share * rows + (1 - share) * rows[order]

        if place == 0:
            return observed(mix(images)), mix(target)
        return Output(*_Changed(observed.graph, place - 1, mix).run(images)), mix(target)


class _Changed(fx.Interpreter):
    """Runs an observed model's graph with one stage's maps changed, whether a module or a function made them."""

    def __init__(self, graph: fx.GraphModule, stage: int, change: Callable[[Tensor], Tensor]):
        super().__init__(graph)
        output = next(node for node in graph.graph.nodes if node.op == "output")
        self.node, self.change = Output(*output.args[0]).maps[stage], change

    def run_node(self, node: fx.Node) -> object:
        result = super().run_node(node)
        return self.change(result) if node is self.node else result
