"""Figures say what they show: axes carry labels, the alternative text carries the numbers.

CAM-loss, Figure 1 and CAM-loss, Figure 4 are drawn by two of them, ICASC, Figure 9 by a third, ICASC, Figures 1, 2
and 10 by a fourth.
"""

import math
import re

import matplotlib
import numpy
import pandas
import pytest
import torch
from matplotlib import pyplot
from matplotlib.colors import to_hex

from camlib import plots
from camlib.data import Scenes
from camlib.lab.frames import Frames
from camlib.lab.table import Table
from camlib.maps import Cells
from camlib.names import UnknownName

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def test_map_grid_colours_an_image_by_its_map_and_keeps_the_picture():
    images = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    images[..., 3] = 0
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0] = 5.0
    figure, alt = plots.map_grid(images, {"CAM": maps}, ["cat"], masks=torch.eye(4, dtype=torch.bool)[None])
    shown = figure.axes[1].images[0].get_array()
    low, high = (matplotlib.colormaps[plots.MAP_COLOURS](value)[:3] for value in (0.0, 1.0))
    assert shown[0, 0].tolist() == pytest.approx(list(0.25 + 0.75 * numpy.array(high)), abs=1e-5)
    assert shown[3, 0].tolist() == pytest.approx(list(0.65 + 0.35 * numpy.array(low)), abs=1e-5)
    assert shown[3, 3].tolist() == pytest.approx(list(0.35 * numpy.array(low)), abs=1e-5)
    assert "cat" in alt
    assert "CAM" in alt


def test_maps_lie_on_the_pixels_that_their_cells_look_at():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 2] = 1
    for cells, brightest in ((None, (4, 8)), (Cells(2, 4), (6, 10))):
        figure, _ = plots.map_grid(images, {"CAM": maps}, ["cat"], cells=cells)
        shown = figure.axes[1].images[0].get_array()
        assert numpy.unravel_index(shown.sum(-1).argmax(), (16, 16)) == brightest


@pytest.mark.parametrize("draw", [plots.numbers_grid, lambda g: plots.matrix(g, xlabel="x", ylabel="y", value="v")])
def test_numbers_of_both_signs_are_on_one_scale_around_0(draw):
    figure, _ = draw({"a": torch.tensor([[-3.0, 1.0]]), "b": torch.tensor([[0.5, 2.0]])})
    for axis in figure.axes[:2]:
        low, high = axis.images[0].get_clim()
        assert low == -high
        assert high >= 3


def test_numbers_grid_writes_every_number():
    figure, alt = plots.numbers_grid({"a": torch.tensor([[1.0, 2.0], [3.0, -4.0]])})
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.0", "2.0", "3.0", "-4.0"]
    assert "-4.0" in alt


def test_numbers_grid_has_one_scale():
    figure, _ = plots.numbers_grid({"low": torch.zeros(2, 2), "high": torch.full((2, 2), 4.0)})
    low, high = (axis.images[0] for axis in figure.axes)
    assert low.get_clim() == high.get_clim()


def test_histories_draw_the_mean_over_seeds_and_skip_epochs_without_the_quantity():
    runs = {"CE": [[{"a": 0.1}, {"a": 0.3}], [{"a": 0.3}, {"a": 0.5}]], "CAM": [[{}, {"a": 0.5}]]}
    figure, alt = plots.histories(runs, {"a": "accuracy (%)"}, percent=("a",))
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() == 2]
    assert thick[0].get_ydata().tolist() == pytest.approx([20, 40])
    assert thick[1].get_xdata().tolist() == [2]
    assert figure.axes[0].get_ylabel() == "accuracy (%)"
    assert "CE: 20 to 40" in alt


def test_seed_dots_put_a_bar_at_each_mean():
    values = pandas.DataFrame({"seed": [0, 1, 0, 1], "loss": ["CE", "CE", "CAM", "CAM"], "error": [3.0, 5.0, 2.0, 2.5]})
    figure, alt = plots.seed_dots(values, "error", "loss")
    bars = [c.get_offsets()[0].tolist() for c in figure.axes[0].collections if len(c.get_offsets()) == 1]
    assert bars == [[4.0, 0.0], [2.25, 1.0]]
    assert figure.axes[0].get_xlabel() == "error"
    assert "CAM: 2.25 over 2 seeds" in alt


