"""Every figure of the book. Each function returns the figure and its alternative text."""

import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas
import seaborn
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from camlib.lab.frames import ARMS, Frames
from camlib.lab.table import Table
from camlib.lab.verdict import ENOUGH_SEEDS, shifted
from camlib.maps import Cells, minmax, stretch
from camlib.measure import energy_inside, ks
from camlib.names import lookup

COLOURS = seaborn.color_palette("colorblind").as_hex()
MARKERS = "os^DvPX"
MAP_COLOURS = "viridis"  # perceptual, and as dark in grey as it is low

# One colour for each method in the whole book, by the beginning of the arm's name.
METHOD_COLOURS = {
    "ce": "#4d4d4d",
    "cam": COLOURS[0],
    "icasc": COLOURS[2],
    "icasc_grad_cam": "#66c2a5",
    "gate": COLOURS[5],
    "cc": COLOURS[3],
    "kd": COLOURS[1],
    "at": COLOURS[4],
    "ccm": COLOURS[9],
}
NOT_RUN = COLOURS[7]


def method_colour(name: str) -> str | None:
    """The colour of a method, by its arm ("icasc_late") or its heading ("baseline"); None of any other name.

    What a name begins with decides, up to a break between words; a gate without its loss is "gate".
    """
    plain = re.sub("cross-entropy|^baseline$", "ce", name.lower())
    words = re.sub(r"[^a-z0-9]+", "_", plain).replace("_loss", "").strip("_")
    words = re.sub("^ce_gate", "gate", words)
    known = [method for method in METHOD_COLOURS if f"{words}_".startswith(f"{method}_")]
    return METHOD_COLOURS[max(known, key=len)] if known else None


def colours(names: Iterable[str]) -> list[str]:
    """A colour for each name of a figure, no two alike: a method's own, and for any other one that no method has.

    Of several variants of a method the first has its colour.
    """
    names, given = list(names), {}
    for name in names:
        if method_colour(name) not in given.values():
            given[name] = method_colour(name)
    given = {name: colour for name, colour in given.items() if colour}
    others = itertools.cycle([colour for colour in COLOURS if colour not in given.values()])
    return [given[name] if name in given else next(others) for name in names]


def map_grid(
    images: Tensor,
    columns: Mapping[str, Tensor],
    labels: Sequence[str],
    masks: Tensor | None = None,
    cells: Cells | None = None,
) -> tuple[Figure, str]:
    """Images beside their maps, in colours over the grey image (CAM-loss, Figure 1).

    Args:
        images: uint8 (N, 3, H, W).
        columns: heading -> maps (N, h, w), each stretched to 0 … 1 per image: all colours are on one scale.
        labels: one for each row.
        masks: bool (N, H, W), drawn as an outline of the object.
        cells: where the maps' cells look, as for `camlib.maps.stretch`.
    """
    figure, axes = _maps_over_images(images, list(columns.values()), labels, cells)
    if masks is not None:
        for row_axes, mask in zip(axes, masks, strict=True):
            for axis in row_axes:
                _outline(axis, mask)
    for axis, heading in zip(axes[0], ["image", *columns], strict=True):
        axis.set_title(heading, fontsize=9)
    outlined = "" if masks is None else ", the object outlined"
    alt = f"A grid of {len(images)} images ({', '.join(labels)}), each beside its maps{outlined}: {', '.join(columns)}."
    return figure, alt


def front(
    images: Tensor, columns: Mapping[str, Tensor], label: str, masks: Tensor, values: pandas.DataFrame
) -> tuple[Figure, str]:
    """The book in one picture: an image that a net gets wrong, each net's map of it, and every seed's accuracy.

    Args:
        images, columns, masks: as for `map_grid`, of one image.
        label: of the image.
        values: one row for each seed, with columns "method", "test" and "accuracy (%)"; a panel for each test.
    """
    figure = pyplot.figure(figsize=(1.45 * (1 + len(columns)) + 0.6, 3.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1])
    axes = _maps_over_images(images, list(columns.values()), [label], None, above)[1]
    for axis, heading in zip(axes[0], [label, *columns], strict=True):
        _outline(axis, masks[0])
        axis.set_title(heading, fontsize=9)
    axes[0, 0].set_ylabel("")
    methods, texts = list(dict.fromkeys(values["method"])), []
    tests = list(values.groupby("test", sort=False))
    for axis, (test, part) in zip(below.subplots(1, len(tests), sharey=True, squeeze=False)[0], tests, strict=True):
        for row, (method, colour) in enumerate(zip(methods, colours(methods), strict=True)):
            points = part.loc[part["method"] == method, "accuracy (%)"]
            axis.scatter(points, [row] * len(points), s=24, color=colour, alpha=0.8)
            if len(points):
                axis.scatter([points.mean()], [row], marker="|", s=200, color="black", zorder=3)
                texts.append(f"{method} {points.mean():.1f} %, {' '.join(test.split())}")
        axis.set_title(test, fontsize=9)
        axis.set_xlabel("accuracy (%), one dot for each seed", fontsize=8)
        axis.set_yticks(range(len(methods)), methods, fontsize=8)
        axis.set_ylim(len(methods) - 0.5, -0.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.3)
    shown = ", ".join(" ".join(heading.split()) for heading in columns)
    means = "; ".join(texts)
    return figure, f"A {label} on another class's ground, and each net's map of it: {shown}. Means over seeds: {means}."


