"""The notebooks and the rubric that are made from a master."""

from pathlib import Path

import nbformat

from course.master import Master

ROOT = Path(__file__).resolve().parents[1]
WORDS = "**Your words** (write over this line)"


def install() -> str:
    """What installs camlib on Colab, as in every chapter of the book."""
    cell = (ROOT / "book/_tools/setup-cell.txt").read_text("utf8")
    return cell.partition("\n\nimport camlib")[0]


def notebook(master: Master, answers: dict[str, str], words: dict[str, str]) -> nbformat.NotebookNode:
    """The assignment with answers filled in.

    Args:
        master: of the assignment.
        answers: {name: code} for every answer cell.
        words: {name: Markdown} for words cells; those left out stay as the student finds them.
    """
    cells = [_code("setup", install(), tags=["setup"])]
    for number, cell in enumerate(master.cells):
        if cell.kind == "markdown":
            cells.append(_markdown(f"text-{number}", cell.source))
        elif cell.kind == "words":
            cells.append(_markdown(f"words-{cell.name}", words.get(cell.name, WORDS)))
        elif cell.kind in ("given", "show", "check"):
            cells.append(_code(f"{cell.kind}-{number}", cell.source))
        elif cell.kind == "answer":
            cells.append(_code(f"answer-{cell.name}", f"{master.marker(cell.name)}\n{answers[cell.name]}"))
    cells.insert(1, cells.pop(0))  # the title comes first
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def student(master: Master) -> nbformat.NotebookNode:
    """What is handed out."""
    return notebook(master, master.blank(), {})


def instructor(master: Master) -> nbformat.NotebookNode:
    """The same with the right answers and a model of the words."""
    return notebook(master, master.right(), {cell.name: cell.source for cell in master.of_kind("words")})


def rubric(master: Master) -> str:
    """What each point is for, as Markdown: the hidden tests, then what people grade."""
    people = sum(master.by_people.values())
    lines = [
        f"# {master.title}: rubric",
        "",
        f"Section {master.section}. {master.points} points by the autograder, {people} by people. "
        f"It takes about {master.minutes} minutes and teaches {master.teaches}.",
        "",
        "| Answer | Hidden test | Points |",
        "|---|---|---|",
        *(f"| {test.name} | {test.title} | {test.points} |" for test in master.of_kind("test")),
        *(f"| {name} | by people, in words | {points} |" for name, points in master.by_people.items()),
        "",
        *(cell.source for cell in master.of_kind("rubric")),
        "",
    ]
    return "\n".join(lines)


def _code(name: str, source: str, tags: list[str] | None = None) -> nbformat.NotebookNode:
    return nbformat.v4.new_code_cell(source, id=name, metadata={"tags": tags} if tags else {})


def _markdown(name: str, source: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_markdown_cell(source, id=name)
