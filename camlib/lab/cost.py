"""What a run costs on this machine: seconds, memory and disk, from records made on its like or from timed steps."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from camlib.data import Loader, manifest
from camlib.data.stream import TRANSFORMS
from camlib.lab import presets, record
from camlib.lab.experiment import Experiment
from camlib.lab.runs import Run
from camlib.measure import evaluate
from camlib.models import create
from camlib.observe import observe
from camlib.provenance import device_name
from camlib.train import fit

STEPS, PATIENCE = 20, 10.0  # steps that are timed, and seconds after which fewer will do
REFERENCE = "scenes/resnet8/ce"  # the run by whose records a page says how long others take


class Cost(NamedTuple):
    """What a run costs.

    Attributes:
        seconds: for its whole training, alone on its threads; NaN if it does not fit.
        memory, disk: bytes, of the process (of the accelerator, if there is one) and of its checkpoints.
        source: "records" of such runs on such a device, or "timed steps".
    """

    seconds: float
    memory: float
    disk: int
    source: str


def of_run(run: Run, device: torch.device, out: Path, folders: tuple[Path | None, ...] = (None,)) -> Cost:
    """The cost of a run on a device.

    From records, if there is one of the same run on a device of the same name; otherwise from timed steps on
    made-up images, in a process of its own, remembered in `out / "costs.json"`. Timed steps leave out the tests and
    what reading files costs.

    Args:
        run: which, by its one name.
        device: where it would be trained, with as many threads as torch uses now.
        out: the folder of the runs.
        folders: of records, None for those that come with camlib.
    """
    experiment = run.experiment
    made = [r for folder in folders for r in record.load(run.name, folder) if r.preset == run.preset]
    made = [r for r in made if r.device == device_name(device)]
    if made:
        memory = median(r.peak_memory_bytes for r in made)
        return Cost(median(r.wall_seconds for r in made), memory, _disk(experiment), "records")
    timed = remembered(out / "costs.json", run, device, lambda: _timed(run, device))
    per_step, memory = timed or (math.nan, math.nan)
    steps = math.ceil(_shape(experiment)["images"] / experiment.batch_size)
    return Cost(per_step * steps * experiment.schedule.epochs, memory, _disk(experiment), "timed steps")


def remembered(file: Path, run: Run, device: torch.device, measure: Callable[[], Any]) -> Any:
    """What was measured for a run on a device of this name, as JSON gives it back; measured if it never was.

    Args:
        file: of everything remembered; made with its folder where there is none.
        run, device: what was measured.
        measure: returns plain data.
    """
    key = f"{device_name(device)}: {run.name} {run.preset}"
    known = json.loads(file.read_text()) if file.exists() else {}
    if key in known:
        return known[key]
    found = json.loads(json.dumps(measure()))
    # Another process may have written what it measured in the meantime.
    known = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(known | {key: found}, indent=1))
    part.replace(file)
    return found


def operations(run: Run) -> int:
    """Floating-point operations of a training, counted in its net: three passes' worth for every image and epoch.

    The gradients cost about twice what the pass does. A teacher adds its pass; tests, losses and what a method computes
    besides are left out.
    """
    experiment = run.experiment
    one = 3 * _counted(experiment)[0]
    if experiment.teacher:
        one += _counted(Run(experiment.teacher, run.preset).experiment)[0]
    return one * _shape(experiment)["images"] * experiment.schedule.epochs


def activations(run: Run) -> int:
    """Bytes in single precision that a step keeps of its batch for the backward pass, counted in its net.

    Nearly all memory of a step beside weights, gradients and momentum; about half as much in mixed precision. What a
    method's own maps take comes on top.
    """
    experiment = run.experiment
    return experiment.batch_size * _counted(experiment)[1]


def _counted(experiment: Experiment) -> tuple[int, int]:
    """Of one image: the operations of its pass through the net, and the bytes kept of it for the backward pass."""
    shape = _shape(experiment)
    net = experiment.net, shape["classes"], shape["channels"]
    parts = experiment.head, experiment.gate, experiment.channels_per_class, experiment.gate_units
    return _in_net((*net, *parts), shape["size"])


@cache
def _in_net(created: tuple, size: tuple[int, int]) -> tuple[int, int]:
    """As `_counted`, of what `create` makes of these arguments; the arms of a net share it."""
    with torch.device("meta"):
        model = create(*created)
        images = torch.empty(2, created[2], *size)  # batch normalisation asks for two
    weights = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    multiplications = 0

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal multiplications
        multiplications += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    stored = sum(storage.nbytes() for number, storage in kept.items() if number not in weights)
    return 2 * multiplications // len(images), stored // len(images)


def rate() -> tuple[float, str]:
    """Operations a second of the records of one small training, the first that a reader would run, and its device.

    One run's records and not all of them: a chapter that shows it is made anew when what it read has changed.
    """
    made = record.load(REFERENCE)
    device = Counter(r.device for r in made).most_common(1)[0][0]
    here = [r for r in made if r.device == device]
    return median(operations(Run(r.run, r.preset)) / r.wall_seconds for r in here), device


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: "40 s", "12 min", "3.5 h", "2.1 d"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"


def _timed(run: Run, device: torch.device) -> tuple[float, float] | None:
    """Seconds of a step and peak memory, or None if the process did not live to tell."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, run, str(device), torch.get_num_threads()).result()
        except BrokenProcessPool:
            return None
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch asked for more memory than there is: only for accelerators does that have a class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _measure(run: Run, device: str, threads: int) -> tuple[float, float]:
    torch.set_num_threads(threads)
    steps = stepper(run, device, STEPS)
    per_step, memory = steps(2)  # warms up
    if STEPS * per_step <= PATIENCE:
        per_step, memory = steps(STEPS)
    return per_step, memory


