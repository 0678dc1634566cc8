"""The command line: python -m camlib list | run | table | plan | data | look | doctor."""

import argparse
import importlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from camlib import data, doctor, look
from camlib.distributed import process_group
from camlib.lab import cost, packing, plan, record, workers
from camlib.lab.presets import PRESETS
from camlib.lab.run import run
from camlib.lab.runs import Run, canonical
from camlib.lab.table import Table
from camlib.lab.tables import TABLES
from camlib.lab.weights import WeightsError
from camlib.names import UnknownName, lookup
from camlib.observe import NotObservable
from camlib.provenance import device_name
from camlib.train import NotFiniteError, ResumeError

# What a user can cause and mend. Anything else is a fault of camlib's and keeps its traceback.
USER_ERRORS = (
    UnknownName,
    data.DataError,
    record.RecordError,
    WeightsError,
    ResumeError,
    NotFiniteError,
    look.LookError,
    NotObservable,
    OSError,
)


def _list(arguments: argparse.Namespace) -> int:
    if arguments.table is None:
        for table in TABLES.values():
            print(f"{table.name}: {table.title}")
            print(f"    {len(table.rows)} rows, {len(table.columns)} columns; {_finished(table, arguments.records)}")
        print("The numbers of one and their runs: python -m camlib list TABLE")
        return 0
    table = lookup(TABLES, arguments.table, "table")
    print(f"{table.title}\nrows: {', '.join(table.rows)}\ncolumns: {', '.join(table.columns)}")
    width = max(len(f"{row}/{column}") for row, column in table.entries)
    for (row, column), entry in table.entries.items():
        state = f"{entry.run}: {_counts(entry.run, arguments.records)}" if entry.run else "no run of ours"
        cited = f"; the paper cites {entry.cited}" if entry.cited else ""
        print(f"{f'{row}/{column}':<{width}}  {state}{cited}")
    return 0


def _counts(name: str, folder: Path | None) -> str:
    """Runs per preset, as "short 3, paper 5"."""
    counts = {preset: len(record.counting(name, preset, folder)) for preset in PRESETS}
    return ", ".join(f"{preset} {count}" for preset, count in counts.items() if count) or "not run"


def _finished(table: Table, folder: Path | None) -> str:
    done = sum(bool(record.load(name, folder)) for name in table.runs)
    return f"{done} of {len(table.runs)} runs behind them have records"


def _run(arguments: argparse.Namespace) -> int:
    asked = Run(arguments.run, arguments.preset, arguments.seed)
    which = canonical(asked)
    experiment = which.experiment
    device = arguments.device or _device("cuda" if torch.cuda.is_available() else "cpu")
    folder = arguments.records or arguments.out / "records"
    for writable in (arguments.out, folder, *([arguments.weights] if arguments.weights else [])):
        _check_writable(writable)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    if first:
        last = max((arguments.out / which.path).glob("checkpoint-*.pt"), default=None)
        start = f"going on from {last.name}" if last else "from the start"
        same = "" if which == asked else f"{asked.path} is this run. "
        print(
            f"{which.path}: {same}{experiment.net} on {experiment.data} for {experiment.schedule.epochs} epochs, "
            f"on {device}; checkpoints in {arguments.out / which.path}; {start}",
            flush=True,
        )
    try:
        with process_group(device):
            made = run(
                which,
                out=arguments.out,
                data=arguments.data,
                device=device,
                start=arguments.start,
                keep=tuple(filter(None, (arguments.weights, arguments.out / "weights" if arguments.lend else None))),
                time_limit=arguments.time_limit,
            )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint, if there is one", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if not cost.out_of_memory(error):
            raise
        print(f"{which.path}: {' '.join(str(error).split())}", file=sys.stderr)
        return workers.OUT_OF_MEMORY
    if not first:
        return 0
    if not made.finished:
        print(f"stopped after {made.epochs_done} of {made.epochs_asked} epochs; the same command goes on")
        return 0
    added = record.append(made, folder)
    where = f"recorded in {record.path_of(made.run, folder)}" if added else "recorded already; nothing was added"
    shown = [name for name in ("accuracy", "mean_average_precision", "accuracy_1_shot") if name in made.metrics]
    results = ", ".join(f"{name.replace('_', ' ')} {made.metrics[name]:.2%}" for name in shown[:1])
    print(f"finished: test {results or 'done'}; {where}")
    return 0


def _check_writable(folder: Path) -> None:
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise OSError(f"nothing can be written to {folder}: {nearest} is no folder that you may write to")


