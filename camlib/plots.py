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
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from camlib.lab.table import Table
from camlib.lab.verdict import ENOUGH_SEEDS, shifted
from camlib.maps import Cells, minmax, stretch
from camlib.measure import ks

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
    """The colour of a method, by its arm ("icasc_late") or its heading ("ICASC, A_ch"); None of any other name.

    What a name begins with decides, up to a break between words; a gate without its loss is "gate".
    """
    words = re.sub(r"[^a-z0-9]+", "_", re.sub(r"cross-entropy", "ce", name.lower())).replace("_loss", "").strip("_")
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
    images: Tensor, columns: Sequence[Tensor], labels: Sequence[str], cells: Cells | None
) -> tuple[Figure, np.ndarray]:
    """A row for each image: the image, then its map in each column, (N, h, w), in colours over the grey image."""
    pixels = images.cpu().permute(0, 2, 3, 1).float() / 255
    grey = (pixels @ pixels.new_tensor([0.299, 0.587, 0.114])).numpy()[..., None].repeat(3, -1)
    figure, axes = pyplot.subplots(
        len(images),
        1 + len(columns),
        figsize=(1.4 * (1 + len(columns)) + 0.6, 1.35 * len(images) + 0.2),
        squeeze=False,
        layout="constrained",
    )
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
                texts.append(f"{heading} {name}: {points.mean():.1f} over {len(points)} seeds".strip())
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
    five pairs on, hollow where the short protocol was run. A line where nothing was run is grey. Rows under a shift of
    our own, of which no paper claims anything, stand below the others behind a rule.

    Args:
        table: of `camlib.lab.tables.TABLES`.
        judged: what `camlib.lab.verdict.by_protocol` gives of it, at least one line.
        baseline: the column that was compared with, the table's own by default.
    """
    judged = judged.assign(shifted=judged["row"].map(shifted)).sort_values("shifted", kind="stable")
    methods = list(dict.fromkeys(judged["column"]))
    several, others = len(methods) > 1, dict(zip(methods, colours(methods), strict=True))
    figure, axis = pyplot.subplots(figsize=(7.2, 0.34 * len(judged) + 1.0))
    texts, names = [], []
    for y, line in enumerate(judged.itertuples()):
        parts = [table.rows[line.row], *([table.columns[line.column]] if several else [])]
        parts += ["short protocol"] if line.preset == "short" else []
        names.append(", ".join(parts))
        said = []
        if not math.isnan(line.claim):
            axis.scatter([line.claim], [y], marker="D", s=26, facecolor="none", edgecolor="black", zorder=3)
            said.append(f"paper {line.claim:+.2f}")
        if not line.n:
            axis.axhline(y, color=NOT_RUN, linewidth=0.6, alpha=0.5, zorder=0)
            said.append("not run")
        else:
            colour = method_colour(line.column) or others[line.column]
            half = line.half_width if line.n >= ENOUGH_SEEDS else 0.0
            axis.hlines(y, line.difference - half, line.difference + half, color=colour, linewidth=2, zorder=1)
            face = colour if line.preset == "paper" else "white"
            axis.scatter([line.difference], [y], s=30, facecolor=face, edgecolor=colour, linewidth=1.5, zorder=2)
            pairs = f"{line.n} pair{'s' if line.n > 1 else ''}"
            axis.text(1.01, y, pairs, transform=axis.get_yaxis_transform(), va="center", fontsize=7)
            said.append(f"ours {line.difference:+.2f}{f' ± {half:.2f}' if half else ''} ({pairs})")
        texts.append(f"{names[-1]}: {', '.join(said)}")
    fair = int((~judged["shifted"]).sum())
    if 0 < fair < len(judged):
        axis.axhline(fair - 0.5, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)
    # Unwrapped, long names leave no room for the axes.
    axis.set_yticks(range(len(judged)), [textwrap.fill(name, 60) for name in names], fontsize=8)
    for label, n in zip(axis.get_yticklabels(), judged["n"], strict=True):
        label.set_color("black" if n else "0.45")
    axis.set_ylim(len(judged) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    what, against = table.unit.removesuffix(" %"), table.columns[baseline or table.baseline]
    axis.set_xlabel(f"gain over {against}, points of {what} (right: better)")
    # The names stand beside the axis, which keeps its width however long they are.
    figure.set_figwidth(4.8 + 0.065 * max(map(len, names)))
    figure.tight_layout()
    return figure, f"Gains over {against} in points of {what}, positive is better. {'; '.join(texts)}."


def _legend(axis: Axes) -> None:
    """Names beside the curves, or below the figure where they would cover them."""
    handles, names = axis.get_legend_handles_labels()
    if len(names) <= 2:
        axis.legend(frameon=False, fontsize=8)
    else:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 2 if len(names) == 4 else 3}
        axis.figure.legend(handles, names, frameon=False, fontsize=8, **below)


def gradient_paths() -> tuple[Figure, str]:
    """CAM-loss, Algorithm 1, as a drawing: which loss may move which weights."""
    figure, axis = pyplot.subplots(figsize=(7.6, 2.7))
    boxes = {
        "image": (0.0, 1.0),
        "backbone θ": (2.0, 1.0),
        "maps f": (4.0, 1.0),
        "CAAM": (6.6, 2.0),
        "CAM": (6.6, 1.0),
        "classifier W": (6.6, 0.0),
        "L_cam": (9.0, 1.5),
        "L_ce": (9.0, 0.0),
    }
    for name, (x, y) in boxes.items():
        loss = name.startswith("L_")
        face = "#fde7c7" if loss else "#dbe9f6"
        axis.add_patch(FancyBboxPatch((x - 0.7, y - 0.24), 1.4, 0.48, boxstyle="round,pad=0.02", fc=face, ec="0.3"))
        axis.text(x, y, name, ha="center", va="center")

    def arrow(
        start: str, end: str, back: bool = False, colour: str = "0.3", bend: float = 0.0, side: float = 1
    ) -> None:
        (x0, y0), (x1, y1) = boxes[start], boxes[end]
        shift = side * 0.76
        axis.add_patch(
            FancyArrowPatch(
                (x0 + shift, y0),
                (x1 - shift, y1),
                arrowstyle="-|>",
                mutation_scale=11,
                linestyle="--" if back else "-",
                connectionstyle=f"arc3,rad={bend}",
                color=colour,
                linewidth=1.4,
            )
        )

    for start, end in (
        ("image", "backbone θ"),
        ("backbone θ", "maps f"),
        ("maps f", "CAAM"),
        ("maps f", "CAM"),
    ):
        arrow(start, end)
    for start, end in (
        ("maps f", "classifier W"),
        ("CAAM", "L_cam"),
        ("CAM", "L_cam"),
        ("classifier W", "L_ce"),
    ):
        arrow(start, end)
    for start, end, bend in (("L_cam", "CAAM", 0.35), ("L_cam", "CAM", -0.35), ("CAAM", "maps f", 0.35)):
        arrow(start, end, back=True, colour=COLOURS[1], bend=bend, side=-1)
    arrow("CAM", "maps f", back=True, colour=COLOURS[1], bend=-0.3, side=-1)
    arrow("L_ce", "classifier W", back=True, colour=COLOURS[0], bend=-0.35, side=-1)
    arrow("classifier W", "maps f", back=True, colour=COLOURS[0], bend=-0.35, side=-1)
    arrow("maps f", "backbone θ", back=True, colour="black", bend=-0.7, side=-1)
    axis.annotate("", (6.6, 0.72), (6.6, 0.28), arrowprops={"arrowstyle": "-|>", "color": "0.3"})
    axis.text(6.7, 0.5, "W, detached: no way back", fontsize=8, va="center", color=COLOURS[3])
    axis.set(xlim=(-0.8, 9.8), ylim=(-0.4, 2.4))
    axis.axis("off")
    alt = (
        "Boxes from image over backbone and maps to CAAM, CAM and classifier, and on to the losses L_cam and L_ce. "
        "Dashed gradient arrows lead from L_cam through CAAM and CAM to the maps and the backbone, and from L_ce "
        "through the classifier to the maps and the backbone. No gradient leads from L_cam to the classifier."
    )
    return figure, alt


def lines(x: Sequence[float], series: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str) -> tuple[Figure, str]:
    """Curves over a common horizontal axis."""
    figure, axis = pyplot.subplots(figsize=(4.6, 2.7))
    texts = []
    for colour, (name, values) in zip(colours(series), series.items(), strict=True):
        axis.plot(x, torch.as_tensor(values), color=colour, linewidth=2, label=name)
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
            x, y = plane[labels == label].unbind(1)
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
