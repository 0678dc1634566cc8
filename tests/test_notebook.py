"""What a chapter calls."""

import matplotlib
import pytest
import torch
from matplotlib import pyplot

import camlib.notebook

matplotlib.use("agg")


@pytest.fixture
def shown(monkeypatch):
    """Everything displayed, as HTML."""
    texts = []
    monkeypatch.setattr(camlib.notebook, "display", lambda item: texts.append(item.data))
    return texts


@pytest.fixture
def book(monkeypatch):
    monkeypatch.setenv("CAMLIB_PRESET", "quick")
    return camlib.notebook.setup(seed=3)


def test_setup_prints_preset_seed_and_versions_and_seeds(book, capsys):
    first = torch.rand(1)
    again = camlib.notebook.setup(seed=3)
    assert torch.equal(torch.rand(1), first)
    line = capsys.readouterr().out.splitlines()[0]
    assert "preset quick · seed 3" in line
    assert f"torch {torch.__version__}" in line
    assert (again.preset, again.seed) == ("quick", 3)


def test_setup_refuses_an_unknown_preset_with_the_nearest(monkeypatch):
    monkeypatch.setenv("CAMLIB_PRESET", "quik")
    with pytest.raises(KeyError, match="quick"):
        camlib.notebook.setup()


def test_choose_falls_back_to_quick(book):
    assert book.choose(quick=4, paper=160) == 4
    assert camlib.notebook.Book("paper", book.device, 0).choose(quick=4, paper=160) == 160
    assert camlib.notebook.Book("colab", book.device, 0).choose(quick=4, paper=160) == 4


def test_folder_is_none_at_quick_and_apart_for_each_preset(book, monkeypatch, tmp_path):
    monkeypatch.setenv("CAMLIB_RUNS", str(tmp_path))
    assert book.folder("a") is None
    assert camlib.notebook.Book("colab", book.device, 0).folder("a") == tmp_path / "colab" / "a"


def test_show_escapes_alt_and_caption_and_closes_the_figure(book, shown):
    figure, _ = pyplot.subplots()
    book.show(figure, alt='a < b "c"', caption="x & y")
    assert 'alt="a &lt; b &quot;c&quot;"' in shown[0]
    assert "<figcaption>x &amp; y</figcaption>" in shown[0]
    assert not pyplot.fignum_exists(figure.number)


def test_banner_stands_over_everything_but_the_paper_protocol(book, shown):
    book.banner()
    assert "quick preset" in shown[0]
    camlib.notebook.Book("paper", book.device, 0).banner()
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "No answer yet"),
        (0.5, "Right."),
        (torch.tensor(0.5), "Right."),
        (0.6, "Not yet. Hint: halve it"),
    ],
)
def test_check(book, capsys, answer, says):
    capsys.readouterr()
    book.check(answer, lambda: 0.5, "halve it")
    assert capsys.readouterr().out.startswith(says)
