"""The command line, as a user meets it: what it prints, what it writes, how it refuses."""

import hashlib
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import samples

import camlib.__main__
from camlib import data, recipes, records
from camlib.__main__ import main
from camlib.run import run

CELL = "cam-table-1/resnet20/cam"


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Small runs without a progress bar, no real data, and an empty working folder."""
    monkeypatch.setitem(recipes.PRESETS, "quick", samples.tiny)
    monkeypatch.setattr("camlib.__main__.run", partial(run, progress=False))
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(capsys):
    """Run a command line; gives its exit code, what it printed and what it complained of."""

    def answer(line):
        capsys.readouterr()
        try:
            code = main(line.split())
        except SystemExit as end:  # argparse's own complaints
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return answer


def refused(result):
    """The complaint of a command that was refused: one line, no traceback."""
    code, _, complaint = result
    assert code == 2
    assert complaint.count("\n") == 1
    assert complaint.startswith("python -m camlib: ")
    return complaint


# run


def test_run_says_what_it_does_trains_and_records(call, tmp_path):
    code, printed, complaint = call(f"run {CELL} --seed 3")
    assert (code, complaint) == (0, "")
    announcement, result, where = printed.splitlines()
    folder = "runs/cam-table-1/resnet20/cam/quick/seed-3"
    assert announcement == (
        f"{CELL}, preset quick, seed 3: resnet8 on scenes for 2 epochs, on cpu; checkpoints in {folder}; from the start"
    )
    assert re.fullmatch(rf"{CELL}, preset quick, seed 3: test accuracy \d+\.\d\d%", result)
    assert where == "recorded in runs/records/cam-table-1.jsonl"
    frame = records.load("cam-table-1", tmp_path / "runs/records")
    assert frame[["preset", "seed"]].to_numpy().tolist() == [["quick", 3]]
    assert list((tmp_path / folder).glob("*.pt"))


def test_run_again_after_the_end_adds_nothing_and_says_so(call):
    call(f"run {CELL}")
    code, printed, _ = call(f"run {CELL}")
    assert code == 0
    assert "going on from checkpoint-0002-000000.pt" in printed
    assert "this run stands in runs/records/cam-table-1.jsonl already; nothing was added" in printed
    assert len(records.load("cam-table-1", Path("runs/records"))) == 1


def test_run_stops_at_the_time_limit_and_goes_on(call):
    code, printed, _ = call(f"run {CELL} --time-limit 0")
    assert code == 0
    assert printed.endswith("stopped after 0 of 2 epochs; the same command goes on\n")
    assert not Path("runs/records").exists()
    code, printed, _ = call(f"run {CELL}")
    assert "going on from checkpoint-0000-000001.pt" in printed
    assert len(records.load("cam-table-1", Path("runs/records"))) == 1


def test_a_run_that_was_stopped_after_an_epoch_is_not_recorded(call):
    """It has a result already, but not the one that was asked for."""
    for _ in range(3):
        code, printed, complaint = call(f"run {CELL} --time-limit 0")
        assert (code, complaint) == (0, "")
    assert printed.endswith("stopped after 1 of 2 epochs; the same command goes on\n")
    assert not Path("runs/records").exists()


def test_run_puts_checkpoints_and_record_where_it_is_told(call, tmp_path):
    code, printed, _ = call(f"run {CELL} --out {tmp_path}/here --records {tmp_path}/there --device cpu")
    assert code == 0
    assert f"recorded in {tmp_path}/there/cam-table-1.jsonl" in printed
    assert list((tmp_path / "here").rglob("*.pt"))
    assert not Path("runs").exists()


def test_run_with_another_recipe_is_refused_with_the_difference(call, monkeypatch):
    call(f"run {CELL}")
    quick = recipes.PRESETS["quick"]
    monkeypatch.setitem(recipes.PRESETS, "quick", lambda experiment: quick(experiment).lasting(3))
    complaint = refused(call(f"run {CELL}"))
    assert "belongs to another run: " in complaint
    assert "recipe.epochs was 2, now 3" in complaint
    assert "Choose another folder" in complaint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run cam-table-1/resnet20/kam", "no cell is called 'cam-table-1/resnet20/kam'; the nearest: "),
        ("run resnet20", "no cell is called 'resnet20'"),
        (f"run {CELL} --preset quikc", "no preset is called 'quikc'; the nearest: quick"),
        ("run cam-table-2/pyramid_cutout/ce", "has no recipe"),
        (f"run {CELL} --preset short", "CIFAR-100 is not in"),
        ("list cam-table-l", "no table is called 'cam-table-l'; the nearest: cam-table-7"),
        ("table cam-table", "no table is called 'cam-table'; the nearest: "),
        ("table cam-table-1 --preset papr", "no preset is called 'papr'; the nearest: paper"),
        ("data list cifar", "no data set is called 'cifar'; the nearest: "),
        ("data check cifar1000", "no data set is called 'cifar1000'; the nearest: cifar100"),
        ("data get cifar1000", "no data set is called 'cifar1000'; the nearest: cifar100"),
    ],
)
def test_what_a_user_can_get_wrong_is_answered_in_one_line(call, line, words):
    assert words in refused(call(line))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("traim", "invalid choice: 'traim'"),
        (f"run {CELL} --seed one", "'one' is not a number from 0 on"),
        (f"run {CELL} --seed -1", "'-1' is not a number from 0 on"),
        (f"run {CELL} --time-limit nan", "'nan' is not a number from 0 on"),
        (f"run {CELL} --device gpu", "no device is called 'gpu'; this machine has cpu"),
        (f"run {CELL} --device cuda:99", "'cuda:99' cannot be used: "),
        (f"run {CELL} --device meta", "'meta' cannot be used: "),
        ("data get", "the following arguments are required: NAME"),
    ],
)
def test_options_that_cannot_be_are_answered_with_the_usage(call, line, words):
    code, _, complaint = call(line)
    assert code == 2
    assert words in complaint.splitlines()[-1]
    assert not Path("runs").exists()


def test_a_file_in_the_way_is_an_error_of_one_line(call):
    Path("runs").write_text("not a folder")
    assert "runs" in refused(call(f"run {CELL}"))


def test_a_loss_that_is_not_finite_is_an_error_of_one_line(call, monkeypatch):
    quick = recipes.PRESETS["quick"]

    def heavy(experiment):
        return replace(quick(experiment), terms={"ce": (float("inf"), recipes.call("CrossEntropy"))})

    monkeypatch.setitem(recipes.PRESETS, "quick", heavy)
    complaint = refused(call(f"run {CELL}"))
    assert "the loss is inf at epoch 0, step 0" in complaint


def test_a_fault_of_camlib_keeps_its_traceback(call, monkeypatch):
    def faulty(*arguments, **options):
        raise ValueError("a bug")

    monkeypatch.setattr("camlib.__main__.run", faulty)
    with pytest.raises(ValueError, match="a bug"):
        call(f"run {CELL}")


def test_an_interrupt_says_how_to_go_on(call, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("camlib.__main__.run", interrupted)
    code, _, complaint = call(f"run {CELL}")
    assert code == 130
    assert complaint == "interrupted; the same command goes on from the last checkpoint, if there is one\n"


def test_under_torchrun_one_process_speaks_and_records(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, samples.__file__, "run", CELL],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        f"{CELL}, preset quick, seed 0",
        f"{CELL}, preset quick, seed 0",
        "recorded in runs/records/cam-table-1.jsonl",
    ]
    frame = records.load("cam-table-1", tmp_path / "runs/records")
    assert frame["processes"].tolist() == [2]


# list and table


def fake_runs(folder, preset, **errors):
    for column, values in errors.items():
        for seed, error in enumerate(values):
            record = samples.record(1 - error / 100, column=column, preset=preset, seed=seed)
            assert records.append(record, folder)


def test_list_shows_every_table(call, tmp_path):
    fake_runs(tmp_path / "some", "short", ce=[40, 41])
    code, printed, _ = call("list --records some")
    assert code == 0
    for table in recipes.TABLES.values():
        assert f"{table.name}: {table.title}\n" in printed
    assert "9 rows, 2 columns; runs: short 2" in printed
    assert "runs: none" in printed


def test_list_of_a_table_shows_cells_runs_and_what_cannot_be_run(call, tmp_path):
    fake_runs(tmp_path / "some", "short", ce=[40, 41])
    fake_runs(tmp_path / "some", "paper", ce=[30])
    code, printed, _ = call("list cam-table-1 --records some")
    assert code == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in printed.splitlines() if line}
    assert lines["cam-table-1/resnet56/ce"] == "short 2, paper 1"
    assert lines["cam-table-1/resnet56/cam"] == "not run"
    controls = call("list cam-controls --records some")[1]
    assert "cam-controls/resnet56/ce            short 2, paper 1 (the runs of cam-table-1/resnet56/ce)" in controls


def test_list_names_a_cell_that_the_paper_only_cites(call):
    printed = call("list cam-table-2 --records none")[1]
    assert re.search(r"^cam-table-2/pyramid_cutout/ce +not run; no recipe$", printed, re.MULTILINE)


def test_table_shows_paper_ours_and_the_verdicts(call, tmp_path):
    fake_runs(tmp_path / "some", "paper", ce=[29.0, 29.1, 28.9, 29.0, 29.0], cam=[27.5, 27.6, 27.5, 27.4, 27.5])
    code, printed, _ = call("table cam-table-1 --records some")
    assert code == 0
    assert re.search(r"^ResNet-56 +CE loss +28\.80  29\.00 ± 0\.07 \(5\)$", printed, re.MULTILINE)
    assert re.search(r"^ResNet-56 +CAM-loss +27\.34  27\.50 ± 0\.07 \(5\)$", printed, re.MULTILINE)
    assert re.search(r"^ResNet-20.* +CAM-loss +–  not run$", printed, re.MULTILINE)
    assert "ResNet-56, CAM-loss: reproduced.\n  Over 5 paired seeds the error is 1.50" in printed


def test_table_points_to_runs_at_other_presets(call, tmp_path):
    fake_runs(tmp_path / "some", "short", ce=[40], cam=[39])
    assert "Runs at other presets: short 2. See them with --preset." in call("table cam-table-1 --records some")[1]
    printed = call("table cam-table-1 --records some --preset short")[1]
    assert "too few seeds" in printed
    assert "Short protocol, not a reproduction." in printed
    assert "other presets" not in printed


@pytest.mark.parametrize("command", ["list", "list cam-table-1", "table cam-table-1"])
def test_a_broken_record_is_named_with_its_line(call, tmp_path, command):
    (tmp_path / "cam-table-1.jsonl").write_text('\n{"table": "cam-tab')
    assert f"{tmp_path}/cam-table-1.jsonl, line 2 is not JSON" in refused(call(f"{command} --records {tmp_path}"))


# data and doctor


@pytest.fixture
def small_set(monkeypatch, tmp_path):
    """A data set of one file, in place of the manifest's large ones."""
    content = b"pixels"
    entry = {"title": "Small", "source": "here", "licence": "free", "size": "6 B"}
    entry["files"] = {"small/train": hashlib.md5(content).hexdigest()}
    known = {"scenes": data.manifest()["scenes"], "small": entry}
    for module in ("camlib.data", "camlib.data.datasets", "camlib.doctor"):
        monkeypatch.setattr(f"{module}.manifest", lambda: known)
    file = tmp_path / "data/small/train"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_data_list_says_what_there_is(call, small_set):
    code, printed, _ = call("data list")
    assert code == 0
    assert "small: Small, 6 B, there; free; here" in printed
    small_set.unlink()
    assert "small: Small, 6 B, not there; free; here" in call("data list small")[1]


