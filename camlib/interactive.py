"""Things to move on a page without a kernel: by mouse and keyboard, and without a request to anywhere.

What they show is in the page itself. `camlib.notebook.Book` displays them.
"""

import base64
import html
import io
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from camlib.plots import COLOURS

if TYPE_CHECKING:
    import altair


def playground(maps: Tensor, weight: Sequence[float], bias: float) -> "altair.ConcatChart":
    """Sliders for the weights of two channels and the bias; the CAM, its mean and the logit follow (CAM-loss, Eq. 1).

    Args:
        maps: (2, H, W), not negative.
        weight: of the channels, to begin with.
        bias: to begin with.

    Returns:
        The chart; its description is its alternative text.

    Raises:
        ModuleNotFoundError: altair is not installed.
    """
    import altair

    sliders = [
        altair.param(name=name, value=value, bind=altair.binding_range(min=-2, max=2, step=0.1, name=f"{label} "))
        for name, value, label in (
            ("w0", weight[0], "weight of channel 0"),
            ("w1", weight[1], "weight of channel 1"),
            ("b", bias, "bias"),
        )
    ]
    places = [(y, x) for y in range(maps.shape[1]) for x in range(maps.shape[2])]
    cells = [
        {"x": x, "y": y, "f0": round(maps[0, y, x].item(), 3), "f1": round(maps[1, y, x].item(), 3)} for y, x in places
    ]
    high = maps.max().item()
    grid = altair.Chart(altair.Data(values=cells)).transform_calculate(cam="w0 * datum.f0 + w1 * datum.f1")
    axes = {"x": altair.X("x:O", axis=None), "y": altair.Y("y:O", axis=None)}

    def panel(field: str, title: str, scale: altair.Scale) -> altair.LayerChart:
        colour = altair.Color(f"{field}:Q", scale=scale, legend=None)
        number = altair.Text(f"{field}:Q", format=".1f")
        layers = grid.mark_rect().encode(color=colour, **axes) + grid.mark_text().encode(text=number, **axes)
        return layers.properties(title=title, width=110, height=110)

    light = altair.Scale(scheme="blues", domain=[0, 1.6 * high])  # a number can be read on every colour
    signed = altair.Scale(scheme="redblue", reverse=True, domain=[-3 * high, 3 * high], domainMid=0, clamp=True)
    sums = (
        grid.transform_aggregate(mean="mean(cam)")
        .transform_calculate(
            first="'mean of the CAM ' + format(datum.mean, '.2f')",
            second="'+ bias ' + format(b, '.2f')",
            third="'= logit ' + format(datum.mean + b, '.2f')",
        )
        .transform_fold(["first", "second", "third"], as_=["line", "text"])
        .mark_text(align="left", fontSize=13)
        .encode(x=altair.value(0), y=altair.Y("line:N", axis=None), text="text:N")
        .properties(width=150, height=110)
    )
    panels = (
        panel("f0", "channel 0", light),
        panel("f1", "channel 1", light),
        panel("cam", "CAM", signed),
        sums,
    )
    chart = altair.concat(*panels, columns=2).resolve_scale(color="independent").add_params(*sliders)
    described = (
        f"Two channels of {maps.shape[1]} × {maps.shape[2]} cells, {maps[0].tolist()} and {maps[1].tolist()}. "
        "Their sum, weighted by two sliders, is the CAM; its mean plus the bias of the third slider is the logit."
    )
    return chart.properties(description=described).configure(background="white").configure_view(stroke=None)