def class_maps(
    images: Tensor,
    maps: Tensor,
    headings: Sequence[Sequence[str]],
    labels: Sequence[str],
    marked: Sequence[int | None],
    cells: Cells | None = None,
) -> tuple[Figure, str]:
    """Images beside the attention to several classes, in colours over the grey image (ICASC, Figures 1, 2 and 10).

    Args:
        images: uint8 (N, 3, H, W).
        maps: (N, k, h, w), each stretched to 0 … 1.
        headings: of each image k texts, such as the class and its probability.
        labels: one for each row.
        marked: of each image the number of the map of its true class, 0 … k - 1, which gets a frame; None if it is
            not among them.
        cells: where the maps' cells look, as for `camlib.maps.stretch`.
    """
    figure, axes = _maps_over_images(images, maps.unbind(1), labels, cells)
    rows = []
    for row_axes, label, texts, true in zip(axes, labels, headings, marked, strict=True):
        for axis, text in zip(row_axes[1:], texts, strict=True):
            axis.set_title(text, fontsize=8)
        if true is not None:
            frame = row_axes[1 + true].spines
            frame[:].set(visible=True, color=COLOURS[3], linewidth=3)
        rows.append(f"{label}: " + ", ".join(f"{t} (true, framed)" if i == true else t for i, t in enumerate(texts)))
    figure.set_figheight(figure.get_figheight() + 0.3 * len(images))  # for the headings
    return figure, f"Images, each beside the maps of several classes. {'; '.join(rows)}."


def _maps_over_images(
    images: Tensor,
    columns: Sequence[Tensor],
    labels: Sequence[str],
    cells: Cells | None,
    figure: SubFigure | None = None,
) -> tuple[Figure, np.ndarray]:
    """A row for each image: the image, then its map in each column, (N, h, w), in colours over the grey image."""
    pixels = images.cpu().permute(0, 2, 3, 1).float() / 255
    grey = (pixels @ pixels.new_tensor([0.299, 0.587, 0.114])).numpy()[..., None].repeat(3, -1)
    if figure is None:
        size = 1.4 * (1 + len(columns)) + 0.6, 1.35 * len(images) + 0.2
        figure = pyplot.figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(images), 1 + len(columns), squeeze=False)
    for row, label in enumerate(labels):
        axes[row, 0].imshow(pixels[row].numpy())
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center")
        for column, maps in enumerate(columns, start=1):
            value = minmax(stretch(maps[row : row + 1].detach().float(), images.shape[2:], cells))[0].cpu().numpy()
            # Where a map is low the image shows, where it is high its colour.
            opaque = 0.35 + 0.4 * value[..., None]
            colour = pyplot.colormaps[MAP_COLOURS](value)[..., :3]
            axes[row, column].imshow((1 - opaque) * grey[row] + opaque * colour)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    scale = figure.colorbar(ScalarMappable(cmap=MAP_COLOURS), ax=axes, aspect=12 * len(images), pad=0.01, ticks=[0, 1])
    scale.ax.set_yticklabels(["each map's\nlowest", "each map's\nhighest"], fontsize=7)
    return figure, axes


def _outline(axis: Axes, mask: Tensor) -> None:
    """The border of a mask, to be seen on light and on dark."""
    for colour, width in (("black", 2.2), ("white", 1.1)):
        axis.contour(mask.cpu().numpy(), levels=[0.5], colors=colour, linewidths=width)


