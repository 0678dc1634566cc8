"""What a chapter calls."""

import math
import re
import sys
from fractions import Fraction

import matplotlib
import pytest
import samples
import torch
from matplotlib import pyplot

import camlib.notebook
from camlib.data import datasets
from camlib.lab import claims, presets, verdict
from camlib.lab.run import run
from camlib.lab.runs import Run
from camlib.lab.tables import TABLES

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
    assert camlib.notebook.Book("short", book.device, 0).choose(quick=4, paper=160) == 4


def test_folder_is_none_at_quick_and_apart_for_each_preset(book, monkeypatch, tmp_path):
    monkeypatch.setenv("CAMLIB_RUNS", str(tmp_path))
    assert book.folder("a") is None
    assert camlib.notebook.Book("short", book.device, 0).folder("a") == tmp_path / "short" / "a"


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
        (torch.tensor([0.5], requires_grad=True), "Right."),
        ([[0.5]], "Right."),
        (" 0.5 ", "Right."),
        ("0,5", "Right."),
        ("1/2", "Right."),
        (Fraction(1, 2), "Right."),
        (0.5024, "Right."),
        (0.504, "Not yet. Hint: halve it"),
        (0.6, "Not yet. Hint: halve it"),
        ([0.5, 0.5], "Not yet. Hint: halve it"),
        (math.nan, "Not yet. Hint: halve it"),
        ("half", "Not yet: 'half' is no number"),
        ("1/0", "Not yet: '1/0' is no number"),
        (object, "Not yet: <class 'object'> is no number"),
    ],
)
def test_check(book, capsys, answer, says):
    capsys.readouterr()
    book.check(answer, lambda: 0.5, "halve it")
    assert capsys.readouterr().out.startswith(says)


@pytest.mark.parametrize(
    ("answer", "says"), [(0, "Right."), (1e-8, "Right."), (0.0009, "Not yet."), (-0.0009, "Not yet.")]
)
def test_check_tells_zero_from_a_small_number(book, capsys, answer, says):
    capsys.readouterr()
    book.check(answer, lambda: torch.tensor(0.0), "think of signs")
    assert capsys.readouterr().out.startswith(says)


def test_check_of_tensors_compares_shapes(book, capsys):
    capsys.readouterr()
    book.check(torch.ones(2, 3), lambda: torch.ones(2, 3), "x")
    book.check(torch.ones(6), lambda: torch.ones(2, 3), "x")
    assert capsys.readouterr().out.split() == ["Right.", "Not", "yet.", "Hint:", "x"]


def test_a_table_shows_every_entry_cited_ones_marked(book):
    table = TABLES["cam-table-2"]
    shown = book.table("cam-table-2")
    assert len(shown) == len(table.entries)
    assert list(shown.columns)[:2] == ["paper", "ours, full protocol"]
    assert shown["paper"]["PyramidNet-200, Cutout, top-1", "CE loss"] == "16.53 (cited)"
    assert shown["paper"]["PyramidNet-200, ShakeDrop, top-5", "with CAM-loss"] == "2.56"
    assert book.table("cam-scenes")["paper"].unique().tolist() == ["–"]
    assert list(book.table("cam-scenes").columns) == ["paper", "ours, full protocol"], "its short protocol is its full"


def test_commands_name_the_runs_and_what_is_cited(book, capsys):
    book.commands("cam-table-2")
    first, cost, *others = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("preset ")]
    table = TABLES["cam-table-2"]
    # PyramidNet-200 alone: 300 epochs of 50,000 images, 4.55e9 multiplications each (Yun et al. 2019), 12 times.
    assert float(re.search(r"is ([\d.e+]+) floating-point operations: [\d.]+ d of work", cost)[1]) > 12 * 4e17
    assert first.startswith(f"{len(table.runs)} runs of one seed stand behind {len(table.entries)} numbers")
    assert "Yun et al. 2019" in first
    assert others[0].startswith("python -m camlib plan cam-table-2 --seeds 0-4 ")
    protocols, objectives = "\n".join(others[2:]).split("\nObjectives\n")
    assert set(re.findall(r"\w+/\w+/[\w+]+", protocols)) == set(table.runs)
    assert (
        "- pyramidnet200_a240 on cifar100; 300 epochs, batch 64; SGD, Nesterov momentum 0.9, rate 0.25, times 0.1 at "
        "epochs 150, 225, weight decay 0.0001; crop, flip\n"
    ) in protocols
    assert (
        "cutmix+shake_drop+cam, cutmix_always+cam: 1 CrossEntropy() + step_at(start=20, value=3.0) CAMLoss()"
        in objectives
    )


def test_verdicts_are_those_of_the_records(book, capsys):
    book.verdicts("cam-scenes")
    printed = capsys.readouterr().out
    for judged in verdict.on_table(TABLES["cam-scenes"]).itertuples():
        assert not judged.n or f"{judged.label.upper()}. {judged.text}" in printed
    assert "short protocol: no pair of runs, so no verdict." in printed


