"""How many trainings a device does best with side by side: steps a second of 1, 2, 4, … processes together.

A small net on a large card waits for Python, and another process fills the gaps. `python -m camlib plan … --run` takes
the best number unless `--jobs` says otherwise.
"""

import argparse

from timing import machine

from camlib.lab import packing
from camlib.lab.runs import Run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", default=["scenes/resnet8/cam", "cifar100/resnet20/cam"])
    parser.add_argument("--preset", default="paper")
    options = parser.parse_args()
    device = machine()
    for name in options.runs:
        found = packing.throughput(Run(name, options.preset), device)
        for count, steps in found.items():
            print(f"  {name}, {count} side by side: {steps:.1f} steps a second, {steps / found[1]:.2f} of one alone")
        print(f"  best: {max(found, key=found.get, default=1)}", flush=True)


if __name__ == "__main__":
    main()