def maps_after(frames: Frames, epoch: int, arms: Mapping[str, str]) -> tuple[Figure, str]:
    """CAAM and CAM of the truth after an epoch, for each arm side by side.

    Args:
        frames: from `camlib.lab.frames.read`.
        epoch: 0 is before training.
        arms: names of `camlib.lab.frames.ARMS` -> their headings.
    """
    scenes, watched = frames.scenes, frames.watched
    columns, texts = {}, []
    for arm, heading in arms.items():
        maps = frames.maps[ARMS.index(arm), epoch].float()
        columns |= {f"{heading}\n{kind}": maps[k] for k, kind in enumerate(("CAAM", "CAM"))}
        inside = [f"{100 * energy_inside(kind, scenes.masks[watched]).mean():.0f} %" for kind in maps]
        answers = ", ".join(scenes.classes[k] for k in frames.answers[ARMS.index(arm), epoch].tolist())
        texts.append(
            f"{heading}: inside the object {inside[0]} of the CAAM and {inside[1]} of the CAM, answers {answers}"
        )
    labels = [scenes.classes[k] for k in scenes.labels[watched].tolist()]
    figure, alt = map_grid(scenes.images[watched], columns, labels, scenes.masks[watched])
    return figure, f"{' '.join(alt.split())} {'; '.join(texts)}."


def numbers_grid(grids: Mapping[str, Tensor], digits: int = 1) -> tuple[Figure, str]:
    """Small maps as grids of coloured cells with their numbers written in, all on one scale of colours.

    Where there are negative numbers, white is 0.

    Args:
        grids: heading -> (h, w).
        digits: behind the decimal point.
    """
    figure, axes = pyplot.subplots(1, len(grids), figsize=(1.75 * len(grids), 1.95), squeeze=False)
    texts = []
    scale = _scale(grids, "Blues", room=1.6)  # no colour so dark that its number cannot be read
    for axis, (heading, grid) in zip(axes[0], grids.items(), strict=True):
        axis.imshow(grid.cpu().numpy(), **scale)
        for y, row in enumerate(grid.tolist()):
            for x, value in enumerate(row):
                axis.text(x, y, f"{value:.{digits}f}", ha="center", va="center", color="black")
        axis.set(xticks=[], yticks=[])
        axis.set_title(heading, fontsize=9)
        texts.append(f"{heading}: {[[round(v, digits) for v in row] for row in grid.tolist()]}")
    figure.tight_layout(pad=0.5)
    return figure, "Grids of numbers. " + "; ".join(texts) + "."


def _scale(grids: Mapping[str, Tensor], positive: str, room: float = 1.0) -> dict[str, object]:
    """One scale of colours for all grids: from blue over white at 0 to red if a number is negative, else `positive`."""
    low, high = (float(end) for end in torch.cat([grid.detach().flatten() for grid in grids.values()]).aminmax())
    if low < 0:
        end = max(-low, high) * room
        return {"cmap": "RdBu_r", "vmin": -end, "vmax": end}
    return {"cmap": positive, "vmin": low - 0.3 * (room - 1), "vmax": high * room + 0.7 * (room - 1)}


def histories(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
    panels: Mapping[str, str],
    percent: Sequence[str] = (),
) -> tuple[Figure, str]:
    """Curves over the epochs, one panel per quantity (CAM-loss, Figure 4): a thin line per seed, a thick mean.

    Args:
        runs: name of an arm -> one history (as in `Record.history`) per seed.
        panels: key in the history -> label of the vertical axis; epochs without the key are left out.
        percent: keys whose values, shares in 0 … 1, are drawn as 100 times themselves.
    """
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.1 * len(panels), 2.7), squeeze=False)
    ends = []
    for axis, (key, label) in zip(axes[0], panels.items(), strict=True):
        for colour, (arm, seeds) in zip(colours(runs), runs.items(), strict=True):
            frame = pandas.DataFrame([{i + 1: e.get(key) for i, e in enumerate(h)} for h in seeds], dtype=float).T
            frame = frame.dropna() * (100 if key in percent else 1)
            if frame.empty:
                continue
            axis.plot(frame, color=colour, alpha=0.35, linewidth=0.8)
            axis.plot(frame.mean(axis=1), color=colour, linewidth=2, label=arm)
            ends.append(f"{label}, {arm}: {frame.mean(axis=1).iloc[0]:.3g} to {frame.mean(axis=1).iloc[-1]:.3g}")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.tight_layout()
    _legend(max(axes[0], key=lambda axis: len(axis.lines)))  # not every arm has every quantity
    return figure, f"Curves over epochs, first to last value: {'; '.join(ends)}."


