"""Verdicts: the rule, paired runs, and the papers' numbers beside ours (CAM-loss, Table 1)."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from samples import record
from scipy import stats

from camlib.lab import record as records
from camlib.lab import verdict
from camlib.lab.presets import PRESETS
from camlib.lab.tables import TABLES
from camlib.names import UnknownName

TABLE = TABLES["cam-table-1"]


def fill(folder, ce, cam, preset="paper", net="resnet56"):
    """Records of both arms, from top-1 errors by seed."""
    for arm, errors in (("ce", ce), ("cam", cam)):
        for seed, error in enumerate(errors):
            made = record(1 - error / 100, seed=seed, run=f"cifar100/{net}/{arm}", preset=preset)
            assert records.append(made, folder)


# Beside the paper


def one(frame, row, column):
    (line,) = frame[(frame["row"] == row) & (frame["column"] == column)].itertuples()
    return line


def test_table_shows_paper_and_ours_in_the_tables_unit(tmp_path):
    fill(tmp_path, ce=[28.0, 29.0, 30.0], cam=[27.5])
    frame = verdict.beside_paper(TABLE, folder=tmp_path)
    assert list(frame.columns) == ["row", "column", "paper", "ours", "sd", "n", "text"]
    assert [(line.row, line.column) for line in frame.itertuples()] == list(TABLE.entries)
    ce = one(frame, "resnet56", "ce")
    assert (ce.paper, ce.n, ce.text) == (28.80, 3, "29.00 ± 1.00 (3)")
    assert (ce.ours, ce.sd) == pytest.approx((29.0, 1.0))
    cam = one(frame, "resnet56", "cam")
    assert (cam.paper, cam.n, cam.text) == (27.34, 1, "27.50 (1)")
    assert math.isnan(cam.sd)
    other = one(frame, "resnet20", "ce")
    assert (other.n, other.text) == (0, "not run")
    assert math.isnan(other.paper)
    assert math.isnan(other.ours)


def test_the_last_epoch_counts_never_the_best(tmp_path):
    records.append(record(0.70, best=0.75), tmp_path)
    assert one(verdict.beside_paper(TABLE, folder=tmp_path), "resnet56", "ce").ours == pytest.approx(30)


def test_presets_are_never_mixed(tmp_path):
    fill(tmp_path, ce=[30.0], cam=[], net="resnet20")
    fill(tmp_path, ce=[50.0], cam=[], preset="short", net="resnet20")
    texts = {p: one(verdict.beside_paper(TABLE, p, tmp_path), "resnet20", "ce").text for p in PRESETS}
    assert texts == {"quick": "not run", "short": "50.00 (1)", "paper": "30.00 (1)"}


def test_a_row_whose_net_a_preset_changes_shows_nothing_there(tmp_path):
    """At short ResNet-56 is ResNet-20, whose run stands in its own row."""
    fill(tmp_path, ce=[50.0], cam=[], preset="short", net="resnet20")
    assert one(verdict.beside_paper(TABLE, "short", tmp_path), "resnet56", "ce").text == "not run"


def test_accuracy_tables_show_accuracy(tmp_path):
    accuracy = replace(TABLE, unit="accuracy %")
    fill(tmp_path, ce=[30.0] * 5, cam=[28.0, 28.1, 27.9, 28.0, 28.0])
    assert one(verdict.beside_paper(accuracy, folder=tmp_path), "resnet56", "ce").ours == pytest.approx(70)
    judged = one(verdict.on_table(accuracy, folder=tmp_path), "resnet56", "cam")
    assert judged.difference == pytest.approx(2)
    assert "the accuracy is 2.00 ± 0.09 points higher" in judged.text


def test_tables_that_ask_for_one_run_show_the_same_numbers(tmp_path):
    fill(tmp_path, ce=[28.0, 29.0], cam=[27.0, 28.0])
    shown = one(verdict.beside_paper(TABLES["cam-controls"], folder=tmp_path), "resnet56", "ce")
    assert shown.text == one(verdict.beside_paper(TABLE, folder=tmp_path), "resnet56", "ce").text == "28.50 ± 0.71 (2)"
    assert one(verdict.beside_paper(TABLES["cam-controls"], folder=tmp_path), "resnet56", "uniform").text == "not run"


def test_a_metric_that_a_run_did_not_measure_is_not_run(tmp_path):
    made = record(0.9, run="scenes/resnet8/ce")
    records.append(made, tmp_path)
    frame = verdict.by_seed(TABLES["cam-scenes"], "paper", tmp_path)
    assert frame.values.tolist() == [["scenes_resnet8", "ce", 0, pytest.approx(10)]]


# The verdict rule

# Five differences with mean 0 and a half-width of 1 exactly: t(0.975, 4) · sd / √5 = 1.
SPREAD = np.array([-1.0, -1.0, 0.0, 1.0, 1.0]) * math.sqrt(5) / stats.t.ppf(0.975, 4)


def judge(gains, claim, **more):
    """The verdict on paired gains in error."""
    baseline = dict.fromkeys(range(len(gains)), 30.0)
    return verdict.verdict(baseline, {seed: 30 - gain for seed, gain in enumerate(gains)}, claim, **more)


@pytest.mark.parametrize(
    ("gains", "claim", "label", "words"),
    [
        (SPREAD + 1.5, 1.46, "reproduced", "the claimed side of 0 and holds the claimed size"),
        (SPREAD + 1.01, 1.46, "reproduced", "holds the claimed size"),
        (SPREAD + 3.0, 1.46, "reproduced", "does not hold the claimed size"),
        (SPREAD + 1.5, 9.0, "reproduced", "does not hold the claimed size"),
        (SPREAD + 0.99, 1.46, "within noise", "cannot tell them apart"),
        (SPREAD + 0.5, 1.46, "within noise", "cannot tell them apart"),
        (SPREAD + 0.45, 1.46, "not reproduced", "holds 0 and not the claim"),
        (SPREAD, 1.46, "not reproduced", "holds 0 and not the claim"),
        (SPREAD - 1.01, 1.46, "not reproduced", "neither 0 nor the claim"),
        (SPREAD - 1.5, -1.46, "reproduced", "holds the claimed size"),
        (SPREAD + 1.5, -1.46, "not reproduced", "neither 0 nor the claim"),
        (SPREAD, 0.0, "within noise", "cannot tell them apart"),
        (SPREAD + 2, 0.0, "not reproduced", "neither 0 nor the claim"),
        (np.full(5, 1.5), 1.46, "reproduced", "does not hold the claimed size"),
        (np.zeros(5), 1.46, "not reproduced", "holds 0 and not the claim"),
        (SPREAD + 1.5, None, "no claim", "No paper reports this comparison. The interval does not hold 0."),
        (SPREAD - 1.5, None, "no claim", "The interval does not hold 0."),
        (SPREAD - 0.99, None, "no claim", "The interval holds 0."),
        (np.full(4, 1.5), 1.46, "too few seeds", "Fewer than 5 pairs: nothing follows"),
        (np.full(1, 1.5), 1.46, "too few seeds", "Over 1 paired seed the error is 1.50 points lower"),
        (np.full(4, 1.5), None, "too few seeds", "nothing follows"),
        ([], 1.46, "not run", "Not run"),
    ],
)
def test_verdict_rule(gains, claim, label, words):
    found = judge(gains, claim)
    assert found.label == label
    assert words in found.text
    assert found.n == len(gains)


def test_verdict_states_n_mean_interval_and_claim():
    found = judge(SPREAD + 1.5, 1.46)
    assert found.text == (
        "Over 5 paired seeds the error is 1.50 ± 1.00 points lower than the baseline's "
        "(mean, 95 % interval). The paper claims 1.46 points lower. "
        "The interval lies wholly on the claimed side of 0 and holds the claimed size."
    )
    assert (found.difference, found.half_width) == pytest.approx((1.5, 1.0))


def test_verdict_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    baseline, method = rng.normal(28.8, 0.3, 7), rng.normal(27.9, 0.3, 7)
    found = verdict.verdict(pd.Series(baseline), pd.Series(method), 1.46)
    interval = stats.ttest_rel(baseline, method).confidence_interval(0.95)
    low, high = found.difference - found.half_width, found.difference + found.half_width
    assert (low, high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("preset", ["quick", "short"])
def test_only_the_papers_protocol_reproduces(preset):
    for gains, label in (
        (SPREAD + 1.5, "effect seen"),
        (SPREAD, "effect not seen"),
        (SPREAD + 0.5, "within noise"),
    ):
        found = judge(gains, 1.46, preset=preset)
        assert found.label == label
        assert found.text.startswith(f"{preset.capitalize()} protocol, not a reproduction. Over 5")
        assert "reproduced" not in found.text


def test_verdict_with_too_few_seeds_still_states_what_was_seen():
    found = judge([1.0, 2.0], 1.46)
    assert "Over 2 paired seeds the error is 1.50 points lower than the baseline's (mean)." in found.text
    assert "±" not in found.text


def test_seeds_of_one_arm_alone_are_left_out_and_counted():
    method = {seed: 28.5 + SPREAD[seed] for seed in range(5)}
    baseline = dict.fromkeys(range(5), 30.0)
    paired = verdict.verdict(baseline, method, 1.46)
    found = verdict.verdict(baseline | {7: 99.0}, method | {8: 0.0}, 1.46)
    assert found[0] == paired[0]
    assert found[2:] == paired[2:]
    assert found.text == paired.text + " 2 seeds of one arm alone left out."
    assert verdict.verdict({0: 30.0}, {1: 28.0}, 1.46).label == "not run"


def test_pairing_goes_by_seed_not_by_order():
    baseline = {0: 30.0, 1: 31.0, 2: 32.0, 3: 33.0, 4: 34.0}
    method = {seed: baseline[seed] - 1 for seed in (4, 2, 0, 3, 1)}
    found = verdict.verdict(baseline, method, 1.0)
    assert (found.label, found.difference, found.half_width) == ("reproduced", 1.0, 0.0)


def test_verdict_refuses_what_it_cannot_pair():
    with pytest.raises(ValueError, match="baseline has seed 1 twice"):
        verdict.verdict(pd.Series([1.0, 2.0], index=[1, 1]), {1: 1.0}, 1.46)
    with pytest.raises(ValueError, match=r"method has values that are not finite: \{0: nan\}"):
        verdict.verdict({0: 1.0}, {0: math.nan}, 1.46)
    with pytest.raises(UnknownName, match="papr"):
        verdict.verdict({0: 1.0}, {0: 1.0}, 1.46, preset="papr")


def test_a_seed_whose_runs_are_no_pair_is_left_out_and_said(tmp_path):
    fill(tmp_path, ce=[29.0] * 6, cam=[])
    for seed in range(6):
        made = record(0.72 + seed / 1000, seed=seed, run="cifar100/resnet56/cam")
        if seed == 2:
            made = replace(made, fingerprint=made.fingerprint | {"order": "other"})
        records.append(made, tmp_path)
    judged = one(verdict.on_table(TABLE, folder=tmp_path), "resnet56", "cam")
    assert judged.n == 5
    assert judged.text.endswith("Seed 2 left out: its two runs differ in order.")


def test_verdicts_of_a_whole_table(tmp_path):
    fill(tmp_path, ce=[29.0] * 5, cam=27.5 + SPREAD)
    fill(tmp_path, ce=[31.0], cam=[30.5], net="resnet20")
    frame = verdict.on_table(TABLE, folder=tmp_path)
    assert frame["row"].tolist() == list(TABLE.rows)
    assert set(frame["column"]) == {"cam"}
    judged = one(frame, "resnet56", "cam")
    assert (judged.label, judged.claim) == ("reproduced", pytest.approx(1.46))  # 28.80 - 27.34
    assert (judged.run, judged.baseline_run) == ("cifar100/resnet56/cam", "cifar100/resnet56/ce")
    assert judged.text == judge(SPREAD + 1.5, 1.46).text
    assert one(frame, "resnet20", "cam").label == "too few seeds"
    assert math.isnan(one(frame, "resnet20", "cam").claim)
    assert one(frame, "resnet50", "cam").label == "not run"
    assert (verdict.on_table(TABLE, "short", folder=tmp_path)["label"] == "not run").all()


def test_verdicts_against_another_baseline(tmp_path):
    frame = verdict.on_table(TABLES["cam-controls"], baseline="cam", folder=tmp_path)
    assert "cam" not in set(frame["column"])
    assert "ce" in set(frame["column"])
    with pytest.raises(UnknownName, match=r"no column is called 'cee'.*ce"):
        verdict.on_table(TABLE, "paper", "cee", tmp_path)


def test_a_row_without_the_baseline_has_no_verdict(tmp_path):
    frame = verdict.on_table(TABLES["icasc-table-4"], baseline="icasc_random_confuser", folder=tmp_path)
    assert set(frame["row"]) == {"resnet110", "resnet20", "tenth"}  # the only rows with that control


# By protocol


def test_an_entry_has_a_line_for_each_protocol_that_was_run_and_one_if_none_was(tmp_path):
    fill(tmp_path, ce=[30.0, 31.0], cam=[29.0, 29.0], net="resnet20")
    fill(tmp_path, ce=[50.0], cam=[52.0], preset="short", net="resnet20")
    fill(tmp_path, ce=[28.0], cam=[27.0])
    judged = verdict.by_protocol(TABLE, folder=tmp_path)
    lines = [(line.row, line.preset, line.n, round(line.difference, 9)) for line in judged.itertuples() if line.n]
    assert lines == [("resnet56", "paper", 1, 1.0), ("resnet20", "paper", 2, 1.5), ("resnet20", "short", 1, -2.0)]
    not_run = judged[judged["n"] == 0]
    assert list(not_run["row"]) == [row for row in TABLE.rows if row not in ("resnet56", "resnet20")]
    assert set(not_run["preset"]) == {"paper"}


def test_rows_and_methods_can_be_chosen():
    table = TABLES["cam-scenes"]
    judged = verdict.by_protocol(table, methods=("cam", "uniform"), rows="^scenes_resnet8")
    assert set(judged["column"]) == {"cam", "uniform"}
    assert set(judged["row"]) == {row for row in table.rows if row.startswith("scenes_resnet8")}
    assert {row for row in judged["row"] if verdict.shifted(row)} == {
        "scenes_resnet8_free_grounds",
        "scenes_resnet8_foreign_ground",
    }
    with pytest.raises(UnknownName, match="uniform"):
        verdict.by_protocol(table, methods=("uniforn",))


@pytest.mark.parametrize(
    ("table", "row", "column", "gain"),
    [
        ("cam-table-1", "resnet56", "cam", 28.80 - 27.34),  # of errors less is a gain,
        ("icasc-table-4", "resnet110", "icasc", 76.11 - 72.78),  # of accuracy more,
        ("cc-table-1", "cifar100_vgg16", "focal", 74.46 - 74.49),  # and less a loss
    ],
)
def test_a_papers_gain_has_the_sign_of_its_unit(tmp_path, table, row, column, gain):
    """CAM-loss, Table 1; ICASC, Table 4; CC-Loss, Table 1."""
    judged = verdict.on_table(TABLES[table], folder=tmp_path)
    (line,) = judged[(judged["row"] == row) & (judged["column"] == column)].itertuples()
    assert line.claim == pytest.approx(gain)
