"""Page content that would go stale if typed: claims and verdicts, paper map, API reference, status of the notebooks.

A page asks for it with a line `<!-- generated: NAME -->`, which is replaced before the page is parsed.
"""

import ast
import json
import os
import platform
import re
import subprocess
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import nbformat

from camlib import recipes, records
from camlib.claims import CLAIMS, ledger

ROOT = Path(__file__).resolve().parents[2]

# What each paper numbers. A paper's items are all listed as soon as it has a chapter, so that a gap shows.
PAPERS = {
    "CAM-loss": (
        "2-cam-loss",
        {"Eq.": 12, "Table": 7, "Figure": 5, "Algorithm": 1},
    ),
    "ICASC": ("3-icasc", {"Eq.": 6, "Table": 9, "Figure": 10}),
    # Of CC-Loss a poster is all there is; its tables have no numbers, so they are counted in order.
    "CC-Loss": ("4-cc-loss", {"Table": 3}),
}
KINDS = {
    "Eq": "Eq.",
    "Table": "Table",
    "Figure": "Figure",
    "Fig": "Figure",
    "Algorithm": "Algorithm",
}
RANGE = r"\d+(?:\s*[–-]\s*\d+)?"
# "Eq. 4", "Tables 1–7", "Figures 1, 2 and 10".
ITEM = (
    r"(Eq|Table|Figure|Fig|Algorithm)"
    rf"(?:\.?\s+({RANGE})|s\.?\s+({RANGE}(?:(?:,\s*|\s+and\s+){RANGE})*))"
)
NAMED = re.compile(rf"({'|'.join(PAPERS)}),?\s+{ITEM}")


def mentions(text, paper=None):
    """Yield (item, offset) for "CAM-loss, Eq. 4"; with `paper` given, a bare "Eq. 4" is that paper's."""
    pattern = (
        re.compile(rf"(?:({'|'.join(PAPERS)}),?\s+)?{ITEM}") if paper else NAMED
    )
    for match in pattern.finditer(text):
        name, kind, one, several = match.groups()
        for part in re.findall(RANGE, one or several):
            first, *last = map(int, re.findall(r"\d+", part))
            for number in range(first, (last or [first])[0] + 1):
                yield (name or paper, KINDS[kind], number), match.start()


def objects(path):
    """Yield (item, dotted name) for every mention in a module, by the innermost public definition."""
    source = path.read_text("utf8")
    module = ".".join(
        path.relative_to(ROOT).with_suffix("").parts
    ).removesuffix(".__init__")
    spans = []

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(
                child, ast.FunctionDef | ast.ClassDef
            ) and not child.name.startswith("_"):
                name = f"{prefix}.{child.name}"
                spans.append((child.lineno, child.end_lineno, name))
                if isinstance(child, ast.ClassDef):
                    walk(child, name)

    walk(ast.parse(source), module)
    for item, offset in mentions(source):
        line = source.count("\n", 0, offset) + 1
        inside = [name for first, last, name in spans if first <= line <= last]
        yield item, inside[-1] if inside else module


def notebooks(folder):
    for path in sorted(folder.rglob("*.ipynb")):
        yield path.relative_to(folder), nbformat.read(path, 4)


def title(notebook):
    heading = re.search(
        r"^# (.+)$",
        "\n".join(cell.source for cell in notebook.cells),
        re.MULTILINE,
    )
    return heading.group(1)