def test_paired_dots_keep_the_order_and_name_every_number():
    values = pandas.DataFrame({"net": ["b", "b", "a", "a"], "loss": ["CE", "CAM"] * 2, "error": [4.0, 3.0, 2.0, 1.0]})
    figure, alt = plots.paired_dots(values, "error", "net", "loss")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "a"]
    assert "b: CE 4.00, CAM 3.00" in alt


def test_lines_and_gradient_paths_have_labels_and_text():
    figure, alt = plots.lines([0, 1], {"W": [0.5, 0.75]}, xlabel="step", ylabel="cosine")
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("step", "cosine")
    assert "0.5 to 0.75" in alt
    figure, alt = plots.gradient_paths()
    assert {"L_cam", "L_ce", "classifier W"} <= written(figure)
    assert "No gradient leads from L_cam to the classifier" in alt


def test_map_grid_takes_maps_of_several_sizes():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    figure, _ = plots.map_grid(images, {"inner": torch.rand(2, 4, 4), "last": torch.rand(2, 2, 2)}, ["a", "b"])
    assert [axis.get_title() for axis in figure.axes[:3]] == ["image", "inner", "last"]
    assert all(axis.images[0].get_array().shape == (8, 8, 3) for axis in figure.axes[:6])


def test_class_maps_colour_each_class_and_frame_the_true_one():
    images = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    maps = torch.zeros(2, 2, 2, 2)
    maps[0, 0, 0, 0] = maps[0, 1, 1, 1] = maps[1, :, 0, 1] = 3.0
    headings = [["cat 0.7", "dog 0.2"], ["cat 0.6", "cow 0.1"]]
    figure, alt = plots.class_maps(images, maps, headings, ["CE", "ICASC"], marked=[1, None])
    cat, dog = (figure.axes[i].images[0].get_array() for i in (1, 2))
    assert numpy.unravel_index(cat.sum(-1).argmax(), (4, 4)) == (0, 0)
    assert numpy.unravel_index(dog.sum(-1).argmax(), (4, 4)) == (2, 2)
    assert [axis.get_title() for axis in figure.axes[:6]] == ["", *headings[0], "", *headings[1]]
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["CE", "ICASC"]
    framed = [all(spine.get_visible() for spine in axis.spines.values()) for axis in figure.axes[:6]]
    assert framed == [False, False, True, False, False, False]
    assert "CE: cat 0.7, dog 0.2 (true, framed); ICASC: cat 0.6, cow 0.1." in alt


def written(figure):
    """The texts of a drawing, formulas as they were given."""
    return {re.sub(r"\$L_\{\\mathrm\{(\w+)\}\}\$", r"L_\1", text.get_text()) for text in figure.axes[0].texts}


@pytest.mark.parametrize("method", ["cam", "icasc", "cc"])
def test_every_loss_of_a_drawing_is_reached_from_the_image_and_told_in_its_text(method):
    """CAM-loss, Figure 2 and ICASC, Figure 3."""
    boxes, arrows, _, _ = plots._FLOWS[method]
    reached, size = {"image"}, 0
    while size < len(reached):
        size = len(reached)
        reached |= {end for start, end in arrows if start in reached}
    losses = {name for name in boxes if name.startswith("L")}
    assert losses <= reached
    figure, alt = plots.data_flow(method)
    assert written(figure) >= set(boxes)
    for name in losses:
        assert name.split()[0] in alt


def test_a_drawing_of_no_method_is_refused():
    with pytest.raises(UnknownName, match="no method is called 'focal'"):
        plots.data_flow("focal")


