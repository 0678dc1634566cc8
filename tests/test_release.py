"""What a release needs: one version everywhere, metadata that can be read."""

import json
import re
from pathlib import Path

import pytest
import release
import yaml

ROOT = Path(__file__).resolve().parents[1]
ZENODO = json.loads((ROOT / ".zenodo.json").read_text("utf8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf8"))


def test_a_tag_with_another_version_is_refused():
    found = release.problems("v99.0.0")
    assert [text.split()[0] for text in found] == ["pyproject.toml", "CITATION.cff", "chapters", "CHANGELOG.md"]


def test_versions_agree():
    assert not [text for text in release.problems(f"v{CITATION['version']}") if "CHANGELOG" not in text]


def test_citation_and_zenodo_say_the_same():
    assert ZENODO["title"] == CITATION["title"]
    assert ZENODO["license"] == CITATION["license"]
    assert ZENODO["keywords"] == CITATION["keywords"]
    assert ZENODO["creators"] == CITATION["authors"]


PAPERS = [("CAM-loss", "wang2021camloss"), ("ICASC", "wang2019icasc"), ("CC-Loss", "song2020ccloss")]


@pytest.mark.parametrize(("method", "key"), PAPERS)
def test_the_three_papers_are_cited_as_in_the_bibliography(method, key):
    bibliography = (ROOT / "book/references.bib").read_text("utf8").replace("{CC-Loss}", "CC-Loss")
    entry = re.search(rf"@inproceedings{{{key},(.*?)\n}}", bibliography, re.DOTALL)[1]
    fields = dict(re.findall(r"(\w+) *= *\{(.*)\}", entry))
    (paper,) = [each for each in CITATION["references"] if each["notes"] == method]
    assert paper["title"] == fields["title"]
    assert paper["collection-title"] == fields["booktitle"]
    assert str(paper["year"]) == fields["year"]
    authors = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert authors == fields["author"].split(" and ")
    (line,) = [line for line in ZENODO["references"] if paper["title"] in line]
    assert all(author["family-names"] in line for author in paper["authors"])
    assert line.endswith(f"{paper['collection-title']}, {paper['year']}.")
