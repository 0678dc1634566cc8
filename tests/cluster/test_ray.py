"""A plan on a Ray cluster of this machine, two workers: `make test-ray`."""

import pytest
import ray
import samples

from camlib.lab import on_ray, plan, record
from camlib.lab.runs import Run

STUDENTS = [Run(f"cifar100/resnet8/{arm}_from_resnet20", "quick") for arm in ("kd", "at")]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def train(out, runs, **more):
    jobs = plan.make(runs, out, (out / "records",))
    options = ["--out", str(out), "--records", str(out / "records"), "--device", "cpu"]
    return jobs, on_ray.train(jobs, options, out, camlib=(samples.__file__,), **more)


def test_a_teacher_first_then_its_students_side_by_side_each_recorded_once(tmp_path):
    jobs, outcome = train(tmp_path, STUDENTS)
    assert len(jobs) == 3
    assert sorted(outcome.done) == sorted(job.run for job in jobs)
    assert (outcome.failed, outcome.stopped, outcome.waiting) == ({}, [], [])
    again, _ = train(tmp_path, STUDENTS)
    assert [job.state for job in again] == ["done", "done"]  # and what they needed nobody needs any more
    assert [len(record.load(job.run.name, tmp_path / "records")) for job in jobs] == [1, 1, 1]
    ended = {job.run: record.load(job.run.name, tmp_path / "records")[0].finished_at for job in jobs}
    assert all(ended[job.run] > ended[other] for job in jobs for other in job.needs)


def test_a_failure_keeps_back_what_needs_it_alone(tmp_path):
    teacher = plan.make(STUDENTS, tmp_path, ())[0].run
    (tmp_path / teacher.path / "checkpoint-0001.pt").mkdir(parents=True)  # no file: it cannot go on
    free = Run("scenes/resnet8/gate", "quick")
    _, outcome = train(tmp_path, [*STUDENTS, free])
    assert outcome.done == [free]
    assert outcome.failed.keys() == {teacher, *STUDENTS}
    assert {outcome.failed[run] for run in STUDENTS} == {"what it needs has failed"}


def test_when_the_time_is_up_nothing_is_begun(tmp_path):
    jobs, outcome = train(tmp_path, STUDENTS, time_limit=0)
    assert sorted(outcome.waiting) == sorted(job.run for job in jobs)
