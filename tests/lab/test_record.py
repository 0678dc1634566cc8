"""Records: in and out of files, which of them count, and what makes two a pair."""

import fcntl
import json
import math
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import samples
import torch
from samples import record

from camlib.data import Loader
from camlib.lab import record as records
from camlib.lab.presets import PRESETS
from camlib.lab.runs import Run, canonical
from camlib.models import create
from camlib.names import UnknownName
from camlib.package_data import package_data

RUN = "cifar100/resnet56/ce"


def as_line(record):
    return json.loads(json.dumps(asdict(record)))


def seeds(folder):
    return [record.seed for record in records.load(RUN, folder)]


# In and out


def test_what_goes_in_comes_out(tmp_path):
    assert records.append(record(0.7, seed=3), tmp_path)
    assert records.append(record(0.8, seed=4), tmp_path)
    found = records.load(RUN, tmp_path)
    assert found[0] == record(0.7, seed=3, schedule=record().schedule | {"milestones": []})
    assert [r.metrics["accuracy"] for r in found] == [0.7, 0.8]
    assert records.path_of(RUN, tmp_path) == tmp_path / "cifar100/resnet56/ce.jsonl"


def test_a_run_without_a_file_has_no_records(tmp_path):
    assert records.load(RUN, tmp_path) == []
    assert records.counting(RUN, "paper", tmp_path) == {}
    assert not records.stored(Run(RUN), tmp_path)


def test_every_record_that_ships_with_camlib_is_valid_and_in_the_file_of_its_run():
    files = sorted(package_data("records").rglob("*.jsonl"))
    assert files
    for path in files:
        name = path.relative_to(package_data("records")).with_suffix("").as_posix()
        for preset in PRESETS:
            for made in records.counting(name, preset).values():
                assert canonical(Run(name, preset)) == Run(made.run, made.preset)


def test_an_unknown_run_answers_with_the_nearest(tmp_path):
    for read in (records.load, records.path_of):
        with pytest.raises(UnknownName, match=r"no run is called 'cifar100/resnet65/ce'.*cifar100/resnet56/ce"):
            read("cifar100/resnet65/ce")
    with pytest.raises(UnknownName, match=r"no preset is called 'papr'.*paper"):
        records.counting(RUN, "papr", tmp_path)


@pytest.mark.parametrize("field", [field.name for field in fields(records.Record)])
def test_a_record_without_a_field_or_with_another_type_is_refused(field):
    line = as_line(record())
    records.validate(line, "here")
    with pytest.raises(records.RecordError, match=f"here lacks {field}"):
        records.validate({name: value for name, value in line.items() if name != field}, "here")
    with pytest.raises(records.RecordError, match=rf"here: {field} is \(\), expected"):
        records.validate(line | {field: ()}, "here")


def test_a_field_that_no_record_has_is_refused():
    with pytest.raises(records.RecordError, match="here has what no record has, note"):
        records.validate(as_line(record()) | {"note": 1}, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": True}, "seed is True, expected int"),
        ({"seed": np.int64(1)}, "seed is .*1.*, expected int"),
        ({"epochs_done": 1}, "only 1 of 2 epochs are done"),
        ({"metrics": {"accuracy": math.nan}}, r"metrics\.accuracy is nan, expected a finite number"),
        ({"history": [{}, {"test_loss": math.inf}]}, r"history\.1\.test_loss is inf"),
        ({"run": "cifar100/resnet57/ce"}, "no run is called 'cifar100/resnet57/ce'.*resnet56"),
        ({"preset": "shrt"}, "no preset is called 'shrt'.*short"),
    ],
)
def test_a_record_that_cannot_be_is_refused(change, message):
    with pytest.raises(records.RecordError, match=f"here: {message}"):
        records.validate(as_line(record()) | change, "here")


def test_whole_seconds_are_a_float_too(tmp_path):
    assert records.append(replace(record(), wall_seconds=60), tmp_path)
    assert [r.wall_seconds for r in records.load(RUN, tmp_path)] == [60]


def test_refused_records_leave_no_file(tmp_path):
    for wrong in (
        record(math.nan),
        replace(record(), epochs_done=1),
        record(objective={"ce": {1, 2}}),
        record(run="../elsewhere"),
    ):
        with pytest.raises(records.RecordError, match="the new record"):
            records.append(wrong, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"run": "cifar', "is not JSON"),
        ("\0\0\0\0", "is not JSON"),
        ("<<<<<<< HEAD", "is not JSON"),
        ("[1, 2]", r"is \[1, 2\], expected an object"),
        ('{"run": "cifar100/resnet56/ce"}', "lacks metrics, best"),
        ('{"accuracy": NaN}', "lacks metrics"),
    ],
)
def test_a_broken_line_is_named_with_its_file_and_number(tmp_path, line, message):
    records.append(record(seed=0), tmp_path)
    path = records.path_of(RUN, tmp_path)
    with path.open("a") as stream:
        stream.write(f"\n{line}\n")  # after an empty line, which does no harm
    records.append(record(seed=1), tmp_path)
    with pytest.raises(records.RecordError, match=rf"{path}, line 3:? {message}"):
        records.load(RUN, tmp_path)
    path.write_text(path.read_text().replace(f"{line}\n", ""))
    assert seeds(tmp_path) == [0, 1]


def test_bytes_that_are_no_text_are_a_broken_line(tmp_path):
    path = records.path_of(RUN, tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"run": "\xff\xfe"}\n')
    with pytest.raises(records.RecordError, match=r"line 1 is not JSON"):
        records.load(RUN, tmp_path)


