"""What CC-Loss costs: a training step with it against one of the same gated net with cross-entropy alone.

Targets: at most 1.05 at batch 128; below 1 GiB for 4,096 gates of 512 channels.
"""

import argparse
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from timing import interleaved, machine, report

from camlib import Objective, State, models, observe, one_hot
from camlib.losses import CCLoss, CrossEntropy
from camlib.losses.cc import FORMS
from camlib.observe import Output

CE = {"ce": (1.0, CrossEntropy())}
ARMS = {"gated cross-entropy": CE} | {f"CC-Loss, {form}": CE | {"cc": (1.0, CCLoss(form))} for form in FORMS}
GIB = 2**30


def step(net, terms, device, batch, dtype, layout):
    """A function that makes one training step on one fixed batch."""
    torch.manual_seed(0)
    observed = observe(models.create(net, 100, gate=True)).to(device, memory_format=layout).train()
    objective = Objective(**terms)
    optimizer = torch.optim.SGD(observed.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=layout)
    target = one_hot(torch.randint(100, (batch,), device=device), 100)

    def call():
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = objective(observed, images, target)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return call


def memory(form, gates):
    """How far the loss of so many gates and its gradient lift the peak of this process, in bytes."""
    labels = torch.arange(gates) % 100
    target, gate = one_hot(labels, 100), torch.rand(gates, 512, requires_grad=True)
    out = Output(target, (), gate, torch.zeros(100, 512), gate)
    few = 64  # loads the libraries and starts the threads
    CCLoss(form)(out._replace(gate=gate[:few]), target[:few], State()).backward()
    before = peak()
    CCLoss(form)(out, target, State()).backward()
    return peak() - before


def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["resnet20", "resnet18_cifar"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--gates", type=int, default=4096)
    options = parser.parse_args()
    device = machine()
    # First, and each in a process of its own: a process never forgets its peak, and its children begin with it.
    print(f"memory of the loss and its gradient on the processor, {options.gates} gates of 512 channels")
    for form in FORMS:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            used = pool.submit(memory, form, options.gates).result()
        print(f"  {form}: {used / GIB:.2f} GiB; target: below 1 GiB", flush=True)
    for net in options.nets:
        for name, dtype, layout in (
            ("bfloat16, channels last", torch.bfloat16, torch.channels_last),
            ("float32", torch.float32, torch.contiguous_format),
        ):
            print(f"{net}, batch {options.batch}, {name}")
            steps = {arm: step(net, terms, device, options.batch, dtype, layout) for arm, terms in ARMS.items()}
            report(interleaved(steps, options.repetitions), "gated cross-entropy", "at most 1.05")


if __name__ == "__main__":
    main()
