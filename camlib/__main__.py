"""The command line: python -m camlib list | run | table | data | look | doctor."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from camlib import data, doctor, look, recipes, records
from camlib.names import UnknownName, lookup
from camlib.observe import NotObservable
from camlib.run import run
from camlib.train import NotFiniteError, ResumeError, process_group
from camlib.weights import checkpoints, keep

# What a user can cause and mend. Anything else is a fault of camlib's and keeps its traceback.
USER_ERRORS = (
    UnknownName,
    recipes.NotRunnable,
    data.DataError,
    records.RecordError,
    ResumeError,
    NotFiniteError,
    look.LookError,
    NotObservable,
    OSError,
)


def _list(arguments: argparse.Namespace) -> int:
    if arguments.table is None:
        for table in recipes.TABLES.values():
            runs = records.results(table.name, arguments.records)
            print(f"{table.name}: {table.title}")
            print(f"    {len(table.rows)} rows, {len(table.columns)} columns; runs: {_counts(runs) or 'none'}")
        print("The cells of one: python -m camlib list TABLE")
        return 0
    table = lookup(recipes.TABLES, arguments.table, "table")
    runs = records.results(table.name, arguments.records)
    print(f"{table.title}\nrows: {', '.join(table.rows)}\ncolumns: {', '.join(table.columns)}")
    width = max(map(len, table.cells))
    for cell in table.cells.values():
        state = _counts(runs[(runs["row"] == cell.row) & (runs["column"] == cell.column)]) or "not run"
        state += "; no recipe" if cell.experiment is None else ""
        print(f"{cell.name:<{width}}  {state}{f' (the runs of {cell.shared})' if cell.shared else ''}")
    return 0


def _counts(runs: pd.DataFrame) -> str:
    """Runs per preset, as "short 3, paper 5"."""
    counts = runs["preset"].value_counts()
    return ", ".join(f"{preset} {counts[preset]}" for preset in recipes.PRESETS if preset in counts)


def _run(arguments: argparse.Namespace) -> int:
    cell = recipes.cell(arguments.cell)
    experiment = cell.at(arguments.preset)
    device = arguments.device or _device("cuda" if torch.cuda.is_available() else "cpu")
    which = f"{cell.name}, preset {arguments.preset}, seed {arguments.seed}"
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started
    if first:
        folder = checkpoints(cell, arguments.preset, arguments.seed, arguments.out)
        last = max(folder.glob("checkpoint-*.pt"), default=None)
        start = f"going on from {last.name}" if last else "from the start"
        print(
            f"{which}: {experiment.net} on {experiment.data} for {experiment.recipe.epochs} epochs, "
            f"on {device}; checkpoints in {folder}; {start}",
            flush=True,
        )
    try:
        with process_group(device):
            record = run(
                cell,
                arguments.preset,
                arguments.seed,
                out=arguments.out,
                data=arguments.data,
                device=device,
                start=arguments.start,
                time_limit=arguments.time_limit,
            )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint, if there is one", file=sys.stderr)
        return 130
    if not first:
        return 0
    if not record.finished:
        print(f"stopped after {record.epochs_done} of {record.epochs_asked} epochs; the same command goes on")
        return 0
    folder = arguments.records or arguments.out / "records"
    added = records.append(record, folder)
    print(f"{which}: test {cell.metric.replace('_', ' ')} {record.metrics[cell.metric]:.2%}")
    path = records.path_of(record.about["table"], folder)
    print(f"recorded in {path}" if added else f"this run stands in {path} already; nothing was added")
    if arguments.weights:
        print(f"weights in {keep(cell, arguments.preset, arguments.seed, arguments.out, arguments.weights)}")
    return 0


def _table(arguments: argparse.Namespace) -> int:
    table = lookup(recipes.TABLES, arguments.table, "table")
    frame = records.table(table.name, arguments.preset, arguments.records)
    print(f"{table.title}. Unit: {table.unit}. Preset: {arguments.preset}.")
    print("Ours: mean ± standard deviation (number of seeds), at the last epoch.\n")
    row_width, column_width = (max(map(len, names.values())) for names in (table.rows, table.columns))
    print(f"{'':<{row_width}}  {'':<{column_width}}  paper  ours")
    for cell in frame.itertuples():
        paper = "–" if math.isnan(cell.paper) else f"{cell.paper:.2f}"
        row, column = table.rows[cell.row], table.columns[cell.column]
        print(f"{row:<{row_width}}  {column:<{column_width}}  {paper:>5}  {cell.text}")
    runs = records.results(table.name, arguments.records)
    if len(runs) and not frame["n"].any():
        print(f"\nRuns at other presets: {_counts(runs)}. See them with --preset.")
    for judged in records.verdicts(table.name, arguments.preset, folder=arguments.records).itertuples():
        if judged.n:
            where = f"{table.rows[judged.row]}, {table.columns[judged.column]}"
            print(f"\n{where}: {judged.label}.\n  {judged.text}")
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m camlib", description="CAM-loss, ICASC and CC-Loss, reproduced.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    presets = ", ".join(recipes.PRESETS)

    def command(name: str, action: Callable, about: str, to: argparse._SubParsersAction = commands):
        added = to.add_parser(name, help=about, description=about)
        added.set_defaults(action=action)
        return added

    list_ = command("list", _list, "the tables, or the cells of one, and what has been run")
    list_.add_argument("table", metavar="TABLE", nargs="?")

    run_ = command("run", _run, "train one cell of a table, or go on with it, and record it")
    run_.add_argument("cell", metavar="TABLE/ROW/COLUMN")
    run_.add_argument("--seed", type=_number_from_0(int), default=0)
    run_.add_argument("--preset", default="quick", help=f"one of {presets} (default: quick)")
    run_.add_argument("--data", type=Path, help="folder of the real data sets (default: CAMLIB_DATA)")
    run_.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder for checkpoints and records (default: runs)"
    )
    run_.add_argument("--records", type=Path, help="folder for the record (default: OUT/records)")
    run_.add_argument("--weights", type=Path, help="folder for the trained net in half precision (default: not kept)")
    run_.add_argument(
        "--start", type=Path, metavar="FILE", help="weights of such a net to start from, all but the classifier's"
    )
    run_.add_argument(
        "--time-limit",
        type=_number_from_0(float),
        metavar="SECONDS",
        help="stop at a checkpoint after so long",
    )
    run_.add_argument("--device", type=_device, help="cpu, cuda, cuda:1 … (default: cuda if there is one)")

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
