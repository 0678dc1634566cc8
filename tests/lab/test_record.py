"""Records: in and out of files, beside the papers' numbers, and the verdict rule (CAM-loss, Table 1)."""

import fcntl
import json
import math
import multiprocessing
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import samples
from samples import record
from scipy import stats

from camlib import recipes, records
from camlib.names import UnknownName

TABLE = "cam-table-1"


def fill(folder, ce, cam, preset="paper", row="resnet56"):
    """Records of both arms, from top-1 errors by seed."""
    for column, errors in (("ce", ce), ("cam", cam)):
        for seed, error in enumerate(errors):
            accuracy = 1 - error / 100
            assert records.append(record(accuracy, seed=seed, column=column, preset=preset, row=row), folder)


# In and out


def test_what_goes_in_comes_out(tmp_path):
    assert records.append(record(0.7, seed=3), tmp_path)
    assert records.append(record(0.8, seed=4, note="kept"), tmp_path)
    frame = records.load(TABLE, tmp_path)
    assert set(records.SCHEMA) <= set(frame.columns)
    assert frame["metrics.accuracy"].tolist() == [0.7, 0.8]
    assert frame["seed"].tolist() == [3, 4]
    assert frame["note"].tolist()[1] == "kept"
    assert frame["history"][0] == record(0.7, seed=3).history
    assert frame["recipe"][0]["milestones"] == []


def test_a_table_without_a_file_is_empty_but_has_its_columns(tmp_path):
    frame = records.load(TABLE, tmp_path)
    assert len(frame) == 0
    assert list(frame.columns) == list(records.SCHEMA)
    assert records.table(TABLE, folder=tmp_path)["text"].unique().tolist() == ["not run"]


def test_default_folder_ships_with_camlib_and_every_record_in_it_is_valid():
    for name in recipes.TABLES:
        assert records.path_of(name).parent.name == "records"
        records.results(name)


def test_unknown_table_answers_with_the_nearest(tmp_path):
    for read in (records.load, records.results, records.table, records.verdicts, records.path_of):
        with pytest.raises(UnknownName, match=r"no table is called 'cam-tabel-1'.*cam-table-1"):
            read("cam-tabel-1")
    with pytest.raises(UnknownName, match=r"no preset is called 'papr'.*paper"):
        records.table(TABLE, "papr", tmp_path)
    with pytest.raises(UnknownName, match=r"no column is called 'cee'.*ce"):
        records.verdicts(TABLE, "paper", "cee", tmp_path)


@pytest.mark.parametrize("field", records.SCHEMA)
def test_a_record_without_a_field_or_with_another_type_is_refused(field):
    line = as_line(record())
    records.validate(line, "here")
    with pytest.raises(records.RecordError, match=f"here lacks {field}"):
        records.validate({name: value for name, value in line.items() if name != field}, "here")
    with pytest.raises(records.RecordError, match=f"here: {field} is None, expected"):
        records.validate(line | {field: None}, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": True}, "seed is True, expected int"),
        ({"seed": np.int64(1)}, "seed is .*1.*, expected int"),
        ({"epochs_done": 1}, "only 1 of 2 epochs are done"),
        ({"metrics": {"accuracy": math.nan}}, r"metrics\.accuracy is nan, expected a finite number"),
        ({"history": [{}, {"test_loss": math.inf}]}, r"history\.1\.test_loss is inf"),
        ({"metrics": {"loss": 1.0}}, "metrics lacks accuracy"),
        ({"row": "resnet57"}, "no cell is called 'cam-table-1/resnet57/ce'.*resnet56"),
        ({"preset": "shrt"}, "no preset is called 'shrt'.*short"),
    ],
)
def test_a_record_that_cannot_be_is_refused(change, message):
    with pytest.raises(records.RecordError, match=f"here: {message}"):
        records.validate(as_line(record()) | change, "here")


def test_whole_seconds_are_a_float_too(tmp_path):
    assert records.append(replace(record(), wall_seconds=60), tmp_path)
    assert records.load(TABLE, tmp_path)["wall_seconds"].tolist() == [60.0]


