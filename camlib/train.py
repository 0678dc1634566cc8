"""The one training loop: any observed model, any objective, one process or many, resumed exactly."""

import contextlib
import math
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from camlib import checkpoint
from camlib.analysis import spatial_rank
from camlib.attention import look
from camlib.data.loader import Loader, derived_seed
from camlib.objective import Objective, State
from camlib.observe import Observed, Output, observe
from camlib.provenance import commit, device_name, versions

Test = Callable[[nn.Module, Loader, str], dict[str, float]]
"""Takes (observed model, test loader, precision), returns metrics by name, shares in 0 … 1."""

LOOK_EVERY = 50  # steps between looks at the losses: each look makes an accelerator wait
SAVE_EVERY = 600.0  # seconds between checkpoints inside an epoch, so that a lost machine costs little


@dataclass(frozen=True)
class Recipe:
    """How to train: everything about the optimiser and its arithmetic, as plain data.

    Attributes:
        epochs: passes over the training images.
        learning_rate: at the start.
        schedule: "cosine" (half a cosine from the learning rate to 0) or "steps" (times `decay` at each
            milestone, so constant without any), both set at the start of every epoch.
        milestones: epochs at which "steps" lowers the learning rate, counted from 0.
        decay: the factor of "steps".
        optimizer: "sgd", or "adam" with its usual moments.
        momentum, nesterov: of stochastic gradient descent.
        weight_decay: added to the gradient as this share of each weight.
        precision: "float32", or "bfloat16" or "float16" for automatic mixed precision.
        channels_last: keep images and maps with channels as the fastest dimension.
        compile: compile the model's blocks one by one with torch.compile.
        test_every: epochs from one test to the next; the last epoch is always tested.

    Raises:
        ValueError: a value is unknown or out of range.
    """

    epochs: int
    learning_rate: float = 0.1
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    test_every: int = 1

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}, expected at least 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected more than 0")
        if self.schedule not in ("cosine", "steps"):
            raise ValueError(f"schedule is '{self.schedule}', expected 'cosine' or 'steps'")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"optimizer is '{self.optimizer}', expected 'sgd' or 'adam'")
        if self.test_every < 1:
            raise ValueError(f"test_every is {self.test_every}, expected at least 1")
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
        best: the best accuracy and top-5 accuracy over the epochs, and the epoch; kept, never shown as the
            result.
        history: one entry per epoch: training loss, each term, training accuracy and, if it was tested, the
            test metrics.
        epochs_done, epochs_asked: equal in a finished run.
        objective, recipe, loader: what was trained, as data.
        device, precision, processes, versions, commit: where and with what; of a run that was resumed with
            others, device, versions and commit read "the old, then the new".
        wall_seconds, peak_memory_bytes: cost, over all sessions of a resumed run. These two and the
            seconds in `history` are the only fields that differ between two runs of the same commit,
            machine and seed on a CPU.
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


@dataclass
class Progress:
    """How far a run has come; a checkpoint holds it beside the weights.

    Attributes:
        epoch, step: the next ones to train, counted from 0.
        totals: sums over the images of this epoch: the loss, each term, images and correct answers.
        history: as in `Record`.
        seconds, peak_memory: so far, over all sessions.
        made_with: device, processes, versions and commit. Where a run was resumed with others, they are
            joined as "the old, then the new".
    """

    epoch: int = 0
    step: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory: int = 0
    made_with: dict[str, Any] = field(default_factory=dict)


class NotFiniteError(ArithmeticError):
    """A loss became infinite or not a number; the message says at which step and in which term."""