def paper_map(srcdir):
    chapters, functions, tests = (
        defaultdict(dict) for _ in range(3)
    )  # dicts as ordered sets
    for path in sorted((ROOT / "camlib").rglob("*.py")):
        for item, name in objects(path):
            functions[item][name] = None
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for item, _ in mentions(path.read_text("utf8")):
            tests[item][path.relative_to(ROOT).as_posix()] = None
    by_folder = {folder: paper for paper, (folder, _) in PAPERS.items()}
    present = set()
    for path, notebook in notebooks(srcdir):
        paper = by_folder.get(path.parts[0])
        present.add(paper)
        prose = "\n".join(cell.source for cell in notebook.cells)
        for item, _ in mentions(prose, paper):
            chapters[item][f"[{title(notebook)}]({path.as_posix()})"] = None
    items = set(functions) | set(chapters) | set(tests)
    for paper, (_, numbered) in PAPERS.items():
        if paper in present:
            items |= {
                (paper, kind, n + 1)
                for kind, count in numbered.items()
                for n in range(count)
            }

    def entry(names, form):
        return (
            "<br>".join(
                form.format(name, name.removeprefix("camlib."))
                for name in names
            )
            or "none yet"
        )

    order = list(PAPERS), list(dict.fromkeys(KINDS.values()))
    lines = []
    for paper in order[0]:
        mine = sorted(
            (i for i in items if i[0] == paper),
            key=lambda i: (order[1].index(i[1]), i[2]),
        )
        if mine:
            lines += [
                f"## {paper}",
                "",
                "| In the paper | Chapter | In camlib | Test |",
                "|---|---|---|---|",
            ]
        for item in mine:
            cells = (
                f"{item[1]} {item[2]}",
                entry(chapters[item], "{}"),
                entry(functions[item], "{{py:obj}}`{1} <{0}>`"),
                entry(tests[item], "`{}`"),
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def reference(srcdir):
    lines = []
    for path in sorted((ROOT / "camlib").rglob("*.py")):
        module = ".".join(
            path.relative_to(ROOT).with_suffix("").parts
        ).removesuffix(".__init__")
        if path.name != "__main__.py":
            fence = [
                "```{eval-rst}",
                f".. automodule:: {module}",
                "   :members:",
                "```",
            ]
            lines += [f"## {module}", "", *fence, ""]
    return "\n".join(lines)


def seconds(notebook):
    """Wall time from the first cell's start to the last cell's end, as nbmake noted it."""
    stamps = [
        datetime.fromisoformat(stamp)
        for cell in notebook.cells
        for key, stamp in cell.metadata.get("execution", {}).items()
        if key in ("iopub.execute_input", "shell.execute_reply")
    ]
    return (max(stamps) - min(stamps)).total_seconds(), max(stamps)


def status(srcdir):
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    facts = {
        "Preset": os.environ.get("CAMLIB_PRESET", "quick"),
        "Commit": commit.stdout.strip() or "unknown",
        "Machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        **{
            name: version(name)
            for name in (
                "camlib",
                "torch",
                "torchvision",
                "numpy",
                "matplotlib",
            )
        },
    }
    lines = [
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        "",
    ]
    lines += ["| Chapter | Executed (UTC) | Seconds |", "|---|---|---:|"]
    for path, notebook in notebooks(srcdir):
        spent, end = seconds(notebook)
        when = end.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
        lines.append(
            f"| [{title(notebook)}]({path.as_posix()}) | {when} | {spent:.1f} |"
        )
    return "\n".join(lines)


# In the order in which the ledger counts them.
FINDINGS = (
    "reproduced",
    "supports",
    "effect seen",
    "within noise",
    "undecided",
    "not reproduced",
    "contradicts",
    "effect not seen",
    "too few seeds",
    "not run",
)


