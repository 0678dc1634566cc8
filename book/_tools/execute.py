"""Execute the chapters whose inputs changed, in a copy of book/ that the HTML is then built from.

    python book/_tools/execute.py build/quick

A chapter is executed again when its key changes: the notebook, the pinned versions, Python, and the files of the
repository that it read when it was executed last: the modules of camlib that it imported, the records, weights and
whatever else it opened. A file that it looked for in vain, by opening it, counts as well: it may be there now.
The solutions of a chapter's exercises, which readers see as text, are executed after its last cell, and each check
again behind the solution of its exercise: it must say "Right."
Its links to other pages, absolute so that they work on Colab, lead to the pages of the same build.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import address
import nbformat
import pytest
import warm

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
# What every chapter depends on.
COMMON = (
    "requirements.txt",
    "book/_tools/execute.py",
    "book/_tools/warm.py",
)
LEDGER = "executed.json"  # the key of every chapter that passed
# What chapters import and what is large, but not camlib, of which each notes what it imports, nor pandas, which asks
# as it is imported whether it is in a notebook.
LIBRARIES = (
    "ipykernel.kernelapp",
    "torchvision",
    "scipy.io",
    "scipy.stats",
    "matplotlib.pyplot",
)
SOLUTION = re.compile(
    r"<details>\s*<summary>[^<]*Solution[^<]*</summary>(.*?)</details>",
    re.DOTALL,
)
CHECKED = """\
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()) as said:
{check}
assert said.getvalue() == "Right.\\n", f"{name} says of the solution: {{said.getvalue()}}"
"""
CODE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def files(folder):
    """Files below `folder`, relative to it, without caches and (in book/) what is not a page."""
    paths = (
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    hidden = {"__pycache__", ".ipynb_checkpoints", "_ext", "_tools"}
    return [path for path in paths if not hidden & set(path.parts)]


def snapshot():
    """A hash of every file that a chapter may depend on, by its path in the repository."""
    paths = [
        folder / name
        for folder in (ROOT / "camlib", ROOT / "data", BOOK)
        for name in files(folder)
    ]
    paths += [ROOT / name for name in COMMON]
    return {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in paths
    }


def reads_of(name, build):
    """The file in which the processes of a chapter note what they read."""
    return build / "reads" / name.with_suffix(".txt")


def key(name, build, contents):
    """What an executed chapter depends on, as one hash; None if it was never executed."""
    noted = reads_of(name, build)
    if not noted.exists():
        return None
    total = hashlib.sha256(sys.version.encode())
    for path in sorted(
        {*COMMON, f"book/{name.as_posix()}", *noted.read_text().splitlines()}
    ):
        cached = re.fullmatch(r"(.*)__pycache__/([^/.]+)\.[^/]*", path)
        path = f"{cached[1]}{cached[2]}.py" if cached else path
        below = [name for name in contents if name.startswith(f"{path}/")]
        total.update(f"{path} {contents.get(path, below)}\n".encode())
    return total.hexdigest()


def unchanged(chapters, build, contents):
    """The keys, by name, of the chapters that need not be executed."""
    ledger = build / LEDGER
    done = json.loads(ledger.read_text()) if ledger.exists() else {}
    return {
        name.as_posix(): now
        for name in chapters
        if (build / "book" / name).exists()
        and (now := key(name, build, contents))
        and now == done.get(name.as_posix())
    }


def inside(text, name):
    """The text with its links to the book's public pages as links to their sources, which Sphinx follows."""

    def source(link):
        page = BOOK / f"{link[1]}.ipynb"
        page = page if page.exists() else page.with_suffix(".md")
        return f"]({os.path.relpath(page, (BOOK / name).parent)}{link[2]})"

    pages = re.escape(address.pages())
    return re.sub(rf"\]\({pages}([^)#]*)\.html([^)]*)\)", source, text)


