"""Execute the chapters whose inputs changed, in a copy of book/ that the HTML is then built from.

    python book/_tools/execute.py build/quick

A chapter is executed again when its key changes: the notebook, camlib, the data manifest, the pinned
versions, Python; and, if its code speaks of records or weights, the files of those under data/.
The solutions of a chapter's exercises, which readers see as text, are executed after its last cell.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
SOLUTION = re.compile(
    r"<details>\s*<summary>[^<]*Solution[^<]*</summary>(.*?)</details>",
    re.DOTALL,
)
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


def digest(*paths):
    """One hash over files and whole folders: names and contents."""
    total = hashlib.sha256()
    for path in paths:
        for file in (
            [path / name for name in files(path)] if path.is_dir() else [path]
        ):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(
                f"{file.relative_to(ROOT).as_posix()} {content}\n".encode()
            )
    return total.hexdigest()


def keys():
    """The key of every chapter."""
    common = digest(
        ROOT / "camlib",
        ROOT / "data/manifest.toml",
        ROOT / "requirements.txt",
        Path(__file__),
    )
    stored = digest(
        *(
            folder
            for name in ("records", "checkpoints")
            if (folder := ROOT / "data" / name).is_dir()
        )
    )
    found = {}
    for name in (path for path in files(BOOK) if path.suffix == ".ipynb"):
        code = "\n".join(
            c.source
            for c in nbformat.read(BOOK / name, 4).cells
            if c.cell_type == "code"
        )
        parts = [digest(BOOK / name), common, sys.version]
        if re.search("record|weights", code):
            parts.append(stored)
        found[name.as_posix()] = hashlib.sha256(
            " ".join(parts).encode()
        ).hexdigest()
    return found


def stage(name, copy):
    """Write the chapter, with its solutions as cells at its end that the page does not show."""
    notebook = nbformat.read(BOOK / name, 4)
    prose = "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )
    for i, code in enumerate(
        block
        for hidden in SOLUTION.findall(prose)
        for block in CODE.findall(hidden)
    ):
        cell = nbformat.v4.new_code_cell(
            code.rstrip("\n"),
            id=f"solution-{i}",
            metadata={"tags": ["remove-cell"]},
        )
        notebook.cells.append(cell)
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)


def main(build):
    copy, ledger = build / "book", build / "executed.json"
    wanted = files(BOOK)
    for name in files(copy):
        if name not in wanted:
            (copy / name).unlink()
    for name in wanted:
        if name.suffix != ".ipynb":
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(BOOK / name, copy / name)

    now = keys()
    done = json.loads(ledger.read_text()) if ledger.exists() else {}
    done = {
        name: key
        for name, key in done.items()
        if now.get(name) == key and (copy / name).exists()
    }
    stale = [name for name in now if name not in done]
    print(
        f"{len(stale)} of {len(now)} notebooks to execute, {len(done)} unchanged",
        flush=True,
    )
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_text(json.dumps(done, indent=1))
    if not stale:
        return 0
    for name in stale:
        stage(name, copy / name)

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
                done[name] = now[name]
                ledger.write_text(json.dumps(done, indent=1))

    jobs = min(len(stale), os.cpu_count() or 1, 4)
    options = [
        "--nbmake",
        "--overwrite",
        "--nbmake-timeout=600",
        "--durations=0",
        f"-n{jobs}",
    ]
    # The tests' own settings (warnings as errors) are not meant for the runner of the notebooks.
    settings = ["-c", os.devnull, f"--rootdir={copy}", "-p", "no:cacheprovider"]
    return pytest.main(
        [*options, *settings, *(str(copy / name) for name in stale)],
        plugins=[Ledger()],
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