def seed_dots(values: pandas.DataFrame, value: str, arm: str, panel: str | None = None) -> tuple[Figure, str]:
    """One dot per seed, one row per arm, a bar at the mean; dots of one seed are joined.

    Args:
        values: one row per run, with a column "seed".
        value: the column on the horizontal axis; its name is the axis' label.
        arm: the column that names the arms.
        panel: the column that splits the panels, if any.
    """
    panels = [("", values)] if panel is None else list(values.groupby(panel, sort=False))
    arms = list(dict.fromkeys(values[arm]))
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(min(7.5, 4.2 * len(panels)), 0.45 * len(arms) + 1.1),
        squeeze=False,
        sharey=True,
    )
    texts = []
    for axis, (heading, part) in zip(axes[0], panels, strict=True):
        for _, paired in part.groupby("seed"):
            at = paired[arm].map(arms.index)
            axis.plot(paired[value], at, color="0.75", linewidth=0.8, zorder=1)
        for row, name in enumerate(arms):
            points = part.loc[part[arm] == name, value]
            axis.scatter(points, [row] * len(points), s=22, color=colours(arms)[row], alpha=0.8, zorder=2)
            if len(points):
                axis.scatter([points.mean()], [row], marker="|", s=260, color="black", zorder=3)
                texts.append(f"{heading} {name}: {points.mean():.3g} over {len(points)} seeds".strip())
        axis.set(xlabel=value, title=heading)
        axis.set_yticks(range(len(arms)), arms)
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    return figure, f"One dot per seed with the mean as a bar. {'; '.join(texts)}."


def paired_dots(values: pandas.DataFrame, value: str, row: str, arm: str) -> tuple[Figure, str]:
    """One row per group with a dot for each arm, joined by a line.

    Args:
        values: one line per dot.
        value: the column on the horizontal axis; its name is the axis' label.
        row: the column that names the rows.
        arm: the column that names the arms.
    """
    wide = values.pivot(index=row, columns=arm, values=value)
    wide = wide.loc[list(dict.fromkeys(values[row])), list(dict.fromkeys(values[arm]))]
    figure, axis = pyplot.subplots(figsize=(6.2, 0.34 * len(wide) + 1.2))
    axis.hlines(range(len(wide)), wide.min(axis=1), wide.max(axis=1), color="0.75", zorder=1)
    for colour, marker, name in zip(colours(wide.columns), itertools.cycle(MARKERS), wide.columns, strict=False):
        axis.scatter(wide[name], range(len(wide)), color=colour, marker=marker, s=34, label=name, zorder=2)
    axis.set(xlabel=value, ylim=(len(wide) - 0.5, -0.5))
    axis.set_yticks(range(len(wide)), wide.index)
    if len(wide.columns) > 4:
        _legend(axis)
    else:
        axis.legend(frameon=False, fontsize=8)
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    rows = "; ".join(
        f"{name}: " + ", ".join(f"{a} {v:.2f}" for a, v in line.dropna().items()) for name, line in wide.iterrows()
    )
    return figure, f"Pairs of dots, {value}. {rows}."


