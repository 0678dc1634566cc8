"""data/backbones.json, the table of the page on backbones: complete, and what it says of a few nets still holds."""

import backbones
import pytest
import timm
import torch
import torchvision

ENTRIES = backbones.entries()
# A sample of what differs: the whole sweep takes a quarter of an hour, `python tests/oracles/backbones.py`.
SAMPLE = ("resnetv2", "mobilenetv3", "tresnet", "mlp_mixer", "pit", "squeezenet", "shufflenetv2", "vgg")


def test_every_family_has_its_line():
    found = {library: {e["family"] for e in ENTRIES if e["library"] == library} for library in ("timm", "torchvision")}
    assert found["timm"] == set(timm.list_modules())
    names = torchvision.models.list_models(torchvision.models)
    assert found["torchvision"] == {
        torchvision.models.get_model_builder(name).__module__.rpartition(".")[2] for name in names
    }


def test_nine_of_ten_families_that_average_are_observed():
    averaging = [entry for entry in ENTRIES if entry["averages"]]
    assert sum(entry["observed"] for entry in averaging) >= 0.9 * len(averaging)
    assert not any(entry["observed"] for entry in ENTRIES if not entry["averages"])


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if e["family"] in SAMPLE], ids=lambda entry: f"{entry['library']} {entry['family']}"
)
def test_the_table_still_holds(entry, group):
    assert entry == entry | backbones.look_at(entry)
