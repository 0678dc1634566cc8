"""Page content that would go stale if typed: findings, claims, paper map, API reference, status of the notebooks.

A page asks for it with a line `<!-- generated: NAME -->`, which is replaced before the page is parsed.
"""

import ast
import html
import json
import os
import platform
import re
import subprocess
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median, stdev
from types import SimpleNamespace

import itables
import itables.javascript
import nbformat
import pandas
import torch
from matplotlib import pyplot

from camlib import one_hot, plots
from camlib.attention import attention
from camlib.data import Scenes
from camlib.lab import plan, record, verdict, weights
from camlib.lab.claims import (
    CLAIMS,
    counted_once,
    ledger,
    measurement,
    shifts,
    to_say_more,
)
from camlib.lab.cost import activations, duration, operations, rate
from camlib.lab.runs import RUNS, Run
from camlib.lab.tables import TABLES

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
    for paper, kind, number in items:
        if number > PAPERS[paper][1].get(kind, 0):
            raise ValueError(
                f"{paper}, {kind} {number} is mentioned, and the paper numbers no such thing"
            )
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
        "| This copy | made with |",
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
        mine = counted_once(found[found["claim"].isin(indices)])
        lines += [
            f"### {paper}",
            "",
            f"{len(indices)} claims, {len(mine)} comparisons, each pair of arms counted once: {counted(mine)}.",
            "",
            "| Claim | In the paper | What was found |",
            "|---|---|---|",
        ]
        for index in indices:
            claim = CLAIMS[index]
            link = f"[{claim.text}](../{claim.chapter}.ipynb)"
            of_claim = counted_once(found[found["claim"] == index])
            summary = (
                counted(of_claim)
                if claim.tables
                else "measured in the chapter; no record decides it"
            )
            lines.append(f"| {link} | {claim.item} | {summary} |")
        lines.append("")
    once = counted_once(found)
    waiting = (once["n"] == 0).sum()
    lines += [
        "## Every comparison that has been run",
        "",
        f"{waiting} others have not been run; the chapters give their commands.",
        "",
    ]
    for paper in PAPERS:
        indices = [i for i, claim in enumerate(CLAIMS) if claim.paper == paper]
        ran = once[once["claim"].isin(indices) & (once["n"] > 0)]
        lines += [f"### {paper}: runs", ""]
        if ran.empty:
            lines += ["None yet.", ""]
            continue
        lines += [
            "| In the paper | Row | Arms | Paper's gain | Ours (pairs) | Finding |",
            "|---|---|---|---:|---:|---|",
        ]
        for line in ran.itertuples():
            cells = (
                CLAIMS[line.claim].item,
                *compared(line, line.method, line.baseline),
                points(line.claimed) if line.claimed == line.claimed else "–",
                measured(line),
                line.finding,
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, *under_shift()])


def under_shift():
    """The lines on our own shift, which is held against no claim."""
    found = shifts()
    lines = [
        "## When the grounds are set free",
        "",
        "Our own test: the ground says nothing of the class any more, though it did in training. "
        "No paper claims anything about it, so it has no finding, and is counted nowhere above.",
        "",
    ]
    if found.empty:
        return [*lines, "Nothing has been run."]
    lines += ["| Row | Arms | Ours (pairs) |", "|---|---|---:|"]
    for line in found.itertuples():
        arms = compared(line, line.column, TABLES[line.table].baseline)
        lines.append("| " + " | ".join((*arms, measured(line))) + " |")
    return lines


def compared(line, method, baseline):
    """The headings of a comparison: its row, and its arms with the protocol if that is a shorter one."""
    table = TABLES[line.table]
    arms = f"{table.columns[method]} against {table.columns[baseline]}"
    return table.rows[
        line.row
    ], arms if line.preset == "paper" else f"{arms} ({line.preset})"


def measured(line):
    """As "+0.53 ± 0.40 (5)"; without an interval below five pairs."""
    enough = line.n >= verdict.ENOUGH_SEEDS
    interval = f" ± {line.half_width:.2f}" if enough else ""
    return f"{points(line.difference)}{interval} ({line.n})"


def counted(comparisons):
    counts = comparisons["finding"].value_counts()
    return ", ".join(
        f"{counts[name]} {name}" for name in FINDINGS if name in counts
    )


NAMES = {
    "ce": "cross-entropy",
    "cam": "CAM-loss",
    "icasc": "ICASC",
    "cc": "CC-Loss",
}