def test_ks_chart_puts_a_bar_where_the_curves_are_farthest_apart():
    near, far = torch.tensor([0.2, 0.6, 0.8, 0.9]), torch.tensor([0.7, 0.1, 0.3, 0.2])
    figure, alt = plots.ks_chart({"CE": (near, far), "same": (near, near)}, xlabel="probability within the pair")
    axis = figure.axes[0]
    target, confused = axis.lines
    assert target.get_xdata() == pytest.approx([0, 0.2, 0.6, 0.8, 0.9, 1])
    assert target.get_ydata() == pytest.approx([0, 25, 50, 75, 100, 100])
    assert confused.get_xdata() == pytest.approx([0, 0.1, 0.2, 0.3, 0.7, 1])
    assert target.get_drawstyle() == confused.get_drawstyle() == "steps-post"
    (bar,) = axis.collections[0].get_segments()
    assert sorted(bar[:, 1]) == pytest.approx([25, 75])
    assert bar[:, 0] == pytest.approx([0.3, 0.3])
    assert axis.get_title() == "CE\nD = 0.50 at 0.30"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("probability within the pair", "images at or below it (%)")
    assert "CE: largest distance 0.50 at 0.30; same: largest distance 0.00" in alt


def test_scatter_classes_tells_classes_apart_by_colour_and_marker():
    points, labels = torch.arange(48.0).view(24, 2), torch.arange(24) % 12
    names = [f"class {k}" for k in range(12)]
    figure, alt = plots.scatter_classes({"CE": points, "CC-Loss": -points}, labels, names)
    for axis, sign in zip(figure.axes, (1, -1), strict=True):
        assert len(axis.collections) == 12
        for k, cloud in enumerate(axis.collections):
            assert cloud.get_offsets().tolist() == (sign * points[labels == k]).tolist()
        looks = {(to_hex(c.get_facecolor()[0]), len(c.get_paths()[0].vertices)) for c in axis.collections}
        assert len(looks) == 12, "classes 0 and 10 share a colour, but not a marker"
        assert (axis.get_xticks().tolist(), axis.get_yticks().tolist()) == ([], [])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert "24 points, one colour each for class 0, class 1," in alt
    assert "no units" in alt


def test_matrix_shows_all_on_one_scale():
    grids = {"before": torch.tensor([[0.0, 2.0], [2.0, 0.0]]), "after": torch.tensor([[1.0, 5.0], [5.0, 1.0]])}
    figure, alt = plots.matrix(grids, xlabel="image", ylabel="row", value="distance of gates")
    before, after, bar = figure.axes
    assert before.images[0].get_array().tolist() == grids["before"].tolist()
    assert all(tick == int(tick) for tick in before.get_xticks())  # there is no row 0.5
    assert before.images[0].get_clim() == after.images[0].get_clim() == (0, 5)
    assert (before.get_xlabel(), before.get_ylabel(), bar.get_ylabel()) == ("image", "row", "distance of gates")
    assert "before: 0 to 2, mean 1; after: 1 to 5, mean 3" in alt


