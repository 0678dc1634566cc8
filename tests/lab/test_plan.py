"""Plans: from what is asked for to trainings, each once, what they need first, and how far they are."""

from pathlib import Path

import pytest
import samples

from camlib.lab import plan, record, weights
from camlib.lab.plan import Job, make, select, shard, wanted
from camlib.lab.runs import RUNS, Run, canonical
from camlib.lab.tables import TABLES
from camlib.names import UnknownName

STUDENT, TEACHER = "cifar100/wrn16_4/kd_from_wrn28_4", "cifar100/wrn28_4/ce"


def paths(jobs):
    return [job.run.path for job in jobs]


@pytest.fixture
def recorded(tmp_path):
    """Records a run as finished; its net can be kept too."""

    def keep(name, seed=0, net=False):
        record.append(samples.record(run=name, seed=seed), tmp_path / "records")
        if net:
            path = weights.path_of(Run(name, "paper", seed), tmp_path / "weights")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return keep


@pytest.fixture
def make_here(tmp_path):
    return lambda *names, seeds=(0,): make(
        [Run(name, "paper", seed) for seed in seeds for name in names], tmp_path, (tmp_path / "records",)
    )


# What is asked for


def test_a_table_a_row_a_run_and_globs():
    assert select(["cam-table-1"]) == list(TABLES["cam-table-1"].runs)
    assert select(["cam-table-1/resnet56"]) == ["cifar100/resnet56/ce", "cifar100/resnet56/cam"]
    assert select(["scenes/resnet8/icasc"]) == ["scenes/resnet8/icasc"]
    assert select(["cifar100/resnet20/cam_t?_c1"]) == ["cifar100/resnet20/cam_t0_c1"]
    assert select(["cam-table-5/*s"]) == select(["cam-table-5/stanford_dogs", "cam-table-5/scenes"])
    whole = [run for table in ("cc-table-1", "cc-table-2", "cc-table-3") for run in TABLES[table].runs]
    assert select(["cc-table-1", "cc-table-2", "cc-table-3"]) == list(dict.fromkeys(whole))


def test_numbers_that_the_paper_only_cites_have_no_training():
    assert select(["icasc-table-7"]) == [
        f"cub200_icasc/{net}/{arm}" for net in ("resnet50", "resnet101") for arm in ("ce", "icasc_grad_cam", "icasc")
    ]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("cam-tabel-1", "no table or run is called 'cam-tabel-1'; the nearest: .*cam-table-1"),
        ("scenes/resnet8/icas", "no table or run is called 'scenes/resnet8/icas'; the nearest: .*scenes/resnet8/icasc"),
        ("cam-table-1/resnet65", "no row of cam-table-1 is called 'resnet65'; the nearest: .*resnet56"),
        ("cifar1000/*", r"nothing is called like 'cifar1000/\*'"),
    ],
)
def test_what_is_nothing_answers_with_the_nearest(name, answer):
    with pytest.raises(UnknownName, match=answer):
        select(["cam-table-1", name])


def test_what_the_book_wants_exists_and_each_run_is_wanted_once():
    runs = wanted()
    assert len(set(runs)) == len(runs) > 100
    assert all(canonical(run) == run and run.name in RUNS for run in runs)


# Jobs


def test_two_tables_that_ask_for_one_experiment_train_it_once(make_here):
    """Tables 1 and 4 share ResNet-56; at `short` ResNet-56 and ResNet-20 are one."""
    names = select(["cam-table-1/resnet56", "cam-table-4/resnet56", "cam-controls/resnet56"])
    jobs = make_here(*names, *names)
    assert len(set(paths(jobs))) == len(jobs) == len(names)
    both = [Run(f"cifar100/{net}/cam", "short") for net in ("resnet56", "resnet20")]
    assert paths(make(both, Path("none"), ())) == ["cifar100/resnet20/cam/short/seed-0"]


def test_what_a_run_needs_stands_before_it(make_here):
    jobs = make_here(STUDENT, "stanford_dogs/resnet50/ce_from_cam", TEACHER, seeds=(0, 1))
    place = {job.run: i for i, job in enumerate(jobs)}
    assert len(place) == len(jobs)
    assert all(place[other] < place[job.run] for job in jobs for other in job.needs)
    needs = {job.run: job.needs for job in jobs if job.needs}
    assert needs[Run(STUDENT, "paper", 1)] == (Run(TEACHER, "paper", 0),)  # one teacher for all seeds
    start = "imagenet/resnet50/cam"
    assert needs[Run("stanford_dogs/resnet50/ce_from_cam", "paper", 1)] == (Run(start, "paper", 1),)
    assert {job.run for job in jobs if job.lends} == {Run(TEACHER), Run(start), Run(start, "paper", 1)}


def test_done_begun_and_open(make_here, recorded, tmp_path):
    recorded("scenes/resnet8/ce")
    (tmp_path / Run("scenes/resnet8/cam").path).mkdir(parents=True)
    (tmp_path / Run("scenes/resnet8/cam").path / "checkpoint-0003.pt").touch()
    (tmp_path / Run("scenes/resnet8/icasc").path).mkdir(parents=True)
    jobs = make_here("scenes/resnet8/ce", "scenes/resnet8/cam", "scenes/resnet8/icasc")
    assert [job.state for job in jobs] == ["done", "begun", "open"]
    assert [job.state for job in make_here("scenes/resnet8/ce", seeds=(0, 1))] == ["done", "open"]


def test_a_teacher_is_done_when_its_net_is_there(make_here, recorded):
    recorded(TEACHER)
    assert [job.state for job in make_here(TEACHER, STUDENT)] == ["open", "open"]
    recorded(TEACHER, net=True)
    assert make_here(TEACHER, STUDENT) == [
        Job(Run(TEACHER), "done", (), True),
        Job(Run(STUDENT), "open", (Run(TEACHER),), False),
    ]
    assert [job.state for job in make_here(STUDENT)] == ["done", "open"]


def test_what_nobody_needs_any_more_is_not_trained(make_here, recorded):
    """Its student is done: whether the teacher's net is still there does not matter."""
    recorded(STUDENT)
    assert make_here(STUDENT) == [Job(Run(STUDENT), "done", (), False)]
    recorded(TEACHER)
    assert [job.state for job in make_here(STUDENT, TEACHER)] == ["done", "done"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_shards_are_the_plan_each_job_once(make_here, count):
    jobs = make_here(*select(["cam-table-1", "cam-table-7"]), seeds=(0, 1))
    parts = [shard(jobs, number, count) for number in range(count)]
    assert sorted(paths(job for part in parts for job in part)) == sorted(paths(jobs))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_an_unknown_preset(tmp_path):
    with pytest.raises(UnknownName, match="no preset is called 'papper'"):
        plan.make([Run("scenes/resnet8/ce", "papper")], tmp_path)


def test_behind_a_student_stands_its_teacher_once():
    students = [Run(f"cifar100/resnet8/{arm}_from_resnet20", "short", 1) for arm in ("kd", "at")]
    teacher = Run("cifar100/resnet20/ce", "short", 0)
    assert plan.behind(students) == [teacher, *students]
