"""Memory of a training step of the two nets that recompute. Target: batch 128 within 20 GiB.

PyramidNet-200 and DenseNet-190 with CAM-loss on the processor, images of 32 pixels. Every step runs in a process of
its own, whose peak is what the system counted (interpreter, weights and momentum included) and whose growth is what
came on top once the net was built. At a smaller batch the growth is compared with that of the same net without
recomputation.
"""

import argparse
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from timing import machine

from camlib import Objective, models, observe, one_hot
from camlib.losses import CAMLoss, CrossEntropy
from camlib.models import densenet, pyramidnet

GIB = 2**30
TARGET = 20 * GIB


def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def step(net, batch, dtype, recompute=True):
    """One training step: (peak in bytes, growth in bytes, seconds)."""
    # Beyond the target the step fails, instead of the machine.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + TARGET, mapped + TARGET))
    if not recompute:
        for module in (densenet, pyramidnet):
            module.recompute = lambda module, forward, *inputs: forward(*inputs)
    torch.manual_seed(0)
    observed = observe(models.create(net, 100)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(observed.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    objective = Objective(ce=(1.0, CrossEntropy()), cam=(3.0, CAMLoss()))
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    target = one_hot(torch.randint(100, (batch,)), 100)
    before, began = peak(), time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = objective(observed, images, target)["loss"]
    loss.backward()
    optimizer.step()
    return peak(), peak() - before, time.perf_counter() - began


def alone(*arguments):
    """`step` in a process of its own, since a process never forgets its peak."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(step, *arguments).result()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["pyramidnet200_a240", "densenet_bc_190_40"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument(
        "--small-batch", type=int, default=16, help="for the comparison with a net that keeps everything"
    )
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    machine()
    dtype = getattr(torch, options.precision)
    for net in options.nets:
        highest, growth, seconds = alone(net, options.batch, dtype)
        print(
            f"{net}, batch {options.batch}, {options.precision}: peak {highest / GIB:.1f} GiB, "
            f"growth {growth / GIB:.1f} GiB, {seconds:.0f} s; target: within {TARGET / GIB:.0f} GiB",
            flush=True,
        )
        _, ours, our_seconds = alone(net, options.small_batch, dtype)
        _, plain, plain_seconds = alone(net, options.small_batch, dtype, False)
        print(
            f"  batch {options.small_batch}: growth {ours / GIB:.2f} GiB, {ours / plain:.2f} of that without "
            f"recomputation; time {our_seconds / plain_seconds:.2f} of it",
            flush=True,
        )


if __name__ == "__main__":
    main()
