"""Where the files that ship with camlib are: in the wheel, or in the repository of an editable install."""

from pathlib import Path


def package_data(name: str) -> Path:
    """The path of `data/<name>` of the repository, or of its copy inside the installed package."""
    package = Path(__file__).parent
    installed = package / "_data"
    return (installed if installed.is_dir() else package.parent / "data") / name
