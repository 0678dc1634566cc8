"""The one training loop: any observed model, any objective, one process or many, resumed exactly."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from camlib import checkpoint
from camlib.analysis import spatial_rank
from camlib.data.loader import Loader, derived_seed
from camlib.objective import Objective, State
from camlib.observe import Observed, observe

CHECK_EVERY = 50  # steps between looks at the losses: each look makes an accelerator wait
SAVE_EVERY = 600.0  # seconds between checkpoints inside an epoch, so that a lost machine costs little


@dataclass(frozen=True)
class Recipe:
    """How to train: everything about the optimiser and its arithmetic, as plain data.

    Attributes:
        epochs: passes over the training images.
        learning_rate: at the start.
        schedule: "cosine" (half a cosine from the learning rate to 0) or "steps" (times `decay` at each
            milestone), both set at the start of every epoch.
        milestones: epochs at which "steps" lowers the learning rate, counted from 0.
        decay: the factor of "steps".
        momentum, nesterov, weight_decay: of stochastic gradient descent.
        precision: "float32", or "bfloat16" or "float16" for automatic mixed precision.
        channels_last: keep images and maps with channels as the fastest dimension.
        compile: compile the model's blocks one by one with torch.compile.

    Raises:
        ValueError: a value is unknown or out of range.
    """

    epochs: int
    learning_rate: float = 0.1
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}, expected at least 1")
        if self.schedule not in ("cosine", "steps"):
            raise ValueError(f"schedule is '{self.schedule}', expected 'cosine' or 'steps'")
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision is '{self.precision}', expected 'float32', 'bfloat16' or 'float16'")

    def learning_rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return self.learning_rate * self.decay ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass
class Record:
    """What a run gave, as it stands in `data/records`.

    Attributes:
        metrics: at the end of the last epoch, by name; shares in 0 … 1.
        best: the best value of each metric over the epochs and its epoch; kept, never shown as the result.
        history: one entry per epoch: training loss, each term, training accuracy and the test metrics.
        epochs_done, epochs_asked: equal in a finished run.
        objective, recipe, loader: what was trained, as data.
        device, precision, processes, versions, commit: where and with what.
        wall_seconds, peak_memory_bytes: cost, over all sessions of a resumed run. These two and the
            seconds in `history` are the only fields that differ between two runs of the same commit,
            machine and seed on a CPU.
        checkpoint: the folder of the last checkpoint, or None.
        about: what the caller said of the run, such as table, row, column and preset.
    """

    metrics: dict[str, float]
    best: dict[str, dict[str, float]]
    history: list[dict[str, float]]
    epochs_done: int
    epochs_asked: int
    objective: dict[str, str]
    recipe: dict[str, Any]
    loader: dict[str, Any]
    seed: int
    device: str
    precision: str
    processes: int
    versions: dict[str, str]
    commit: str
    wall_seconds: float
    peak_memory_bytes: int
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.epochs_done == self.epochs_asked


class NotFiniteError(ArithmeticError):
    """A loss became infinite or not a number; the message says at which step and in which term."""


class ResumeError(ValueError):
    """The checkpoint belongs to another run; the message lists the differences."""


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, if it did, for the length of a `with` block."""
    if "RANK" not in os.environ:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def fit(
    model: nn.Module,
    objective: Objective,
    loaders: tuple[Loader, Loader],
    recipe: Recipe,
    *,
    out: Path | str | None = None,
    resume: str = "auto",
    time_limit: float | None = None,
    progress: bool = True,
    about: dict[str, Any] | None = None,
) -> Record:
    """Train a model (CAM-loss, Algorithm 1, for `Objective(ce=…, cam=…)`).

    Order, augmentation and every other draw depend on the loader's seed, the epoch and the step alone; a run
    that was killed and started again goes on from its last checkpoint and ends with the same weights, to the
    last bit on a CPU with the same number of threads. Under torchrun, inside `process_group`, each process
    takes its share of every batch.

    Args:
        model: a classifier, or one that `observe` returned. It is trained in place, on the loaders' device.
        objective: the terms. Moved to the same device.
        loaders: of the training and of the test images.
        recipe: optimiser, length and arithmetic.
        out: a folder for checkpoints; None to keep none.
        resume: "auto" goes on from the last checkpoint in `out`, if any; "never" starts afresh.
        time_limit: seconds after which the run stops at a checkpoint; it is then unfinished.
        progress: show a progress bar (the environment variable TQDM_DISABLE=1 hides it, too).
        about: anything to keep with the record.

    Returns:
        The record. Of an unfinished run, the epochs done so far.

    Raises:
        NotFiniteError: a loss became infinite or not a number; the last checkpoint is from before that.
        ResumeError: the checkpoint in `out` was made with another recipe, objective, data or net.
        OSError: a checkpoint could not be written, or every checkpoint is damaged.
        ValueError: `resume` is unknown, or a time limit is set without a folder to stop at.
    """
    if resume not in ("auto", "never"):
        raise ValueError(f"resume is '{resume}', expected 'auto' or 'never'")
    if time_limit is not None and out is None:
        raise ValueError("time_limit needs out=, a folder for the checkpoint to stop at")
    run = _Run(model, objective, loaders, recipe, Path(out) if out else None, about or {})
    if resume == "auto":
        run.resume()
    try:
        run.train(time_limit, progress)
    finally:
        run.close()
    return run.record()


