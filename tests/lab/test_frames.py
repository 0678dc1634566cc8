"""Maps watched during training: all epochs of all arms, from the same first weights."""

import pytest
import torch
from samples import tiny

from camlib.lab import frames, presets


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames") / "some" / "scenes.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "quick", tiny)  # two epochs
        frames.record(path, preset="quick")
    return frames.read(path)


def test_there_is_a_frame_before_training_and_after_every_epoch(found):
    assert found.maps.shape == (len(frames.ARMS), 3, 2, 3, 8, 8)
    assert found.answers.shape == (len(frames.ARMS), 3, 3)
    assert found.maps.flatten(-2).amax(-1).min() >= 254, "each map is stretched"
    assert "commit" in found.made_by


def test_arms_begin_alike_and_part(found):
    ce, icasc = (found.maps[frames.ARMS.index(arm)] for arm in ("ce", "icasc"))
    assert torch.equal(ce[0], icasc[0])
    assert not torch.equal(ce[0], ce[1])
    assert not torch.equal(ce[2], icasc[2])


def test_watched_are_two_images_on_a_foreign_ground_and_one_on_its_own(found):
    scenes, watched = found.scenes, found.watched
    own = scenes.grounds[watched] == scenes.labels[watched] % len(scenes.ground_names)
    assert own.tolist() == [False, False, True]


def test_the_book_has_its_frames():
    """As many as the runs have epochs."""
    assert frames.read().maps.shape[1] == 13


def test_frames_lie_where_the_images_do():
    with torch.device("meta"):
        found = frames.read()
    assert {t.device.type for t in (found.scenes.images, found.watched, found.maps, found.answers)} == {"meta"}