def intervals(table: Table, judged: pandas.DataFrame, baseline: str | None = None) -> tuple[Figure, str]:
    """The paper's gains over a baseline, and ours with their 95 % intervals: one line per row and method.

    A diamond is the paper's gain. A dot in the method's colour is our mean over paired seeds, with its interval from
    five pairs on, hollow where the short protocol was run. What was not run is grey, and where the paper has no number
    either, named in one line for each row. Rows under a shift of our own, of which no paper claims anything, stand
    below the others behind a rule.

    Args:
        table: of `camlib.lab.tables.TABLES`.
        judged: what `camlib.lab.verdict.by_protocol` gives of it, at least one line.
        baseline: the column that was compared with, the table's own by default.
    """
    judged = judged.assign(shifted=judged["row"].map(shifted)).sort_values("shifted", kind="stable")
    methods = list(dict.fromkeys(judged["column"]))
    several, others = len(methods) > 1, dict(zip(methods, colours(methods), strict=True))
    drawn, texts, rule = [], [], None  # what stands beside the axis, its comparison if it has one, its weight
    for row, group in judged.groupby("row", sort=False):
        if drawn and shifted(row) and rule is None and not judged["shifted"].all():
            rule = len(drawn) - 0.5
        if several:
            drawn.append((table.rows[row], None, "bold"))
        silent = []
        for line in group.itertuples():
            name = table.columns[line.column] if several else table.rows[row]
            name += ", short protocol" if line.preset == "short" else ""
            texts.append(f"{table.rows[row]}, {name}: " if several else f"{name}: ")
            texts[-1] += _gains(line)
            if several and not line.n and math.isnan(line.claim):
                silent.append(name)
            else:
                drawn.append((name, line, "normal"))
        if silent:
            drawn.append((f"not run: {', '.join(silent)}", None, "normal"))
    names = [textwrap.fill(name, 60) for name, *_ in drawn]  # unwrapped, long names leave no room for the axes
    heights = [1 + 0.6 * name.count("\n") for name in names]
    figure, axis = pyplot.subplots(figsize=(7.2, 0.27 * sum(heights) + 1.0))
    for y, (_, line, _) in enumerate(drawn):
        if line is None:
            continue
        if not math.isnan(line.claim):
            axis.scatter([line.claim], [y], marker="D", s=26, facecolor="none", edgecolor="black", zorder=3)
        if not line.n:
            axis.axhline(y, color=NOT_RUN, linewidth=0.6, alpha=0.5, zorder=0)
            continue
        colour = method_colour(line.column) or others[line.column]
        half = line.half_width if line.n >= ENOUGH_SEEDS else 0.0
        axis.hlines(y, line.difference - half, line.difference + half, color=colour, linewidth=2, zorder=1)
        face = colour if line.preset == "paper" else "white"
        axis.scatter([line.difference], [y], s=30, facecolor=face, edgecolor=colour, linewidth=1.5, zorder=2)
        axis.text(1.01, y, _pairs(line.n), transform=axis.get_yaxis_transform(), va="center", fontsize=7)
    if rule is not None:
        axis.axhline(rule, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    for label, (_, line, weight) in zip(axis.get_yticklabels(), drawn, strict=True):
        label.set(color="black" if weight == "bold" or (line and line.n) else "0.4", weight=weight)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    what, against = table.unit.removesuffix(" %"), table.columns[baseline or table.baseline]
    axis.set_xlabel(f"gain over {against}, points of {what} (right: better)")
    # The names stand beside the axis, which keeps its width however long they are.
    figure.set_figwidth(4.8 + 0.065 * max(len(line) for name in names for line in name.splitlines()))
    figure.tight_layout()
    return figure, f"Gains over {against} in points of {what}, positive is better. {'; '.join(texts)}."


def _gains(line) -> str:
    """The paper's gain and ours in words, of a line of `camlib.lab.verdict.by_protocol`."""
    said = [] if math.isnan(line.claim) else [f"paper {line.claim:+.2f}"]
    if not line.n:
        return ", ".join([*said, "not run"])
    spread = f" ± {line.half_width:.2f}" if line.n >= ENOUGH_SEEDS else ""
    return ", ".join([*said, f"ours {line.difference:+.2f}{spread} ({_pairs(line.n)})"])


def _pairs(n: int) -> str:
    return f"{n} pair{'s' if n > 1 else ''}"


def _legend(axis: Axes) -> None:
    """Names beside the curves, or below the figure where they would cover them."""
    handles, names = axis.get_legend_handles_labels()
    if len(names) <= 2:
        axis.legend(frameon=False, fontsize=8)
    else:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 2 if len(names) == 4 else 3}
        axis.figure.legend(handles, names, frameon=False, fontsize=8, **below)


class _Drawing:
    """Boxes with names, and arrows between them."""

    def __init__(self, width: float, height: float, boxes: Mapping[str, tuple[float, float]]):
        self.figure, self.axis = pyplot.subplots(figsize=(width, height))
        self.boxes = boxes
        self.axis.set(xlim=(-0.1, width), ylim=(-0.1, height))
        self.axis.axis("off")
        self.figure.subplots_adjust(0, 0, 1, 1)
        for name, (x, y) in boxes.items():
            face = "#fde7c7" if name.startswith("L") else "#dbe9f6"
            half, high = self._half(name)
            shape = FancyBboxPatch(
                (x - half, y - high), 2 * half, 2 * high, boxstyle="round,pad=0.03", fc=face, ec="0.3"
            )
            self.axis.add_patch(shape)
            self.note(x, y, name, fontsize=9, color="black")

    @staticmethod
    def _half(name: str) -> tuple[float, float]:
        """Half the width and height of a box, in inches."""
        rows = name.split("\n")
        return 0.038 * max(map(len, rows)) + 0.06, 0.085 * len(rows) + 0.03

    def arrow(self, start: str, end: str, *, back: bool = False, bend: float = 0.0, **style: object) -> None:
        """From the edge of one box to that of the other; `back` is drawn as a gradient's way, dashed."""
        (x0, y0), (x1, y1) = self.boxes[start], self.boxes[end]
        (w0, h0), (w1, h1) = self._half(start), self._half(end)
        level = abs(x1 - x0) > w0 + w1 + 0.15
        if level:
            side = 1 if x1 > x0 else -1
            ends = (x0 + side * (w0 + 0.05), y0), (x1 - side * (w1 + 0.05), y1)
        else:
            side = 1 if y1 > y0 else -1
            ends = (x0, y0 + side * (h0 + 0.05)), (x1, y1 - side * (h1 + 0.05))
        line = {"linestyle": "--" if back else "-", "color": "0.3", "linewidth": 1.3} | style
        curve = f"arc3,rad={bend}"
        self.axis.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=10, connectionstyle=curve, **line))

    def note(self, x: float, y: float, text: str, **style: object) -> None:
        text = re.sub(r"L_(\w+)", r"$L_{\\mathrm{\1}}$", text)
        self.axis.text(x, y, text, **({"fontsize": 8, "ha": "center", "va": "center", "color": "0.25"} | style))