def stage(name, copy):
    """Write the chapter, with its solutions and their checks as cells at its end that the page does not show."""
    notebook = nbformat.read(BOOK / name, 4)
    solved = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for hidden in SOLUTION.findall(cell.source):
                solved += [code.rstrip("\n") for code in CODE.findall(hidden)]
            cell.source = inside(cell.source, name)
        elif "book.check(" in cell.source:
            check = textwrap.indent(cell.source, "    ")
            solved.append(CHECKED.format(check=check, name=cell.id))
    for i, code in enumerate(solved):
        cell = nbformat.v4.new_code_cell(
            code, id=f"solution-{i}", metadata={"tags": ["remove-cell"]}
        )
        notebook.cells.append(cell)
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)


@contextmanager
def warm_kernels(libraries):
    """Have Jupyter's kernels forked from one process that has imported the libraries."""
    # As a kernel sets it before it imports Matplotlib.
    os.environ.setdefault(
        "MPLBACKEND", "module://matplotlib_inline.backend_inline"
    )
    with warm.server(*libraries) as command, TemporaryDirectory() as folder:
        kernel = Path(folder, "kernels/python3/kernel.json")
        kernel.parent.mkdir(parents=True)
        command += ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel.write_text(
            json.dumps({"argv": command, "display_name": "Python 3"})
        )
        before = filter(None, [folder, os.environ.get("JUPYTER_PATH")])
        with mock.patch.dict(
            os.environ, {"JUPYTER_PATH": os.pathsep.join(before)}
        ):
            yield


def pytest_runtest_setup(item):
    """Tell the processes of a chapter where to note what they read; pytest calls this where it executes one."""
    copy = item.config.rootpath
    noted = reads_of(item.path.relative_to(copy), copy.parent)
    os.environ["CHAPTER_READS"] = str(noted)


def main(build, libraries=LIBRARIES):
    copy, ledger = build / "book", build / LEDGER
    wanted = files(BOOK)
    for name in files(copy):
        if name not in wanted:
            (copy / name).unlink()
    for name in wanted:
        if name.suffix != ".ipynb":
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(BOOK / name, copy / name)

    # Taken before anything is executed: what is edited meanwhile is stale next time.
    contents = snapshot()
    chapters = [name for name in wanted if name.suffix == ".ipynb"]
    done = unchanged(chapters, build, contents)
    stale = [name for name in chapters if name.as_posix() not in done]
    print(
        f"{len(stale)} of {len(chapters)} notebooks to execute, {len(done)} unchanged",
        flush=True,
    )
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_text(json.dumps(done, indent=1))
    if not stale:
        return 0
    for name in stale:
        stage(name, copy / name)
        reads_of(name, build).parent.mkdir(parents=True, exist_ok=True)
        reads_of(name, build).unlink(missing_ok=True)
    os.environ["CAMLIB_PAGE"] = "1"  # charts are drawn by the page's own Vega
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(BOOK / "_tools/reads"), os.environ.get("PYTHONPATH", "")]
    ).rstrip(os.pathsep)

    class Ledger:
        """Remember a chapter as soon as it has passed: a failure elsewhere costs no repetition."""

        def pytest_runtest_logreport(self, report):
            name = Path(report.nodeid.split("::")[0])
            name = next(
                n
                for n in stale
                if (copy / n).as_posix().endswith(name.as_posix())
            )
            if report.when == "call" and report.passed:
                done[name.as_posix()] = key(name, build, contents)
                ledger.write_text(json.dumps(done, indent=1))

    jobs = min(len(stale), os.cpu_count() or 1, 4)
    options = [
        "--nbmake",
        "--overwrite",
        "--nbmake-timeout=600",
        "--durations=0",
        f"-n{jobs}",
        "--maxschedchunk=1",
    ]
    # The tests' own settings (warnings as errors) are not meant for the runner of the notebooks.
    settings = ["-c", os.devnull, f"--rootdir={copy}", "-p", "no:cacheprovider"]
    settings += ["-p", Path(__file__).stem]
    with warm_kernels(libraries):
        return pytest.main(
            # The last chapters take longest: begun first, none keeps the others waiting at the end.
            [*options, *settings, *(str(copy / n) for n in reversed(stale))],
            plugins=[Ledger()],
        )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