class ResumeError(ValueError):
    """The checkpoint belongs to another run; the message lists the differences."""


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, if it did, for the length of a `with` block.

    The device "cuda" then means this process's own GPU.
    """
    if "RANK" not in os.environ:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
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
    test: Test | None = None,
    resume: str = "auto",
    time_limit: float | None = None,
    progress: bool = True,
    about: dict[str, Any] | None = None,
) -> Record:
    """Train a model (CAM-loss, Algorithm 1, for `Objective(ce=…, cam=…)`).

    Order, augmentation and every other draw depend on the loader's seed, the epoch and the step alone, and
    torch's global generator is left as it was. A run that was interrupted or killed and is started again
    goes on from its last checkpoint and ends with the same weights, to the last bit on a CPU with the same
    number of threads. Checkpoints are written after every epoch and every ten minutes. Under torchrun,
    inside `process_group`, each process takes its share of every batch.

    Args:
        model: a classifier, or one that `observe` returned. It is trained in place, on the loaders' device,
            and left in evaluation mode.
        objective: the terms. Moved to the same device.
        loaders: of the training and of the test images.
        recipe: optimiser, length and arithmetic.
        out: a folder for the checkpoints of this run alone; None to keep none.
        test: what a test of the model is; `evaluate` by default.
        resume: "auto" goes on from the last checkpoint in `out`, if any; "never" removes what is there.
        time_limit: seconds after which the run stops at a checkpoint; it is then unfinished.
        progress: show a progress bar (the environment variable TQDM_DISABLE=1 hides it, too).
        about: anything to keep with the record.

    Returns:
        The record. Of an unfinished run, the epochs done so far.

    Raises:
        NotFiniteError: a loss became infinite or not a number; the last checkpoint is from before that.
        ResumeError: the checkpoint in `out` was made with another recipe, objective, data or net.
        OSError: a checkpoint could not be written, or none of those there can be read.
        ValueError: `resume` is unknown, a time limit is set without a folder to stop at, or a batch has
            fewer images than there are processes.
    """
    if resume not in ("auto", "never"):
        raise ValueError(f"resume is '{resume}', expected 'auto' or 'never'")
    if time_limit is not None and out is None:
        raise ValueError("time_limit needs out=, a folder for the checkpoint to stop at")
    run = _Run(model, objective, loaders, recipe, None if out is None else Path(out), test or evaluate, resume)
    shown = {} if progress and run.rank == 0 else {"disable": True}
    own_generator = torch.random.fork_rng([run.device] if run.device.type == "cuda" else [])
    steps = len(loaders[0])
    done = run.now.epoch * steps + run.now.step
    with tqdm(total=recipe.epochs * steps, initial=done, unit="step", **shown) as bar, own_generator:
        try:
            run.train(math.inf if time_limit is None else time_limit, bar)
        finally:
            run.observed.eval()
    return run.record(about or {})


class _Run:
    """One training run: all that a checkpoint holds, and how it moves on."""

    def __init__(self, model, objective, loaders, recipe, out, test, resume):
        self.started = self.saved = time.monotonic()
        self.train_loader, self.test_loader = loaders
        self.device = self.train_loader.device
        self.recipe, self.out, self.test = recipe, out, test
        self.rank, self.world = _place()
        smallest = self.batch_images(len(self.train_loader) - 1)
        if smallest < self.world:
            raise ValueError(
                f"the last batch has {smallest} images and cannot be shared among {self.world} processes: "
                "choose another batch size, or fewer processes"
            )
        self.layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        observed = model if isinstance(model, Observed) else observe(model)
        self.observed = observed.to(self.device, memory_format=self.layout)
        self.objective = objective.to(self.device)
        if recipe.compile:
            self.observed.compile_blocks()
        self.optimizer = _optimizer(
            [{"params": list(self.observed.parameters())}, *objective.parameter_groups()], recipe
        )
        for group in self.optimizer.param_groups:
            group["relative"] = group["lr"] / recipe.learning_rate
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "float16")
        self.pending: list[dict[str, Tensor]] = []  # the sums of steps that were not looked at yet
        self.now = Progress()
        # What makes two runs the same run: a checkpoint with anything else here, or another net, is refused.
        self.identity = {
            "recipe": asdict(recipe),
            "objective": objective.describe(),
            "loader": self.train_loader.describe(),
            "test_loader": self.test_loader.describe(),
        }
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            if resume == "auto":
                self.load()
            elif self.rank == 0:
                checkpoint.remove(out)
        if self.world > 1:
            _copy_from_first([*self.observed.state_dict().values(), *objective.state_dict().values()])
        self.earlier = self.now.seconds

    def load(self) -> None:
        state = checkpoint.load_last(self.out) if self.rank == 0 else None
        if self.world > 1:  # read by the one that writes: another could be a moment, or a file system, behind
            told = [state]
            dist.broadcast_object_list(told)
            (state,) = told
        if state is None:
            return
        model = self.observed.graph.state_dict()
        differences = [
            *_differences(state["identity"], self.identity),
            *_differences(_shapes(state["model"]), _shapes(model), "net"),
        ]
        if differences:
            more = f" and {len(differences) - 5} more differences" if len(differences) > 5 else ""
            raise ResumeError(
                f"the checkpoint in {self.out} belongs to another run: {'; '.join(differences[:5])}{more}. "
                "Choose another folder, or pass resume='never' to start afresh and overwrite it"
            )
        self.observed.graph.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.now = Progress(**{part.name: state[part.name] for part in fields(Progress)})

    def save(self) -> None:
        """Bring cost and time up to date, and write a checkpoint if there is a folder for it."""
        self.now.seconds, self.now.peak_memory = self.seconds(), self.peak_memory()
        self.saved = time.monotonic()
        if self.out is None or self.rank != 0:
            return
        state = {
            "identity": self.identity,
            "model": self.observed.graph.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **asdict(self.now),
        }
        checkpoint.save(state, self.out, self.now.epoch, self.now.step)

    def train(self, time_limit: float, bar: tqdm) -> None:
        now, steps = self.now, len(self.train_loader)
        if now.epoch < self.recipe.epochs:
            here = {"device": device_name(self.device), "processes": self.world}
            now.made_with = _then(now.made_with, {**here, "versions": versions(), "commit": commit()})
        while now.epoch < self.recipe.epochs:
            rate, state = self.start_epoch()
            for images, target in self.train_loader.batches(now.epoch, now.step, self.rank, self.world):
                self.pending.append(self.train_step(images, target, state))
                now.step += 1
                bar.update()
                if len(self.pending) == LOOK_EVERY or now.step == steps:
                    self.look(bar)
                # Processes have to agree on what the clock says, and do so when they meet to look.
                if now.step < steps and (self.world == 1 or not self.pending):
                    time_is_up = self.first_says(time.monotonic() - self.started > time_limit)
                    if time_is_up or self.first_says(time.monotonic() - self.saved > SAVE_EVERY):
                        self.look(bar)
                        self.save()
                    if time_is_up:
                        return
            self.finish_epoch(rate)
            if self.first_says(time.monotonic() - self.started > time_limit):
                return

    def start_epoch(self) -> tuple[float, State]:
        rate = self.recipe.learning_rate_at(self.now.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative"]
        self.observed.train()
        self.objective.train()
        accuracy = self.now.history[-1]["train_accuracy"] if self.now.history else 0.0
        return rate, State(epoch=self.now.epoch, train_accuracy=accuracy)

    def train_step(self, images: Tensor, target: Tensor, state: State) -> dict[str, Tensor]:
        """Update the weights once. Returns sums over the images: the loss, each term, correct answers."""
        now = self.now
        torch.manual_seed(derived_seed(self.train_loader.seed, now.epoch, now.step, self.rank))
        images = images.contiguous(memory_format=self.layout)  # an augmentation may leave any layout
        with mixed_precision(self.device, self.recipe.precision):
            parts = self.objective(self.observed, images, target, state)
        correct = hits(parts.pop("logits"), target)[:, 0].sum()
        share = len(images) / self.batch_images(now.step)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(parts["loss"] * share).backward()
        if self.world > 1:
            _add_up_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        sums = {name: part.detach().float() * len(images) for name, part in parts.items()}
        return {**sums, "correct": correct.float()}

    def batch_images(self, step: int) -> int:
        """Images in the batch of a step, over all processes."""
        size = self.train_loader.batch_size
        return min(size, self.train_loader.count - step * size)

    def look(self, bar: tqdm) -> None:
        """Add the pending steps to the epoch's totals; stop if a loss in them or a weight is not finite."""
        if not self.pending:
            return
        names = list(self.pending[0])
        table = torch.stack([torch.stack([*sums.values()]) for sums in self.pending])
        if self.world > 1:
            dist.all_reduce(table)
        # Added one by one, so that the sums do not depend on where a look, and so a resumption, falls.
        for step, row in enumerate(table.tolist(), self.now.step - len(self.pending)):
            sums = dict(zip(names, row, strict=True))
            wrong = [name for name, value in sums.items() if not math.isfinite(value)]
            if wrong:
                terms = [f"'{name}'" for name in wrong if name != "loss"] or ["the weighted sum"]
                raise self.not_finite(f"the loss is {sums[wrong[0]]} at", step, f" in {' and '.join(terms)}")
            for name, value in {**sums, "images": self.batch_images(step)}.items():
                self.now.totals[name] = self.now.totals.get(name, 0.0) + value
        for name, weight in [*self.observed.graph.named_parameters(), *self.objective.named_parameters()]:
            if not weight.isfinite().all():
                why = ", though every loss was: the gradient of a term is not"
                raise self.not_finite(f"the weight '{name}' is not finite after", self.now.step - 1, why)
        self.pending.clear()
        totals = self.now.totals
        bar.set_postfix(
            epoch=f"{self.now.epoch + 1}/{self.recipe.epochs}",
            loss=f"{totals['loss'] / totals['images']:.3f}",
            accuracy=f"{totals['correct'] / totals['images']:.1%}",
        )

    def not_finite(self, what: str, step: int, where: str) -> NotFiniteError:
        kept = f"Checkpoints in {self.out} are from before that. " if self.out else ""
        return NotFiniteError(
            f"{what} epoch {self.now.epoch}, step {step} (counted from 0){where}. {kept}"
            "Lower the learning rate or the weight of the term"
        )

    def finish_epoch(self, rate: float) -> None:
        """Test, and turn the epoch's totals into an entry of the history."""
        now = self.now
        if self.world > 1:
            _copy_from_first(self.observed.buffers())  # each process had statistics of its own images
        done = now.epoch + 1
        test = {}
        if done % self.recipe.test_every == 0 or done == self.recipe.epochs:
            test = self.test(self.observed, self.test_loader, self.recipe.precision)
        for name, value in test.items():
            if not math.isfinite(value):
                raise self.not_finite(f"the test's {name} is {value} after", now.step - 1, "")
        images, correct = now.totals.pop("images"), now.totals.pop("correct")
        entry = {f"train_{name}": total / images for name, total in now.totals.items()}
        entry |= {"train_accuracy": correct / images, "learning_rate": rate}
        entry |= {f"test_{name}": value for name, value in test.items()}
        entry["seconds"] = self.seconds() - sum(earlier["seconds"] for earlier in now.history)
        now.history.append(entry)
        now.epoch, now.step, now.totals = now.epoch + 1, 0, {}
        self.save()

    def first_says(self, decision: bool) -> bool:
        """What the first process decided, in all of them."""
        if self.world == 1:
            return decision
        told = torch.tensor(float(decision), device=self.device)
        dist.broadcast(told, 0)
        return bool(told)

    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self.started

    def peak_memory(self) -> int:
        if self.device.type == "cuda":
            here = torch.cuda.max_memory_allocated(self.device)
        else:
            unit = 1 if platform.system() == "Darwin" else 1024
            here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return max(here, self.now.peak_memory)

    def record(self, about: dict[str, Any]) -> Record:
        history = self.now.history
        best = {}
        for name in ("accuracy", "top5_accuracy"):
            values = {epoch: entry[f"test_{name}"] for epoch, entry in enumerate(history) if f"test_{name}" in entry}
            if values:
                epoch = max(values, key=values.get)
                best[name] = {"value": values[epoch], "epoch": epoch}
        last = history[-1] if history else {}
        return Record(
            metrics={n.removeprefix("test_"): value for n, value in last.items() if n.startswith("test_")},
            best=best,
            history=history,
            epochs_done=self.now.epoch,
            epochs_asked=self.recipe.epochs,
            objective=self.identity["objective"],
            recipe=self.identity["recipe"],
            loader=self.identity["loader"],
            seed=self.train_loader.seed,
            precision=self.recipe.precision,
            wall_seconds=self.now.seconds,
            peak_memory_bytes=self.now.peak_memory,
            about=about,
            **self.now.made_with,
        )


