"""Small trained nets that ship with the book, so that a page can show their maps without training."""

from pathlib import Path

import torch
from torch import Tensor, nn

from camlib import checkpoint, recipes
from camlib.observe import observe
from camlib.package_data import package_data


def checkpoints(cell: recipes.Cell, preset: str, seed: int, out: Path) -> Path:
    """The folder that `camlib.run.run` keeps the checkpoints of one run in, below `out`."""
    return out / cell.runs / preset / f"seed-{seed}"


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
    target = path_of(cell, preset, seed, folder)
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
    path = path_of(cell, preset, seed, folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights are kept for {name}, preset {preset}, seed {seed}: train them with "
            f"'python -m camlib run {name} --preset {preset} --seed {seed}'"
        )
    state = read(path)
    classes = [tensor for tensor in state.values() if tensor.ndim == 2][-1].shape[0]
    channels = next(tensor for tensor in state.values() if tensor.ndim == 4).shape[1]
    model = cell.at(preset).model(classes, channels)
    model.load_state_dict(state)
    return model.eval()


def read(path: Path) -> dict[str, Tensor]:
    """The weights in a file, in single precision, without executing any code in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold named tensors.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not (isinstance(state, dict) and state and all(isinstance(tensor, Tensor) for tensor in state.values())):
        raise ValueError(f"{path} does not hold the named tensors that model.state_dict() gives")
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def start_from(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a net all weights of another one of its kind but the classifier's, as fine-tuning begins.

    Args:
        model: changed in place; its classifier stays as it is, whatever its number of classes.
        state: of a net of the same architecture, as `model.state_dict()` gives it.

    Raises:
        ValueError: the weights are those of another architecture; the message names the first difference.
    """
    own = model.state_dict()
    classifier = observe(model).head
    head = next(f"{name}." for name, module in model.named_modules() if module is classifier)
    wanted = {name: tensor for name, tensor in own.items() if not name.startswith(head)}
    given = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    for name in dict.fromkeys([*wanted, *given]):
        shapes = [tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (given, wanted)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"these weights belong to another net: '{name}' is {shapes[0]} in them and {shapes[1]} in the model"
            )
    model.load_state_dict(own | given)


def path_of(cell: recipes.Cell, preset: str, seed: int, folder: Path | None = None) -> Path:
    """The file that `keep` writes, whether it exists or not."""
    table, row, column = cell.runs.split("/")
    return (folder or package_data("checkpoints")) / table / f"{row}-{column}-{preset}-seed-{seed}.pt"
