"""The command line: python -m camlib list | run | table | data | doctor."""

import argparse
import sys
from pathlib import Path

import torch

from camlib import recipes, records
from camlib.run import run
from camlib.train import process_group


def _run(arguments: argparse.Namespace) -> int:
    cell = recipes.cell(arguments.cell)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with process_group(device):
        record = run(
            cell,
            arguments.preset,
            arguments.seed,
            out=arguments.out,
            data=arguments.data,
            device=device,
            time_limit=arguments.time_limit,
        )
        first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    if not record.finished:
        print(f"stopped after {record.epochs_done} of {record.epochs_asked} epochs; the same command goes on")
    elif first:
        path = records.append(record, arguments.records or arguments.out / "records")
        print(f"{cell.name}, {arguments.preset}, seed {arguments.seed}: test accuracy {record.metrics['accuracy']:.2%}")
        print(f"record: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m camlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_ = commands.add_parser("run", help="train one cell of a table, or go on with it")
    run_.add_argument("cell", metavar="TABLE/ROW/COLUMN")
    run_.add_argument("--seed", type=int, default=0)
    run_.add_argument("--preset", default="quick")
    run_.add_argument("--data", type=Path, help="folder of the real data sets (default: CAMLIB_DATA)")
    run_.add_argument("--out", type=Path, default=Path("runs"), help="folder for checkpoints and records")
    run_.add_argument("--records", type=Path, help="folder for the record (default: OUT/records)")
    run_.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop at a checkpoint after so long")
    run_.add_argument("--device", help="cpu, cuda, cuda:1 … (default: an accelerator if there is one)")
    run_.set_defaults(action=_run)
    return parser


def main() -> int:
    arguments = _parser().parse_args()
    return arguments.action(arguments)


if __name__ == "__main__":
    sys.exit(main())