def test_data_check(call, small_set):
    code, printed, _ = call("data check")
    assert (code, printed) == (0, "scenes: complete\nsmall: complete\n")
    small_set.write_bytes(b"pixel")
    code, printed, _ = call("data check")
    assert code == 2
    assert re.search(r"PROBLEM small: incomplete or damaged: .*small/train is damaged: its md5", printed)
    small_set.unlink()
    code, printed, _ = call("data check")
    assert (code, printed) == (0, "scenes: complete\nsmall: not there: python -m camlib data get small\n")
    assert call("data check small")[0] == 2


def test_data_get_of_what_is_there_checks_it(call, small_set, tmp_path):
    assert call("data get small scenes")[:2] == (
        0,
        f"small: complete, in {tmp_path}/data\nscenes: complete, in {tmp_path}/data\n",
    )
    small_set.unlink()
    assert "Small is not in" in refused(call("data get small"))


def test_data_get_that_fails_is_one_line(call, monkeypatch, tmp_path):
    def unreachable(root, download):
        raise OSError("no route\nto the host")

    monkeypatch.setitem(data.datasets._TORCHVISION, "mnist", unreachable)
    complaint = refused(call("data get mnist"))
    assert f"mnist could not be fetched into {tmp_path}/data: no route to the host" in complaint


