"""What each method costs: a training step of ResNet-20 with it against one of cross-entropy, as ratios within one run.

The landing page shows what `--save data/step_costs.json` has kept. Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from timing import interleaved, machine, report

from camlib import State, observe, one_hot
from camlib.lab import presets
from camlib.lab.runs import Run
from camlib.lab.tables import TABLES
from camlib.provenance import device_name, versions

NET = "cifar100/resnet20"


def step(arm, device):
    """A function that makes one training step on one fixed batch, and what was decided for it."""
    torch.manual_seed(0)
    experiment = Run(f"{NET}/{arm}").experiment
    schedule = presets.on(device, "paper", experiment.schedule)
    observed = observe(experiment.model(100)).to(device, memory_format=torch.channels_last).train()
    objective = experiment.objective(observed.head).to(device)
    optimizer = torch.optim.SGD(observed.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    size = experiment.batch_size, 3, 32, 32
    images = torch.randn(size, device=device).contiguous(memory_format=torch.channels_last)
    target = one_hot(torch.randint(100, size[:1], device=device), 100)
    state = State(epoch=schedule.epochs - 1, train_accuracy=1.0)  # every term is switched on
    precision = getattr(torch, schedule.precision)

    def call():
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            loss = objective(observed, images, target, state)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return call, schedule.precision


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--save", type=Path, help="write the ratios there")
    options = parser.parse_args()
    device = machine()
    made = {arm: step(arm, device) for arm in TABLES["compare"].columns}
    seconds = interleaved({arm: call for arm, (call, _) in made.items()}, options.repetitions)
    report(seconds, "ce")
    if options.save:
        ratios = {
            arm: round(statistics.median(a / b for a, b in zip(times, seconds["ce"], strict=True)), 3)
            for arm, times in seconds.items()
        }
        kept = {"net": NET, "device": device_name(device), "precision": made["ce"][1], "made_with": versions()}
        part = options.save.with_suffix(".part")
        part.write_text(json.dumps(kept | {"ratio": ratios}, indent=1) + "\n")
        part.replace(options.save)


if __name__ == "__main__":
    main()
