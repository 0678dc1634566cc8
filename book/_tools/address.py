"""Write the public address of the repository wherever it is needed.

    make address URL=https://github.com/someone/something

pyproject.toml holds it; every other file repeats it. tests/test_address.py finds one that was missed.
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


def current():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))[
        "project"
    ]["urls"]["Repository"]


def text_files():
    """Every file that may carry the address: those at the root and below book/."""
    for path in [*ROOT.glob("*"), *(ROOT / "book").rglob("*")]:
        if (
            path.suffix in {".md", ".ipynb", ".toml", ".yml", ".cff", ".txt"}
            and path.is_file()
        ):
            yield path


def write(url):
    old, new = forms(*owner_and_name(current())), forms(*owner_and_name(url))
    for path in text_files():
        text = changed = path.read_text("utf8")
        for before, after in zip(old, new, strict=True):
            changed = re.sub(rf"{re.escape(before)}(?![\w-])", after, changed)
        if changed != text:
            path.write_text(changed, "utf8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    write(sys.argv[1])