# What a reader can choose from: the column of the table "compare", and what it asks of a net.
METHODS = {
    "cam": "[CAM-loss](2-cam-loss/10-cam-loss.ipynb)",
    "caam_detached": "[CAM-loss with the CAAM held fixed, ours](2-cam-loss/13-controls.ipynb)",
    "icasc": "[ICASC](3-icasc/11-attention-separation.ipynb)",
    "cc": "[CC-Loss](4-cc-loss/11-cc-loss.ipynb)",
    "cc_normalised": "[CC-Loss, another reading of its formula](4-cc-loss/11-cc-loss.ipynb)",
    "gate": "[CC-Loss's gate alone](4-cc-loss/10-channel-attention.ipynb)",
}


def glance(srcdir):
    """Each method against cross-entropy on one net and one protocol, for the landing page."""
    table, ran = TABLES["compare"], at_a_glance()
    lines = [
        f"| Method | {' | '.join(AT_A_GLANCE.values())} | Time of a step |",
        f"|---|{'---:|' * len(AT_A_GLANCE)}---:|",
    ]
    for method, link in METHODS.items():
        mine = ran[ran["column"] == method].set_index("row")
        gains = [
            measured(mine.loc[row]) if row in mine.index else "not run"
            for row in AT_A_GLANCE
        ]
        lines.append(f"| {link} | {' | '.join(gains)} | {cost(method)} |")
    against, costs = table.columns[table.baseline], step_costs()
    explained = (
        f"Gains in points of accuracy over {against}, mean ± half of the 95 % interval (pairs of seeds); "
        f"fewer than {verdict.ENOUGH_SEEDS} pairs decide nothing and have no interval. "
        f"The time of a training step is that of {against} times the number shown, timed in turn in one process "
        f"({costs['net']}, {costs['precision']}, {costs['device']})."
    )
    return "\n".join([*lines, "", explained])


def step_costs():
    """What benchmarks/method_steps.py kept: a training step with each method over one of cross-entropy."""
    return json.loads((ROOT / "data/step_costs.json").read_text("utf8"))


AT_A_GLANCE = {
    "scenes_fair_resnet8": "250 training images, whose grounds say nothing",
    "scenes_resnet8": "10,000 training images, whose grounds go with the class",
    "scenes_resnet8_free_grounds": "the same nets, tested with grounds set free",
}


def at_a_glance():
    """Every method against cross-entropy on the one net on which all were trained, on every kind of test."""
    judged = verdict.by_protocol(
        TABLES["compare"],
        methods=list(METHODS),
        rows=f"^({'|'.join(AT_A_GLANCE)})$",
    )
    return judged[(judged["n"] > 0) & (judged["preset"] == "paper")]


def which(srcdir):
    """Which methods gain, lose, or are undecided on each kind of test."""
    judged = at_a_glance()
    lines = []
    for row, kind in AT_A_GLANCE.items():
        groups = {"better": [], "worse": [], "undecided": []}
        # What is ours was found on these very nets, so they are no test of it.
        papers = judged["column"] != "caam_detached"
        for line in judged[papers & (judged["row"] == row)].itertuples():
            sign = "better" if line.difference > 0 else "worse"
            named = f"{METHODS[line.column]} ({points(line.difference)} points)"
            groups[sign if verdict.decided(line) else "undecided"].append(named)
        said = "; ".join(
            f"**{group}** {', '.join(names) or 'none'}"
            for group, names in groups.items()
        )
        kind = kind[0].upper() + kind[1:]
        lines += [f"- {kind}, against cross-entropy: {said}.", ""]
    return "\n".join(lines)


def cost(method):
    return f"× {step_costs()['ratio'][method]:.2f}"


def pictures(srcdir):
    """The book in one picture, for the landing page."""
    return image(srcdir, "front", *front())


