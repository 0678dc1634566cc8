"""What a run needs of this machine, looked at one by one: versions, device, data, records."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from typing import NamedTuple

import torch

from camlib.data import DataError, check, data_root, manifest
from camlib.lab import record
from camlib.lab.presets import PRESETS
from camlib.lab.runs import RUNS
from camlib.names import lookup
from camlib.provenance import device_name

PACKAGES = ("camlib", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib")


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        topic: in a word or two.
        text: what was found.
        remedy: what to do about it, or "" if there is nothing to do.
        blocks: whether something fails until that is done.
    """

    topic: str
    text: str
    remedy: str = ""
    blocks: bool = False

    def __str__(self) -> str:
        remedy = f": {self.remedy}" if self.remedy else ""
        return f"{'PROBLEM ' if self.blocks else ''}{self.topic}: {self.text}{remedy}"


def examine() -> list[Finding]:
    """Look at everything; touches nothing and fetches nothing."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return [
        Finding("versions", ", ".join([f"Python {platform.python_version()}", *versions])),
        *_device(),
        *_data(),
        *_records(),
        *_book(),
    ]


def _device() -> list[Finding]:
    cpu = Finding("processor", f"{device_name(torch.device('cpu'))} of {os.cpu_count()}")
    if torch.cuda.is_available():
        names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
        return [cpu, Finding("accelerator", ", ".join(names))]
    if shutil.which("nvidia-smi"):
        remedy = "install the build of torch for this driver (https://pytorch.org), or update the driver"
        return [cpu, Finding("accelerator", "there is nvidia-smi, but torch finds no GPU", remedy)]
    return [cpu, Finding("accelerator", "none; runs go to the processor")]


def _data() -> list[Finding]:
    root = data_root()
    origin = "CAMLIB_DATA" if "CAMLIB_DATA" in os.environ else "the default; CAMLIB_DATA is not set"
    if "CAMLIB_DATA" in os.environ and not root.is_dir():
        folder = Finding(
            "data folder",
            f"{root} ({origin}) is no folder",
            "create it, or point CAMLIB_DATA at another",
            True,
        )
    else:
        folder = Finding("data folder", f"{root} ({origin})")
    return [folder, *(data_set(name) for name in manifest())]


def data_set(name: str) -> Finding:
    """Whether a data set is complete, damaged, or not there; only a damaged one blocks.

    Args:
        name: as in the manifest, "cifar100".

    Raises:
        UnknownName: there is no such data set.
    """
    if not is_there(name):
        return Finding(name, "not there", f"python -m camlib data get {name}")
    try:
        check(name)
    except DataError as error:
        return Finding(name, "incomplete or damaged", str(error), blocks=True)
    return Finding(name, "complete")


def is_there(name: str) -> bool:
    """Whether any file of a data set is in the data folder; of one that is generated, always.

    Of one that is put there by hand, as several may share a folder, whether all parts are that it cannot be without.

    Raises:
        UnknownName: there is no such data set.
    """
    entry = lookup(manifest(), name, "data set")
    files, parts = ([(data_root() / path).exists() for path in entry.get(kind, ())] for kind in ("files", "parts"))
    others = [entry[kind] for kind in ("novel", "made_of") if kind in entry]
    return all(parts) and (not files or any(files)) and all(map(is_there, others))


def _records() -> list[Finding]:
    findings, count = [], 0
    for name in RUNS:
        try:
            count += sum(len(record.counting(name, preset)) for preset in PRESETS)
        except (record.RecordError, OSError) as error:
            findings.append(Finding("records", f"of {name} cannot be used", str(error), blocks=True))
    return [Finding("records", f"{count} of {len(RUNS)} runs' names can be read"), *findings]


def _book() -> list[Finding]:
    if importlib.util.find_spec("jupyter_book"):
        return [Finding("book", f"jupyter-book {importlib.metadata.version('jupyter-book')}")]
    return [Finding("book", "jupyter-book is not installed", "make setup, if the book is to be built")]
