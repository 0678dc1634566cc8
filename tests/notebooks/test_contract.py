"""What every chapter is held to (CONTRIBUTING.md, "A chapter")."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import address
import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
CHAPTERS = sorted(BOOK.rglob("*.ipynb"))
SETUP = (BOOK / "_tools/setup-cell.txt").read_text("utf8").rstrip("\n")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>\n\n.*?\n\n</details>", re.DOTALL)


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.relative_to(BOOK).as_posix())
def chapter(request):
    return nbformat.read(request.param, 4)


def markdown(chapter):
    return [cell.source for cell in chapter.cells if cell.cell_type == "markdown"]


def code(chapter):
    return [cell for cell in chapter.cells if cell.cell_type == "code"]


def headings(chapter):
    """[(level, text, the text below it up to the next heading), …]"""
    prose = "\n\n".join(markdown(chapter))
    masked = FENCE.sub(lambda match: " " * len(match.group()), prose)  # a comment in code is no heading
    found = list(re.finditer(r"^(#+) (.+)$", masked, re.MULTILINE))
    ends = [match.start() for match in found[1:]] + [len(prose)]
    return [(len(m[1]), m[2].strip(), prose[m.end() : end]) for m, end in zip(found, ends, strict=True)]


def test_contents_list_every_chapter_and_only_files_that_exist():
    listed = []

    def walk(node):
        if isinstance(node, dict):
            listed.extend(str(node[key]) for key in ("root", "file") if key in node)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            walk(child)

    walk(yaml.safe_load((BOOK / "_toc.yml").read_text("utf8")))
    assert len(listed) == len(set(listed))
    pages = {p.relative_to(BOOK).with_suffix("").as_posix() for p in BOOK.rglob("*") if p.suffix in {".md", ".ipynb"}}
    assert set(listed) == pages


def test_format(chapter):
    nbformat.validate(chapter)
    assert chapter.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in chapter.cells]
    assert len(ids) == len(set(ids))
    assert not any(re.fullmatch(r"\d+", name) for name in ids), "numbered ids change when a cell is added"
    assert all(not cell.outputs and cell.execution_count is None for cell in code(chapter)), "make format"
    assert all(cell.source.strip() for cell in chapter.cells), "an empty cell"


def test_card_comes_first(chapter):
    first = chapter.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


def test_one_setup_cell_the_same_everywhere(chapter):
    tagged = [cell for cell in code(chapter) if "setup" in cell.metadata.get("tags", [])]
    assert [cell.source for cell in tagged] == [SETUP], "copy book/_tools/setup-cell.txt into one cell tagged setup"
    assert code(chapter)[0] is tagged[0]


def test_colab_hides_what_the_page_hides(chapter):
    for cell in code(chapter):
        hidden = "hide-input" in cell.metadata.get("tags", [])
        assert (cell.metadata.get("cellView") == "form") == hidden, f'{cell.id}: tag "hide-input" and cellView "form"'
        assert hidden or "book.check(" not in cell.source, f"{cell.id} shows the answer: tag it hide-input"


def test_links_work_on_colab_and_on_the_page(chapter):
    for text in markdown(chapter):
        for link in re.findall(r"\]\(([^)]*)\)", FENCE.sub("", text)):
            assert link.startswith("https://"), f"{link} leads nowhere on Colab: begin with {address.pages()}"
            if link.startswith(address.pages()):
                page = BOOK / link.removeprefix(address.pages()).partition("#")[0]
                assert page.suffix == ".html", link
                assert page.with_suffix(".ipynb").exists() or page.with_suffix(".md").exists(), link


def test_headings_step_by_one(chapter):
    levels = [level for level, _, _ in headings(chapter)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ends_with_summary_and_references(chapter):
    names = [text for level, text, _ in headings(chapter) if level == 2]
    assert names[-2:] == ["Summary", "References"]


def test_what_was_found_comes_before_the_exercises_and_is_generated(chapter):
    names = [text for level, text, _ in headings(chapter) if level == 2]
    assert names[names.index("Exercises") - 1] == "What we found"
    cells = iter(chapter.cells)
    next(cell for cell in cells if cell.cell_type == "markdown" and "## What we found" in cell.source)
    assert "book.found(" in next(cell for cell in cells if cell.cell_type == "code").source


def test_exercises_have_a_collapsed_solution(chapter):
    names = [text for level, text, _ in headings(chapter) if level == 2]
    assert "Exercises" in names
    exercises = [(text, body) for level, text, body in headings(chapter) if level == 3 and text.startswith("Exercise")]
    assert exercises, "no heading '### Exercise …' below '## Exercises'"
    for text, body in exercises:
        assert any("Solution" in summary for summary in DETAILS.findall(body)), text


def test_every_check_has_a_solution_in_code(chapter):
    """The build runs the code of the solution, then the check: it must say "Right."."""
    solved = True
    for cell in chapter.cells:
        if cell.cell_type == "markdown" and "### Exercise" in cell.source:
            assert cell.source.count("### Exercise") == 1, "one exercise in a cell"
            solved = re.search(r"<summary>[^<]*Solution[^<]*</summary>.*^```python$", cell.source, re.DOTALL | re.M)
        elif cell.cell_type == "code" and "book.check(" in cell.source:
            assert solved, f"{cell.id}: its exercise has no solution in code, as `answer = 1 / 2`"


def test_markdown_is_what_colab_shows_too(chapter):
    for text in markdown(chapter):
        plain = re.sub(r"(`+).*?\1", "", FENCE.sub("", text), flags=re.DOTALL)
        assert not re.search(r"^ *(`{3,}|:{3,})\{", text, re.MULTILINE), f"a MyST directive: {text}"
        assert not re.search(r"\{[\w:-]+\}`", text), f"a MyST role: {text}"
        assert not re.search(r"^\([\w-]+\)=$", text, re.MULTILINE), f"a MyST target: {text}"
        assert plain.count("$$") % 2 == 0, f"$$ without its end: {text}"
        assert not re.search(r"!\[|<img", plain), "an image: Colab cannot load it; show a figure from code"
        assert text.count("<details>") == len(DETAILS.findall(text)), (
            "<details><summary>…</summary>, a blank line, the text, a blank line, </details>, all in one cell"
        )


def test_every_figure_has_alt_text(chapter):
    for cell in code(chapter):
        source = re.sub(r"^( *)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and "show" in (
                getattr(node.func, "attr", ""),
                getattr(node.func, "id", ""),
            ):
                assert any(keyword.arg == "alt" for keyword in node.keywords), ast.unparse(node)