def test_intervals_draw_the_papers_gain_ours_and_what_was_not_run():
    rows = {"deep": "deep net", "small_free_grounds": "small net, grounds set free", "small": "small net"}
    columns = {"ce": "CE loss", "cam": "CAM-loss", "uniform": "uniform guide"}
    lines = [
        ("deep", "cam", "paper", 1.46, 0, math.nan, math.nan),
        ("small_free_grounds", "cam", "paper", math.nan, 5, -2.0, 0.5),
        ("small", "cam", "short", math.nan, 5, 0.53, 0.4),
        ("small", "uniform", "paper", math.nan, 2, 0.25, 3.0),
        ("deep", "uniform", "paper", math.nan, 0, math.nan, math.nan),
    ]
    judged = pandas.DataFrame(lines, columns=["row", "column", "preset", "claim", "n", "difference", "half_width"])
    figure, alt = plots.intervals(Table("t", "T", rows, columns, {}), judged)
    axis = figure.axes[0]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == [
        *("deep net", "CAM-loss", "not run: uniform guide"),
        *("small net", "CAM-loss, short protocol", "uniform guide"),
        *("small net, grounds set free", "CAM-loss"),  # our own shift stands below the others
    ]
    assert [label.get_weight() for label in axis.get_yticklabels()][:2] == ["bold", "normal"]
    assert [5.5] in [line.get_ydata()[:1] for line in axis.lines], "the rule above our own shift"
    assert alt.startswith("Gains over CE loss in points of error, positive is better.")
    assert "deep net, CAM-loss: paper +1.46, not run; deep net, uniform guide: not run;" in alt
    assert "small net, CAM-loss, short protocol: ours +0.53 ± 0.40 (5 pairs);" in alt
    assert "small net, uniform guide: ours +0.25 (2 pairs);" in alt, "two pairs give no interval"
    dots = [c for c in axis.collections if c.get_offsets().tolist() == [[0.53, 4.0]]]
    assert [to_hex(dot.get_edgecolor()[0]) for dot in dots] == [plots.METHOD_COLOURS["cam"]]
    assert to_hex(dots[0].get_facecolor()[0]) == "#ffffff", "hollow: the short protocol"
    bars = [c.get_segments()[0][:, 0].tolist() for c in axis.collections if hasattr(c, "get_segments")]
    assert [pytest.approx([0.13, 0.93]), pytest.approx([0.25, 0.25]), pytest.approx([-2.5, -1.5])] == bars


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("cam_t10_c1", "cam"),
        ("CAM-loss", "cam"),
        ("icasc_grad_cam", "icasc_grad_cam"),
        ("ICASC, A_ch", "icasc"),
        ("cross-entropy", "ce"),
        ("baseline", "ce"),
        ("CE loss, gate", "gate"),
        ("CC-Loss, gate", "cc"),
        ("ccm_from_resnet20", "ccm"),
    ],
)
def test_a_method_has_one_colour_under_all_its_names(name, method):
    assert plots.method_colour(name) == plots.METHOD_COLOURS[method]


def test_what_is_no_method_takes_a_colour_that_none_has():
    assert plots.method_colour("central") is None
    one, first, other, second = plots.colours(["uniform", "CAM-loss", "random_class", "CAM of a random class"])
    assert first == plots.METHOD_COLOURS["cam"]
    assert len({one, first, other, second}) == 4


def test_maps_after_an_epoch_are_those_recorded():
    scenes = Scenes("fresh", count=4)
    maps = torch.zeros(3, 2, 2, 1, 8, 8, dtype=torch.uint8)
    maps[1, 1, 1, 0, 3, 5] = 255
    answers = torch.zeros(3, 2, 1, dtype=torch.long)
    recorded = Frames(scenes, torch.tensor([2]), maps, answers, "commit 1")
    figure, alt = plots.maps_after(recorded, 1, {"ce": "CE", "cam": "CAM-loss"})
    assert [axis.get_title() for axis in figure.axes[1:5]] == ["CE\nCAAM", "CE\nCAM", "CAM-loss\nCAAM", "CAM-loss\nCAM"]
    changed = figure.axes[4].images[0].get_array() != figure.axes[3].images[0].get_array()
    assert numpy.argwhere(changed.any(-1)).min(0).tolist() == [9, 17]
    assert f"answers {scenes.classes[0]}" in alt


def test_the_front_picture_has_every_map_and_every_seed():
    values = pandas.DataFrame(
        [("CE", "like", 98.0), ("CE", "like", 99.0), ("CAM-loss", "like", 97.0), ("CE", "free", 90.0)],
        columns=["method", "test", "accuracy (%)"],
    )
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:5, 2:5] = True
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    figure, alt = plots.front(
        images, {"CE": torch.rand(1, 2, 2), "CAM-loss": torch.rand(1, 2, 2)}, "fish", mask, values
    )
    titles = [axis.get_title() for axis in figure.axes]
    assert [title for title in titles if title] == ["fish", "CE", "CAM-loss", "like", "free"]
    like, free = (figure.axes[titles.index(test)] for test in ("like", "free"))
    seeds = [dots.get_offsets().tolist() for dots in like.collections]
    assert [[98.0, 0.0], [99.0, 0.0]] in seeds
    assert [[97.0, 1.0]] in seeds
    assert [[90.0, 0.0]] in [dots.get_offsets().tolist() for dots in free.collections]
    assert "CE 98.5 %, like" in alt
