"""What a release needs: one version everywhere, metadata that can be read."""

import json
from pathlib import Path

import release
import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_a_tag_with_another_version_is_refused():
    found = release.problems("v99.0.0")
    assert [text.split()[0] for text in found] == ["pyproject.toml", "CITATION.cff", "CHANGELOG.md"]


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    assert not [text for text in release.problems(f"v{citation['version']}") if "CHANGELOG" not in text]


def test_citation_and_zenodo_say_the_same():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))
    zenodo = json.loads((ROOT / ".zenodo.json").read_text("utf8"))
    assert zenodo["title"] == citation["title"]
    assert zenodo["license"] == citation["license"]
    assert zenodo["keywords"] == citation["keywords"]
    assert zenodo["creators"] == citation["authors"]
    assert {paper["type"] for paper in citation["references"]} == {"conference-paper"}