def gradient_paths() -> tuple[Figure, str]:
    """CAM-loss, Algorithm 1, as a drawing: which loss may move which weights."""
    drawing = _Drawing(
        7.4,
        2.7,
        {
            "image": (0.4, 1.35),
            "backbone θ": (1.8, 1.35),
            "maps f": (3.2, 1.35),
            "CAAM": (4.9, 2.4),
            "CAM": (4.9, 1.35),
            "classifier W": (4.9, 0.3),
            "L_cam": (6.9, 1.9),
            "L_ce": (6.9, 0.3),
        },
    )
    for start, end in (
        ("image", "backbone θ"),
        ("backbone θ", "maps f"),
        ("maps f", "CAAM"),
        ("maps f", "CAM"),
        ("maps f", "classifier W"),
        ("CAAM", "L_cam"),
        ("CAM", "L_cam"),
        ("classifier W", "L_ce"),
        ("classifier W", "CAM"),
    ):
        drawing.arrow(start, end)
    ours, theirs = {"back": True, "color": COLOURS[1]}, {"back": True, "color": COLOURS[0]}
    for start, end, bend in (("L_cam", "CAAM", 0.3), ("L_cam", "CAM", -0.3), ("CAAM", "maps f", 0.3)):
        drawing.arrow(start, end, bend=bend, **ours)
    drawing.arrow("CAM", "maps f", bend=-0.3, **ours)
    drawing.arrow("L_ce", "classifier W", bend=-0.25, **theirs)
    drawing.arrow("classifier W", "maps f", bend=-0.3, **theirs)
    drawing.arrow("maps f", "backbone θ", back=True, color="black", bend=-0.6)
    drawing.note(5.0, 0.83, "W, detached: no way back", ha="left", color="#a34a00")
    alt = (
        "Boxes from image over backbone and maps to CAAM, CAM and classifier, and on to the losses L_cam and L_ce. "
        "Dashed gradient arrows lead from L_cam through CAAM and CAM to the maps and the backbone, and from L_ce "
        "through the classifier to the maps and the backbone. No gradient leads from L_cam to the classifier."
    )
    return drawing.figure, alt


def data_flow(method: str) -> tuple[Figure, str]:
    """What a method computes from an image, as a drawing (CAM-loss, Figure 2 and ICASC, Figure 3).

    Args:
        method: "cam", "icasc" or "cc".

    Raises:
        UnknownName: it is none of these.
    """
    boxes, arrows, notes, alt = lookup(_FLOWS, method, "method")
    drawing = _Drawing(7.4, 3.0, boxes)
    for start, end in arrows:
        drawing.arrow(start, end)
    for x, y, text in notes:
        drawing.note(x, y, text)
    return drawing.figure, alt


