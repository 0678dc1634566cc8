"""What a chapter calls: one set-up, figures with captions and alternative text, tables, checks of answers."""

import base64
import contextlib
import html
import io
import os
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas
import torch
from IPython.display import HTML, display
from matplotlib import pyplot
from matplotlib.figure import Figure
from torch import Tensor

from camlib import interactive, plots
from camlib.data import datasets
from camlib.data.datasets import DataError
from camlib.lab import claims, cost, frames, plan, verdict
from camlib.lab.presets import PRESETS
from camlib.lab.record import Record
from camlib.lab.run import run
from camlib.lab.runs import Run
from camlib.lab.table import Entry
from camlib.lab.tables import TABLES
from camlib.names import lookup
from camlib.provenance import commit, device_name, versions


@dataclass
class Book:
    """What the set-up cell of a chapter knows.

    Attributes:
        preset: a name of `camlib.lab.presets.PRESETS`; sizes and lengths depend on it.
        device: where the chapter trains.
        seed: of everything the chapter draws.
    """

    preset: str
    device: torch.device
    seed: int

    def choose(self, quick: Any, **others: Any) -> Any:
        """The value for the preset in force: `book.choose(quick=4, paper=160)`; `quick`'s if none is given."""
        return others.get(self.preset, quick)

    def folder(self, name: str) -> Path | None:
        """Where a run of this chapter keeps its checkpoints; None at the quick preset, which trains anew."""
        root = Path(os.environ.get("CAMLIB_RUNS", "~/.cache/camlib/runs")).expanduser()
        return None if self.preset == "quick" else root / self.preset / name

    @cached_property
    def _runs(self) -> Path:
        """Where the runs that this chapter trains keep their checkpoints, teachers among them."""
        return self.folder("runs") or Path(tempfile.mkdtemp())

    def train(self, name: str) -> Record:
        """Train a run at the preset in force, and say in one line what came out.

        Args:
            name: of a run, as "scenes/resnet8/cam".

        Raises:
            KeyError: there is no such run.
        """
        self._have_data(Run(name, self.preset, self.seed).experiment.data)
        which = Run(name, self.preset, self.seed)
        with torch.device("cpu"):  # a run begins with the same numbers wherever it is trained
            record = run(which, out=self._runs, device=self.device, progress=False)
        metric = "accuracy" if "accuracy" in record.metrics else next(iter(record.metrics))
        what = f"{name}: {metric.replace('_', ' ')} {record.metrics[metric]:.2%}"
        print(f"{what} on {record.data}, with {record.net} after {record.epochs_done} epochs")
        return record

    def _have_data(self, name: str) -> None:
        """Fetch a data set that is not here; where that cannot be, the chapter goes on at the quick preset."""
        try:
            datasets.check(name)
            return
        except DataError:
            entry = datasets.manifest()[name]
        if datasets.fetchable(name):
            print(
                f"{entry['title']} is fetched now: {entry['size']}, into {datasets.data_root()}. To stay at the quick "
                "preset, which fetches nothing: restart, run %env CAMLIB_PRESET=quick, then the chapter."
            )
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # torchvision's bar
                datasets.get(name)
        except DataError as error:
            self.preset = "quick"
            self.note(f"The chapter goes on at the quick preset, with generated images. {error}.")

    def answer(self, name: str, baseline: str | None = None, *, methods: Sequence[str] = (), rows: str = "") -> None:
        """Show a table's answer in three lines: the paper says, we measured, still open.

        Args:
            name: of the table.
            baseline, methods, rows: as in `camlib.lab.verdict.by_protocol`.

        Raises:
            KeyError: there is no such table or column.
        """
        found = claims.answer(lookup(TABLES, name, "table"), baseline, methods=methods, rows=rows)
        self.in_short(found.paper, found.measured, found.still_open)

    def in_short(self, paper: str, measured: Sequence[str], still_open: str) -> None:
        """Show a chapter's answer in three lines, as `answer` does for a table.

        Args:
            paper: what the paper says, and where.
            measured: what was measured, one sentence each, made from records or from what the chapter computed.
            still_open: what is not known; a command may stand behind its last colon.
        """
        question, command = still_open.rsplit(": ", 1) if ": " in still_open else (still_open, "")
        end = f"{html.escape(question)}: <code>{html.escape(command)}</code>" if command else html.escape(question)
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in measured)
        display(
            HTML(
                f"<p><strong>The paper says.</strong> {html.escape(paper)}</p>"
                f"<div><strong>We measured.</strong> {f'<ul>{items}</ul>' if items else 'Nothing yet.'}</div>"
                f"<p><strong>Still open.</strong> {end}</p>"
            )
        )

    def found(
        self,
        *sentences: str,
        table: str | None = None,
        baseline: str | None = None,
        methods: Sequence[str] = (),
        rows: str = "",
    ) -> None:
        """Show what a chapter found, as a list: of a table what its comparisons came to, then more sentences.

        Args:
            sentences: of the chapter, those with numbers made from records or from what it computed.
            table: its name, if the chapter is about one; see `camlib.lab.claims.found`.
            baseline, methods, rows: as in `camlib.lab.verdict.by_protocol`.

        Raises:
            KeyError: there is no such table or column.
        """
        of_table = []
        if table is not None:
            known = lookup(TABLES, table, "table")
            of_table = claims.found(known, baseline, methods=methods, rows=rows)
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in (*of_table, *sentences))
        display(HTML(f"<ul>{items}</ul>"))

    def intervals(self, name: str, baseline: str | None = None, *, methods: Sequence[str] = (), rows: str = "") -> None:
        """Show the paper's gains and ours side by side, see `camlib.plots.intervals`, with a caption.

        Args:
            name: of the table.
            baseline, methods, rows: as in `camlib.lab.verdict.by_protocol`.

        Raises:
            KeyError: there is no such table or column.
        """
        table = lookup(TABLES, name, "table")
        judged = verdict.by_protocol(table, baseline, methods=methods, rows=rows)
        figure, alt = plots.intervals(table, judged, baseline)
        caption = (
            f"Gains over {table.columns[baseline or table.baseline]}, in points of {table.unit.removesuffix(' %')}; "
            "to the right of the line the method is better. Diamonds: the paper's. Dots with bars: ours, the mean of "
            "paired seeds with its 95 % interval, hollow by the short protocol, without a bar below "
            f"{verdict.ENOUGH_SEEDS} pairs. Grey: not run."
        )
        self.show(figure, alt=alt, caption=caption)

    def table(self, name: str) -> pandas.DataFrame:
        """Every cell of a table: the paper's number beside ours, by the paper's protocol and, if run, the short one.

        Raises:
            KeyError: there is no such table.
        """
        table = lookup(TABLES, name, "table")
        frame = verdict.beside_paper(table)
        entries = table.entries.values()
        paper = [_paper_number(entry) for entry in entries]
        # Of a row that is in no paper, "paper" is the whole of our own protocol.
        shown = pandas.DataFrame({"paper": paper, "ours, full protocol": frame["text"]})
        short = verdict.beside_paper(table, "short")
        if short["n"].any():
            shown["ours, short protocol"] = short["text"]
        headings = frame["row"].map(table.rows), frame["column"].map(table.columns)
        shown.index = pandas.MultiIndex.from_arrays(headings, names=(table.unit, ""))
        return shown

    def commands(self, name: str) -> None:
        """Print the runs behind a table: protocols, objectives, cost by counting, and what times and trains them.

        Raises:
            KeyError: there is no such table.
        """
        table = lookup(TABLES, name, "table")
        cited = [f"{row}/{column} ({entry.cited})" for (row, column), entry in table.entries.items() if not entry.run]
        others = f"; no run stands behind what the paper cites: {', '.join(cited)}" if cited else ""
        print(f"{len(table.runs)} runs of one seed stand behind {len(table.entries)} numbers{others}.")
        counted = sum(cost.operations(run) for run in plan.behind(Run(run) for run in table.runs))
        speed, device = cost.rate()
        print(
            "One seed of all by the full protocol, with what they learn or start from, is "
            f"{counted:.1e} floating-point operations: {cost.duration(counted / speed)} of work for the machine of the "
            f"book's records ({device})."
        )
        print(f"python -m camlib plan {name} --seeds 0-4          # each run once, and what it costs on this machine")
        print(f"python -m camlib plan {name} --seeds 0-4 --run    # trains what is left; goes on where it was stopped")
        protocols: dict[str, list[str]] = {}
        objectives: dict[str, list[str]] = {}
        for of in table.runs:
            experiment = Run(of).experiment
            protocols.setdefault(experiment.protocol, []).append(of)
            objectives.setdefault(experiment.terms_text, []).append(of.rpartition("/")[2])
        print("\nProtocols")
        for protocol, runs in protocols.items():
            print(f"- {protocol}")
            print(textwrap.fill(", ".join(runs), 110, initial_indent="  ", subsequent_indent="  "))
        print("\nObjectives")
        for objective, arms in objectives.items():
            print(f"- {', '.join(dict.fromkeys(arms))}: {objective}")

    def verdicts(self, name: str, baseline: str | None = None) -> None:
        """Print the verdict on every number of a table that has paired runs, by each protocol.

        Args:
            name: the table.
            baseline: the column that the others are compared with, the table's own by default.

        Raises:
            KeyError: there is no such table or column.
        """
        table = lookup(TABLES, name, "table")
        for preset in ("paper", "short"):
            judged = [line for line in verdict.on_table(table, preset, baseline).itertuples() if line.n]
            for line in judged:
                print(f"{table.rows[line.row]}, {table.columns[line.column]}, {preset} protocol:")
                print(f"  {line.label.upper()}. {line.text}")
            if not judged:
                print(f"{preset} protocol: no pair of runs, so no verdict.")

    def show(self, figure: Figure, *, alt: str, caption: str) -> None:
        """Show a figure with a caption and, for readers who cannot see it, a text in its place.

        Args:
            figure: from matplotlib; closed afterwards.
            alt: what the figure shows.
            caption: what to see in it; Markdown and formulas are not read.
        """
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=160, facecolor="white", bbox_inches="tight", pad_inches=0.12)
        pyplot.close(figure)
        picture = base64.b64encode(stream.getvalue()).decode()
        # On a phone a wide figure scrolls in its own box instead of shrinking until nothing can be read.
        width = figure.get_figwidth()
        style = f"width: {90 * width:.0f}px; max-width: max(100%, {55 * width:.0f}px); height: auto"
        display(
            HTML(
                '<figure tabindex="0" style="margin: 1em 0; overflow-x: auto">'
                f'<img src="data:image/png;base64,{picture}" alt="{html.escape(alt)}" style="{style}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
        )

    def show_html(self, content: str, *, caption: str) -> None:
        """Show what `camlib.interactive` gives as HTML, with a caption."""
        caption = f"<figcaption>{html.escape(caption)}</figcaption>"
        display(HTML(f'<figure style="margin: 1em 0">{content}{caption}</figure>'))

    def time_lapse(self, arms: Mapping[str, str], *, caption: str) -> None:
        """Show the maps of three images after every epoch, one epoch at a time, chosen by radio buttons.

        Args:
            arms: names of `camlib.lab.frames.ARMS` -> their headings.
            caption: what to see in it.
        """
        recorded = frames.read()
        pictures = {str(epoch): plots.maps_after(recorded, epoch, arms) for epoch in range(recorded.maps.shape[1])}
        self.show_html(
            interactive.time_lapse(pictures, "After epoch"), caption=f"{caption} Trained at {recorded.made_by}."
        )

    def playground(self, maps: Tensor, weight: Sequence[float], bias: float, *, caption: str) -> None:
        """Show `camlib.interactive.playground`, or a line that says what is missing where altair is not installed."""
        try:
            chart = interactive.playground(maps, weight, bias)
        except ModuleNotFoundError:
            self.note("Sliders need altair: install it with %pip install altair, and run this cell again.")
            return
        if "CAMLIB_PAGE" not in os.environ:  # Colab and JupyterLab draw a chart by themselves
            display(chart)
            display(HTML(f"<figcaption>{html.escape(caption)}</figcaption>"))
            return
        # The page brings its own Vega, see book/_ext/pagefix.py.
        spec = chart.to_json(indent=None).replace("</", "<\\/")
        chart = f'<div class="chart"></div><script type="application/json" class="chart">{spec}</script>'
        self.show_html(f'<div style="overflow-x: auto" tabindex="0">{chart}</div>', caption=caption)

    def note(self, text: str) -> None:
        """Show a framed line, such as where the numbers below come from."""
        style = "border-left: 0.25em solid #c77700; padding: 0.3em 0.8em; margin: 1em 0"
        display(HTML(f'<div role="note" style="{style}">{html.escape(text)}</div>'))

    def banner(self) -> None:
        """Say over numbers made in this chapter that they are not the paper's protocol, unless they are."""
        if self.preset != "paper":
            self.note(
                f"Trained just now at the {self.preset} preset: sizes and lengths are cut so that the chapter runs "
                "quickly. These numbers show how things work; they are not the paper's protocol."
            )

    def check(self, answer: Any, expected: Callable[[], Any], hint: str) -> None:
        """Say whether an exercise is solved.

        Args:
            answer: the reader's number or tensor, as "0.5" or a `Fraction` too; None while there is none.
            expected: computes the right one.
            hint: what to look at if the answer is wrong.
        """
        if answer is None:
            print("No answer yet: replace None above and run both cells again.")
            return
        right = torch.as_tensor(expected()).detach().cpu().double()
        try:
            given = _number(answer)
        except (TypeError, ValueError, RuntimeError, ZeroDivisionError):
            print(f"Not yet: {answer!r} is no number; write it as 0.5 or 1/2.")
            return
        if given.numel() == right.numel() == 1:  # a mean may have kept a dimension
            given = given.reshape(right.shape)
        # Half a percent covers what is rounded to three digits; beside it, only what single precision rounds.
        rounding = 1e-6 * max(1.0, right.abs().max().item())
        if given.shape == right.shape and torch.allclose(given, right, rtol=5e-3, atol=rounding):
            print("Right.")
        else:
            print(f"Not yet. Hint: {hint}")


def _number(answer: Any) -> Tensor:
    """A number or tensor as people write them: a text, a fraction, on any device, with gradients."""
    if isinstance(answer, str):
        answer = Fraction(answer.strip().replace(",", ".").replace("−", "-"))
    if isinstance(answer, Fraction):
        answer = float(answer)
    return torch.as_tensor(answer).detach().cpu().double()


def _paper_number(entry: Entry) -> str:
    if entry.paper is None:
        return "–"
    spread = "" if entry.spread is None else f" ± {entry.spread:.2f}"
    return f"{entry.paper:.2f}{spread}{' (cited)' if entry.cited else ''}"


def setup(seed: int = 0) -> Book:
    """Seed everything, choose preset and device, and print them with the versions in one line.

    The device becomes torch's default: what a chapter makes is there.

    The preset is the environment variable CAMLIB_PRESET, by default "short" with a GPU and "quick" without.

    Args:
        seed: of torch's global generator and of what the chapter derives from it.

    Raises:
        KeyError: CAMLIB_PRESET names no preset.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cpu":
        torch.set_default_device(device)
    preset = os.environ.get("CAMLIB_PRESET") or ("short" if device.type == "cuda" else "quick")
    lookup(PRESETS, preset, "preset")
    torch.manual_seed(seed)
    pyplot.rcParams.update({"figure.dpi": 100, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    made_with = " · ".join(f"{name} {version}" for name, version in versions().items())
    print(f"preset {preset} · seed {seed} · {device_name(device)} · {made_with} · commit {commit()[:8]}")
    return Book(preset, device, seed)