def front():
    """A test image that cross-entropy gets wrong, each method's map of it and its accuracies; its text and caption."""
    table, row = TABLES["compare"], "scenes_resnet8"
    columns = [
        column
        for column in ("ce", "cam", "icasc", "cc")
        if 0 in weights.kept(table.entries[row, column].run)
    ]
    names = {column: NAMES[column] for column in columns}
    scenes = Scenes("test", count=500)
    target = one_hot(scenes.labels, len(scenes.classes))
    maps, answers = {}, {}
    for column in columns:
        net = weights.trained(table.entries[row, column].run)
        out = net.observed(net.normalised(scenes.images))
        maps[column] = attention(out, target, -1, "grad_cam").detach()
        answers[column] = out.logits.argmax(1)
    foreign = scenes.grounds != scenes.labels % len(scenes.ground_names)
    edge = torch.ones_like(scenes.masks[0])
    edge[1:-1, 1:-1] = False
    whole = ~(scenes.masks & edge).flatten(1).any(1)
    one = (whole & foreign & (answers["ce"] != scenes.labels)).nonzero()[0]
    label = scenes.classes[scenes.labels[one].item()]
    headings = {
        f'{names[column]}\nsays "{scenes.classes[answers[column][one].item()]}"': maps[
            column
        ][one]
        for column in columns
    }
    values = pandas.DataFrame(
        [
            {
                "method": names[column],
                "test": words.replace(", ", ",\n"),
                "accuracy (%)": accuracy,
            }
            for row, words in AT_A_GLANCE.items()
            for column in columns
            for accuracy in verdict.values_of(
                table.entries[row, column], table.unit, "paper"
            )
        ]
    )
    figure, alt = plots.front(
        scenes.images[one], headings, label, scenes.masks[one], values
    )
    caption = (
        f"Above: a {label} that stands where other classes stood in training; where each net finds evidence for "
        f'"{label}" (Grad-CAM), and what it says. Below: the accuracy of every seed, with the mean as a bar; '
        "trainings and tests of three kinds, which this book keeps apart."
    )
    return figure, alt, caption


def image(srcdir, name, figure, alt, caption):
    """Save a figure beside the pages, and return the lines that show it; on a phone it scrolls in its own box."""
    figure.savefig(
        srcdir / "_static" / f"{name}.png", dpi=130, facecolor="white"
    )
    pyplot.close(figure)
    return (
        "```{raw} html\n"
        '<figure tabindex="0" class="wide">'
        f'<img src="_static/{name}.png" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>\n```"
    )


# The words under which "What we found" tells of a claim, by what its comparisons say.
AGREES = {"reproduced", "supports", "effect seen"}
DISAGREES = {"not reproduced", "contradicts", "effect not seen"}
OPEN = {"within noise", "undecided"}


def found(srcdir):
    """The page for people who read nothing else: what was found about each claim, without a number left out."""
    comparisons = ledger()
    once = counted_once(comparisons)
    ran = once[once["n"] > 0]
    decided = ran[ran["n"] >= verdict.ENOUGH_SEEDS]
    lines = [
        f"The papers' claims rest on {once.groupby(['run', 'baseline_run', 'metric'], dropna=False).ngroups} comparisons of two arms. "
        f"{len(ran)} have been run at least once, {len(decided)} with {verdict.ENOUGH_SEEDS} pairs of seeds or more. "
        f"Of these {decided['finding'].isin(AGREES).sum()} agree with the claim, "
        f"{decided['finding'].isin(DISAGREES).sum()} disagree, and {decided['finding'].isin(OPEN).sum()} leave it open.",
        "",
    ]
    for heading, findings in (
        ("What agrees with a paper", AGREES),
        ("What disagrees", DISAGREES),
        ("What five seeds could not decide", OPEN),
    ):
        lines += [f"## {heading}", ""]
        these = ran[ran["finding"].isin(findings)]
        lines += listed(these) or ["Nothing yet."]
        lines.append("")
    lines += [
        "## When the grounds are set free",
        "",
        "No paper claims anything about this test, so nothing here speaks for or against one.",
        "",
    ]
    shifted = verdict.by_protocol(TABLES["compare"], rows="_grounds?$")
    shifted = shifted[shifted["n"] > 0].assign(table="compare")
    for line in shifted.itertuples():
        lines.append(f"- {sentence(line, TABLES['compare'].baseline)}")
    if shifted.empty:
        lines.append("Nothing has been run.")
    never = [
        claim
        for index, claim in enumerate(CLAIMS)
        if claim.tables
        and not (comparisons["claim"].eq(index) & comparisons["n"].gt(0)).any()
    ]
    lines += ["", "## Of what we know nothing", ""]
    for claim in never:
        commands = ", ".join(
            f"`python -m camlib plan {name} --seeds 0-4`"
            for name in claim.tables
        )
        lines.append(
            f"- {claim.paper}, {claim.item}: [{claim.text}]({claim.chapter}.ipynb) Not run: {commands}"
        )
    return "\n".join(lines)