def test_refused_records_leave_no_file(tmp_path):
    for wrong in (
        record(math.nan),
        replace(record(), epochs_done=1),
        record(note={1, 2}),
        record(table="../elsewhere"),
    ):
        with pytest.raises(records.RecordError, match="the new record"):
            records.append(wrong, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"table": "cam-ta', "is not JSON"),
        ("\0\0\0\0", "is not JSON"),
        ("<<<<<<< HEAD", "is not JSON"),
        ("[1, 2]", r"is \[1, 2\], expected an object"),
        ('{"table": "cam-table-1"}', "lacks row, column"),
        ('{"accuracy": NaN}', "lacks table"),
    ],
)
def test_a_broken_line_is_named_with_its_file_and_number(tmp_path, line, message):
    records.append(record(seed=0), tmp_path)
    path = records.path_of(TABLE, tmp_path)
    with path.open("a") as stream:
        stream.write(f"\n{line}\n")  # after an empty line, which does no harm
    records.append(record(seed=1), tmp_path)
    with pytest.raises(records.RecordError, match=rf"{path}, line 3:? {message}"):
        records.load(TABLE, tmp_path)
    path.write_text(path.read_text().replace(f"{line}\n", ""))
    assert records.load(TABLE, tmp_path)["seed"].tolist() == [0, 1]


def test_bytes_that_are_no_text_are_a_broken_line(tmp_path):
    records.path_of(TABLE, tmp_path).write_bytes(b'{"row": "\xff\xfe"}\n')
    with pytest.raises(records.RecordError, match=r"line 1 is not JSON"):
        records.load(TABLE, tmp_path)


def test_a_number_that_json_does_not_know_is_refused_on_the_way_in(tmp_path):
    records.append(record(), tmp_path)
    path = records.path_of(TABLE, tmp_path)
    path.write_text(path.read_text().replace("121.25", "NaN"))
    with pytest.raises(records.RecordError, match="line 1: wall_seconds is nan"):
        records.load(TABLE, tmp_path)


def test_a_record_in_the_file_of_another_table_is_named(tmp_path):
    records.append(record(), tmp_path)
    records.path_of(TABLE, tmp_path).rename(records.path_of("cam-controls", tmp_path))
    with pytest.raises(records.RecordError, match="line 1 belongs to table 'cam-table-1': move it"):
        records.load("cam-controls", tmp_path)


def test_a_last_line_without_its_end_does_not_spoil_the_next(tmp_path):
    records.append(record(seed=0), tmp_path)
    path = records.path_of(TABLE, tmp_path)
    path.write_text(path.read_text().rstrip("\n"))
    records.append(record(seed=1), tmp_path)
    assert records.load(TABLE, tmp_path)["seed"].tolist() == [0, 1]


def test_the_same_run_is_recorded_once_a_new_run_of_the_same_seed_again(tmp_path):
    assert records.append(record(), tmp_path)
    again = replace(record(finished_at="2025-02-01T00:00:00+00:00"), wall_seconds=121.5, commit="1" * 40)
    assert not records.append(again, tmp_path)
    slower = replace(record(), history=[entry | {"seconds": 70.0} for entry in record().history])
    assert records.append(slower, tmp_path)
    assert len(records.load(TABLE, tmp_path)) == 2


