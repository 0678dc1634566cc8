"""Figures say what they show: axes carry labels, the alternative text carries the numbers.

CAM-loss, Figure 1 and CAM-loss, Figure 4 are drawn by two of them.
"""

import matplotlib
import pandas
import pytest
import torch
from matplotlib import pyplot

from camlib import plots

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def test_map_grid_lights_an_image_where_its_map_is_high():
    images = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    maps = torch.zeros(1, 2, 2)
    maps[0, 0, 0] = 5.0
    figure, alt = plots.map_grid(images, {"CAM": maps}, ["cat"], masks=torch.eye(4, dtype=torch.bool)[None])
    lit = figure.axes[1].images[0].get_array()
    assert lit[0, 0].min() == pytest.approx(1.0, abs=1e-5)
    assert lit[3, 3].max() == pytest.approx(0.12, abs=1e-5)
    assert "cat" in alt
    assert "CAM" in alt


def test_numbers_grid_writes_every_number():
    figure, alt = plots.numbers_grid({"a": torch.tensor([[1.0, 2.0], [3.0, -4.0]])})
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.0", "2.0", "3.0", "-4.0"]
    assert "-4.0" in alt


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
    assert "CAM: 2.2 over 2 seeds" in alt


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
    assert {"L_cam", "L_ce", "classifier W"} <= {text.get_text() for text in figure.axes[0].texts}
    assert "No gradient leads from L_cam to the classifier" in alt