def listed(comparisons):
    """Claims with the comparisons that speak of them."""
    lines = []
    for index, mine in comparisons.groupby("claim", sort=True):
        claim = CLAIMS[index]
        lines.append(
            f"- {claim.paper}, {claim.item}: [{claim.text}]({claim.chapter}.ipynb)"
        )
        for line in mine.itertuples():
            more = to_say_more(line)
            lines.append(
                f"  - {sentence(line, line.baseline)}{f' {more}' if more else ''}"
            )
    return lines


def sentence(line, baseline):
    """One comparison in words, by the function that the chapters use."""
    table = TABLES[line.table]
    column = line.column if hasattr(line, "column") else line.method
    return measurement(
        SimpleNamespace(**line._asdict() | {"column": column}),
        table,
        table.columns[baseline],
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


def programme(srcdir):
    """Every training of the tables: how many there are of each net, and what it costs, counted in the net."""
    groups = {}
    for run in plan.behind(
        Run(name) for table in TABLES.values() for name in table.runs
    ):
        groups.setdefault(run.name.rpartition("/")[0], []).append(run)
    counted = {
        name: [operations(run) for run in runs] for name, runs in groups.items()
    }
    speed, device = rate()
    total = sum(map(sum, counted.values()))
    sustained = 2e13
    days = 5 * total / sustained / 86400
    lines = [
        f"{sum(map(len, groups.values()))} trainings stand behind the tables, and five seeds of each are "
        f"{5 * total:.1e} floating-point operations: {5 * total / speed / 86400 / 365:,.0f} years of one core of the "
        f"machine that made the records ({device}, {speed:.1e} a second). "
        f"An accelerator that sustains {sustained:.0e} a second, which is our assumption and not a measurement, would take "
        f"{days:,.0f} days, eight of them {days / 8:,.0f}; on a cluster the trainings are independent but for teachers and "
        "start nets, so that more machines divide the time.",
        "",
        "| Setting and net | Trainings | Epochs | Batch | Operations of one | One core | Kept for the backward pass |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted(groups, key=lambda name: -max(counted[name])):
        one = max(counted[name])
        run = groups[name][counted[name].index(one)]
        experiment = run.experiment
        lines.append(
            f"| {name} | {len(groups[name])} | {experiment.schedule.epochs} | {experiment.batch_size} | {one:.1e} | "
            f"{duration(one / speed)} | {activations(run) / 2**30:.2f} GiB |"
        )
    return "\n".join(lines)


def records(srcdir):
    """Every run with what came of it, as a table that can be sorted and searched without a kernel or a request."""
    rows = []
    for name in RUNS:
        made = {p: record.counting(name, p) for p in ("paper", "short")}
        for preset in [p for p in made if made[p]] or ["paper"]:
            found = outcome(list(made[preset].values()))
            rows.append((name, preset, *found, Run(name, preset).command))
    columns = ("run", "protocol", "status", "seeds", "measured", "mean (%)")
    columns += ("sd", "minutes a seed", "command of seed 0")
    rows.sort(key=lambda row: -row[3])  # what was run first
    table = itables.to_html_datatable(
        pandas.DataFrame(rows, columns=columns),
        connected=False,
        showIndex=False,
        maxBytes=0,
        pageLength=15,
        lengthMenu=[15, 50, 500],
        autoWidth=False,
        classes="display compact",
    )
    library = itables.javascript.generate_init_offline_itables_html(
        itables.options.dt_bundle
    )
    said = f"{len(RUNS)} runs, {sum(row[3] > 0 for row in rows)} lines with records."
    return f'{said}\n\n````{{raw}} html\n{library}\n<div class="records" tabindex="0">{table}</div>\n````'


def outcome(of_seeds):
    """Status, seeds, what was measured, its mean and spread, and the time of one seed."""
    if not of_seeds:
        return "not run", 0, "", "", "", ""
    measured = of_seeds[0].metrics
    metric = "accuracy" if "accuracy" in measured else next(iter(measured))
    values = [100 * each.metrics[metric] for each in of_seeds]
    enough = len(of_seeds) >= verdict.ENOUGH_SEEDS
    return (
        "recorded" if enough else "too few seeds",
        len(of_seeds),
        metric.replace("_", " "),
        f"{mean(values):.2f}",
        f"{stdev(values):.2f}" if len(values) > 1 else "",
        f"{median(each.wall_seconds for each in of_seeds) / 60:.1f}",
    )


GENERATORS = {
    "backbones": backbones,
    "claims": claims,
    "found": found,
    "glance": glance,
    "paper-map": paper_map,
    "pictures": pictures,
    "records": records,
    "programme": programme,
    "reference": reference,
    "status": status,
    "which": which,
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