def test_processes_that_append_the_same_runs_at_once_write_each_once(tmp_path):
    # Forked from a server, because torch has threads that a plain fork would cut off.
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["samples"])
    together = start.Barrier(4)
    writers = [start.Process(target=samples.append_some, args=(tmp_path, together, 10)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert records.load(TABLE, tmp_path)["seed"].tolist() == list(range(10))


def test_append_waits_for_a_writer_that_is_in_the_middle_of_a_line(tmp_path):
    records.append(record(seed=0), tmp_path)
    path = records.path_of(TABLE, tmp_path)
    line = json.dumps(as_line(record(seed=1))) + "\n"
    with path.open("a") as stream, ThreadPoolExecutor() as pool:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(line[:100])
        stream.flush()
        other = pool.submit(records.append, record(seed=2), tmp_path)
        with pytest.raises(TimeoutError):
            other.result(timeout=0.3)
        stream.write(line[100:])
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_UN)
        assert other.result()
    assert records.load(TABLE, tmp_path)["seed"].tolist() == [0, 1, 2]


def test_a_full_disk_leaves_no_half_line(tmp_path):
    records.append(record(seed=0), tmp_path)
    path = records.path_of(TABLE, tmp_path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system writes the 100 bytes that fit and refuses the rest.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(OSError, match=rf"could not be written to {path}: .*free some space"):
            records.append(record(seed=1), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert records.append(record(seed=1), tmp_path)


# Beside the paper


def one(frame, row, column):
    (line,) = frame[(frame["row"] == row) & (frame["column"] == column)].itertuples()
    return line


def test_table_shows_paper_and_ours_in_the_tables_unit(tmp_path):
    fill(tmp_path, ce=[28.0, 29.0, 30.0], cam=[27.5])
    frame = records.table(TABLE, folder=tmp_path)
    assert list(frame.columns) == ["row", "column", "paper", "ours", "sd", "n", "text"]
    names = list(recipes.TABLES[TABLE].cells)
    assert [f"{TABLE}/{line.row}/{line.column}" for line in frame.itertuples()] == names
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
    assert one(records.table(TABLE, folder=tmp_path), "resnet56", "ce").ours == pytest.approx(30)


def test_presets_are_never_mixed(tmp_path):
    records.append(record(0.70, preset="paper"), tmp_path)
    records.append(record(0.50, preset="short", seed=1), tmp_path)
    texts = {preset: one(records.table(TABLE, preset, tmp_path), "resnet56", "ce").text for preset in recipes.PRESETS}
    assert texts == {"quick": "not run", "short": "50.00 (1)", "colab": "not run", "paper": "30.00 (1)"}


def test_of_several_runs_of_a_seed_the_one_finished_last_counts(tmp_path):
    records.append(record(0.70, finished_at="2025-03-01T00:00:00+00:00"), tmp_path)
    records.append(record(0.60, finished_at="2025-01-01T00:00:00+00:00"), tmp_path)
    records.append(record(0.50, seed=1), tmp_path)
    line = one(records.table(TABLE, folder=tmp_path), "resnet56", "ce")
    assert line.n == 2
    assert line.ours == pytest.approx((30 + 50) / 2)


def test_accuracy_tables_show_accuracy(tmp_path, monkeypatch):
    monkeypatch.setitem(recipes.TABLES, TABLE, replace(recipes.TABLES[TABLE], unit="accuracy %"))
    fill(tmp_path, ce=[30.0] * 5, cam=[28.0, 28.1, 27.9, 28.0, 28.0])
    assert one(records.table(TABLE, folder=tmp_path), "resnet56", "ce").ours == pytest.approx(70)
    judged = one(records.verdicts(TABLE, folder=tmp_path), "resnet56", "cam")
    assert judged.difference == pytest.approx(2)
    assert "the accuracy is 2.00 ± 0.09 points higher" in judged.text


def test_a_shared_cell_shows_the_runs_of_the_cell_it_shares(tmp_path):
    fill(tmp_path, ce=[28.0, 29.0], cam=[27.0, 28.0])
    shown = one(records.table("cam-controls", folder=tmp_path), "resnet56", "ce")
    assert shown.text == one(records.table(TABLE, folder=tmp_path), "resnet56", "ce").text == "28.50 ± 0.71 (2)"
    assert one(records.table("cam-controls", folder=tmp_path), "resnet56", "uniform").text == "not run"


def test_runs_by_different_recipes_have_no_common_mean(tmp_path):
    records.append(record(seed=0), tmp_path)
    records.append(replace(record(seed=1), recipe={"epochs": 2, "learning_rate": 0.2, "new": 1}), tmp_path)
    with pytest.raises(
        records.RecordError,
        match=r"resnet56/ce at preset paper: .* seeds 0 and 1 differ in recipe.learning_rate",
    ):
        records.table(TABLE, folder=tmp_path)


def test_a_recipe_that_learnt_a_field_agrees_with_the_older_ones(tmp_path):
    records.append(record(seed=0), tmp_path)
    records.append(replace(record(seed=1), recipe=record().recipe | {"new": 1}), tmp_path)
    assert one(records.table(TABLE, folder=tmp_path), "resnet56", "ce").n == 2


# The verdict rule

# Five differences with mean 0 and a half-width of 1 exactly: t(0.975, 4) · sd / √5 = 1.
SPREAD = np.array([-1.0, -1.0, 0.0, 1.0, 1.0]) * math.sqrt(5) / stats.t.ppf(0.975, 4)


def judge(gains, claim, **more):
    """The verdict on paired gains in error."""
    baseline = dict.fromkeys(range(len(gains)), 30.0)
    return records.verdict(baseline, {seed: 30 - gain for seed, gain in enumerate(gains)}, claim, **more)


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
    verdict = judge(gains, claim)
    assert verdict.label == label
    assert words in verdict.text
    assert verdict.n == len(gains)


def test_verdict_states_n_mean_interval_and_claim():
    verdict = judge(SPREAD + 1.5, 1.46)
    assert verdict.text == (
        "Over 5 paired seeds the error is 1.50 ± 1.00 points lower than the baseline's "
        "(mean, 95 % interval). The paper claims 1.46 points lower. "
        "The interval lies wholly on the claimed side of 0 and holds the claimed size."
    )
    assert (verdict.difference, verdict.half_width) == pytest.approx((1.5, 1.0))


def test_verdict_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    baseline, method = rng.normal(28.8, 0.3, 7), rng.normal(27.9, 0.3, 7)
    verdict = records.verdict(pd.Series(baseline), pd.Series(method), 1.46)
    interval = stats.ttest_rel(baseline, method).confidence_interval(0.95)
    low, high = verdict.difference - verdict.half_width, verdict.difference + verdict.half_width
    assert (low, high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("preset", ["quick", "short", "colab"])
def test_only_the_papers_protocol_reproduces(preset):
    for gains, label in (
        (SPREAD + 1.5, "effect seen"),
        (SPREAD, "effect not seen"),
        (SPREAD + 0.5, "within noise"),
    ):
        verdict = judge(gains, 1.46, preset=preset)
        assert verdict.label == label
        assert verdict.text.startswith(f"{preset.capitalize()} protocol, not a reproduction. Over 5")
        assert "reproduced" not in verdict.text


def test_verdict_with_too_few_seeds_still_states_what_was_seen():
    verdict = judge([1.0, 2.0], 1.46)
    assert "Over 2 paired seeds the error is 1.50 points lower than the baseline's (mean)." in verdict.text
    assert "±" not in verdict.text


def test_seeds_of_one_arm_alone_are_left_out_and_counted():
    method = {seed: 28.5 + SPREAD[seed] for seed in range(5)}
    baseline = dict.fromkeys(range(5), 30.0)
    paired = records.verdict(baseline, method, 1.46)
    verdict = records.verdict(baseline | {7: 99.0}, method | {8: 0.0}, 1.46)
    assert verdict[0] == paired[0]
    assert verdict[2:] == paired[2:]
    assert verdict.text == paired.text + " 2 seeds of one arm alone left out."
    assert records.verdict({0: 30.0}, {1: 28.0}, 1.46).label == "not run"


def test_pairing_goes_by_seed_not_by_order():
    baseline = {0: 30.0, 1: 31.0, 2: 32.0, 3: 33.0, 4: 34.0}
    method = {seed: baseline[seed] - 1 for seed in (4, 2, 0, 3, 1)}
    verdict = records.verdict(baseline, method, 1.0)
    assert (verdict.label, verdict.difference, verdict.half_width) == ("reproduced", 1.0, 0.0)


def test_verdict_refuses_what_it_cannot_pair():
    with pytest.raises(ValueError, match="baseline has seed 1 twice"):
        records.verdict(pd.Series([1.0, 2.0], index=[1, 1]), {1: 1.0}, 1.46)
    with pytest.raises(ValueError, match=r"method has values that are not finite: \{0: nan\}"):
        records.verdict({0: 1.0}, {0: math.nan}, 1.46)
    with pytest.raises(UnknownName, match="papr"):
        records.verdict({0: 1.0}, {0: 1.0}, 1.46, preset="papr")


def test_verdicts_of_a_whole_table(tmp_path):
    fill(tmp_path, ce=[29.0] * 5, cam=27.5 + SPREAD)
    fill(tmp_path, ce=[31.0], cam=[30.5], row="resnet20")
    frame = records.verdicts(TABLE, folder=tmp_path)
    assert frame["row"].tolist() == list(recipes.TABLES[TABLE].rows)
    assert set(frame["column"]) == {"cam"}
    assert one(frame, "resnet56", "cam").label == "reproduced"
    assert one(frame, "resnet56", "cam").claim == 1.46  # 28.80 - 27.34
    assert one(frame, "resnet56", "cam").text == judge(SPREAD + 1.5, 1.46).text
    assert one(frame, "resnet20", "cam").label == "too few seeds"
    assert math.isnan(one(frame, "resnet20", "cam").claim)
    assert one(frame, "resnet50", "cam").label == "not run"
    assert (records.verdicts(TABLE, "short", folder=tmp_path)["label"] == "not run").all()


def test_verdicts_against_another_baseline(tmp_path):
    frame = records.verdicts("cam-controls", baseline_column="cam", folder=tmp_path)
    assert "cam" not in set(frame["column"])
    assert "ce" in set(frame["column"])


def as_line(record):
    line = json.loads(json.dumps(record.__dict__))
    return line | line.pop("about")


def test_a_row_without_the_baseline_has_no_verdict(tmp_path):
    frame = records.verdicts("icasc-table-4", baseline_column="random_confuser", folder=tmp_path)
    assert set(frame["row"]) == {"resnet110", "resnet20"}  # the only rows with that control
