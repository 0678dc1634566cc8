"""Tables: each number beside a run that exists, and arms that differ in what the table compares only."""

import json
from dataclasses import replace

import pytest

from camlib.lab.experiment import CROSS_ENTROPY
from camlib.lab.runs import RUNS
from camlib.lab.tables import TABLES
from camlib.package_data import package_data

ENTRIES = [(t, row, column, e) for t in TABLES.values() for (row, column), e in t.entries.items()]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_a_table_names_rows_columns_and_runs_that_exist(table):
    assert TABLES[table.name] is table
    assert table.unit in ("error %", "accuracy %", "mean IoU %", "score %")
    assert table.baseline in table.columns
    assert {row for row, _ in table.entries} == set(table.rows)
    assert {column for _, column in table.entries} == set(table.columns)
    assert set(table.runs) <= set(RUNS)
    assert len(set(table.runs)) == len(table.runs)


def test_a_number_without_a_run_is_one_that_the_paper_cites():
    for table, row, column, entry in ENTRIES:
        if entry.run is None:
            assert entry.cited, (table.name, row, column)
            assert entry.paper is not None
        if entry.cited:
            assert column == "ce" or table.name == "icasc-deeper"
        if entry.spread is not None:
            assert entry.paper is not None


def test_arms_of_a_row_differ_in_what_the_table_compares_only():
    """The loss; where it asks for one, the head, the gate or the teacher; in CAM-loss, Table 5 the start."""
    same = {"terms": CROSS_ENTROPY, "head": "linear", "teacher": None, "start": None, "gate": False, "gate_units": None}
    for table, row, column, entry in ENTRIES:
        if table.name in ("icasc-deeper", "cc-batch"):  # which compare nets and batch sizes
            continue
        baseline = table.entries[row, table.baseline]
        if entry.run and baseline.run and column != "icasc_late":
            one, other = (replace(RUNS[e.run], **same, channels_per_class=None) for e in (entry, baseline))
            assert one == other, (table.name, row, column)


def test_rows_of_a_net_share_its_runs():
    """Top-1 and top-5, centre and ten crops, one and five shots, one net and several kinds of attention."""
    for table, row, column, entry in ENTRIES:
        if row.endswith("_top5"):
            first = table.entries[row.removesuffix("_top5"), column]
            assert entry.metric == f"top5_{first.metric}"
            assert entry.run == first.run
    few = TABLES["cam-table-6"].entries
    assert few["cub_1_shot", "cam"].run == few["cub_5_shot", "cam"].run
    assert len(TABLES["icasc-table-2"].runs) == 3


def test_a_row_on_scenes_says_by_its_name_and_heading_which_test_it_is():
    for table, row, _, entry in ENTRIES:
        if entry.run and entry.run.startswith("scenes/"):
            shifted = entry.metric.endswith("ground") or entry.metric.endswith("grounds")
            assert shifted == ("_ground" in row)
            assert ("set free" in table.rows[row]) == shifted


def test_units():
    error, accuracy = TABLES["cam-table-1"], TABLES["cc-table-1"]
    assert error.in_unit(0.715) == pytest.approx(28.5)
    assert accuracy.in_unit(0.715) == pytest.approx(71.5)


def test_a_table_by_another_order_shows_the_same_numbers():
    """CC-Loss, Table 3, CAM-loss, Figure 3 and ICASC, Table 4, whose rows their claims compare."""
    assert TABLES["cc-lambda"].entries["cars196_vgg16", "lambda_2.0"].paper == 87.84
    assert TABLES["cc-lambda"].rows["cars196_vgg16"] == "VGG-16, Cars-196"
    assert TABLES["cc-batch"].entries["cifar100_vgg16", "batch_8"].paper == 74.9
    assert TABLES["cc-batch"].entries["mnist_vgg8_slim", "batch_128"].run == "mnist_batch_128/vgg8_slim/cc"
    assert TABLES["cam-start"].entries["resnet56", "t_30"].run == "cifar100/resnet56/cam_t30_c1"
    assert TABLES["cam-weight"].entries["resnet20", "c_3"].run == "cifar100/resnet20/cam"
    assert [entry.paper for entry in TABLES["icasc-deeper"].entries.values()] == [76.11, 75.42, 75.63]


def test_what_a_step_costs_is_kept_for_every_method_that_is_compared():
    kept = json.loads(package_data("step_costs.json").read_text("utf8"))["ratio"]
    assert kept.keys() == TABLES["compare"].columns.keys()
    assert kept["ce"] == 1
