"""Whether a tag may be released: python tests/release.py v0.2.0. Exits with what is missing."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(tag):
    """What keeps a tag from being released: each file that carries a version says the same."""
    version = tag.removeprefix("v")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["version"]
    (citation,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf8"), re.MULTILINE)
    found = []
    if project != version:
        found.append(f"pyproject.toml has version {project}, the tag is {tag}")
    if citation != version:
        found.append(f"CITATION.cff has version {citation}, the tag is {tag}")
    if f"@{tag}" not in (ROOT / "book/_tools/setup-cell.txt").read_text("utf8"):
        found.append(f"chapters install camlib from another tag than {tag}: make version VERSION={version}")
    if not re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text("utf8"), re.MULTILINE):
        found.append(f"CHANGELOG.md has no section '## {version}'")
    return found


if __name__ == "__main__":
    sys.exit("; ".join(problems(sys.argv[1])) or None)
