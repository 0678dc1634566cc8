"""Training a plan: side by side, in order, through failures, and killed at any moment without a second record."""

import multiprocessing
import sys
import time

import pytest
import samples
import warm

from camlib.lab import plan, record, workers
from camlib.lab.plan import Job
from camlib.lab.runs import Run

RUNS = [Run(f"scenes/resnet8/{arm}", "quick") for arm in ("ce", "gate", "cam")]

# In place of camlib: says what a run would say, and writes down when it begins and ends.
STAND_IN = """
import os, pathlib, sys, time
here, arm = pathlib.Path(__file__).parent, sys.argv[2].split("/")[2]
with (here / "events").open("a") as events: events.write(f"begin {arm} {' '.join(sys.argv[3:])}\\n")
time.sleep(0.3)
print("step 1\\rstep 2\\rloss 0.5")
if (here / f"{arm} fails").exists(): sys.exit("ValueError: no such luck")
if (here / f"{arm} large").exists():
    events = (here / "events").read_text().split("\\n")
    begun, ended = ({e.split()[1] for e in events if e.startswith(word)} for word in ("begin", "end"))
    first = sum(event.startswith(f"begin {arm}") for event in events) == 1  # whoever else began so far
    if first or begun - ended != {arm}: sys.exit(75)
with (here / "events").open("a") as events: events.write(f"end {arm}\\n")
print("stopped after 1 of 2 epochs" if (here / f"{arm} stops").exists() else "finished: test accuracy 50.00%")
"""


@pytest.fixture
def stand_in(tmp_path):
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def train(jobs, **more):
        outcome = workers.train(
            jobs, ["--out", "there"], tmp_path / "out", camlib=(sys.executable, tmp_path / "stand_in.py"), **more
        )
        events = tmp_path / "events"
        return outcome, events.read_text().splitlines() if events.exists() else []

    return train


def jobs_of(*runs, needs=None):
    needs = needs or {}
    lent = {other for others in needs.values() for other in others}
    return [Job(run, "open", needs.get(run, ()), run in lent) for run in runs]


def order(events):
    return [" ".join(event.split()[:2]) for event in events]


# The order and the outcome, with a stand-in for camlib


def test_each_job_is_trained_by_its_command(stand_in, tmp_path):
    jobs = [Job(RUNS[0], "begun", (), True), Job(RUNS[1], "done", (), False)]
    outcome, events = stand_in(jobs)
    assert events == ["begin ce --preset quick --seed 0 --out there --lend", "end ce"]
    assert sorted(outcome.done) == sorted(RUNS[:2])
    said = (tmp_path / "out" / RUNS[0].path / "log.txt").read_text()
    assert said == "step 1\nstep 2\nloss 0.5\nfinished: test accuracy 50.00%\n"


@pytest.mark.parametrize(("side_by_side", "both"), [(1, False), (2, True)])
def test_as_many_side_by_side_as_asked(stand_in, side_by_side, both):
    outcome, events = stand_in(jobs_of(*RUNS), side_by_side=side_by_side)
    assert outcome.done == RUNS or both
    running = most = 0
    for event in order(events):
        running += 1 if event.startswith("begin") else -1
        most = max(most, running)
    assert most == side_by_side


def test_what_a_run_needs_ends_before_it_begins(stand_in):
    ce, gate, cam = RUNS
    _, events = stand_in(jobs_of(ce, gate, cam, needs={gate: (ce,)}), side_by_side=3)
    assert order(events).index("end ce") < order(events).index("begin gate")
    assert order(events).index("begin cam") < order(events).index("begin gate")  # it needs nothing


def test_a_run_that_fails_keeps_back_only_those_that_need_it(stand_in, tmp_path, capsys):
    ce, gate, cam = RUNS
    late = Run("scenes/resnet8/icasc", "quick")
    (tmp_path / "ce fails").touch()
    outcome, events = stand_in(jobs_of(ce, gate, late, cam, needs={gate: (ce,), late: (gate,)}))
    assert outcome.done == [cam]
    assert outcome.failed == {
        ce: "ValueError: no such luck",
        gate: "what it needs has failed",
        late: "what it needs has failed",
    }
    assert outcome.waiting == []
    assert order(events) == ["begin ce", "begin cam", "end cam"]
    said = capsys.readouterr()
    assert f"{ce.path}: FAILED (1): ValueError: no such luck" in said.out
    assert f"{cam.path}: begun\n{cam.path}: finished: test accuracy 50.00%\n" in said.out
    assert "\x1b" not in said.out + said.err
    assert said.err == ""


