"""The ledger: every claim has runs to judge it or says that it has none, and findings follow the rule of verdicts."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import samples

from camlib.lab import claims
from camlib.lab import record as records
from camlib.lab.claims import CLAIMS, Claim, ledger
from camlib.lab.tables import TABLES

BOOK = Path(__file__).parents[2] / "book"


def fill(folder, name, values, metric="accuracy", preset="paper"):
    for seed, value in enumerate(values):
        run = samples.record(value, seed=seed, run=name, preset=preset)
        run = replace(run, metrics=run.metrics | {metric: value})
        assert records.append(run, folder)


def find(frame, table, row, method, baseline="ce", preset="paper"):
    lines = frame.query("table == @table and row == @row and method == @method and baseline == @baseline")
    return lines[lines["preset"] == preset]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.paper}, {claim.item}: {claim.text[:30]}")
def test_a_claim_names_what_exists(claim):
    assert (BOOK / f"{claim.chapter}.ipynb").is_file()
    tables = [TABLES[name] for name in claim.tables]
    if tables:
        assert {*claim.methods, *claim.baselines} <= {column for table in tables for column in table.columns}
        assert any(re.search(claim.rows, row) for table in tables for row in table.rows)
    assert bool(claim.tables) == bool(claim.methods)


def test_every_numbered_table_of_the_papers_is_in_the_ledger():
    judged = {name for claim in CLAIMS for name in claim.tables}
    assert {name for name in TABLES if "-table-" in name} <= judged


def test_without_records_nothing_has_been_found(tmp_path):
    frame = ledger(tmp_path)
    assert set(frame["finding"]) == {"not run"}
    assert set(frame["preset"]) == {"paper"}
    assert set(frame["claim"]) == {i for i, claim in enumerate(CLAIMS) if claim.tables}


def test_a_papers_own_row_is_judged_by_its_number(tmp_path):
    # CAM-loss, Table 1, ResNet-56: 28.80 and 27.34 % error.
    fill(tmp_path, "cifar100/resnet56/ce", [0.710, 0.712, 0.714, 0.711, 0.713])
    fill(tmp_path, "cifar100/resnet56/cam", [0.724, 0.726, 0.730, 0.726, 0.727])
    (line,) = find(ledger(tmp_path), "cam-table-1", "resnet56", "cam").itertuples()
    assert (line.finding, line.n, line.claimed) == ("reproduced", 5, pytest.approx(1.46))
    assert line.difference == pytest.approx(1.46, abs=0.05)


@pytest.mark.parametrize(
    ("gains", "finding"),
    [
        ([0.01, 0.03, 0.01, 0.03, 0.01], "supports"),  # 1.32 half-widths from 0
        ([-0.01, -0.03, -0.01, -0.03, -0.01], "contradicts"),
        ([0.01, -0.02, 0.01, -0.02, 0.02], "undecided"),
        ([0.01, 0.02, 0.01, 0.02], "too few seeds"),
    ],
)
def test_a_row_of_our_own_supports_or_contradicts(tmp_path, gains, finding):
    fill(tmp_path, "scenes/resnet8/ce", [0.8] * len(gains))
    fill(tmp_path, "scenes/resnet8/icasc", [0.8 + gain for gain in gains])
    (line,) = find(ledger(tmp_path), "icasc-scenes", "scenes_resnet8", "icasc").itertuples()
    assert line.finding == finding
    assert math.isnan(line.claimed)


def test_where_less_is_claimed_less_supports(tmp_path, monkeypatch):
    fill(tmp_path, "scenes/resnet8/ce", [0.8, 0.7, 0.8, 0.7, 0.8], "top5_overlap")
    fill(tmp_path, "scenes/resnet8/icasc", [0.5, 0.4, 0.6, 0.4, 0.5], "top5_overlap")
    overlap = next(claim for claim in CLAIMS if claim.falls)
    (line,) = find(ledger(tmp_path), "icasc-figure-9", "scenes_top5_overlap", "icasc").itertuples()
    assert line.finding == "supports"
    monkeypatch.setattr(claims, "CLAIMS", (overlap._replace(falls=False),))
    (line,) = find(ledger(tmp_path), "icasc-figure-9", "scenes_top5_overlap", "icasc").itertuples()
    assert line.finding == "contradicts"


def test_only_rows_of_the_claim_are_looked_at(tmp_path):
    frame = ledger(tmp_path)
    for line in frame.itertuples():
        assert re.search(CLAIMS[line.claim].rows, line.row)
    rows = {CLAIMS[i].item: set(part["row"]) for i, part in frame.groupby("claim")}
    assert rows["§1"] == {f"{data}_{what}" for data in ("animals", "scenes") for what in ("energy", "pointing", "iou")}
    assert len(rows["appendix B"]) == 20


def test_no_claim_of_a_paper_is_held_against_the_shifted_test(tmp_path):
    assert not ledger(tmp_path)["row"].str.contains("_ground").any()


def test_every_part_of_a_claim_has_a_comparison(tmp_path):
    frame = ledger(tmp_path)
    for index, claim in enumerate(CLAIMS):
        mine = frame[frame["claim"] == index]
        assert set(mine["table"]) == set(claim.tables)
        assert set(mine["method"]) == set(claim.methods)
        assert set(mine["baseline"]) == (set(claim.baselines) if claim.tables else set())


@pytest.mark.parametrize(("weight", "finding"), [("1.5", "contradicts"), ("2.0", "supports")])
def test_a_loss_at_the_largest_weight_is_what_is_claimed(tmp_path, weight, finding):
    """CC-Loss, Table 3."""
    fill(tmp_path, "mnist/vgg8_slim/gate", [0.99] * 5)
    fill(tmp_path, f"mnist/vgg8_slim/cc_lambda_{weight}", [0.98, 0.97, 0.98, 0.97, 0.98])
    (line,) = find(ledger(tmp_path), "cc-table-3", f"mnist_vgg8_slim_lambda_{weight}", "cc", "gate").itertuples()
    assert line.finding == finding


def test_short_runs_have_a_line_of_their_own(tmp_path):
    fill(tmp_path, "cifar100/resnet20/ce", [0.6, 0.6], preset="short")
    fill(tmp_path, "cifar100/resnet20/cam", [0.7, 0.7], preset="short")
    frame = ledger(tmp_path)
    (line,) = find(frame, "cam-table-1", "resnet20", "cam", preset="short").itertuples()
    assert (line.n, line.finding) == (2, "too few seeds")
    (line,) = find(frame, "cam-table-1", "resnet20", "cam").itertuples()
    assert (line.n, line.finding) == (0, "not run")


def test_what_it_would_take_to_say_more():
    def line(n, difference=0.0, half=0.0, claimed=math.nan, preset="paper"):
        return SimpleNamespace(
            table="cam-table-1", row="resnet56", preset=preset, n=n, difference=difference, half_width=half,
            claimed=claimed,
        )  # fmt: skip

    command = "python -m camlib plan cam-table-1/resnet56 --seeds 0-4"
    assert claims.to_say_more(line(0)) == f"Not run: {command}"
    assert claims.to_say_more(line(4, 9.0, 1.0, preset="short")) == f"More seeds: {command} --preset short"
    assert claims.to_say_more(line(5, 1.1, 1.0, 3.0)) == ""
    # Five gains with a standard deviation of 1: t(4) = 2.776, half of the interval 1.2415. With 18 it is .4973.
    wanted = "To tell the {} gain of {} points from 0 would take {} pairs of seeds."
    assert claims.to_say_more(line(5, 0.2, 1.2415, 0.5)) == wanted.format("paper's", "0.50", 18)
    assert claims.to_say_more(line(5, -0.5, 1.2415)) == wanted.format("measured", "0.50", 18)
    assert claims.to_say_more(line(5, 0.01, 1.2415)) == wanted.format("measured", "0.01", "more than 1,000")
    assert claims.to_say_more(line(5, 0.0, 1.2415)) == ""
    assert claims.to_say_more(line(5, 0.2, 1.2415, 1.5)) == "", "the claimed gain would have been seen"


def test_a_claim_without_tables_has_no_line(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "CLAIMS", (Claim("CAM-loss", "abstract", "It is cheap.", "index"),))
    assert ledger(tmp_path).empty


def test_an_answer_says_what_the_paper_says_what_was_measured_and_what_is_open(tmp_path):
    fill(tmp_path, "cifar100/resnet20/ce", [0.50, 0.51, 0.52, 0.51, 0.52], preset="short")
    fill(tmp_path, "cifar100/resnet20/cam", [0.51, 0.51, 0.53, 0.52, 0.52], preset="short")
    fill(tmp_path, "cifar100/resnet56/ce", [0.70])
    fill(tmp_path, "cifar100/resnet56/cam", [0.69])
    answer = claims.answer(TABLES["cam-table-1"], folder=tmp_path)
    assert answer.paper == (
        "Against CE loss, error from 1.46 points lower (ResNet-56, CAM-loss) to 0.51 points lower "
        "(ResNeXt-50, 32×4d (ImageNet), CAM-loss), over 8 comparisons."
    )
    first, second = answer.measured
    assert first == (
        "ResNet-56: CAM-loss, error 1.00 points higher "
        "than CE loss (mean, 1 pair of seeds, fewer than the 5 from which "
        "anything follows; CIFAR-100, on images like the training images, paper protocol)."
    )
    assert second == (
        "ResNet-20 (not in the paper): CAM-loss, error 0.60 ± 0.68 points lower than CE loss (mean and 95 % "
        "interval, 5 pairs of seeds; CIFAR-100, on images like the training images, short protocol)."
    )
    assert answer.still_open == (
        "Of the 18 runs behind this table 14 have no record, 2 have been run by the short protocol only, 2 have fewer "
        "than 5 seeds. What the rest costs on your machine: python -m camlib plan cam-table-1 --seeds 0-4"
    )


def test_an_answer_names_our_own_shift_and_claims_nothing_where_no_paper_does(tmp_path):
    for arm, value in (("ce", 0.5), ("cam", 0.4)):
        fill(tmp_path, f"scenes/resnet8/{arm}", [value], "accuracy_foreign_ground")
    answer = claims.answer(TABLES["cam-scenes"], methods=("cam",), rows="foreign", folder=tmp_path)
    assert answer.paper == "No paper reports these comparisons."
    (sentence,) = answer.measured
    assert "10.00 points higher than CE loss" in sentence
    assert "under our own shift of the test images" in sentence


def test_what_was_found_counts_verdicts_and_tells_the_decided_ones(tmp_path):
    assert claims.found(TABLES["cam-table-1"], folder=tmp_path) == [
        "The paper reports 8 comparisons with CE loss. None of them has been run here.",
        "We added one comparison with CE loss, on images like the training images. It has not been run here.",
    ]
    fill(tmp_path, "cifar100/resnet56/ce", [0.70, 0.71, 0.72, 0.71, 0.72])
    fill(tmp_path, "cifar100/resnet56/cam", [0.71, 0.72, 0.73, 0.72, 0.74])
    fill(tmp_path, "cifar100/resnet20/ce", [0.50], preset="short")
    fill(tmp_path, "cifar100/resnet20/cam", [0.51], preset="short")
    counted, measured, ours = claims.found(TABLES["cam-table-1"], folder=tmp_path)
    assert counted == "The paper reports 8 comparisons with CE loss. 1 of them has been run: 1 reproduced."
    assert measured.startswith("ResNet-56: CAM-loss, error 1.20 ± 0.56 points lower than CE loss (")
    assert ours.endswith("on images like the training images. It has been run: 1 too few seeds.")


def test_what_was_found_under_our_shift_comes_last_and_has_no_verdict(tmp_path):
    values = [0.70, 0.71, 0.72, 0.71, 0.72]
    for arm, gain in (("ce", 0), ("cam", 0.1), ("uniform", -0.1), ("random_class", -0.2), ("cam_detached", -0.3)):
        fill(tmp_path, f"scenes/resnet8/{arm}", [v + gain for v in values], "accuracy_free_grounds")
    counted, best, worst = claims.found(TABLES["cam-scenes"], rows="resnet8_free_grounds$", folder=tmp_path)
    assert counted == "We added 7 comparisons with CE loss, with the grounds set free. 4 of them have been run."
    assert "10.00 ± 0.00 points lower" in best
    assert "30.00 ± 0.00 points higher" in worst
