"""Several processes that train one net, started by torchrun."""

import contextlib
import os
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, if it did, for the length of a `with` block.

    The device "cuda" then means this process's own GPU.
    """
    if "RANK" not in os.environ:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def place() -> tuple[int, int]:
    """The number of this process and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


# Done by hand and not by DistributedDataParallel: terms have parameters too, and which of them get a gradient
# changes with the weights of the terms.
def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    for gradient, sums in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(sums.view_as(gradient))


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        dense = tensor.contiguous()
        dist.broadcast(dense, 0)
        tensor.copy_(dense)


def barrier() -> None:
    """Wait until all processes have come here, if there are several."""
    if dist.is_initialized():
        dist.barrier()
