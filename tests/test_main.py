"""The command line, as a user meets it: what it prints, what it writes, how it refuses."""

import hashlib
import importlib.metadata
import os
import pickle
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import samples
import torch

import camlib.__main__
from camlib import data
from camlib.__main__ import main
from camlib.lab import cost, packing, presets, runs, workers
from camlib.lab import record as records
from camlib.lab.experiment import call as call_
from camlib.lab.run import run
from camlib.lab.tables import TABLES
from camlib.losses import CrossEntropy

RUN = "scenes/resnet8/cam"


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Small runs without a progress bar, no real data, and an empty working folder."""
    monkeypatch.setitem(presets.PRESETS, "quick", samples.tiny)
    runs._names.cache_clear()
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
    code, printed, complaint = call(f"run {RUN} --seed 3")
    assert (code, complaint) == (0, "")
    announcement, result = printed.splitlines()
    folder = f"runs/{RUN}/quick/seed-3"
    assert announcement == (
        f"{RUN}/quick/seed-3: resnet8 on scenes for 2 epochs, on cpu; checkpoints in {folder}; from the start"
    )
    assert re.fullmatch(rf"finished: test accuracy \d+\.\d\d%; recorded in runs/records/{RUN}\.jsonl", result)
    (made,) = records.load(RUN, tmp_path / "runs/records")
    assert (made.preset, made.seed) == ("quick", 3)
    assert list((tmp_path / folder).glob("*.pt"))


def test_run_again_after_the_end_adds_nothing_and_says_so(call):
    call(f"run {RUN}")
    code, printed, _ = call(f"run {RUN}")
    assert code == 0
    assert "going on from checkpoint-0002-000000.pt" in printed
    assert "recorded already; nothing was added" in printed
    assert len(records.load(RUN, Path("runs/records"))) == 1


def test_run_stops_at_the_time_limit_and_goes_on(call):
    code, printed, _ = call(f"run {RUN} --time-limit 0")
    assert code == 0
    assert printed.endswith("stopped after 0 of 2 epochs; the same command goes on\n")
    assert not Path("runs/records").exists()
    code, printed, _ = call(f"run {RUN}")
    assert "going on from checkpoint-0000-000001.pt" in printed
    assert len(records.load(RUN, Path("runs/records"))) == 1


def test_a_run_that_was_stopped_after_an_epoch_is_not_recorded(call):
    """It has a result already, but not the one that was asked for."""
    for _ in range(3):
        code, printed, complaint = call(f"run {RUN} --time-limit 0")
        assert (code, complaint) == (0, "")
    assert printed.endswith("stopped after 1 of 2 epochs; the same command goes on\n")
    assert not Path("runs/records").exists()


def test_run_puts_checkpoints_and_record_where_it_is_told(call, tmp_path):
    code, printed, _ = call(f"run {RUN} --out {tmp_path}/here --records {tmp_path}/there --device cpu")
    assert code == 0
    assert f"recorded in {tmp_path}/there/{RUN}.jsonl" in printed
    assert list((tmp_path / "here").rglob("*.pt"))
    assert not Path("runs").exists()


def test_run_with_another_schedule_is_refused_with_the_difference(call, monkeypatch):
    call(f"run {RUN}")
    monkeypatch.setitem(presets.PRESETS, "quick", lambda experiment: samples.tiny(experiment).lasting(3))
    complaint = refused(call(f"run {RUN}"))
    assert "belongs to another run: " in complaint
    assert "schedule.epochs was 2, now 3" in complaint
    assert "Choose another folder" in complaint


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run scenes/resnet8/kam", "no run is called 'scenes/resnet8/kam'; the nearest: scenes/resnet8/cam"),
        ("run resnet20", "no run is called 'resnet20'"),
        (f"run {RUN} --preset quikc", "no preset is called 'quikc'; the nearest: quick"),
        ("run cifar100/resnet20/ce --preset short", "CIFAR-100 is not in"),
        ("table nope", "no table is called 'nope'; there are cam-table-1, cam-table-2"),
        ("plan", "say what to plan"),
        ("plan cam-table-1 --wanted", "say what to plan"),
        ("plan cam-table-12", "no table or run is called 'cam-table-12'; the nearest: cam-table-"),
        ("plan cam-table-1/resnet65", "no row of cam-table-1 is called 'resnet65'; the nearest: resnet56"),
        ("plan scenes/*/kam*", "nothing is called like 'scenes/*/kam*'"),
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
        (f"run {RUN} --seed one", "'one' is not a number from 0 on"),
        (f"run {RUN} --seed -1", "'-1' is not a number from 0 on"),
        (f"run {RUN} --time-limit nan", "'nan' is not a number from 0 on"),
        (f"run {RUN} --device gpu", "no device is called 'gpu'; this machine has cpu"),
        (f"run {RUN} --device cuda:99", "'cuda:99' cannot be used: "),
        (f"run {RUN} --device meta", "'meta' cannot be used: "),
        ("plan cam-table-1 --seeds a", "'a' names no seeds: pass a range as 0-4"),
        ("plan cam-table-1 --shard 2/2", "'2/2' names no part of a plan"),
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
    assert "nothing can be written to runs: " in refused(call(f"run {RUN}"))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pickle.dumps(print)])
def test_a_start_that_is_no_file_of_weights_is_an_error_of_one_line(call, content):
    Path("start.pt").write_bytes(content)
    assert "start.pt cannot be read as weights" in refused(call(f"run {RUN} --start start.pt"))
    assert "no-such" in refused(call(f"run {RUN} --start no-such.pt"))


def test_a_run_that_asks_for_too_much_memory_ends_with_a_code_of_its_own(call, monkeypatch):
    def large(*arguments, **options):
        raise torch.OutOfMemoryError("tried to allocate 90 GiB\nof 8")

    monkeypatch.setattr("camlib.__main__.run", large)
    code, _, complaint = call(f"run {RUN}")
    assert code == workers.OUT_OF_MEMORY
    assert complaint == f"{RUN}/quick/seed-0: tried to allocate 90 GiB of 8\n"


def test_a_name_that_is_another_runs_at_this_preset_is_told(call):
    printed = call(f"run {RUN} --preset short --time-limit 0")[1]
    assert printed.startswith(f"{RUN}/paper/seed-0: {RUN}/short/seed-0 is this run. resnet8 on scenes for 12 epochs")


def test_a_loss_that_is_not_finite_is_an_error_of_one_line(call, monkeypatch):
    def heavy(experiment):
        return replace(samples.tiny(experiment), terms={"ce": (float("inf"), call_(CrossEntropy))})

    monkeypatch.setitem(presets.PRESETS, "quick", heavy)
    complaint = refused(call(f"run {RUN}"))
    assert "the loss is inf at epoch 0, step 0" in complaint


def test_a_fault_of_camlib_keeps_its_traceback(call, monkeypatch):
    def faulty(*arguments, **options):
        raise ValueError("a bug")

    monkeypatch.setattr("camlib.__main__.run", faulty)
    with pytest.raises(ValueError, match="a bug"):
        call(f"run {RUN}")


def test_an_interrupt_says_how_to_go_on(call, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("camlib.__main__.run", interrupted)
    code, _, complaint = call(f"run {RUN}")
    assert code == 130
    assert complaint == "interrupted; the same command goes on from the last checkpoint, if there is one\n"


def test_under_torchrun_one_process_speaks_and_records(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, samples.__file__, "run", RUN],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"{RUN}/quick/seed-0", "finished"]
    (made,) = records.load(RUN, tmp_path / "runs/records")
    assert made.processes == 2


# plan


def test_a_plan_shows_each_training_once_with_its_cost_and_the_sum(call, monkeypatch):
    monkeypatch.setattr("camlib.__main__.cost.of_run", lambda *_: cost.Cost(120.0, 2**30, 2**20, "records"))
    code, printed, _ = call("plan cam-controls/resnet20 cam-table-1/resnet20 --preset short --seeds 0-1 --jobs 2")
    assert code == 0
    lines = [line.split() for line in printed.splitlines()]
    names = [line[0] for line in lines if line and "/seed-" in line[0]]
    assert len(set(names)) == len(names) == 2 * 6
    assert "12 runs, 0 done, 12 left: 24 min of work on" in printed
    assert "12 min with 2 side by side" in printed


def test_on_an_accelerator_a_plan_measures_how_many_runs_get_most_done_together(call, monkeypatch):
    """Four side by side, of which no more than are left, and not four times as fast; unless --jobs says how many."""
    asked = []

    def best(run, device, out, most):
        asked.append((device.type, most))
        return packing.Packing(4, 2.5)

    monkeypatch.setattr("camlib.__main__.packing.best", best)
    monkeypatch.setattr("camlib.__main__._device", torch.device)
    monkeypatch.setattr("camlib.__main__.torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("camlib.__main__.cost.of_run", lambda *_: cost.Cost(600.0, 2**30, 2**20, "records"))
    monkeypatch.setattr("camlib.__main__.device_name", str)
    _, printed, _ = call(f"plan {RUN} --preset quick --seeds 0-4")
    assert "50 min of work on cuda, 20 min with 4 side by side" in printed
    _, printed, _ = call(f"plan {RUN} --preset quick --seeds 0-4 --jobs 2")
    assert "25 min with 2 side by side" in printed
    _, printed, _ = call(f"plan {RUN} --preset quick")
    assert "10 min with 1 side by side" in printed
    assert asked == [("cuda", 5)]


def test_a_plan_shows_what_a_run_needs_before_it(call, monkeypatch):
    monkeypatch.setattr("camlib.__main__.cost.of_run", lambda *_: cost.Cost(120.0, 2**30, 2**20, "records"))
    printed = call("plan cifar100/resnet8/ccm_from_resnet20 --preset short --seeds 3")[1]
    teacher, student = (line for line in printed.splitlines() if "/seed-" in line)
    assert teacher.startswith("cifar100/resnet20/ce/short/seed-0")
    assert student.endswith("cifar100/resnet20/ce/short/seed-0")


# list and table


def fake_runs(folder, preset, net="resnet20", **errors):
    for arm, values in errors.items():
        for seed, error in enumerate(values):
            made = samples.record(1 - error / 100, run=f"cifar100/{net}/{arm}", preset=preset, seed=seed)
            assert records.append(made, folder)


def test_list_shows_every_table(call, tmp_path):
    fake_runs(tmp_path / "some", "short", ce=[40, 41])
    code, printed, _ = call("list --records some")
    assert code == 0
    for table in TABLES.values():
        assert f"{table.name}: {table.title}\n" in printed
    assert "9 rows, 2 columns; 1 of 18 runs behind them have records" in printed


def test_list_of_a_table_shows_each_number_with_its_run(call, tmp_path):
    fake_runs(tmp_path / "some", "short", ce=[40, 41])
    fake_runs(tmp_path / "some", "paper", ce=[30])
    code, printed, _ = call("list cam-table-1 --records some")
    assert code == 0
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in printed.splitlines() if line}
    assert lines["resnet20/ce"] == "cifar100/resnet20/ce: short 2, paper 1"
    assert lines["resnet20/cam"] == "cifar100/resnet20/cam: not run"
    assert "cifar100/resnet20/ce: short 2, paper 1" in call("list cam-controls --records some")[1]


def test_list_names_a_number_that_the_paper_only_cites(call):
    printed = call("list icasc-table-7 --records none")[1]
    assert re.search(r"^racnn/ce +no run of ours; the paper cites Sun et al. 2018$", printed, re.MULTILINE)


def test_table_shows_paper_ours_and_the_verdicts(call, tmp_path):
    errors = {"ce": [29.0, 29.1, 28.9, 29.0, 29.0], "cam": [27.5, 27.6, 27.5, 27.4, 27.5]}
    fake_runs(tmp_path / "some", "paper", net="resnet56", **errors)
    code, printed, _ = call("table cam-table-1 --records some")
    assert code == 0
    assert re.search(r"^ResNet-56 +CE loss +28\.80  29\.00 ± 0\.07 \(5\)$", printed, re.MULTILINE)
    assert re.search(r"^ResNet-56 +CAM-loss +27\.34  27\.50 ± 0\.07 \(5\)$", printed, re.MULTILINE)
    assert re.search(r"^ResNet-20.* +CAM-loss +–  not run$", printed, re.MULTILINE)
    assert "ResNet-56, CAM-loss: reproduced.\n  Over 5 paired seeds the error is 1.50" in printed


def test_table_points_to_runs_at_other_presets(call, tmp_path):
    fake_runs(tmp_path / "some", "short", ce=[40], cam=[39])
    assert (
        "There are runs at other presets: short. See them with --preset." in call("table cam-table-1 --records some")[1]
    )
    printed = call("table cam-table-1 --records some --preset short")[1]
    assert "too few seeds" in printed
    assert "Short protocol, not a reproduction." in printed
    assert "other presets" not in printed


@pytest.mark.parametrize("command", ["list", "list cam-table-1", "table cam-table-1"])
def test_a_broken_record_is_named_with_its_line(call, tmp_path, command):
    path = records.path_of("cifar100/resnet56/ce", tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text('\n{"run": "cifar')
    assert f"{path}, line 2 is not JSON" in refused(call(f"{command} --records {tmp_path}"))


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
    monkeypatch.setattr("camlib.lab.record.package_data", lambda name: tmp_path / name)
    version = f"torch {importlib.metadata.version('torch')}"
    code, printed, _ = call("doctor")
    assert code == 0
    for words in ("Python 3", "small: complete", "(CAMLIB_DATA)", "records: 2 of ", version):
        assert words in printed
    assert printed.endswith("nothing has to be mended\n")


def test_doctor_names_every_problem_with_its_remedy(call, small_set, monkeypatch, tmp_path):
    small_set.write_bytes(b"pixel")
    path = records.path_of("cifar100/resnet56/ce", tmp_path / "records")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    monkeypatch.setattr("camlib.lab.record.package_data", lambda name: tmp_path / name)
    code, printed, _ = call("doctor")
    assert code == 1
    problems = [line for line in printed.splitlines() if line.startswith("PROBLEM ")]
    assert len(problems) == 2
    assert "small/train is damaged" in problems[0]
    assert "Delete it and run" in problems[0]
    assert f"{path}, line 1 lacks metrics" in problems[1]
    assert printed.endswith("to mend: 2\n")


def test_the_module_runs_as_a_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["camlib", "list", "--records", "none"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(camlib.__main__.__file__, run_name="__main__")
    assert end.value.code == 0
    assert "cam-table-1: CAM-loss, Table 1" in capsys.readouterr().out