def test_an_answer_is_shown_in_three_lines(book, shown, monkeypatch):
    found = claims.Answer("It helps.", ("a < b",), "Much: python -m camlib plan cam-table-1")
    monkeypatch.setattr(camlib.notebook.claims, "answer", lambda table, *rest, **more: found)
    book.answer("cam-table-1")
    assert "<strong>The paper says.</strong> It helps." in shown[0]
    assert "<li>a &lt; b</li>" in shown[0]
    assert "Much: <code>python -m camlib plan cam-table-1</code>" in shown[0]


def test_where_nothing_was_run_the_answer_says_so(book, shown, monkeypatch):
    monkeypatch.setattr(
        camlib.notebook.claims, "answer", lambda *rest, **more: claims.Answer("It helps.", (), "All: x")
    )
    book.answer("cam-table-1")
    assert "<strong>We measured.</strong> Nothing yet." in shown[0]


def test_a_chapter_without_a_table_has_its_own_three_lines(book, shown):
    book.in_short("It helps.", ["a < b"], "all else")
    assert "<li>a &lt; b</li>" in shown[0]
    assert shown[0].endswith("<strong>Still open.</strong> all else</p>")


def test_what_was_found_is_a_list_of_the_table_first(book, shown, monkeypatch):
    monkeypatch.setattr(claims, "found", lambda table, *rest, **more: [f"{table.name}: a < b"])
    book.found("And more.", table="cam-table-1")
    assert shown == ["<ul><li>cam-table-1: a &lt; b</li><li>And more.</li></ul>"]
    with pytest.raises(KeyError, match="cam-table-9"):
        book.found(table="cam-table-9")


def test_intervals_of_a_table_are_shown_with_a_caption(book, shown):
    book.intervals("cam-table-4", "negative_cam", methods=("cam",))
    assert "ResNet-56" in shown[0]
    assert "paper +" in shown[0]
    assert "<figcaption>Gains over NegativeCAM" in shown[0]


@pytest.mark.parametrize("name", ["cifar100/resnet20/cam", "cub200_icasc/resnet50/icasc"])
def test_data_that_cannot_be_had_lead_back_to_quick_with_a_note(name, shown, capsys, monkeypatch, tmp_path):
    """No network, or a set that is fetched by hand."""
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path))
    monkeypatch.setitem(presets.PRESETS, "quick", samples.tiny)

    def no_network(*arguments, **named):
        print("0 %", file=sys.stderr)
        raise OSError("no route to host")

    monkeypatch.setitem(datasets._TORCHVISION, "cifar100", no_network)
    book = camlib.notebook.Book("short", torch.device("cpu"), 0)
    record = book.train(name)
    assert (record.preset, book.preset) == ("quick", "quick")
    assert "quick preset" in shown[0]
    out, err = capsys.readouterr()
    assert ("CIFAR-100 is fetched now: 186 MB" in out) == name.startswith("cifar100")
    assert ("no route to host" if name.startswith("cifar100") else "CUB-200-2011 is not in") in shown[0]
    assert not err


def test_data_are_fetched_once_and_the_way_to_quick_is_said(shown, capsys, monkeypatch):
    fetched = []

    def check(name):
        if not fetched:
            raise datasets.DataError("missing")

    monkeypatch.setattr(datasets, "check", check)
    monkeypatch.setattr(datasets, "get", fetched.append)
    book = camlib.notebook.Book("short", torch.device("cpu"), 0)
    book._have_data("cifar10")
    book._have_data("cifar10")
    assert fetched == ["cifar10"]
    assert capsys.readouterr().out.count("run %env CAMLIB_PRESET=quick") == 1
    assert (book.preset, shown) == ("short", [])


def test_a_training_that_was_cut_off_goes_on_from_its_checkpoint(capsys, monkeypatch, tmp_path):
    """As on Colab, with CAMLIB_RUNS on a Drive."""
    monkeypatch.setenv("CAMLIB_RUNS", str(tmp_path))
    monkeypatch.setitem(presets.PRESETS, "short", samples.tiny)
    whole = run(Run("scenes/resnet8/cam", "short"), out=tmp_path / "elsewhere", progress=False)
    cut = run(Run("scenes/resnet8/cam", "short"), out=tmp_path / "short/runs", time_limit=0, progress=False)
    assert not cut.finished
    record = camlib.notebook.Book("short", torch.device("cpu"), 0).train("scenes/resnet8/cam")
    assert record.finished
    assert record.metrics == whole.metrics
    assert record.history[: len(cut.history)] == cut.history


def test_what_a_chapter_makes_is_on_the_device_that_is_printed(monkeypatch, capsys):
    monkeypatch.delenv("CAMLIB_PRESET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    chosen = []
    monkeypatch.setattr(torch, "set_default_device", chosen.append)
    book = camlib.notebook.setup()
    assert chosen == [book.device] == [torch.device("cuda")]
    assert "preset short · seed 0 · a GPU" in capsys.readouterr().out


def test_train_runs_a_run_at_the_preset(book, capsys, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "quick", samples.tiny)
    capsys.readouterr()
    record = book.train("cifar100/resnet8/kd_from_resnet20")
    assert record.teacher
    expected = f"cifar100/resnet8/kd_from_resnet20: accuracy {record.metrics['accuracy']:.2%} on scenes, with resnet8"
    assert expected in capsys.readouterr().out