class _Run:
    """The state of one training run: what a checkpoint holds, and how it moves on."""

    def __init__(self, model, objective, loaders, recipe, out, about):
        self.train_loader, self.test_loader = loaders
        self.device = self.train_loader.device
        self.recipe, self.out, self.about = recipe, out, about
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        last_batch = len(self.train_loader.images) % self.train_loader.batch_size
        if 0 < last_batch < self.world or self.train_loader.batch_size < self.world:
            raise ValueError(
                f"a batch of {last_batch or self.train_loader.batch_size} cannot be shared among {self.world} "
                "processes: choose another batch size"
            )
        observed = model if isinstance(model, Observed) else observe(model)
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.observed = observed.to(self.device, memory_format=self.layout)
        self.objective = objective.to(self.device)
        groups = [{"params": list(self.observed.parameters())}, *objective.parameter_groups()]
        self.optimizer = torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
        for group in self.optimizer.param_groups:
            group["relative"] = group["lr"] / recipe.learning_rate
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        if recipe.compile:
            self.observed.compile_blocks()
        self.parallel = DistributedDataParallel(self.observed) if self.world > 1 else self.observed
        self.epoch = self.step = 0
        self.totals: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.earlier_seconds, self.earlier_peak = 0.0, 0
        self.started = self.saved_at = time.monotonic()
        self.bar = None

    # What makes two runs the same run. Anything here that differs refuses a resume.
    def identity(self) -> dict[str, Any]:
        shapes = {name: list(tensor.shape) for name, tensor in self.observed.graph.state_dict().items()}
        return {
            "recipe": json.loads(json.dumps(asdict(self.recipe))),
            "objective": self.objective.describe(),
            "loader": self.train_loader.describe(),
            "net": {"parameters": sum(p.numel() for p in self.observed.parameters()), "shapes": shapes},
        }

    def resume(self) -> None:
        state = checkpoint.load_last(self.out) if self.out else None
        if state is None:
            return
        differences = list(_differences(state["identity"], self.identity()))
        if differences:
            raise ResumeError(
                f"the checkpoint in {self.out} belongs to another run: {'; '.join(differences[:5])}. "
                "Choose another folder, or pass resume='never' to start afresh and overwrite it"
            )
        self.observed.graph.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.totals, self.history = state["totals"], state["history"]
        self.earlier_seconds, self.earlier_peak = state["seconds"], state["peak_memory"]

    def save(self) -> None:
        self.saved_at = time.monotonic()
        if self.out is None or self.rank != 0:
            return
        state = {
            "identity": self.identity(),
            "model": self.observed.graph.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "totals": self.totals,
            "history": self.history,
            "seconds": self.seconds(),
            "peak_memory": self.peak_memory(),
        }
        checkpoint.save(state, self.out, self.epoch, self.step)

    def train(self, time_limit: float | None, progress: bool) -> None:
        steps = len(self.train_loader)
        self.bar = tqdm(
            total=self.recipe.epochs * steps,
            initial=self.epoch * steps + self.step,
            unit="step",
            **({} if progress and self.rank == 0 else {"disable": True}),
        )
        while self.epoch < self.recipe.epochs:
            if not self.train_epoch(time_limit):
                return

    def train_epoch(self, time_limit: float | None) -> bool:
        """Train to the end of the epoch and test. False if the time ran out before."""
        began = time.monotonic()
        rate = self.recipe.learning_rate_at(self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative"]
        accuracy = self.history[-1]["train_accuracy"] if self.history else 0.0
        state = State(epoch=self.epoch, train_accuracy=accuracy)
        self.parallel.train()
        self.objective.train()
        pending: list[dict[str, Tensor]] = []
        batches = self.train_loader.batches(self.epoch, self.step, self.rank, self.world)
        for images, target in batches:
            pending.append(self.train_step(images, target, state))
            self.step += 1
            if len(pending) == CHECK_EVERY:
                self.settle(pending)
            if self.time_is_up(time_limit) and self.step < len(self.train_loader):
                self.settle(pending)
                self.totals["seconds"] = self.totals.get("seconds", 0.0) + time.monotonic() - began
                self.save()
                return False
            if time.monotonic() - self.saved_at > SAVE_EVERY:
                self.settle(pending)
                self.save()
        self.settle(pending)
        self.finish_epoch(rate, began)
        return self.epoch == self.recipe.epochs or not self.time_is_up(time_limit)

    def train_step(self, images: Tensor, target: Tensor, state: State) -> dict[str, Tensor]:
        torch.manual_seed(derived_seed(self.train_loader.seed, self.epoch, self.step, self.rank))
        images = images.contiguous(memory_format=self.layout)
        with _autocast(self.device, self.recipe.precision):
            parts = self.objective(self.parallel, images, target, state)
        # Gradients are averaged over processes: the factor turns that into the mean over the whole batch.
        loss = parts["loss"] * (len(images) * self.world / self.batch_images(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        correct = (parts.pop("logits").argmax(1) == target.argmax(1)).sum()
        sums = {name: part.detach().double() * len(images) for name, part in parts.items()}
        return {**sums, "correct": correct.double()}

    def batch_images(self, step: int) -> int:
        """Images in the batch of a step, over all processes."""
        size = self.train_loader.batch_size
        return min(size, len(self.train_loader.images) - step * size)

    def settle(self, pending: list[dict[str, Tensor]]) -> None:
        """Add the pending steps to the epoch's totals, and stop if a loss in them is not finite."""
        if not pending:
            return
        names = list(pending[0])
        table = torch.stack([torch.stack([step[name] for name in names]) for step in pending])
        if self.world > 1:
            dist.all_reduce(table)
        table = table.cpu()
        if not table.isfinite().all():
            row, column = (int(i) for i in (~table.isfinite()).nonzero()[0])
            terms = [name for i, name in enumerate(names) if not table[row, i].isfinite() and name != "loss"]
            step = self.step - len(pending) + row
            raise NotFiniteError(
                f"the loss is {float(table[row, column])} at epoch {self.epoch}, step {step}, in term "
                f"{' and '.join(f'{term!r}' for term in terms) or 'loss'}. "
                + (f"The last good checkpoint is in {self.out}. " if self.out and any(self.out.glob('*.pt')) else "")
                + "Lower the learning rate or the term's weight"
            )
        seen = sum(self.batch_images(step) for step in range(self.step - len(pending), self.step))
        sums = dict(zip(names, table.sum(0).tolist(), strict=True))
        for name, value in {**sums, "images": seen}.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        self.bar.update(len(pending))
        self.bar.set_postfix(
            epoch=f"{self.epoch + 1}/{self.recipe.epochs}",
            loss=f"{self.totals['loss'] / self.totals['images']:.3f}",
            accuracy=f"{self.totals['correct'] / self.totals['images']:.1%}",
        )
        pending.clear()

    def finish_epoch(self, rate: float, began: float) -> None:
        totals, self.totals = self.totals, {}
        images, correct = totals.pop("images"), totals.pop("correct")
        seconds = totals.pop("seconds", 0.0)
        entry = {f"train_{name}": value / images for name, value in totals.items()}
        entry |= {"train_accuracy": correct / images, "learning_rate": rate}
        entry |= {f"test_{name}": value for name, value in self.evaluate().items()}
        entry["seconds"] = seconds + time.monotonic() - began
        self.history.append(entry)
        self.epoch, self.step = self.epoch + 1, 0
        self.save()

    def evaluate(self) -> dict[str, float]:
        return evaluate(self.observed, self.test_loader, self.recipe.precision, self.recipe.channels_last)

    def time_is_up(self, time_limit: float | None) -> bool:
        if time_limit is None:
            return False
        up = torch.tensor(float(time.monotonic() - self.started > time_limit), device=self.device)
        if self.world > 1:
            dist.broadcast(up, 0)
        return bool(up)

    def seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.started

    def peak_memory(self) -> int:
        if self.device.type == "cuda":
            now = torch.cuda.max_memory_allocated(self.device)
        else:
            unit = 1 if platform.system() == "Darwin" else 1024
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return max(now, self.earlier_peak)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def record(self) -> Record:
        test = [
            {name.removeprefix("test_"): value for name, value in entry.items() if name.startswith("test_")}
            for entry in self.history
        ]
        best = {}
        for name in ("accuracy", "top5_accuracy") if test else ():
            values = [entry[name] for entry in test]
            best[name] = {"value": max(values), "epoch": values.index(max(values))}
        return Record(
            metrics=test[-1] if test else {},
            best=best,
            history=self.history,
            epochs_done=self.epoch,
            epochs_asked=self.recipe.epochs,
            objective=self.objective.describe(),
            recipe=asdict(self.recipe),
            loader=self.train_loader.describe(),
            seed=self.train_loader.seed,
            device=device_name(self.device),
            precision=self.recipe.precision,
            processes=self.world,
            versions=versions(),
            commit=commit(),
            wall_seconds=self.seconds(),
            peak_memory_bytes=self.peak_memory(),
            about=self.about,
        )


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: Loader, precision: str = "float32", channels_last: bool = False
) -> dict[str, float]:
    """Test a model on every image of a loader, once.

    Args:
        model: a classifier, or one that `observe` returned.
        loader: the test images.
        precision: as in `Recipe`.
        channels_last: as in `Recipe`.

    Returns:
        "accuracy" and "top5_accuracy" (0 … 1), "loss" (cross-entropy), and of the first batch the mean
        "spatial_rank" and "first_share" of the last maps (see `camlib.analysis.spatial_rank`).
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    observed = model if isinstance(model, Observed) else observe(model)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    observed.to(loader.device).eval()
    sums = torch.zeros(4, dtype=torch.float64, device=loader.device)
    rank_of_maps = None
    for images, target in loader.batches(0, 0, rank, world):
        if len(images) == 0:
            continue
        with _autocast(loader.device, precision):
            out = observed(images.contiguous(memory_format=layout))
        logits, labels = out.logits.float(), target.argmax(1, keepdim=True)
        top = logits.topk(min(5, logits.shape[1]), 1).indices == labels
        loss = nn.functional.cross_entropy(logits, target, reduction="sum")
        sums += torch.stack([top[:, 0].sum(), top.sum(), loss, torch.tensor(len(images), device=loader.device)])
        if rank_of_maps is None:
            rank_of_maps = spatial_rank(out.maps[-1])
    if world > 1:
        dist.all_reduce(sums)
    correct, top5, loss, images = sums.tolist()
    return {
        "accuracy": correct / images,
        "top5_accuracy": top5 / images,
        "loss": loss / images,
        "spatial_rank": float(rank_of_maps.effective.mean()),
        "first_share": float(rank_of_maps.first_share.mean()),
    }


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    dtype = getattr(torch, precision)
    return torch.autocast(device.type, dtype=dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32)


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path} was {old!r}, now {new!r}"


def device_name(device: torch.device) -> str:
    """The model of an accelerator, or the processor's name and the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    name = names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of what the arithmetic depends on."""
    return {
        "camlib": importlib.metadata.version("camlib"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def commit() -> str:
    """The commit of the camlib that runs, with "+changes" if its files differ from it, or "unknown"."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--untracked-files=no", "."]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return _installed_commit()
    return f"{head}+changes" if changed else head


def _installed_commit() -> str:
    """The commit that pip noted when it installed from a repository (PEP 610), as on Colab."""
    try:
        origin = importlib.metadata.distribution("camlib").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
    return json.loads(origin or "{}").get("vcs_info", {}).get("commit_id", "unknown")
