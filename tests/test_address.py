"""The public address stands in pyproject.toml; `make address` has written it everywhere else."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("address", ROOT / "book/_tools/address.py")
address = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(address)

URL = address.current()
REPOSITORY, COLAB, PAGES = address.forms(*address.owner_and_name(URL))


@pytest.mark.parametrize(
    ("file", "form"),
    [
        ("README.md", REPOSITORY),
        ("README.md", COLAB),
        ("README.md", PAGES),
        ("CITATION.cff", REPOSITORY),
        ("book/_tools/setup-cell.txt", f"git+https://{REPOSITORY}@main"),
    ],
)
def test_file_carries_the_address(file, form):
    assert form in (ROOT / file).read_text("utf8"), "run `make address URL=…` with the address of pyproject.toml"


def test_book_carries_the_address():
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    assert config["repository"]["url"] == URL
    assert config["html"]["baseurl"] == f"https://{PAGES}/"


def test_no_file_carries_another_address_of_the_book():
    """Links to other repositories are fine; a Colab or installation link to one is a leftover."""
    ours = re.compile(
        r"(colab\.research\.google\.com/github/[\w.-]+/[\w.-]+)|git\+https://(github\.com/[\w.-]+/[\w.-]+)"
    )
    for path in address.text_files():
        for colab, install in ours.findall(path.read_text("utf8")):
            assert (colab or install) in {COLAB, REPOSITORY}, path


def test_address_must_be_a_repository():
    with pytest.raises(SystemExit, match="not of the form"):
        address.owner_and_name("https://example.org/book")
