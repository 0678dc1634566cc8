"""Trained nets: small ones ship with the book, so that a page can show their maps without training."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camlib.data import Loader, load
from camlib.data.datasets import FileSet
from camlib.data.loader import Batches, normalised
from camlib.data.stream import StreamLoader
from camlib.lab.experiment import Experiment
from camlib.lab.presets import PRESETS
from camlib.lab.runs import RUNS, Run
from camlib.names import lookup
from camlib.observe import Observed, observe
from camlib.package_data import package_data
from camlib.train import checkpoint


class Trained(NamedTuple):
    """A trained net with everything that belongs to it.

    Attributes:
        observed: the net, in evaluation mode.
        run: what it was trained as.
        mean, std: of each channel, by which its images were normalised.
        commit: of camlib, when it was trained.
    """

    observed: Observed
    run: Run
    mean: Tensor
    std: Tensor
    commit: str

    def normalised(self, images: Tensor) -> Tensor:
        """Images in single precision, normalised as in the net's training.

        Args:
            images: uint8 (N, C, H, W), of any set.

        Returns:
            float32 (N, C, H, W), on the device of the net.
        """
        return normalised(images.to(next(self.observed.parameters()).device), self.mean, self.std)

    def images(self, split: str = "test", count: int | None = None, data: Path | None = None) -> Batches:
        """The images that belong to the net, normalised as in its training, in order and without augmentation.

        Args:
            split: "train" or "test".
            count: the first so many, or as many as the run took.
            data: the folder of the real data sets, `camlib.data.data_root()` by default.

        Returns:
            A loader in batches of 500; `source` holds the set, with masks and names of classes.

        Raises:
            DataError: the data are missing or damaged.
        """
        experiment = self.run.experiment
        asked = {"train": experiment.train_images, "test": experiment.test_images}[split]
        found = load(experiment.data, split, data, asked if count is None else count)
        device = next(self.observed.parameters()).device
        if isinstance(found, FileSet):
            loader = StreamLoader(found, len(found.classes), 100, transform=experiment.transform, device=device)
        else:
            look = {"mean": self.mean, "std": self.std, "device": device}
            loader = Loader(found.images, found.labels, len(found.classes), 500, **look)
        loader.source = found
        return loader


_KEPT = {"run", "net", "classes", "channels", "mean", "std", "commit", "state"}  # what `keep` writes


class WeightsError(ValueError):
    """A file does not hold the weights that are asked for; the message says what it holds."""


def keep(run: Run, out: Path, loader: Batches, folder: Path | None = None) -> Path:
    """Copy the weights of a finished run out of its last checkpoint, in half precision.

    Args:
        run: which one.
        out: the folder that it was given as `out`.
        loader: of its training images, whose normalisation goes along.
        folder: `data/weights` by default.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: there is no checkpoint of a finished run.
        OSError: the file could not be written.
    """
    source = out / run.path
    state = checkpoint.load_last(source)
    if state is None or state["epoch"] != run.experiment.schedule.epochs:
        raise FileNotFoundError(f"{source} holds no checkpoint of a finished run: finish it first")
    content = {
        "run": run.path,
        "net": run.experiment.net,
        "classes": loader.num_classes,
        "channels": len(loader.mean),
        "mean": loader.mean.flatten().cpu(),
        "std": loader.std.flatten().cpu(),
        "commit": state["made_with"]["commit"],
        "state": {name: t.half() if t.is_floating_point() else t for name, t in state["model"].items()},
    }
    return write(content, path_of(run, folder))


def write(content: dict[str, Any], path: Path) -> Path:
    """Write a file of weights under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)
    return path


def trained(
    name: str,
    preset: str = "paper",
    seed: int = 0,
    folder: Path | None = None,
    device: torch.device | str | None = None,
) -> Trained:
    """A net that was kept, observed, in evaluation mode and with its normalisation.

    Args:
        name: a name of `camlib.lab.runs.RUNS`, as "scenes/resnet8/cam".
        preset, seed: at which it was trained.
        folder: `data/weights` by default.
        device: where it shall be; by default torch's default device, which a chapter's set-up chooses.

    Raises:
        FileNotFoundError: these weights were not kept; the message says how to make them.
        UnknownName: there is no such run or preset.
        WeightsError: the file is damaged, or holds another net.
    """
    run = Run(name, preset, seed)
    experiment = run.experiment
    path = path_of(run, folder)
    if not path.is_file():
        raise FileNotFoundError(f"no weights are kept of {run.path}: train them with '{run.command} --weights FOLDER'")
    content = unpacked(path)
    missing = _KEPT - set(content)
    if missing or content["run"] != run.path:
        what = f"lacks {', '.join(sorted(missing))}" if missing else f"holds the net of {content['run']}"
        raise WeightsError(f"{path} {what}, expected that of {run.path}: make it again with '{run.command}'")
    model = rebuilt(experiment, content)
    return Trained(
        observe(model.eval()).to(device or torch.get_default_device()),
        run,
        content["mean"],
        content["std"],
        content["commit"],
    )


