"""The package where others will run it: python tests/versions.py oldest|colab …

For each name an environment of its own below build/versions: "oldest" has the lowest versions that pyproject.toml
declares, "colab" those of tests/colab.txt. The wheel is installed there without the repository in reach, and runs the
tests of observing, maps and losses, one short training and chapters: on Colab's versions, where most readers meet the
book, every one; on the oldest, three. A Python that is not to be had is replaced by this one, and said.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build/versions"
PYTHONS = {"oldest": "3.11", "colab": "3.13"}
TESTS = ("test_observe.py", "test_maps.py", "losses")
THREE = ("1-foundations/10-class-activation-maps", "2-cam-loss/10-cam-loss", "3-icasc/10-gradient-attention")
TOOLS = ("pytest", "pytest-xdist", "nbmake", "ipykernel", "PyYAML")


def uv(*arguments):
    subprocess.run([Path(sys.executable).with_name("uv"), *arguments], check=True, cwd=ROOT)


def chapters(name):
    """Which chapters to run, without their ending."""
    if name != "colab":
        return THREE
    pages = re.findall(r"^ *- file: (\S+)$", (ROOT / "book/_toc.yml").read_text("utf8"), re.MULTILINE)
    return [page for page in pages if (ROOT / "book" / f"{page}.ipynb").exists()]


def packages(name):
    """What to install beside the wheel."""
    if name == "colab":
        return ["-r", "tests/colab.txt"]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["dependencies"]
    return [re.sub(r">=(.+)", r"==\1.*", need) for need in declared]


def environment(name):
    """A fresh environment with those versions and the wheel; its Python."""
    folder = BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    wanted = PYTHONS[name]
    found = subprocess.run(
        [Path(sys.executable).with_name("uv"), "python", "find", wanted], capture_output=True, text=True
    )
    if found.returncode:
        print(f"{name}: no Python {wanted} here, {sys.version.split()[0]} takes its place")
    uv("venv", "-q", "--python", found.stdout.strip() or sys.executable, folder / "env")
    python = folder / "env/bin/python"
    uv("pip", "install", "-q", "--python", python, *packages(name), *TOOLS)
    uv("build", "-q", "--wheel", "--out-dir", folder / "dist")
    uv("pip", "install", "-q", "--python", python, "--no-deps", *(folder / "dist").glob("*.whl"))
    return python


def check(name, python):
    """Run everything; raises where something fails."""
    outside = BUILD / name / "outside"
    shutil.copytree(ROOT / "tests", outside / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for chapter in chapters(name):
        (outside / chapter).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "book" / f"{chapter}.ipynb", (outside / chapter).parent)
    settings = {**os.environ, "CAMLIB_PRESET": "quick", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    settings.pop("PYTHONPATH", None)
    notebooks = [f"{chapter}.ipynb" for chapter in chapters(name)]
    for command in (
        ["pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{test}" for test in TESTS)],
        ["camlib", "run", "scenes/resnet8/cam", "--preset", "quick", "--out", "runs"],
        ["pytest", "-q", "-p", "no:cacheprovider", "-n", "auto", "--nbmake", *notebooks],
    ):
        subprocess.run([python, "-m", *command], check=True, cwd=outside, env=settings)


def main(names):
    for name in names:
        python = environment(name)
        check(name, python)
        print(f"{name}: passed")


if __name__ == "__main__":
    main(sys.argv[1:] or list(PYTHONS))
