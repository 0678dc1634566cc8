"""What CAM-loss costs: a training step with it against one with cross-entropy alone. Target: at most 1.05."""

import argparse

import torch
from timing import interleaved, machine, report

from camlib import Objective, models, observe, one_hot
from camlib.losses import CAMLoss, CrossEntropy

OBJECTIVES = {
    "cross-entropy": lambda: Objective(ce=(1.0, CrossEntropy())),
    "with CAM-loss": lambda: Objective(ce=(1.0, CrossEntropy()), cam=(3.0, CAMLoss())),
}


def step(net, objective, device, batch, dtype, layout):
    """A function that makes one training step on one fixed batch."""
    torch.manual_seed(0)
    observed = observe(models.create(net, 100)).to(device, memory_format=layout).train()
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=30)
    options = parser.parse_args()
    device = machine()
    for net in options.nets:
        for name, dtype, layout in (
            ("bfloat16, channels last", torch.bfloat16, torch.channels_last),
            ("float32", torch.float32, torch.contiguous_format),
        ):
            print(f"{net}, batch {options.batch}, {name}")
            steps = {
                arm: step(net, build().to(device), device, options.batch, dtype, layout)
                for arm, build in OBJECTIVES.items()
            }
            report(interleaved(steps, options.repetitions), "cross-entropy", "at most 1.05")


if __name__ == "__main__":
    main()