def claims(srcdir):
    found = ledger()
    key = ["claim", "table", "row", "method", "baseline"]
    has_run = found.groupby(key)["n"].transform("max") > 0
    found = found[
        (found["n"] > 0) | ~has_run
    ]  # run at another preset is not "not run"
    lines = ["## All claims", ""]
    for paper in PAPERS:
        indices = [i for i, claim in enumerate(CLAIMS) if claim.paper == paper]
        mine = found[found["claim"].isin(indices)]
        lines += [
            f"### {paper}",
            "",
            f"{len(indices)} claims, {len(mine)} comparisons: {counted(mine)}. Behind those that have been run stand {pairs_of_arms(mine)} pairs of arms.",
            "",
            "| Claim | In the paper | What was found |",
            "|---|---|---|",
        ]
        for index in indices:
            claim = CLAIMS[index]
            link = f"[{claim.text}](../{claim.chapter}.ipynb)"
            of_claim = mine[mine["claim"] == index]
            summary = (
                counted(of_claim)
                if claim.tables
                else "measured in the chapter; no record decides it"
            )
            lines.append(f"| {link} | {claim.item} | {summary} |")
        lines.append("")
    waiting = (found["n"] == 0).sum()
    lines += [
        "## Every comparison that has been run",
        "",
        f"{waiting} others have not been run; the chapters give their commands.",
        "",
    ]
    for paper in PAPERS:
        indices = [i for i, claim in enumerate(CLAIMS) if claim.paper == paper]
        ran = found[found["claim"].isin(indices) & (found["n"] > 0)]
        lines += [
            f"### {paper}: runs",
            "",
            "| In the paper | Row | Arms | Paper's gain | Ours (pairs) | Finding |",
            "|---|---|---|---:|---:|---|",
        ]
        for line in ran.itertuples():
            table = recipes.TABLES[line.table]
            arms = f"{table.columns[line.method]} against {table.columns[line.baseline]}"
            ours = points(line.difference)
            if line.n >= records.ENOUGH_SEEDS:
                ours += f" ± {line.half_width:.2f}"
            cells = (
                CLAIMS[line.claim].item,
                table.rows[line.row],
                arms if line.preset == "paper" else f"{arms} ({line.preset})",
                points(line.claimed) if line.claimed == line.claimed else "–",
                f"{ours} ({line.n})",
                line.finding,
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def pairs_of_arms(comparisons):
    """How many different pairs of cells have been run: tables share them."""
    ran = comparisons[comparisons["n"] > 0]
    pairs = set()
    for line in ran.itertuples():
        cells = recipes.TABLES[line.table].cells
        names = (
            f"{line.table}/{line.row}/{arm}"
            for arm in (line.method, line.baseline)
        )
        pairs.add((line.preset, *(cells[name].runs for name in names)))
    return len(pairs)


def counted(comparisons):
    counts = comparisons["finding"].value_counts()
    return ", ".join(
        f"{counts[name]} {name}" for name in FINDINGS if name in counts
    )


def points(gain):
    return f"{gain:+.2f}".replace("-", "−")


def backbones(srcdir):
    """What `observe` makes of each family of classifiers, as tests/oracles/backbones.py found it."""
    found = json.loads((ROOT / "data/backbones.json").read_text("utf8"))
    made_with = ", ".join(f"{n} {v}" for n, v in found["made_with"].items())
    averaging = [net for net in found["nets"] if net["averages"]]
    observed = sum(net["observed"] for net in averaging)
    lines = [
        f"Tried with {made_with}: {len(found['nets'])} families, of which {len(averaging)} average maps or tokens; "
        f"{observed} of these are observed.",
        "",
        "| Library | Family | Net tried | Averaged maps | Classifier |",
        "|---|---|---|---|---|",
    ]
    refused = [
        "",
        "| Library | Family | Net tried | Why it is refused |",
        "|---|---|---|---|",
    ]
    for net in found["nets"]:
        options = "".join(
            f", {k}={v!r}" for k, v in net.get("options", {}).items()
        )
        start = (
            f"| {net['library']} | {net['family']} | `{net['net']}{options}` |"
        )
        if net["observed"]:
            lines.append(f"{start} {net['maps']} | {net['classifier']} |")
        else:
            why = re.sub(r"([|*_<>])", r"\\\1", net["why"])
            refused.append(f"{start} {why} |")
    return "\n".join([*lines, "", "## What is refused, and why", *refused])


GENERATORS = {
    "backbones": backbones,
    "claims": claims,
    "paper-map": paper_map,
    "reference": reference,
    "status": status,
}


def fill(app, docname, content):
    content[0] = re.sub(
        r"^<!-- generated: (\S+) -->$",
        lambda match: GENERATORS[match.group(1)](Path(app.srcdir)),
        content[0],
        flags=re.MULTILINE,
    )


def plain_docstring(app, what, name, obj, options, lines):
    """|x|, *x and x_ are mathematics in our docstrings, and "K." a name: none is markup."""
    for i, line in enumerate(lines):
        parts = re.split(r"(`+[^`]*`+)", line)  # leaves code alone
        parts[::2] = [
            re.sub(r"([|*]|_(?!\w))", r"\\\1", part) for part in parts[::2]
        ]
        lines[i] = re.sub(
            r"(^\s*|: )([A-Za-z]\.)(?=\s|$)", r"\1\\\2", "".join(parts)
        )


def skip_fields(app, what, name, obj, skip, options):
    """A NamedTuple's fields are described by its docstring already."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("source-read", fill)
    app.connect(
        "autodoc-process-docstring", plain_docstring, priority=400
    )  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