def test_a_number_that_json_does_not_know_is_refused_on_the_way_in(tmp_path):
    records.append(record(), tmp_path)
    path = records.path_of(RUN, tmp_path)
    path.write_text(path.read_text().replace("121.25", "NaN"))
    with pytest.raises(records.RecordError, match="line 1: wall_seconds is nan"):
        records.load(RUN, tmp_path)


def test_a_record_in_the_file_of_another_run_is_named(tmp_path):
    records.append(record(), tmp_path)
    records.path_of(RUN, tmp_path).rename(records.path_of("cifar100/resnet56/cam", tmp_path))
    with pytest.raises(records.RecordError, match="line 1 belongs to run 'cifar100/resnet56/ce': move it"):
        records.load("cifar100/resnet56/cam", tmp_path)


def test_a_last_line_without_its_end_does_not_spoil_the_next(tmp_path):
    records.append(record(seed=0), tmp_path)
    path = records.path_of(RUN, tmp_path)
    path.write_text(path.read_text().rstrip("\n"))
    records.append(record(seed=1), tmp_path)
    assert seeds(tmp_path) == [0, 1]


def test_the_same_run_is_recorded_once_a_new_run_of_the_same_seed_again(tmp_path):
    assert records.append(record(), tmp_path)
    again = replace(record(finished_at="2025-02-01T00:00:00+00:00"), wall_seconds=121.5, commit="1" * 40)
    assert not records.append(again, tmp_path)
    slower = replace(record(), history=[entry | {"seconds": 70.0} for entry in record().history])
    assert records.append(slower, tmp_path)
    assert len(records.load(RUN, tmp_path)) == 2


def test_processes_that_append_the_same_runs_at_once_write_each_once(tmp_path):
    together = samples.FORKS.Barrier(4)
    writers = [samples.FORKS.Process(target=samples.append_some, args=(tmp_path, together, 10)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert seeds(tmp_path) == list(range(10))


def test_append_waits_for_a_writer_that_is_in_the_middle_of_a_line(tmp_path):
    records.append(record(seed=0), tmp_path)
    path = records.path_of(RUN, tmp_path)
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
    assert seeds(tmp_path) == [0, 1, 2]


def test_a_full_disk_leaves_no_half_line(tmp_path):
    records.append(record(seed=0), tmp_path)
    path = records.path_of(RUN, tmp_path)
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


# Which count


def test_of_several_records_of_a_seed_the_one_finished_last_counts(tmp_path):
    records.append(record(0.70, finished_at="2025-03-01T00:00:00+00:00"), tmp_path)
    records.append(record(0.60, finished_at="2025-01-01T00:00:00+00:00"), tmp_path)
    records.append(record(0.50, seed=1), tmp_path)
    found = records.counting(RUN, "paper", tmp_path)
    assert {seed: r.metrics["accuracy"] for seed, r in found.items()} == {0: 0.70, 1: 0.50}


def test_presets_are_never_mixed(tmp_path):
    records.append(record(0.70, preset="paper"), tmp_path)
    records.append(record(0.50, preset="quick", seed=1), tmp_path)
    assert {preset: list(records.counting(RUN, preset, tmp_path)) for preset in PRESETS} == {
        "quick": [1],
        "short": [],
        "paper": [0],
    }
    assert records.stored(Run(RUN, "quick", 1), tmp_path)
    assert not records.stored(Run(RUN, "quick", 0), tmp_path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"schedule": {"epochs": 2, "learning_rate": 0.2, "new": 1}}, "schedule.learning_rate"),
        ({"data_checksum": {"train": "z", "test": "b"}}, "data_checksum"),
        ({"net": "resnet110"}, "net"),
        ({"start": "file.pt"}, "start"),
    ],
)
def test_runs_that_are_not_alike_have_no_common_mean(tmp_path, change, what):
    records.append(record(seed=0), tmp_path)
    records.append(record(seed=1, **change), tmp_path)
    with pytest.raises(records.RecordError, match=rf"seeds 0 and 1 at preset paper differ in {what}, so"):
        records.counting(RUN, "paper", tmp_path)


def test_a_schedule_that_learnt_a_field_agrees_with_the_older_ones(tmp_path):
    records.append(record(seed=0), tmp_path)
    records.append(record(seed=1, schedule=record().schedule | {"new": 1}), tmp_path)
    assert len(records.counting(RUN, "paper", tmp_path)) == 2


# Pairs


def fingerprint(gate=False, head="linear", seed=0, order=0, width=8):
    torch.manual_seed(seed)
    model = create("resnet8", 10, head=head, gate=gate)
    images = torch.arange(3 * 64 * width, dtype=torch.uint8).view(64, 3, 1, width)
    half = torch.full((3,), 0.5)
    loader = Loader(images, torch.arange(64) % 10, 10, 16, mean=half, std=half, shuffle=True, seed=order)
    return records.fingerprint(model, loader)


def test_a_part_that_a_method_adds_or_changes_does_not_keep_runs_apart():
    assert records.differences(fingerprint(), fingerprint()) == []
    assert records.differences(fingerprint(), fingerprint(gate=True)) == []
    assert records.differences(fingerprint(), fingerprint(head="no_bias")) == []
    assert fingerprint(gate=True)["weights"].keys() - fingerprint()["weights"].keys() == {"avgpool"}


def test_runs_with_other_weights_order_or_images_are_no_pair():
    assert records.differences(fingerprint(), fingerprint(order=1)) == ["order"]
    assert records.differences(fingerprint(), fingerprint(width=16)) == ["images"]
    others = records.differences(fingerprint(), fingerprint(seed=1))
    assert "initial weights of conv1" in others
    assert "initial weights of fc" in others
