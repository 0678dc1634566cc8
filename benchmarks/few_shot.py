"""Baseline++ for many episodes at once against one after the other. Target: 600 episodes within 60 s on 2 cores.

The loop trains torch's own layer with torch's own optimiser, an episode at a time, as the authors' code does. Both
are timed on a few episodes in turn; all 600 are then trained once, at once.
"""

import argparse
import time

import torch
from timing import interleaved, machine, report
from torch import nn

from camlib.measure.few_shot import fine_tune
from camlib.models import CosineHead

WAYS = 5


def loop(support, shots):
    for features in support:
        head = CosineHead(features.shape[1], WAYS).to(features.device)
        optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3)
        for _ in range(100):
            for batch in torch.randperm(len(features), device=features.device).split(4):
                loss = nn.functional.cross_entropy(head(features[batch]), batch // shots)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--episodes", type=int, default=10, help="of the comparison")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    device = machine()
    for shots in (1, 5):
        support = torch.rand(600, WAYS * shots, options.features, device=device)
        few = support[: options.episodes]
        print(f"{shots}-shot, {options.features} features, {options.episodes} episodes")
        calls = {
            "one after the other": lambda few=few, shots=shots: loop(few, shots),
            "at once": lambda few=few: fine_tune(few, WAYS, 0),
        }
        report(interleaved(calls, options.repetitions), "one after the other")
        began = time.perf_counter()
        fine_tune(support, WAYS, 0).sum().item()  # waits for an accelerator
        print(
            f"  600 episodes at once: {time.perf_counter() - began:.1f} s; target: within 60 s on 2 cores", flush=True
        )


if __name__ == "__main__":
    main()
