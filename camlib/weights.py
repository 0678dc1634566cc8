"""Small trained nets that ship with the book, so that a page can show their maps without training."""

from pathlib import Path

import torch
from torch import nn

from camlib import checkpoint, models, recipes
from camlib.data import manifest
from camlib.package_data import package_data
from camlib.run import checkpoints


def keep(cell: recipes.Cell, preset: str, seed: int, runs: Path, folder: Path | None = None) -> Path:
    """Copy the weights of a finished run out of its last checkpoint, in half precision.

    Args:
        cell, preset, seed: of the run.
        runs: the folder that the run was given as `out`.
        folder: `data/checkpoints` by default.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: there is no checkpoint of a finished run.
    """
    source = checkpoints(cell, preset, seed, runs)
    state = checkpoint.load_last(source)
    if state is None or state["epoch"] != cell.at(preset).recipe.epochs:
        raise FileNotFoundError(f"{source} holds no checkpoint of a finished run: finish it first")
    half = {name: t.half() if t.is_floating_point() else t for name, t in state["model"].items()}
    target = _path(cell, preset, seed, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    torch.save(half, part)
    part.replace(target)
    return target


def trained(name: str, preset: str, seed: int = 0, folder: Path | None = None) -> nn.Module:
    """The net of a cell, trained, in evaluation mode; it belongs to the record of the same cell, preset and seed.

    Args:
        name: TABLE/ROW/COLUMN, as "cam-table-1/resnet20/cam".
        preset: at which it was trained.
        seed: of the run.
        folder: `data/checkpoints` by default.

    Raises:
        FileNotFoundError: these weights were not kept; the message says how to make them.
        KeyError: there is no such cell.
    """
    cell = recipes.cell(name)
    path = _path(cell, preset, seed, folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights are kept for {name}, preset {preset}, seed {seed}: train them with "
            f"'python -m camlib run {name} --preset {preset} --seed {seed}'"
        )
    experiment = cell.at(preset)
    entry = manifest()[experiment.data]
    model = models.create(experiment.net, entry["classes"], in_channels=entry["channels"])
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return model.eval()


def _path(cell: recipes.Cell, preset: str, seed: int, folder: Path | None) -> Path:
    table, row, column = cell.runs.split("/")
    return (folder or package_data("checkpoints")) / table / f"{row}-{column}-{preset}-seed-{seed}.pt"
