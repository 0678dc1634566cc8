import errno
import io
import os
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch

from camlib.train import checkpoint

WEIGHT = torch.arange(100.0)


def write(folder, *epochs):
    """One checkpoint for each epoch; returns their files."""
    return [checkpoint.save({"epoch": epoch, "weight": WEIGHT + epoch}, folder, epoch, 0) for epoch in epochs]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip_a_byte_of_the_tensor(path):
    content = bytearray(path.read_bytes())
    content[content.index((WEIGHT + 2).numpy().tobytes()) + 150] ^= 1
    path.write_bytes(content)


def cut_in_half(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def put_code_in(path):
    torch.save({"epoch": 2, "weight": shutil.rmtree}, path)


def test_the_last_state_comes_back(tmp_path):
    write(tmp_path / "new" / "folder", 1, 2)
    state = checkpoint.load_last(tmp_path / "new" / "folder")
    assert state["epoch"] == 2
    torch.testing.assert_close(state["weight"], WEIGHT + 2, rtol=0, atol=0)


def test_later_means_by_epoch_then_step(tmp_path):
    for epoch, step in [(2, 150), (2, 1000), (10, 0)]:
        checkpoint.save({"at": (epoch, step)}, tmp_path, epoch, step)
        assert checkpoint.load_last(tmp_path)["at"] == (epoch, step)


def test_the_last_two_are_kept(tmp_path):
    write(tmp_path, 1, 2, 3, 4)
    assert names(tmp_path) == ["checkpoint-0003-000000.pt", "checkpoint-0004-000000.pt"]


def test_nothing_there_is_none(tmp_path):
    assert checkpoint.load_last(tmp_path) is None
    assert checkpoint.load_last(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", [flip_a_byte_of_the_tensor, cut_in_half, empty, put_code_in])
def test_a_damaged_one_is_named_and_the_one_before_it_used(tmp_path, damage):
    _, last = write(tmp_path, 1, 2)
    damage(last)
    with pytest.warns(UserWarning, match=f"{last.name} is damaged"):
        state = checkpoint.load_last(tmp_path)
    assert state["epoch"] == 1
    torch.testing.assert_close(state["weight"], WEIGHT + 1, rtol=0, atol=0)


def test_no_flipped_bit_changes_what_is_read(tmp_path):
    (path,) = write(tmp_path, 1)
    content = path.read_bytes()
    noticed = 0
    for position in range(0, len(content), 5):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        try:
            state = checkpoint._read(io.BytesIO(changed))
        except Exception:
            noticed += 1
        else:  # a byte of padding
            assert state["epoch"] == 1
            assert torch.equal(state["weight"], WEIGHT + 1)
    assert noticed > 100


def test_all_damaged_is_an_error(tmp_path):
    for path in write(tmp_path, 1, 2):
        cut_in_half(path)
    with (
        pytest.warns(UserWarning, match=r"checkpoint-0001.* is damaged"),
        pytest.warns(UserWarning, match=r"checkpoint-0002.* is damaged"),
        pytest.raises(OSError, match=f"no checkpoint in {tmp_path} can be read"),
    ):
        checkpoint.load_last(tmp_path)


def test_a_damaged_one_does_not_outlive_the_next_save(tmp_path):
    good, bad = write(tmp_path, 1, 3)
    empty(bad)
    (new,) = write(tmp_path, 2)
    assert names(tmp_path) == [good.name, new.name]


def test_a_file_left_half_written_does_not_disturb(tmp_path):
    (tmp_path / "checkpoint.part").write_bytes(b"half of a")
    assert checkpoint.load_last(tmp_path) is None
    write(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-0001-000000.pt"]


@pytest.fixture
def small_files_only():
    """The system refuses, with a true error of writing, to let a file grow beyond 4000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_cannot_be_written_leaves_the_earlier_ones_whole(tmp_path, small_files_only):
    write(tmp_path, 1, 2)
    with pytest.raises(OSError, match=r"checkpoint-0003-000000.pt could not be written: .*too large") as error:
        checkpoint.save({"weight": torch.zeros(2000)}, tmp_path, 3, 0)
    assert "still there: checkpoint-0001-000000.pt, checkpoint-0002-000000.pt" in str(error.value)
    assert names(tmp_path) == ["checkpoint-0001-000000.pt", "checkpoint-0002-000000.pt"]
    assert checkpoint.load_last(tmp_path)["epoch"] == 2


def test_a_disk_that_is_full_only_when_the_file_is_flushed(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-0001-000000.pt"]


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(pickle.UnpicklingError, match="Unsupported"):
        checkpoint.save({"version": torch.__version__}, tmp_path, 2, 0)
    assert names(tmp_path) == ["checkpoint-0001-000000.pt"]


def test_a_file_appears_under_its_name_only_when_whole(tmp_path, monkeypatch):
    seen = []

    def replace(part, path):
        seen.append((names(tmp_path), torch.load(part, weights_only=True)["epoch"]))
        os.replace(part, path)

    monkeypatch.setattr(Path, "replace", replace)
    write(tmp_path, 7)
    assert seen == [(["checkpoint.part"], 7)]


def test_remove_takes_checkpoints_and_nothing_else(tmp_path):
    write(tmp_path, 1, 2)
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.remove(tmp_path)
    assert names(tmp_path) == ["notes.txt"]