_FLOWS = {
    "cam": (
        {
            "image": (0.4, 1.5),
            "backbone": (1.5, 1.5),
            "maps f\nC × H × W": (2.9, 1.5),
            "CAAM\nΣ f": (4.55, 2.6),
            "CAM of the target\nΣ w f": (4.55, 1.5),
            "average\npooling": (2.9, 0.4),
            "classifier\nW": (4.55, 0.4),
            "L_cam\nmean of |CAAM − CAM|": (6.55, 2.05),
            "L_ce": (6.55, 0.4),
        },
        (
            ("image", "backbone"),
            ("backbone", "maps f\nC × H × W"),
            ("maps f\nC × H × W", "CAAM\nΣ f"),
            ("maps f\nC × H × W", "CAM of the target\nΣ w f"),
            ("maps f\nC × H × W", "average\npooling"),
            ("average\npooling", "classifier\nW"),
            ("classifier\nW", "CAM of the target\nΣ w f"),
            ("classifier\nW", "L_ce"),
            ("CAAM\nΣ f", "L_cam\nmean of |CAAM − CAM|"),
            ("CAM of the target\nΣ w f", "L_cam\nmean of |CAAM − CAM|"),
        ),
        ((4.92, 0.93, "its row w"), (5.9, 2.75, "each stretched\nto 0 … 1"), (6.55, 1.2, "loss: L_ce + α L_cam")),
        "From the image the backbone makes C maps f. Three ways go on from there. Averaged over all places they enter "
        "the classifier W, and cross-entropy L_ce. Summed over the channels they are the CAAM. Summed with the weights "
        "of the target's row of W they are the target's CAM. Both maps are stretched to 0 … 1, and L_cam is the mean "
        "of their absolute difference. The loss is the sum of L_ce and L_cam.",
    ),
    "icasc": (
        {
            "image": (0.35, 1.5),
            "inner maps": (1.35, 1.5),
            "last maps": (2.45, 1.5),
            "logits": (3.4, 1.5),
            "L_ce": (3.4, 0.4),
            "attention to\nthe target, last": (4.85, 2.55),
            "attention to\nthe target, inner": (4.85, 1.5),
            "attention to\nthe confuser, both": (4.85, 0.45),
            "L_AC\ninner within last": (6.6, 2.05),
            "L_AS\napart, both layers": (6.6, 0.95),
        },
        (
            ("image", "inner maps"),
            ("inner maps", "last maps"),
            ("last maps", "logits"),
            ("logits", "L_ce"),
            ("logits", "attention to\nthe target, last"),
            ("logits", "attention to\nthe target, inner"),
            ("logits", "attention to\nthe confuser, both"),
            ("attention to\nthe target, last", "L_AC\ninner within last"),
            ("attention to\nthe target, inner", "L_AC\ninner within last"),
            ("attention to\nthe target, inner", "L_AS\napart, both layers"),
            ("attention to\nthe target, last", "L_AS\napart, both layers"),
            ("attention to\nthe confuser, both", "L_AS\napart, both layers"),
        ),
        ((3.3, 2.3, "gradients of one\nclass's logit to maps"),),
        "From the image come inner maps, from these the last maps, from these the logits, which enter cross-entropy "
        "L_ce. The gradients of a class's logit to the inner and to the last maps weight their channels: that is the "
        "attention to the class. It is computed for the target and for the most confusing class, at both layers. "
        "L_AS asks that the attention to the two be apart at both layers, L_AC that the target's attention at the "
        "inner layer lie within its attention at the last one.",
    ),
    "cc": (
        {
            "image": (0.4, 2.3),
            "backbone": (1.4, 2.3),
            "maps f\nC × H × W": (2.75, 2.3),
            "f · v": (4.95, 2.3),
            "average,\nclassifier": (5.95, 2.3),
            "L_ce": (6.95, 2.3),
            "average\npooling": (2.75, 1.2),
            "two layers,\nsigmoid": (3.75, 1.2),
            "gate v\n0 … 1 each": (4.95, 1.2),
            "L_cc\nwithin / between": (6.6, 0.3),
            "gates of the\nother images": (4.95, 0.3),
        },
        (
            ("image", "backbone"),
            ("backbone", "maps f\nC × H × W"),
            ("maps f\nC × H × W", "f · v"),
            ("f · v", "average,\nclassifier"),
            ("average,\nclassifier", "L_ce"),
            ("maps f\nC × H × W", "average\npooling"),
            ("average\npooling", "two layers,\nsigmoid"),
            ("two layers,\nsigmoid", "gate v\n0 … 1 each"),
            ("gate v\n0 … 1 each", "f · v"),
            ("gate v\n0 … 1 each", "L_cc\nwithin / between"),
            ("gates of the\nother images", "L_cc\nwithin / between"),
        ),
        (),
        "From the image the backbone makes C maps f. Their averages pass two layers and a sigmoid and become the gate "
        "v, a number between 0 and 1 for each channel. The maps times v are averaged and classified, which gives "
        "cross-entropy L_ce. The gates of all images of the batch enter L_cc: distances within a class over distances "
        "between classes.",
    ),
}


def lines(x: Sequence[float], series: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str) -> tuple[Figure, str]:
    """Curves over a common horizontal axis."""
    figure, axis = pyplot.subplots(figsize=(4.6, 2.7))
    texts = []
    for colour, (name, values) in zip(colours(series), series.items(), strict=True):
        curve = (torch.as_tensor(numbers, device="cpu") for numbers in (x, values))
        axis.plot(*curve, color=colour, linewidth=2, label=name)
        texts.append(f"{name} goes from {float(values[0]):.3g} to {float(values[-1]):.3g}")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    figure.tight_layout()
    _legend(axis)
    return figure, f"{ylabel} over {xlabel}: {'; '.join(texts)}."