def stepper(run: Run, device: str, most: int) -> Callable[[int], tuple[float, float]]:
    """What times up to `most` steps of a run on made-up images, every term with it: seconds a step, and peak bytes."""
    experiment = run.experiment.lasting(1)  # so that every term takes part
    shape = _shape(experiment)
    observed = observe(experiment.model(shape["classes"], shape["channels"]))
    teacher = None
    if experiment.teacher:
        lender = Run(experiment.teacher, run.preset).experiment
        teacher = observe(lender.model(shape["classes"], shape["channels"]))
    objective = experiment.objective(observed.head, teacher)
    schedule = presets.on(torch.device(device), run.preset, experiment.schedule)
    half = torch.full((shape["channels"],), 0.5)
    parts = {"mean": half, "std": half, "device": device}
    size = most * experiment.batch_size, shape["channels"], *shape["size"]
    images = torch.randint(0, 256, size, dtype=torch.uint8)
    labels = torch.randint(0, shape["classes"], size[:1])

    def steps(count: int) -> tuple[float, float]:
        first = slice(count * experiment.batch_size)
        trained_on = images[first], labels[first], shape["classes"], experiment.batch_size
        train = Loader(*trained_on, augment=experiment.augment, **parts)
        test = Loader(images[:2], labels[:2], shape["classes"], 2, **parts)
        result = fit(observed, objective, (train, test), schedule, test=evaluate, progress=False)
        return result.wall_seconds / count, result.peak_memory_bytes

    return steps


def _disk(experiment: Experiment) -> int:
    """Two checkpoints, each with weights and what the optimiser keeps of them."""
    classes = _shape(experiment)["classes"]
    with torch.device("meta"):
        model = experiment.model(classes)
    copies = 2 if experiment.schedule.optimizer == "sgd" else 3
    return 2 * copies * 4 * sum(parameter.numel() for parameter in model.parameters())


def _shape(experiment: Experiment) -> dict:
    """How many training images of how many classes there are, and what a batch of them looks like."""
    entry = manifest()[experiment.data]
    classes, images = (
        entry["classes"],
        sum(entry["images"].values()) if "few_shot" in entry else entry["images"]["train"],
    )
    if "few_shot" in entry:
        base = entry["few_shot"][0]
        images, classes = round(images * base / sum(entry["few_shot"])), base
    size = (entry.get("pixels", 32),) * 2
    if experiment.transform:
        size = tuple(TRANSFORMS[experiment.transform][0](torch.zeros(3, 500, 400, dtype=torch.uint8)).shape[-2:])
    images = min(images, experiment.train_images or images)
    return {"images": images, "classes": classes, "channels": entry.get("channels", 3), "size": size}