def test_out_of_memory_is_tried_again_with_fewer_neighbours(stand_in, tmp_path):
    (tmp_path / "gate large").touch()
    outcome, events = stand_in(jobs_of(*RUNS), side_by_side=3)
    assert sorted(outcome.done) == sorted(RUNS)
    assert outcome.failed == {}
    assert order(events).count("begin gate") >= 2
    assert order(events).count("begin cam") == order(events).count("begin ce") == 1


def test_out_of_memory_all_alone_is_a_failure(stand_in, tmp_path):
    (tmp_path / "gate large").touch()
    (tmp_path / "events").write_text("begin somebody\n")  # who never ends
    outcome, _ = stand_in(jobs_of(*RUNS), side_by_side=2)
    assert list(outcome.failed) == [RUNS[1]]
    assert sorted(outcome.done) == sorted([RUNS[0], RUNS[2]])


def test_when_the_time_is_up_no_run_is_begun(stand_in, tmp_path):
    ce, gate, cam = RUNS
    (tmp_path / "ce stops").touch()
    outcome, events = stand_in(jobs_of(ce, gate, cam, needs={gate: (ce,)}), time_limit=0.1)
    assert (outcome.stopped, outcome.done, outcome.waiting) == ([ce], [], [gate, cam])
    assert 0 < float(events[0].split("--time-limit ")[1]) <= 0.1
    outcome, events = stand_in(jobs_of(ce, gate, cam), time_limit=0)
    assert outcome.waiting == RUNS


# Real runs


@pytest.fixture(scope="module")
def train():
    """Train the plan by processes of `samples`, which do not have to import torch each by itself."""
    with warm.server("camlib.__main__") as command:

        def so(out, start=command, **more):
            jobs = plan.make(RUNS[:2], out, (out / "records",))
            options = ["--out", str(out), "--records", str(out / "records"), "--device", "cpu"]
            return workers.train(jobs, options, out, side_by_side=2, camlib=[*start, samples.__file__], **more)

        yield so


def results(out):
    found = {run: record.load(run.name, out / "records") for run in RUNS[:2]}
    assert all(len(records) == 1 for records in found.values()), "a run without a record, or with two"
    return {
        run: (r.metrics, [{k: v for k, v in e.items() if k != "seconds"} for e in r.history])
        for run, (r,) in found.items()
    }


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    outcome = train(out, start=[sys.executable])
    assert sorted(outcome.done) == sorted(RUNS[:2])
    assert outcome.failed == {}
    return results(out)


def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_records(train, undisturbed, tmp_path):
    """SIGKILL to the plan: as its runs begin, at their first checkpoint, as the first record is written."""
    folder = tmp_path / RUNS[1].path
    moments = (
        lambda: (folder / "log.txt").exists(),
        lambda: any(folder.glob("checkpoint-*.pt")),
        lambda: any((tmp_path / "records").rglob("*.jsonl")),
    )
    for moment in moments:
        process = multiprocessing.get_context("fork").Process(target=train, args=(tmp_path,))
        process.start()
        while process.is_alive() and not moment():
            time.sleep(0.005)
        process.kill()
        process.join()
    outcome = train(tmp_path)
    assert sorted(outcome.done) == sorted(RUNS[:2])
    assert results(tmp_path) == undisturbed
    assert [job.state for job in plan.make(RUNS[:2], tmp_path, (tmp_path / "records",))] == ["done", "done"]


def test_a_run_that_is_killed_fails_and_goes_on_when_asked_again(train, undisturbed, tmp_path, monkeypatch):
    started = workers._start

    def and_kill(run, *more):
        worker = started(run, *more)
        if run == RUNS[0]:
            while not any((tmp_path / run.path).glob("checkpoint-*.pt")):
                time.sleep(0.005)
            worker.process.kill()
        return worker

    monkeypatch.setattr(workers, "_start", and_kill)
    outcome = train(tmp_path)
    assert list(outcome.failed) == [RUNS[0]]
    assert outcome.done == [RUNS[1]]
    monkeypatch.undo()
    assert [job.state for job in plan.make(RUNS[:2], tmp_path, (tmp_path / "records",))] == ["begun", "done"]
    train(tmp_path)
    assert results(tmp_path) == undisturbed


def test_the_time_limit_stops_at_a_checkpoint(train, tmp_path):
    outcome = train(tmp_path, time_limit=0.01)
    assert sorted(outcome.stopped + outcome.waiting) == sorted(RUNS[:2])
    assert outcome.stopped
    assert all(any((tmp_path / run.path).glob("checkpoint-*.pt")) for run in outcome.stopped)
    assert not (tmp_path / "records").exists()