def time_lapse(frames: Mapping[str, tuple[Figure, str]], legend: str) -> str:
    """Figures of one size of which a reader sees one at a time, chosen by radio buttons.

    Args:
        frames: label of the button -> a figure, closed afterwards, and its alternative text.
        legend: what the labels are.

    Returns:
        HTML, at first with the last frame.
    """
    shown = [(label, _png(figure), alt) for label, (figure, alt) in frames.items()]
    name = _name("lapse", repr((legend, shown)))
    buttons, pictures, rules = [], [], []
    for number, (label, png, alt) in enumerate(shown, 1):
        checked = " checked" if number == len(frames) else ""
        buttons.append(
            f'<label style="margin-right: 0.8em; white-space: nowrap">'
            f'<input type="radio" name="{name}" value="{number}"{checked}> {html.escape(label)}</label>'
        )
        pictures.append(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{png}">')
        rules.append(f'.{name}:has(input[value="{number}"]:checked) img:nth-of-type({number})')
    style = (
        f"@supports selector(:has(*)) {{ .{name} img {{ display: none }} {', '.join(rules)} {{ display: block }} }} "
        f".{name} img {{ max-width: max(100%, 26rem) }} .{name} > div {{ overflow-x: auto }}"
    )
    return (
        f'<div class="{name}"><style>{style}</style>'
        f'<fieldset style="border: 0; padding: 0; margin: 0.5em 0"><legend style="font-size: inherit; float: left; '
        f'width: auto; margin: 0 0.8em 0 0">{html.escape(legend)}</legend>{"".join(buttons)}</fieldset>'
        f'<div tabindex="0" role="group" aria-label="{html.escape(legend)}: the picture chosen">'
        f"{''.join(pictures)}</div></div>"
    )


def _name(kind: str, content: str) -> str:
    """Of a part of a page, the same whenever the page is made, and another's for other content."""
    return f"{kind}-{zlib.crc32(content.encode())}"


def _png(figure: Figure) -> str:
    """A figure in few colours, so that a dozen of them weigh little."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100, facecolor="white")
    pyplot.close(figure)
    few = io.BytesIO()
    Image.open(stream).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(few, "PNG", optimize=True)
    return base64.b64encode(few.getvalue()).decode()


def pictured_points(points: Tensor, images: Tensor, labels: Tensor, classes: Sequence[str]) -> str:
    """Points in the plane that show their picture under the pointer, and the same as a table for those without one.

    Args:
        points: (N, 2).
        images: uint8 (N, 3, H, W).
        labels: integers (N,).
        classes: the name of each label.

    Returns:
        HTML.
    """
    points, images, labels = points.cpu(), images.cpu(), labels.cpu()
    count, side = len(points), images.shape[-1]
    low, high = points.amin(0), points.amax(0)
    places = 3 + 94 * (points - low) / (high - low).clamp_min(torch.finfo(points.dtype).tiny)
    strip = Image.fromarray(images.permute(2, 0, 3, 1).reshape(side, count * side, 3).numpy())
    stream = io.BytesIO()
    strip.save(stream, "WEBP", quality=80)
    sprite = base64.b64encode(stream.getvalue()).decode()
    name = _name("points", repr((points.tolist(), sprite)))
    dots = "".join(
        f'<i style="--x:{x:.1f};--y:{100 - y:.1f};--n:{n};--c:{COLOURS[label % len(COLOURS)]}" '
        f'data-name="{html.escape(classes[label])}"></i>'
        for n, ((x, y), label) in enumerate(zip(places.tolist(), labels.tolist(), strict=True))
    )
    picture = f"background: url(data:image/webp;base64,{sprite}) calc(var(--n) * -64px) 0 / {64 * count}px 64px"
    style = (
        f".{name} {{ position: relative; max-width: 34rem; aspect-ratio: 1; background: #fff; border-radius: .25rem }} "
        f".{name} i {{ position: absolute; left: calc(var(--x) * 1%); top: calc(var(--y) * 1%); width: 10px; "
        "height: 10px; margin: -5px; border-radius: 50%; background: var(--c) } "
        f".{name} i:hover {{ outline: 2px solid #000; z-index: 1 }} "
        f".{name} i:hover::before {{ content: ''; position: absolute; left: 10px; bottom: 12px; width: 64px; "
        f"height: 64px; outline: 2px solid #000; {picture} }} "
        f".{name} i:hover::after {{ content: attr(data-name); position: absolute; left: 10px; bottom: 78px; "
        "background: #fff; color: #000; font: .8rem sans-serif; padding: 0 .3rem }"
    )
    nearest = torch.cdist(points, points).fill_diagonal_(float("inf")).argmin(1)
    rows = ""
    for label, class_name in enumerate(classes):
        found = labels[nearest[labels == label]]
        if len(found):
            same = f"{100 * (found == label).float().mean():.0f} %"
            cells = (len(found), same, _others(found, label, classes))
            rows += f"<tr><th scope='row'>{html.escape(class_name)}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"
    return (
        f'<style>{style}</style><div class="{name}" role="img" aria-label="{count} points in the plane, one for each '
        f'image; the table below says the same by classes.">{dots}</div>'
        "<details><summary>The same as a table</summary><table class='dataframe'><thead><tr><th scope='col'>class</th>"
        "<th scope='col'>points</th><th scope='col'>nearest point of the same class</th>"
        f"<th scope='col'>the others' nearest</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _others(found: Tensor, label: int, classes: Sequence[str]) -> str:
    """Which other classes were found how often, the most frequent first."""
    counts = torch.bincount(found[found != label], minlength=len(classes))
    order = [k for k in counts.argsort(descending=True).tolist() if counts[k]]
    return html.escape(", ".join(f"{classes[k]} {counts[k]}" for k in order)) or "–"