def rebuilt(experiment: Experiment, content: dict[str, Any]) -> nn.Module:
    """The net of an experiment, with the weights that a file of weights holds, in single precision."""
    model = experiment.model(content["classes"], content["channels"])
    model.load_state_dict(_single(content["state"]))
    return model


def read(path: Path) -> dict[str, Tensor]:
    """The weights in a file, in single precision, without executing any code in it.

    Args:
        path: a file that `keep` wrote, or one with what `model.state_dict()` gives.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file does not hold named tensors.
    """
    return named_tensors(unpacked(path), path)


def origin(content: Any) -> tuple[Run, Tensor, Tensor] | None:
    """The run of a net that `keep` wrote, and mean and std of its images; None of any other content of a file."""
    if not (isinstance(content, dict) and set(content) >= _KEPT):
        return None
    name, preset, seed = content["run"].rsplit("/", 2)
    return Run(name, preset, int(seed.removeprefix("seed-"))), content["mean"], content["std"]


def named_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in what a file holds, in single precision.

    Raises:
        WeightsError: it does not hold named tensors.
    """
    state = content.get("state", content) if isinstance(content, dict) else content
    if not (isinstance(state, dict) and state and all(isinstance(tensor, Tensor) for tensor in state.values())):
        held = f", but {', '.join(map(str, list(state)[:5]))}" if isinstance(state, dict) and state else ""
        raise WeightsError(f"{path} does not hold the named tensors that model.state_dict() gives{held}")
    return _single(state)


def unpacked(path: Path) -> Any:
    """What a file holds, without executing any code in it.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: the file is damaged, or holds more than tensors and plain data.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        if not zipfile.is_zipfile(content):
            raise zipfile.BadZipFile(f"{path} is no archive")
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as weights: it is damaged, no file of torch.save, or holds more than tensors and "
            "plain data, which is not executed. Pass a file with model.state_dict()"
        ) from error


def _single(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.float() if t.is_floating_point() else t for name, t in state.items()}


def start_from(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give a net all weights of another one of its kind but the classifier's, as fine-tuning begins.

    Args:
        model: changed in place; its classifier stays as it is, whatever its number of classes.
        state: of a net of the same architecture, as `model.state_dict()` gives it.

    Raises:
        WeightsError: the weights are those of another architecture; the message names the first difference.
    """
    own = model.state_dict()
    classifier = observe(model).head
    head = next(f"{name}." for name, module in model.named_modules() if module is classifier)
    wanted = {name: tensor for name, tensor in own.items() if not name.startswith(head)}
    given = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    for name in dict.fromkeys([*wanted, *given]):
        shapes = [tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (given, wanted)]
        if shapes[0] != shapes[1]:
            raise WeightsError(
                f"these weights belong to another net: '{name}' is {shapes[0]} in them and {shapes[1]} in the model"
            )
    model.load_state_dict(own | given)


def path_of(run: Run, folder: Path | None = None) -> Path:
    """The file that `keep` writes, whether it exists or not."""
    return (folder or package_data("weights")) / f"{run.path}.pt"


def kept(name: str, preset: str = "paper", folder: Path | None = None) -> list[int]:
    """The seeds of a run whose weights were kept, in order; none if there are none.

    Args:
        name: a name of `camlib.lab.runs.RUNS`.
        preset: at which it was trained.
        folder: `data/weights` by default.

    Raises:
        UnknownName: there is no such run or preset.
    """
    lookup(RUNS, name, "run")
    lookup(PRESETS, preset, "preset")
    found = path_of(Run(name, preset), folder).parent.glob("seed-*.pt")
    return sorted(int(path.stem.removeprefix("seed-")) for path in found)
