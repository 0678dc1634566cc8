"""Address and version stand in pyproject.toml; `make address` and `make version` have written them everywhere else."""

import re
import shutil
from pathlib import Path

import address
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
URL = address.current()
REPOSITORY, COLAB, PAGES = address.forms(*address.owner_and_name(URL))
TAG = f"v{address.project()['version']}"


@pytest.mark.parametrize(
    ("file", "form"),
    [
        ("README.md", REPOSITORY),
        ("README.md", f"{COLAB}/blob/{TAG}/"),
        ("README.md", PAGES),
        ("CITATION.cff", REPOSITORY),
        ("book/_tools/setup-cell.txt", f"git+https://{REPOSITORY}@{TAG}"),
    ],
)
def test_file_carries_the_address(file, form):
    assert form in (ROOT / file).read_text("utf8"), "run `make address URL=…` with the address of pyproject.toml"


def test_book_carries_the_address():
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    assert config["repository"]["url"] == URL
    assert config["repository"]["branch"] == TAG, "the Colab buttons open the chapters of the tag"
    assert config["html"]["baseurl"] == f"https://{PAGES}/"


def test_no_file_carries_another_address_of_the_book():
    """Links to other repositories are fine; a Colab or installation link to one is a leftover."""
    ours = re.compile(
        r"(colab\.research\.google\.com/github/[\w.-]+/[\w.-]+)|git\+https://(github\.com/[\w.-]+/[\w.-]+)"
    )
    for path in address.text_files():
        for colab, install in ours.findall(path.read_text("utf8")):
            assert (colab or install) in {COLAB, REPOSITORY}, path


@pytest.mark.parametrize(("kind", "new"), [("address", "https://example.org/book"), ("version", "v0.2")])
def test_what_is_written_has_a_form(kind, new):
    with pytest.raises(SystemExit, match="not of the form"):
        address.changes(kind, new)


def test_a_new_version_and_address_reach_every_place(tmp_path, monkeypatch, capsys):
    for name in ("pyproject.toml", "CITATION.cff", "_config.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    chapter = tmp_path / "book/chapter.ipynb"
    chapter.parent.mkdir()
    shutil.copy(ROOT / "book/1-foundations/10-class-activation-maps.ipynb", chapter)
    monkeypatch.setattr(address, "ROOT", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 12.3.4\n")
    with pytest.raises(SystemExit, match=r"CHANGELOG\.md has no section '## 12\.3\.5'"):
        address.write("version", "12.3.5")
    assert address.project()["version"] == TAG.removeprefix("v")
    address.write("version", "12.3.4")
    address.write("address", "https://github.com/someone/something")
    texts = {path.name: path.read_text("utf8") for path in address.text_files()}
    for name, text in texts.items():
        assert TAG not in text, name
        assert not re.search(rf"({'|'.join(map(re.escape, (REPOSITORY, COLAB, PAGES)))})(?![\w-])", text), name
    assert address.project()["version"] == "12.3.4"
    assert "\nversion: 12.3.4\n" in texts["CITATION.cff"]
    assert "git+https://github.com/someone/something@v12.3.4" in texts["chapter.ipynb"]
    assert "https://someone.github.io/something/status.html" in texts["chapter.ipynb"]
    assert "github/someone/something/blob/v12.3.4/book/" in texts["README.md"]
    assert yaml.safe_load(texts["_config.yml"])["repository"]["branch"] == "v12.3.4"