@contextlib.contextmanager
def evaluating(model: nn.Module, loader: Loader) -> Iterator[Observed]:
    """The model, observed, on the loader's device and in evaluation mode for the length of a `with` block."""
    observed = (model if isinstance(model, Observed) else observe(model)).to(loader.device)
    modes = {module: module.training for module in observed.modules()}
    observed.eval()
    try:
        yield observed
    finally:
        for module, mode in modes.items():
            module.training = mode


def hits(logits: Tensor, target: Tensor, k: int = 1) -> Tensor:
    """Which of each image's k likeliest classes are right, likeliest first.

    Right is a class whose entry in the target row is the row's largest: the one class of an image, the larger share
    of a mixture, or any class of a multi-hot row.

    Args:
        logits: (N, K).
        target: (N, K) rows.
        k: K if there are fewer classes.

    Returns:
        bool (N, min(k, K)).
    """
    likeliest = logits.topk(min(k, logits.shape[1]), 1).indices
    return target.gather(1, likeliest) == target.amax(1, keepdim=True)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Loader,
    precision: str = "float32",
    each: Callable[[Output, Tensor], None] | None = None,
) -> dict[str, float]:
    """Test a model on every image of a loader, once. Under torchrun each process tests its share.

    Args:
        model: a classifier, or one that `observe` returned. Moved to the loader's device, tested in
            evaluation mode, and left in the mode it was in.
        loader: the test images.
        precision: as in `Recipe`.
        each: called with the output and the target of every batch, for what else is measured in the same pass.
            `camlib.attention` works on this output at the last layer. Every process then tests all images.

    Returns:
        "accuracy" and "top5_accuracy" (0 … 1), "loss" (cross-entropy), and of the first batch the mean
        "spatial_rank" and "first_share" of the last maps (see `camlib.analysis.spatial_rank`).
    """
    rank, world = (0, 1) if each else _place()
    sums = torch.zeros(5, dtype=torch.float64)
    with evaluating(model, loader) as observed:
        for step, (images, target) in enumerate(loader.batches(0, 0, rank, world)):
            if len(images) == 0:
                continue
            with mixed_precision(loader.device, precision):
                out = look(observed, images) if each else observed(images)
                if each:
                    with torch.enable_grad():
                        each(out, target)
            logits = out.logits.detach().float()
            found = hits(logits, target, 5)
            loss = nn.functional.cross_entropy(logits, target, reduction="sum")
            sums[:3] += torch.stack([found[:, 0].sum(), found.any(1).sum(), loss]).cpu()
            if step == 0 and loss.isfinite():
                patterns = spatial_rank(out.maps[-1])
                sums[3:] += torch.stack([patterns.effective.sum(), patterns.first_share.sum()]).cpu()
    if world > 1:
        sums = sums.to(loader.device)
        dist.all_reduce(sums)
    correct, top5, loss, rank_of_maps, first_share = sums.tolist()
    images, first_batch = loader.count, min(loader.batch_size, loader.count)
    return {
        "accuracy": correct / images,
        "top5_accuracy": top5 / images,
        "loss": loss / images,
        "spatial_rank": rank_of_maps / first_batch,
        "first_share": first_share / first_batch,
    }


def _optimizer(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    common = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, **common)
    return torch.optim.SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)


def _place() -> tuple[int, int]:
    """The number of this process and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


# Done by hand and not by DistributedDataParallel: terms have parameters too, and which of them get a gradient
# changes with the weights of the terms.
def _add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    for gradient, sums in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(sums.view_as(gradient))


def _copy_from_first(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        dense = tensor.contiguous()
        dist.broadcast(dense, 0)
        tensor.copy_(dense)


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """A `with` block that computes in a precision of `Recipe`."""
    mixed = precision != "float32"
    return torch.autocast(device.type, dtype=getattr(torch, precision) if mixed else None, enabled=mixed)


def _then(old: Any, new: Any) -> Any:
    """What a run was made with: `old` so far, `new` in this session."""
    if isinstance(old, dict):
        return {name: _then(old.get(name), value) for name, value in new.items()}
    if isinstance(old, str):
        return old if old.split(", then ")[-1] == new else f"{old}, then {new}"
    return new


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path} was {old!r}, now {new!r}"
