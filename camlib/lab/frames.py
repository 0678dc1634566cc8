"""Maps epoch by epoch, as they become what they are: recorded once, small, and drawn by the book's time-lapse.

`python -m camlib.lab.frames` trains Scenes with cross-entropy, CAM-loss and ICASC again, and writes the file anew.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from camlib.data import Scenes, normalised
from camlib.lab import presets
from camlib.lab.run import images_of, loaders
from camlib.lab.runs import Run
from camlib.maps import caam, cam, minmax
from camlib.observe import Output, observe
from camlib.package_data import package_data
from camlib.provenance import commit, versions
from camlib.target import one_hot
from camlib.train import fit

ARMS = ("ce", "cam", "icasc")
FROM = 500  # new images like the training images, of which three are watched: the first batch of the loop's own test


class Frames(NamedTuple):
    """What was watched.

    Attributes:
        scenes: the images, with labels, masks and grounds.
        watched: the numbers (n,) of the images that were watched.
        maps: uint8 (arm, epoch, kind, n, 8, 8), each map stretched to 0 … 255; the kinds are CAAM and the truth's CAM.
            The first epoch is that of fresh weights.
        answers: (arm, epoch, n), the class that the net answers.
        made_by: commit and versions.
    """

    scenes: Scenes
    watched: torch.Tensor
    maps: torch.Tensor
    answers: torch.Tensor
    made_by: str


def read(path: Path | None = None) -> Frames:
    """The frames that come with the book, or those in another file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with np.load(path or package_data("frames") / "scenes.npz", allow_pickle=False) as file:
        here = torch.get_default_device()  # where the images are, too
        arrays = {name: torch.as_tensor(file[name], device=here) for name in ("watched", "maps", "answers")}
        return Frames(scenes=Scenes("fresh", count=FROM), **arrays, made_by=str(file["made_by"]))


def record(path: Path, *, preset: str = "paper", seed: int = 0, device: torch.device | str = "cpu") -> None:
    """Train each arm and write the maps of three images after every epoch.

    Watched are the first two images whose ground is another class's, and the first on its own ground.
    """
    scenes = Scenes("fresh", count=FROM)
    foreign = scenes.grounds != scenes.labels % len(scenes.ground_names)
    watched = torch.cat([foreign.nonzero()[:2, 0], (~foreign).nonzero()[:1, 0]])
    seen = [_watch(Run(f"scenes/resnet8/{arm}", preset, seed), scenes, watched, device) for arm in ARMS]
    maps, answers = (torch.stack([torch.stack(part) for part in parts]) for parts in zip(*seen, strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    made_by = f"commit {commit()}, " + ", ".join(f"{name} {version}" for name, version in versions().items())
    np.savez_compressed(path, watched=watched, maps=maps, answers=answers, made_by=made_by)


def _watch(
    which: Run, scenes: Scenes, watched: torch.Tensor, device: torch.device | str
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Maps and answers before training and after every epoch."""
    experiment = which.experiment
    train, test = images_of(experiment)
    torch.manual_seed(which.seed)
    observed = observe(experiment.model(len(train.classes), train.images.shape[1]))
    pair = loaders(experiment, train, test, which.seed, device)
    images = normalised(scenes.images[watched].to(device), pair[0].mean, pair[0].std)
    target = one_hot(scenes.labels[watched], len(train.classes)).to(device)
    maps, answers = [], []

    def look(out: Output) -> None:
        kinds = (caam(out.maps[-1]), cam(out.maps[-1], out.weight, target))
        maps.append(torch.stack([(255 * minmax(kind)).round().byte().cpu() for kind in kinds]))
        answers.append(out.logits.argmax(1).cpu())

    def each_test(model: torch.nn.Module, given: tuple[torch.Tensor], _: Output) -> None:
        """The loop tests after every epoch; its test's first batch says that the epoch is over."""
        if not model.training and torch.equal(given[0], first):
            handle.remove()
            with torch.no_grad():
                look(model(images))
            watch()

    def watch() -> None:
        nonlocal handle
        handle = observed.register_forward_hook(each_test)

    first = next(pair[1].batches(0))[0]
    with torch.no_grad():
        look(observed.to(device).eval()(images))
    handle = None
    watch()
    schedule = presets.on(torch.device(device), which.preset, experiment.schedule)
    fit(observed, experiment.objective(observed.head, None), pair, schedule, progress=False)
    handle.remove()
    return maps, answers


if __name__ == "__main__":
    record(package_data("frames") / "scenes.npz")