def test_doctor_finds_nothing_to_mend(call, small_set, monkeypatch, tmp_path):
    fake_runs(tmp_path / "records", "short", ce=[40, 41])
    monkeypatch.setattr("camlib.records.package_data", lambda name: tmp_path / name)
    version = f"torch {importlib.metadata.version('torch')}"
    code, printed, _ = call("doctor")
    assert code == 0
    for words in ("Python 3", "small: complete", "(CAMLIB_DATA)", "records: 2 in ", version):
        assert words in printed
    assert printed.endswith("nothing has to be mended\n")


def test_doctor_names_every_problem_with_its_remedy(call, small_set, monkeypatch, tmp_path):
    small_set.write_bytes(b"pixel")
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "cam-controls.jsonl").write_text("{}")
    monkeypatch.setattr("camlib.records.package_data", lambda name: tmp_path / name)
    code, printed, _ = call("doctor")
    assert code == 1
    problems = [line for line in printed.splitlines() if line.startswith("PROBLEM ")]
    assert len(problems) == 2
    assert "small/train is damaged" in problems[0]
    assert "Delete it and run" in problems[0]
    assert f"{folder}/cam-controls.jsonl, line 1 lacks table" in problems[1]
    assert printed.endswith("to mend: 2\n")


def test_the_module_runs_as_a_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["camlib", "list", "--records", "none"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(camlib.__main__.__file__, run_name="__main__")
    assert end.value.code == 0
    assert "cam-table-1: CAM-loss, Table 1" in capsys.readouterr().out
