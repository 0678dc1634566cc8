"""Write the public address of the repository, or the version of a release, wherever it is needed.

    make address URL=https://github.com/someone/something
    make version VERSION=0.2.0

pyproject.toml holds both; every other file repeats them. tests/test_address.py finds one that was missed.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def owner_and_name(url):
    match = re.fullmatch(
        r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?", url
    )
    if not match:
        sys.exit(f"{url!r} is not of the form https://github.com/OWNER/NAME")
    return match.groups()


def forms(owner, name):
    """Every form in which the address stands in a file: the repository, Colab's path to it, its Pages."""
    return (
        f"github.com/{owner}/{name}",
        f"colab.research.google.com/github/{owner}/{name}",
        f"{owner.lower()}.github.io/{name}",
    )


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]


def current():
    return project()["urls"]["Repository"]


def pages():
    """Where the pages of the book are; a chapter's links begin with it, so that they work on Colab too."""
    return f"https://{forms(*owner_and_name(current()))[2]}/"


def text_files():
    """Every file that may carry them: those at the root and below book/."""
    for path in [*ROOT.glob("*"), *(ROOT / "book").rglob("*")]:
        if (
            path.suffix in {".md", ".ipynb", ".toml", ".yml", ".cff", ".txt"}
            and path.is_file()
        ):
            yield path


def changes(kind, new):
    """What to write in place of what: pairs of a pattern and a text."""
    if kind == "address":
        old = forms(*owner_and_name(current()))
        new = forms(*owner_and_name(new))
        return [
            (rf"{re.escape(before)}(?![\w-])", after)
            for before, after in zip(old, new, strict=True)
        ]
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        sys.exit(f"{new!r} is not of the form 0.2.0")
    old = re.escape(project()["version"])
    return [
        (rf'(?m)^version = "{old}"$', f'version = "{new}"'),  # pyproject.toml
        (rf"(?m)^version: {old}$", f"version: {new}"),  # CITATION.cff
        # The tag that a page is built from: of the Colab buttons, in _config.yml; of a link to Colab; of what a
        # chapter installs.
        (rf"(?m)^  branch: v{old}$", f"  branch: v{new}"),
        (rf"/blob/v{old}/", f"/blob/v{new}/"),
        (rf"@v{old}(?![\w.-])", f"@v{new}"),
    ]


def write(kind, new):
    pairs = changes(kind, new)
    log = (ROOT / "CHANGELOG.md").read_text("utf8")
    if kind == "version" and f"## {new}" not in log.splitlines():
        sys.exit(
            f"CHANGELOG.md has no section '## {new}': write it first, with what stands under 'Unreleased'"
        )
    for path in text_files():
        text = changed = path.read_text("utf8")
        for pattern, after in pairs:
            changed = re.sub(pattern, after, changed)
        if changed != text:
            path.write_text(changed, "utf8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    write(*sys.argv[1:])
