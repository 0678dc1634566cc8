"""The house: a file imports from floors below its own, never from above; what is not needed is not imported."""

import ast
import subprocess
import sys
from pathlib import Path

import camlib

ROOT = Path(camlib.__file__).parent
FLOORS = (
    ("names",),
    ("target", "provenance", "package_data", "distributed", "precision"),
    ("maps", "models"),
    ("tracing",),
    ("observe",),
    ("attention", "objective", "regularize", "data"),
    ("losses",),
    ("measure",),
    ("train",),
    ("lab",),
    ("plots", "doctor"),
    ("look", "interactive"),
    ("notebook", "__main__"),
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}


def imports(path):
    """The parts of camlib that a file imports, as the first name behind "camlib."."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "camlib":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("camlib."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("camlib."))


def test_every_file_imports_from_floors_below():
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).with_suffix("").parts[0]
        if own == "__init__":
            continue
        assert own in FLOOR_OF, f"{path} stands on no floor"
        for other in imports(path):
            assert other == own or FLOOR_OF[other] < FLOOR_OF[own], f"{path} imports {other} from above"


def test_importing_camlib_costs_no_scikit_learn_and_no_plots():
    heavy = "{'sklearn', 'matplotlib', 'seaborn', 'pandas'}"
    code = f"import sys, camlib; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