def ks_chart(arms: Mapping[str, tuple[Tensor, Tensor]], xlabel: str = "probability") -> tuple[Figure, str]:
    """How many images give the target and the confusing class up to which probability (ICASC, Figure 9).

    One panel per arm with the two cumulative distributions, and a bar where they are farthest apart: the statistic
    of `camlib.measure.ks`.

    Args:
        arms: heading -> what `camlib.measure.confusion` returns: p_target and p_confused, each (N,).
        xlabel: what kind of probability it is.
    """
    figure, axes = pyplot.subplots(1, len(arms), figsize=(3.4 * len(arms), 2.9), squeeze=False, sharey=True)
    texts = []
    for axis, (heading, (p_target, p_confused)) in zip(axes[0], arms.items(), strict=True):
        distance, place = ks(p_target, p_confused)
        ends = []
        samples = {"target class": p_target, "most confusing class": p_confused}
        for colour, style, (name, sample) in zip(COLOURS, ("-", "--"), samples.items(), strict=False):
            share = torch.linspace(0, 100, len(sample) + 1).tolist()
            axis.step(
                [0, *sample.sort().values.tolist(), 1], [*share, 100], style, where="post", color=colour, label=name
            )
            ends.append((sample <= place).double().mean().item() * 100)
        axis.vlines(place, *ends, color="black", linewidth=2)
        axis.set_title(f"{heading}\nD = {distance:.2f} at {place:.2f}", fontsize=9)
        axis.set(xlabel=xlabel)
        texts.append(f"{heading}: largest distance {distance:.2f} at {place:.2f}")
    axes[0, 0].set(ylabel="images at or below it (%)")
    figure.tight_layout()
    _legend(axes[0, 0])
    return (
        figure,
        f"Cumulative distributions of the target's and the most confusing class's {xlabel}. {'; '.join(texts)}.",
    )


def scatter_classes(points: Mapping[str, Tensor], labels: Tensor, classes: Sequence[str]) -> tuple[Figure, str]:
    """Points in the plane, as of t-SNE, with a colour and a marker for each class.

    Args:
        points: heading -> (N, 2), one panel each.
        labels: integers (N,), the same in all panels.
        classes: the name of each label.
    """
    figure, axes = pyplot.subplots(1, len(points), figsize=(3.4 * len(points), 3.4), squeeze=False)
    for axis, (heading, plane) in zip(axes[0], points.items(), strict=True):
        for label, name in enumerate(classes):
            x, y = plane.cpu()[labels.cpu() == label].unbind(1)
            axis.scatter(
                x,
                y,
                s=min(24, max(5, 15000 / len(plane))),
                color=COLOURS[label % len(COLOURS)],
                marker=MARKERS[label % len(MARKERS)],
                linewidths=0,
                alpha=0.7,
                label=name,
            )
        axis.set(xticks=[], yticks=[])  # t-SNE has no units
        axis.set_title(heading, fontsize=9)
    figure.tight_layout()
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": min(5, len(classes))}
    legend = figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, fontsize=8, **below)
    for handle in legend.legend_handles:
        handle.set(sizes=[30], alpha=1)
    alt = (
        f"Scatter plots of {len(labels)} points, one colour each for {', '.join(classes)}: {', '.join(points)}. "
        "The axes have no units."
    )
    return figure, alt


def matrix(grids: Mapping[str, Tensor], *, xlabel: str, ylabel: str, value: str) -> tuple[Figure, str]:
    """Matrices as heat maps side by side, all on one scale of colours, centred at 0 if there are negative entries.

    Args:
        grids: heading -> (n, m).
        xlabel: what a column is.
        ylabel: what a row is.
        value: what an entry is, with its unit.
    """
    scale = _scale(grids, MAP_COLOURS)
    square = all(len(grid) == len(grid.T) for grid in grids.values())
    width = 3.1 if square else max(3.1, 7 / len(grids))
    figure, axes = pyplot.subplots(
        1, len(grids), figsize=(width * len(grids) + 0.6, 3.0), squeeze=False, layout="constrained"
    )
    texts = []
    for axis, (heading, grid) in zip(axes[0], grids.items(), strict=True):
        aspect = "equal" if square else "auto"
        image = axis.imshow(grid.detach().cpu().numpy(), aspect=aspect, **scale)
        axis.set(xlabel=xlabel)
        for along in (axis.xaxis, axis.yaxis):
            along.set_major_locator(MaxNLocator(6, integer=True))
        axis.set_title(heading, fontsize=9)
        texts.append(f"{heading}: {grid.min():.3g} to {grid.max():.3g}, mean {grid.mean():.3g}")
    axes[0, 0].set(ylabel=ylabel)
    figure.colorbar(image, ax=axes[0].tolist(), label=value, shrink=0.85)
    return figure, f"Heat maps of {value}, {ylabel} by {xlabel}. {'; '.join(texts)}."
