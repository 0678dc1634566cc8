"""The installed wheel, outside the repository: python smoke.py [TAG]. A net is observed, a step trained, data found."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import camlib
from camlib import Objective, observe, one_hot
from camlib.losses import CAMLoss, CrossEntropy
from camlib.models import create

if len(sys.argv) > 1:
    assert version("camlib") == sys.argv[1].removeprefix("v"), version("camlib")
assert "site-packages" in Path(camlib.__file__).parts, f"{camlib.__file__} is not the wheel"

model = observe(create("resnet8", 10))
objective = Objective(ce=(1.0, CrossEntropy()), cam=(3.0, CAMLoss()))
parts = objective(model, torch.randn(4, 3, 32, 32), one_hot(torch.arange(4), 10))
parts["loss"].backward()
assert parts["loss"].isfinite()

for command in (["list"], ["data", "list"], ["doctor"]):
    subprocess.run([sys.executable, "-m", "camlib", *command], check=True, stdout=subprocess.DEVNULL)
print(f"camlib {version('camlib')} works with torch {torch.__version__}")
