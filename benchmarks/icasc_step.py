"""What ICASC costs: a training step with it against one with cross-entropy alone, in time and in memory.

Targets: at most 1.3 times the time, at most 2.5 with gradients through the channel weights, at most 1.3 times the peak
memory. Memory is measured in a process of its own for each arm; without a GPU (on Linux) it is how far the process's
peak during a step lies above what it held before.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from timing import interleaved, machine, report

from camlib import Objective, models, observe, one_hot
from camlib.losses import ICASC, CrossEntropy

MIB = 2**20
CE = {"ce": (1.0, CrossEntropy())}
ARMS = {
    "cross-entropy": CE,
    "ICASC, A_ch": CE | {"icasc": (1.0, ICASC())},
    "ICASC, Grad-CAM": CE | {"icasc": (1.0, ICASC("grad_cam"))},
    "ICASC, A_ch, create_graph": CE | {"icasc": (1.0, ICASC(create_graph=True))},
}
ARITHMETIC = {
    "bfloat16, channels last": (torch.bfloat16, torch.channels_last),
    "float32": (torch.float32, torch.contiguous_format),
}
# net -> (height and width of the images, batch)
SETTINGS = {"resnet20": (32, 128), "resnet110": (32, 128), "resnet18": (224, 32)}


def step(net, arm, arithmetic, device):
    """A function that makes one training step on one fixed batch."""
    size, batch = SETTINGS[net]
    dtype, layout = ARITHMETIC[arithmetic]
    torch.manual_seed(0)
    observed = observe(models.create(net, 100)).to(device, memory_format=layout).train()
    objective = Objective(**ARMS[arm])
    optimizer = torch.optim.SGD(observed.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    target = one_hot(torch.randint(100, (batch,), device=device), 100)

    def call():
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = objective(observed, images, target)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return call


def memory(net, arm, arithmetic):
    """How much one step needs, in bytes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    call = step(net, arm, arithmetic, device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = peak()
    call()
    return peak() - before


def peak():
    """The process's highest resident memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def alone(*arguments):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(memory, *arguments).result()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--repetitions", type=int, default=8)
    options = parser.parse_args()
    device = machine()
    for net in options.nets:
        size, batch = SETTINGS[net]
        for arithmetic in ARITHMETIC:
            print(f"{net}, batch {batch}, {size} px, {arithmetic}")
            steps = {arm: step(net, arm, arithmetic, device) for arm in ARMS}
            target = "at most 1.3, and 2.5 with create_graph"
            report(interleaved(steps, options.repetitions), "cross-entropy", target)
            needs = {arm: alone(net, arm, arithmetic) for arm in ARMS}
            for arm, need in needs.items():
                ratio = need / needs["cross-entropy"]
                print(f"  {arm}: {need / MIB:.0f} MiB, ratio {ratio:.2f}; target: at most 1.3", flush=True)


if __name__ == "__main__":
    main()