def _table(arguments: argparse.Namespace) -> int:
    from camlib.lab import verdict  # takes seconds to import

    table = lookup(TABLES, arguments.table, "table")
    frame = verdict.beside_paper(table, arguments.preset, arguments.records)
    print(f"{table.title}. Unit: {table.unit}. Preset: {arguments.preset}.")
    print("Ours: mean ± standard deviation (number of seeds), at the last epoch.\n")
    row_width, column_width = (max(map(len, names.values())) for names in (table.rows, table.columns))
    print(f"{'':<{row_width}}  {'':<{column_width}}  paper  ours")
    for line in frame.itertuples():
        paper = "–" if math.isnan(line.paper) else f"{line.paper:.2f}"
        row, column = table.rows[line.row], table.columns[line.column]
        print(f"{row:<{row_width}}  {column:<{column_width}}  {paper:>5}  {line.text}")
    others = [p for p in PRESETS if verdict.beside_paper(table, p, arguments.records)["n"].any()]
    if others and not frame["n"].any():
        print(f"\nThere are runs at other presets: {', '.join(others)}. See them with --preset.")
    for judged in verdict.on_table(table, arguments.preset, folder=arguments.records).itertuples():
        if judged.n:
            where = f"{table.rows[judged.row]}, {table.columns[judged.column]}"
            print(f"\n{where}: {judged.label}.\n  {judged.text}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    device = arguments.device or _device("cuda" if torch.cuda.is_available() else "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if arguments.wanted == bool(arguments.what):
        raise UnknownName("say what to plan: tables, rows, runs or globs, or --wanted for the book's own list")
    if arguments.wanted:
        runs = plan.wanted()
    else:
        names = plan.select(arguments.what)
        runs = [Run(name, arguments.preset, seed) for seed in arguments.seeds for name in names]
    folder = arguments.records or arguments.out / "records"
    jobs = plan.make(runs, arguments.out, (None, folder))
    if arguments.shard:
        jobs = plan.shard(jobs, *arguments.shard)
    packed = _packed(jobs, device, arguments, cores)
    threads = max(1, cores // packed.count)
    torch.set_num_threads(threads)
    if not arguments.train:
        return _show_plan(jobs, device, packed, arguments, (None, folder))
    folders = {"out": arguments.out, "records": folder, "data": arguments.data, "weights": arguments.weights}
    options = ["--device", str(device)]
    for name, given in folders.items():  # absolute: a cluster's node has another working folder
        options += [f"--{name}", str(given.absolute())] if given else []
    _check_writable(arguments.out)
    limit = arguments.time_limit
    try:
        if arguments.on == "ray":
            outcome = _on_ray().train(
                jobs, options, arguments.out.absolute(), threads, int(device.type == "cuda"), limit
            )
        else:
            outcome = workers.train(jobs, options, arguments.out, packed.count, threads, limit)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        return 130
    print(
        f"{len(outcome.done)} done, {len(outcome.stopped)} stopped at a checkpoint, {len(outcome.waiting)} not begun, "
        f"{len(outcome.failed)} failed"
    )
    for failed, why in outcome.failed.items():
        print(f"  {failed.path}: {why}\n    see {arguments.out / failed.path / 'log.txt'}; again: {failed.command}")
    return 1 if outcome.failed else 0


def _packed(jobs: list[plan.Job], device: torch.device, arguments: argparse.Namespace, cores: int) -> packing.Packing:
    """How the runs of a plan are trained side by side: as asked, one a core, or as suits an accelerator best."""
    left = [job.run for job in jobs if job.state != "done"]
    # A cluster places runs itself, and of one alone there is nothing to choose.
    if arguments.jobs or device.type == "cpu" or arguments.on or len(left) < 2:
        count = arguments.jobs or (cores if device.type == "cpu" else 1)
        count = min(count, max(1, len(left)))
        return packing.Packing(count, count)  # taken to be as many times as fast as one
    name = left[0].name
    print(f"measuring how many runs like {name} train best side by side; --jobs N chooses it", file=sys.stderr)
    return packing.best(left[0], device, arguments.out, len(left))


def _on_ray() -> ModuleType:
    try:
        return importlib.import_module("camlib.lab.on_ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise OSError("Ray is not installed: pip install 'ray>=2.40'") from error


def _show_plan(
    jobs: list[plan.Job],
    device: torch.device,
    packed: packing.Packing,
    arguments: argparse.Namespace,
    folders: tuple[Path | None, ...],
) -> int:
    width = max((len(job.run.path) for job in jobs), default=0)
    total, disk, unknown = 0.0, 0, 0
    print(f"{'run':<{width}}  state    time    memory  disk     needs")
    for job in jobs:
        if job.state == "done":
            print(f"{job.run.path:<{width}}  done")
            continue
        found = cost.of_run(job.run, device, arguments.out, folders)
        needs = ", ".join(other.path for other in job.needs)
        if math.isnan(found.seconds):
            unknown += 1
            print(f"{job.run.path:<{width}}  {job.state:<7}  does not fit into the memory of this machine  {needs}")
            continue
        total, disk = total + found.seconds, disk + found.disk
        sizes = f"{found.memory / 2**30:>4.1f} GiB  {found.disk / 2**20:>4.0f} MB"
        print(f"{job.run.path:<{width}}  {job.state:<7}  {cost.duration(found.seconds):>6}  {sizes}  {needs}".rstrip())
    left = sum(job.state != "done" for job in jobs)
    print(
        f"\n{len(jobs)} runs, {len(jobs) - left} done, {left} left: {cost.duration(total)} of work on "
        f"{device_name(device)}, {cost.duration(total / packed.gain)} with {packed.count} side by side; "
        f"{disk / 2**30:.1f} GiB of checkpoints{f'; {unknown} do not fit' if unknown else ''}"
    )
    print("Time is that of records made on such a device, or of timed steps without tests. To train: add --run")
    return 0


def _data_list(arguments: argparse.Namespace) -> int:
    print(f"in {data.data_root()}, for CAMLIB_DATA:")
    for name in _data_names(arguments):
        entry = data.manifest()[name]
        state = "there" if doctor.is_there(name) else "not there"
        print(f"{name}: {entry['title']}, {entry['size']}, {state}; {entry['licence']}; {entry['source']}")
    return 0


def _data_check(arguments: argparse.Namespace) -> int:
    findings = [doctor.data_set(name) for name in _data_names(arguments)]
    for finding in findings:
        print(finding)
    # A set that was asked for by name must be there; without names, those that are there must be whole.
    return 2 if any(finding.blocks or (arguments.names and finding.remedy) for finding in findings) else 0


def _look(arguments: argparse.Namespace) -> int:
    names = arguments.classes and arguments.classes.read_text("utf8").splitlines()
    net = look.net(arguments.model, arguments.weights, names, arguments.size, arguments.layer)
    net.observed.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    figure, text = look.figure(net, arguments.photos, arguments.kind)
    look.save(figure, arguments.out)
    print(f"{text}\n{arguments.out}")
    return 0


def _data_get(arguments: argparse.Namespace) -> int:
    for name in _data_names(arguments):
        data.get(name)
        print(f"{name}: complete, in {data.data_root()}")
    return 0


def _data_names(arguments: argparse.Namespace) -> list[str]:
    for name in arguments.names:
        lookup(data.manifest(), name, "data set")
    return arguments.names or list(data.manifest())


def _doctor(arguments: argparse.Namespace) -> int:
    findings = doctor.examine()
    for finding in findings:
        print(finding)
    blocking = sum(finding.blocks for finding in findings)
    print(f"to mend: {blocking}" if blocking else "nothing has to be mended")
    return 1 if blocking else 0


def _device(name: str) -> torch.device:
    here = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
    try:
        device = torch.device(name)
    except RuntimeError as error:  # torch lists two dozen kinds of hardware: ours is the shorter answer
        raise argparse.ArgumentTypeError(f"no device is called '{name}'; this machine has {here}") from error
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # torchrun: one each
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # an assertion where torch was built without CUDA
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"'{name}' cannot be used: {reason}; this machine has {here}") from error
    return device


def _number_from_0(kind: type) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = -1
        if not number >= 0:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 on")
        return number

    return parse


def _seeds(text: str) -> list[int]:
    """ "0-4" or "0,2,5"."""
    try:
        parts = [part.split("-") for part in text.split(",")]
        return [seed for first, *last in parts for seed in range(int(first), int((last or [first])[0]) + 1)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' names no seeds: pass a range as 0-4 or a list as 0,2,5") from error


def _shard(text: str) -> tuple[int, int]:
    """ "1/8" is the second of eight parts."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"'{text}' names no part of a plan: pass I/N with I from 0 to N - 1, as 0/8")
    return int(number), int(count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m camlib", description="CAM-loss, ICASC and CC-Loss, reproduced.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    presets = ", ".join(PRESETS)

    def command(name: str, action: Callable, about: str, to: argparse._SubParsersAction = commands):
        added = to.add_parser(name, help=about, description=about)
        added.set_defaults(action=action)
        return added

    list_ = command("list", _list, "the tables, or the runs behind one, and what has been run")
    list_.add_argument("table", metavar="TABLE", nargs="?")

    run_ = command("run", _run, "train one run, or go on with it, and record it")
    run_.add_argument("run", metavar="SETTING/NET/ARM", help="its name, as scenes/resnet8/icasc; see list TABLE")
    run_.add_argument("--seed", type=_number_from_0(int), default=0)
    run_.add_argument("--preset", default="quick", help=f"one of {presets} (default: quick)")
    run_.add_argument(
        "--start", type=Path, metavar="FILE", help="weights of such a net to start from, all but the classifier's"
    )
    run_.add_argument("--lend", action="store_true", help="also keep the net in OUT/weights, for runs that need it")

    plan_ = command("plan", _plan, "what trains a table, a row, runs or the book's own list: order, cost, and doing it")
    plan_.add_argument("what", metavar="WHAT", nargs="*", help="table, TABLE/ROW, run, or a glob as 'cifar100/*/cam'")
    plan_.add_argument("--wanted", action="store_true", help="the runs that the book wants most, best first")
    plan_.add_argument("--seeds", type=_seeds, default=[0], help="as 0-4 or 0,2,5 (default: 0)")
    plan_.add_argument("--preset", default="paper", help=f"one of {presets} (default: paper)")
    plan_.add_argument("--run", dest="train", action="store_true", help="train what is left")
    jobs_ = "runs side by side (default: one a core; on an accelerator as many as get most done together)"
    plan_.add_argument("--jobs", type=_number_from_0(int), metavar="N", help=jobs_)
    plan_.add_argument("--on", choices=["ray"], help="train on a Ray cluster, that of RAY_ADDRESS or a local one")
    plan_.add_argument("--shard", type=_shard, metavar="I/N", help="part I of N, for a scheduler's job array")

    for trains in (run_, plan_):
        trains.add_argument("--data", type=Path, help="folder of the real data sets (default: CAMLIB_DATA)")
        trains.add_argument(
            "--out", type=Path, default=Path("runs"), help="folder for checkpoints and records (default: runs)"
        )
        trains.add_argument("--records", type=Path, help="folder for the records (default: OUT/records)")
        trains.add_argument(
            "--weights", type=Path, help="folder for the trained nets in half precision (default: not kept)"
        )
        trains.add_argument(
            "--time-limit", type=_number_from_0(float), metavar="SECONDS", help="stop at a checkpoint after so long"
        )
        trains.add_argument("--device", type=_device, help="cpu, cuda, cuda:1 … (default: cuda if there is one)")

    table = command("table", _table, "the paper's numbers beside ours, and the verdicts")
    table.add_argument("table", metavar="TABLE")
    table.add_argument("--preset", default="paper", help=f"one of {presets} (default: paper)")
    for reader in (list_, table):
        reader.add_argument("--records", type=Path, help="folder of the records (default: those that come with camlib)")

    about_data = "the data sets in CAMLIB_DATA"
    data_ = commands.add_parser("data", help=about_data, description=about_data)
    on_data = data_.add_subparsers(metavar="ACTION", required=True)
    for name, action, about, number in (
        ("list", _data_list, "what there is, how big, whose licence", "*"),
        ("check", _data_check, "compare the files with their checksums", "*"),
        ("get", _data_get, "fetch and check", "+"),
    ):
        command(name, action, about, on_data).add_argument("names", metavar="NAME", nargs=number)

    look_ = command("look", _look, "the five likeliest classes of photos, and where a net looks for each, as a picture")
    look_.add_argument("photos", metavar="PHOTO", nargs="+", type=Path)
    look_.add_argument("--model", default="resnet50", help="of torchvision, timm or camlib (default: resnet50)")
    look_.add_argument("--weights", default="DEFAULT", metavar="FILE|DEFAULT", help="default: those that are fetched")
    look_.add_argument("--classes", type=Path, metavar="FILE", help="names of the classes, one a line")
    look_.add_argument("--kind", default="cam", help=f"one of {', '.join(look.MAPS)} (default: cam)")
    look_.add_argument("--layer", help="the name of a stage (default: the maps that are averaged)")
    look_.add_argument("--size", type=_number_from_0(int), metavar="PIXELS", help="default: that of the net's weights")
    look_.add_argument("--device", type=_device, help="cpu, cuda, cuda:1 … (default: cuda if there is one)")
    look_.add_argument("--out", type=Path, default=Path("look.png"), help="the picture (default: look.png)")

    command("doctor", _doctor, "look for what would keep a run from working")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; `arguments` are those of the command line by default. Returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.action(parsed)
    except USER_ERRORS as error:
        print(f"python -m camlib: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
