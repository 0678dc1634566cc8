"""The build executes a chapter again when something that it read has changed, and no other chapter."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import address
import nbformat
import pytest
import torch

from camlib.notebook import Book

TOOLS = Path(__file__).resolve().parents[1] / "book" / "_tools"
READS = """
import pathlib
data = pathlib.Path.cwd().parents[1] / "data"
(data / "records" / "table.jsonl").read_text()
try:
    (data / "records" / "missing.jsonl").open()
except FileNotFoundError:
    pass
sorted((data / "listed").iterdir())
"""
# As the tool's own last lines, but without importing the libraries of real chapters.
EXECUTE = """
import sys, pathlib
sys.path[0] = sys.argv[1]
import execute
sys.exit(execute.main(pathlib.Path(sys.argv[2]), libraries=()))
"""
CHAPTERS = {
    "imports.ipynb": "import camlib.used",
    "reads.ipynb": READS,
    "starts.ipynb": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import camlib.child'], check=True)",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small repository and the tool in it, after its first build."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(TOOLS, root / "book" / "_tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__", "used", "unused", "child"):
        write(root / f"camlib/{name}.py", "")
    for name in ("table", "other"):
        write(root / f"data/records/{name}.jsonl", "{}\n")
    write(root / "data/listed/one", "")
    write(root / "requirements.txt", "")
    write(root / "pyproject.toml", '[project]\nurls.Repository = "https://github.com/someone/something"\n')
    for name, source in CHAPTERS.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="cell")])
        nbformat.write(notebook, root / "book" / name)
    tool = root / "book" / "_tools" / "execute.py"
    subprocess.run(
        [sys.executable, "-c", EXECUTE, str(tool.parent), str(root / "build")],
        env=os.environ | {"PYTHONPATH": str(root)},  # this camlib, and not ours
        check=True,
    )
    spec = importlib.util.spec_from_file_location("execute_of_a_small_repository", tool)
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    return root, execute


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def stale(built):
    root, execute = built
    chapters = [Path(name) for name in CHAPTERS]
    return set(CHAPTERS) - set(execute.unchanged(chapters, root / "build", execute.snapshot()))


@pytest.mark.parametrize(
    ("changed", "users"),
    [
        ("camlib/unused.py", set()),
        ("camlib/new.py", set()),
        ("data/records/other.jsonl", set()),
        ("data/records/new.jsonl", set()),
        ("camlib/used.py", {"imports.ipynb"}),
        ("camlib/__init__.py", {"imports.ipynb", "starts.ipynb"}),
        ("camlib/child.py", {"starts.ipynb"}),
        ("data/records/table.jsonl", {"reads.ipynb"}),
        ("data/records/missing.jsonl", {"reads.ipynb"}),
        ("data/listed/two", {"reads.ipynb"}),
        ("book/reads.ipynb", {"reads.ipynb"}),
        ("requirements.txt", set(CHAPTERS)),
        ("book/_tools/execute.py", set(CHAPTERS)),
        ("book/_tools/warm.py", set(CHAPTERS)),
    ],
)
def test_a_change_executes_the_chapters_that_read_it(built, changed, users):
    path = built[0] / changed
    before = path.read_text() if path.exists() else None
    assert stale(built) == set()
    write(path, f"{before or ''}\n")
    assert stale(built) == users
    if before is None:
        path.unlink()
    else:
        path.write_text(before)


def test_a_chapter_whose_executed_copy_is_gone_is_stale(built):
    copy = built[0] / "build" / "book" / "imports.ipynb"
    copy.rename(copy.with_suffix(".away"))
    assert stale(built) == {"imports.ipynb"}
    copy.with_suffix(".away").rename(copy)


def test_a_link_to_a_public_page_leads_to_its_source(built):
    root, execute = built
    write(root / "book/page.md", "# Page\n")
    text = (
        f"[a]({address.pages()}reads.html), [b]({address.pages()}page.html#here), [c](https://elsewhere.org/reads.html)"
    )
    assert execute.inside(text, Path("part/one.ipynb")) == (
        "[a](../reads.ipynb), [b](../page.md#here), [c](https://elsewhere.org/reads.html)"
    )
    (root / "book/page.md").unlink()


@pytest.mark.parametrize(("answer", "right"), [("1 / 2", True), ("2", False)])
def test_a_solution_is_fed_to_its_own_check(built, answer, right):
    root, execute = built
    folded = f"<details><summary>Solution</summary>\n\n```python\nanswer = {answer}\n```\n\n</details>"
    cells = [
        nbformat.v4.new_markdown_cell(f"### Exercise 1\n\n{folded}", id="exercise"),
        nbformat.v4.new_code_cell("answer = None", id="answer"),
        nbformat.v4.new_code_cell('book.check(\n    answer, lambda: 0.5, "halve"\n)', id="check"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "book/exercise.ipynb")
    execute.stage(Path("exercise.ipynb"), root / "exercise.ipynb")
    (root / "book/exercise.ipynb").unlink()
    names = {"book": Book("quick", torch.device("cpu"), 0)}
    *code, last = [cell.source for cell in nbformat.read(root / "exercise.ipynb", 4).cells if cell.cell_type == "code"]
    for source in code:
        exec(source, names)
    with contextlib.nullcontext() if right else pytest.raises(AssertionError, match="check says of the solution: Not"):
        exec(last, names)
