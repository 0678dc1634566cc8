"""Things to move: what they hold, and that they ask nothing of the network. The playground computes CAM-loss, Eq. 1."""

import base64
import io
import re

import pytest
import torch
import vl_convert
from bs4 import BeautifulSoup
from matplotlib import pyplot
from PIL import Image

from camlib import interactive

MAPS = torch.tensor([[[4.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [4.0, 0.0]]])


def drawn(**values):
    """The texts of the playground as Vega draws it with the sliders at these values."""
    spec = interactive.playground(MAPS, (1.0, -0.5), 0.5).to_dict()
    for param in spec["params"]:
        param["value"] = values.get(param["name"], param["value"])
    svg = vl_convert.vegalite_to_svg(spec)
    return [text.get_text() for text in BeautifulSoup(svg, "html.parser").find_all("text")]


@pytest.mark.parametrize(("w0", "w1", "b"), [(1.0, -0.5, 0.5), (0.0, 2.0, -1.0), (-1.5, 1.5, 0.0)])
def test_the_playground_computes_the_cam_its_mean_and_the_logit(w0, w1, b):
    cam = (w0 * MAPS[0] + w1 * MAPS[1]).flatten().tolist()
    texts = [text.replace("−", "-") for text in drawn(w0=w0, w1=w1, b=b)]
    numbers = sorted(round(float(text), 1) for text in texts if re.fullmatch(r"-?\d+\.\d", text))
    assert numbers == sorted([*MAPS.flatten().tolist(), *cam])
    mean = sum(cam) / 4
    assert f"mean of the CAM {mean:.2f}" in texts
    assert f"= logit {mean + b:.2f}" in texts


def test_the_playground_has_a_text_in_its_place():
    assert "Two channels of 2 × 2 cells" in interactive.playground(MAPS, (1, 1), 0).to_dict()["description"]


def figure(shade):
    made, axis = pyplot.subplots(figsize=(1, 1))
    axis.set_facecolor(shade)
    return made, f"a {shade} square"


def test_a_time_lapse_has_a_button_for_each_picture_and_shows_the_last():
    others = pyplot.get_fignums()  # that another test has left open
    page = BeautifulSoup(
        interactive.time_lapse({"0": figure("red"), "<1>": figure("blue")}, "After epoch"), "html.parser"
    )
    buttons = page.find_all("input", type="radio")
    assert [button.parent.get_text().strip() for button in buttons] == ["0", "<1>"]
    assert [button.has_attr("checked") for button in buttons] == [False, True]
    assert len({button["name"] for button in buttons}) == 1
    assert [picture["alt"] for picture in page.find_all("img")] == ["a red square", "a blue square"]
    for number, button in enumerate(buttons, 1):
        assert f'input[value="{button["value"]}"]:checked) img:nth-of-type({number})' in page.style.get_text()
    assert page.legend.get_text() == "After epoch"
    assert pyplot.get_fignums() == others


def test_a_point_shows_its_own_picture_and_the_table_counts_neighbours():
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 5.0], [5.0, 5.5]])
    images = torch.stack([torch.full((3, 8, 8), 60 * n, dtype=torch.uint8) for n in range(4)])
    labels = torch.tensor([0, 0, 1, 0])
    text = interactive.pictured_points(points, images, labels, ["cat", "<dog>"])
    page = BeautifulSoup(text, "html.parser")
    dots = page.find_all("i")
    assert [dot["data-name"] for dot in dots] == ["cat", "cat", "<dog>", "cat"]
    sprite = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^)]+)\)", text)[1])))
    assert sprite.size == (32, 8)
    for n, dot in enumerate(dots):
        assert f"--n:{n};" in dot["style"]
        assert sprite.getpixel((8 * n + 4, 4))[0] == pytest.approx(60 * n, abs=6)
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in page.tbody.find_all("tr")]
    assert rows == [["cat", "3", "67 %", "<dog> 1"], ["<dog>", "1", "0 %", "cat 1"]]


def test_nothing_is_asked_of_the_network():
    made = [
        interactive.time_lapse({"0": figure("red")}, "x"),
        interactive.pictured_points(MAPS[0], torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), "ab"),
    ]
    for text in made:
        assert "http" not in text
        assert "<script" not in text
