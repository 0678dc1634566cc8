"""What the doctor finds: data, folder, accelerator, book."""

import importlib.util
import shutil

import pytest
import torch

from camlib import doctor
from camlib.names import UnknownName


@pytest.fixture(autouse=True)
def data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path))
    return tmp_path


def found(topic):
    return [finding for finding in doctor.examine() if finding.topic == topic]


def test_a_finding_reads_as_one_line():
    assert str(doctor.Finding("book", "there")) == "book: there"
    assert str(doctor.Finding("book", "not there", "make setup")) == "book: not there: make setup"
    assert str(doctor.Finding("data", "torn", "mend it", True)) == "PROBLEM data: torn: mend it"


def test_a_set_that_is_not_there_does_not_block():
    assert found("cifar100") == [doctor.Finding("cifar100", "not there", "python -m camlib data get cifar100")]
    assert not any(finding.blocks for finding in doctor.examine())


def test_a_set_of_which_a_file_is_missing_blocks(data_folder):
    (data_folder / "cifar-100-python").mkdir()
    (data_folder / "cifar-100-python/meta").write_bytes(b"")
    (finding,) = found("cifar100")
    assert finding.blocks
    assert "missing cifar-100-python/train, cifar-100-python/test" in finding.remedy


def test_sets_that_share_a_folder_are_there_each_by_itself(data_folder):
    birds = data_folder / "CUB_200_2011"
    (birds / "images/050.Eared_Grebe").mkdir(parents=True)
    assert found("cub50") == [doctor.Finding("cub50", "not there", "python -m camlib data get cub50")]
    for name in ("images.txt", "train_test_split.txt"):
        (birds / name).write_text("")
    (finding,) = found("cub50")
    assert finding.blocks
    assert "has 0 classes, expected 50" in finding.remedy
    assert [finding.text for finding in found("cub200")] == ["not there"]


def test_a_set_made_of_two_is_there_if_both_are(monkeypatch, data_folder):
    entries = {"birds": {"parts": ["birds"]}, "both": {"parts": ["things"], "novel": "birds"}}
    monkeypatch.setattr(doctor, "manifest", lambda: entries)
    (data_folder / "things").mkdir()
    assert not doctor.is_there("both")
    (data_folder / "birds").mkdir()
    assert doctor.is_there("both")
    (data_folder / "things").rmdir()
    assert not doctor.is_there("both")


def test_an_unknown_set_answers_with_the_nearest():
    with pytest.raises(UnknownName, match="no data set is called 'minst'; the nearest: mnist"):
        doctor.data_set("minst")


def test_a_data_folder_that_does_not_exist_blocks_only_if_it_was_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path / "nowhere"))
    assert [finding.blocks for finding in found("data folder")] == [True]
    monkeypatch.delenv("CAMLIB_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    (finding,) = found("data folder")
    assert not finding.blocks
    assert "CAMLIB_DATA is not set" in finding.text


def test_a_gpu_that_torch_cannot_see_is_pointed_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert found("accelerator")[0].remedy == ""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "install the build of torch" in found("accelerator")[0].remedy


def test_a_missing_book_builder_does_not_block(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (finding,) = found("book")
    assert finding.remedy.startswith("make setup")
    assert not finding.blocks


@pytest.mark.parametrize("name", ["mini_to_cub", "animals_trap"])
def test_a_set_made_of_another_that_is_not_there_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMLIB_DATA", str(tmp_path))
    assert not doctor.data_set(name).blocks
