"""One set of versions: pyproject.toml names the packages, requirements*.txt pin them, the rest delegates."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
RUNTIME = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
GROUPS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["dependency-groups"].items()}
FURTHER = GROUPS | {"ray": [Requirement(line) for line in PROJECT["project"]["optional-dependencies"]["ray"]]}


def pins(file):
    """{name: [requirement, …]}: a package may be pinned once per Python version."""
    found = {}
    for line in (ROOT / file).read_text("utf8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def version(pin):
    return re.fullmatch(r"==(.+)", str(pin.specifier)).group(1)


def test_every_dependency_is_pinned_within_its_bounds():
    locked = pins("requirements.txt")
    for need in [*RUNTIME, *GROUPS["book"], *GROUPS["dev"], *GROUPS["page"]]:
        for pin in locked[canonicalize_name(need.name)]:
            assert need.specifier.contains(version(pin)), f"{need} against {pin}: run `make lock`"


@pytest.mark.parametrize("group", ["oracles", "course", "ray"])
def test_further_groups_are_pinned_beside_the_same_versions(group):
    locked, further = pins("requirements.txt"), pins(f"requirements-{group}.txt")
    assert {canonicalize_name(need.name) for need in FURTHER[group]} <= set(further)
    for name in set(locked) & set(further):
        versions = {version(pin) for pin in further[name]}
        assert versions <= {version(pin) for pin in locked[name]}, f"{name}: run `make lock`"


@pytest.mark.parametrize("file", sorted(ROOT.glob("requirements*.txt")), ids=lambda file: file.name)
def test_pins_name_no_address(file):
    assert "://" not in file.read_text("utf8")


def test_conda_users_get_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))
    python, pip, delegated = environment["dependencies"]
    assert python == f"python{PROJECT['project']['requires-python']}"
    assert pip == "pip"
    assert delegated == {"pip": ["-r requirements.txt", "-e ."]}


@pytest.mark.parametrize("need", RUNTIME, ids=str)
def test_colab_has_what_camlib_needs(need):
    colab = pins("tests/colab.txt")
    (pin,) = colab[canonicalize_name(need.name)]
    assert need.specifier.contains(version(pin)), f"Colab ships {pin}: camlib would replace it"
    assert all(part.operator == ">=" for part in need.specifier), "lower bounds only"
