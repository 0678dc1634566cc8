"""The claims of the three papers, and what the records say about each: the book's ledger."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from camlib.data import manifest
from camlib.lab import record, verdict
from camlib.lab.runs import Run
from camlib.lab.table import Table
from camlib.lab.tables import TABLES
from camlib.lab.tables.cam_loss import SMALL


class Claim(NamedTuple):
    """Something a paper says, and how the book judges it.

    Attributes:
        paper: "CAM-loss", "ICASC" or "CC-Loss".
        item: where the paper says it.
        text: what it says.
        chapter: the book's chapter about it, as a path below book/ without its ending.
        tables: whose runs judge it: every row in which a method and a baseline stand. None if no record can.
        methods: columns that the claim puts ahead,
        baselines: of these columns, in the same row.
        rows: look only at rows whose name this regular expression is found in. Rows under a shift of ours, of which no
            paper claims anything, are left out unless it asks for them.
        falls: ahead means less, in numbers of which a table counts more as better.
    """

    paper: str
    item: str
    text: str
    chapter: str
    tables: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ("ce",)
    rows: str = r"^(?!.*_ground)"
    falls: bool = False


_ICASC = ("icasc_grad_cam", "icasc")


def _claims(paper: str, folder: str, *claims: tuple) -> tuple[Claim, ...]:
    return tuple(Claim(paper, item, text, f"{folder}/{chapter}", *more) for item, text, chapter, *more in claims)


CLAIMS = (
    *_claims(
        "CAM-loss",
        "2-cam-loss",
        (
            "Table 1",
            "It lowers the error of every network structure tried.",
            "20-table-1-network-structures",
            ("cam-table-1",),
            ("cam",),
        ),
        (
            "Table 2",
            "It adds to methods of regularisation.",
            "21-table-2-regularisation",
            ("cam-table-2", "cam-regularizers"),
            ("cam",),
            ("ce",),
            "^(?!.*_none)",
        ),
        (
            "Table 3",
            "It is better than other losses that ask for compact classes.",
            "22-table-3-other-losses",
            ("cam-table-3",),
            ("cam",),
            ("ce", "center", "l_softmax", "sm_softmax"),
        ),
        (
            "Table 4",
            "It is better than suppressing the CAMs of negative classes.",
            "23-table-4-negative-cam",
            ("cam-table-4",),
            ("cam",),
            ("negative_cam", "negative_cam_kd"),
        ),
        (
            "Table 5",
            "Nets that were trained with it transfer better.",
            "24-table-5-fine-tuning",
            ("cam-table-5",),
            ("cam",),
        ),
        (
            "Table 6",
            "It improves classification from a few examples.",
            "25-table-6-few-shot",
            ("cam-table-6",),
            ("cam",),
        ),
        (
            "Table 7",
            "CAAM-CAM matching teaches a student better than logits (KD) or attention (AT).",
            "26-table-7-distillation",
            ("cam-table-7",),
            ("ccm",),
            ("ce", "kd", "at"),
        ),
        ("abstract", "CAAM-CAM matching makes the student converge faster.", "26-table-7-distillation"),
        (
            "Figure 3",
            "A simple choice of start epoch and weight always beats the baseline.",
            "11-choosing-alpha",
            ("cam-figure-3",),
            ("cam",),
        ),
        (
            "Figure 3",
            "With c = 1 the best start is epoch 30.",
            "11-choosing-alpha",
            ("cam-start",),
            ("t_30",),
            ("t_0", "t_10", "t_20", "t_40", "t_60", "t_80"),
        ),
        (
            "Figure 3",
            "With the start fixed the best weight is c = 3.",
            "11-choosing-alpha",
            ("cam-weight",),
            ("c_3",),
            ("c_1", "c_2", "c_4", "c_5"),
        ),
        (
            "§3.2",
            "To start when training accuracy exceeds 50 % is a simple but smart choice.",
            "11-choosing-alpha",
            ("cam-figure-3",),
            ("cam",),
            ("ce",),
            "_adaptive$",
        ),
        ("§3.1", "Grad-CAM or Grad-CAM++ can take the place of CAM, at a higher cost.", "10-cam-loss"),
        ("§3.1", "If L_cam trained W too, W would tend to a vector of ones.", "10-cam-loss"),
        ("§1", "CAAMs are cleaner with it than with cross-entropy.", "31-where-it-looks"),
        ("§4.2", "Against suppressing negative classes it gains most on complex data.", "23-table-4-negative-cam"),
        ("Figure 4", "Its training error is higher and its test error lower: it overfits less.", "30-error-curves"),
        # What the shifted tests of ours show of it stands apart: see `shifts`.
        ("§4.4", "It lessens the harm that the background does.", "31-where-it-looks"),
        (
            "§3.1",
            "The CAM of the target is a better guide than another map (implied; the paper runs no control).",
            "13-controls",
            ("cam-controls", "cam-scenes"),
            ("cam",),
            ("random_class", "uniform"),
        ),
        (
            "abstract",
            "It improves classification (data that the paper does not have).",
            "10-cam-loss",
            ("cam-scenes", "cam-controls"),
            ("cam",),
            ("ce",),
            "^(scenes(_fair)?_resnet8|tenth)$",
        ),
        ("abstract", "Its additional cost can be neglected.", "10-cam-loss"),
    ),
    *_claims(
        "ICASC",
        "3-icasc",
        (
            "abstract",
            "Discriminative attention improves classification (data that the paper does not have).",
            "12-attention-consistency",
            ("icasc-scenes", "icasc-table-8"),
            _ICASC,
            ("ce",),
            "^(scenes(_fair)?_resnet8|scenes_(map|auc))$",
        ),
        (
            "§3.2",
            "The class to separate from is the most confusing one (implied; the paper runs no control).",
            "11-attention-separation",
            ("icasc-table-4", "icasc-scenes"),
            ("icasc",),
            ("icasc_random_confuser",),
        ),
        (
            "Table 2",
            "Segmentation from A_ch is better than from Grad-CAM and Grad-CAM++.",
            "20-table-2-segmentation",
            ("icasc-table-2",),
            ("channel_weighted",),
            ("grad_cam", "grad_cam_pp"),
        ),
        (
            "Table 3",
            "Separation at the inner layer improves accuracy,",
            "21-table-3-ablation",
            ("icasc-table-3",),
            ("icasc_inner",),
        ),
        (
            "Table 3",
            "consistency improves on that,",
            "21-table-3-ablation",
            ("icasc-table-3",),
            ("icasc_inner_consistent",),
            ("icasc_inner",),
        ),
        (
            "Table 3",
            "and so does separation at the last layer on both.",
            "21-table-3-ablation",
            ("icasc-table-3",),
            ("icasc",),
            ("icasc_inner_consistent",),
        ),
        (
            "Table 4",
            "ICASC improves accuracy on CIFAR-100, with either attention.",
            "22-table-4-cifar-100",
            ("icasc-table-4",),
            _ICASC,
        ),
        (
            "Table 5",
            "It does so on Caltech-256, with few images and with more.",
            "23-table-5-caltech-256",
            ("icasc-table-5",),
            _ICASC,
        ),
        ("Table 6", "It does so on ImageNet.", "24-table-6-ilsvrc", ("icasc-table-6",), _ICASC),
        ("Table 7", "It does so on birds.", "25-table-7-cub", ("icasc-table-7",), _ICASC),
        (
            "Table 8",
            "It does so for images with several labels.",
            "26-table-8-voc",
            ("icasc-table-8",),
            _ICASC,
            ("ce",),
            "^(voc2012|animals)_(map|auc)$",
        ),
        (
            "appendix B",
            "There it is better for most classes.",
            "26-table-8-voc",
            ("icasc-table-8",),
            _ICASC,
            ("ce",),
            "^voc2012_(?!map|auc)",
        ),
        (
            "§1",
            "It improves where the attention lies.",
            "26-table-8-voc",
            ("icasc-table-8",),
            _ICASC,
            ("ce",),
            "_(energy|pointing|iou)$",
        ),
        (
            "Table 9",
            "A_ch inside the loss is better than Grad-CAM.",
            "27-table-9-attention-mechanisms",
            ("icasc-table-9",),
            ("icasc",),
            ("icasc_grad_cam",),
        ),
        (
            "Figure 9",
            "The probabilities of the true and the likeliest other class lie further apart (KS statistic).",
            "30-ks-chart",
            ("icasc-figure-9",),
            _ICASC,
            ("ce",),
            "_ks(_pair)?$",
        ),
        (
            "Figure 10",
            "The attention of the five likeliest classes overlaps less.",
            "31-top-5-attention",
            ("icasc-figure-9",),
            _ICASC,
            ("ce",),
            "_top5_overlap$",
            True,
        ),
        (
            "Table 4",
            "With it ResNet-110 outperforms Stochastic Depth and the much deeper ResNet-164.",
            "22-table-4-cifar-100",
            ("icasc-deeper",),
            ("icasc",),
            ("stochastic_depth", "preresnet164"),
        ),
        (
            "Table 7",
            "On birds it is the best against the state of the art (whose numbers are all cited).",
            "25-table-7-cub",
        ),
        ("§3.1", "Grad-CAM++ shifts less than Grad-CAM, but costs too much to train with.", "10-gradient-attention"),
        ("§3.1", "Negative gradients from the ground cause the shift of Grad-CAM.", "10-gradient-attention"),
        ("Figure 2", "Attention at an inner layer is more separable than at the last.", "31-top-5-attention"),
        ("§3.1", "A_ch shifts less between layers than Grad-CAM.", "10-gradient-attention"),
        ("Figure 9", "It recognises 10 % more test images with higher confidence.", "30-ks-chart"),
    ),
    *_claims(
        "CC-Loss",
        "4-cc-loss",
        (
            "Table 1",
            "It is better than other losses (on Cars-196 but for MC-Loss).",
            "20-table-1-loss-functions",
            ("cc-table-1",),
            ("cc",),
            ("ce", "focal", "a_softmax", "mc", "ical", "fical"),
        ),
        (
            "Table 2",
            "Its gate alone improves accuracy slightly.",
            "21-table-2-channel-attention",
            ("cc-table-2",),
            ("gate",),
        ),
        (
            "Table 2",
            "The loss improves on the gate alone.",
            "21-table-2-channel-attention",
            ("cc-table-2",),
            ("cc",),
            ("gate",),
        ),
        (
            "Table 2",
            "The same, by three other readings of its formula.",
            "11-cc-loss",
            ("cc-forms",),
            ("cc_normalised", "cc_hinge", "cc_difference"),
            ("gate",),
        ),
        (
            "Table 3",
            "It gains with λ from 0.5 to 1.5.",
            "22-table-3-lambda-and-batch-size",
            ("cc-table-3",),
            ("cc",),
            ("gate",),
            "_lambda_(0.5|1.0|1.5)$",
        ),
        (
            "Table 3",
            "It loses with λ = 2.",
            "22-table-3-lambda-and-batch-size",
            ("cc-table-3",),
            ("cc",),
            ("gate",),
            "_lambda_2.0$",
            True,
        ),
        (
            "Table 3",
            "It gains with batches from 8 to 64 (implied; the poster has no gate alone beside them).",
            "22-table-3-lambda-and-batch-size",
            ("cc-table-3",),
            ("cc",),
            ("gate",),
            "_batch_(8|16|32|64)$",
        ),
        (
            "Table 1",
            "MC-Loss is better than cross-entropy on Cars-196,",
            "20-table-1-loss-functions",
            ("cc-table-1",),
            ("mc",),
            ("ce",),
            "^cars196",
        ),
        (
            "Table 1",
            "and worse on MNIST and CIFAR-100.",
            "20-table-1-loss-functions",
            ("cc-table-1",),
            ("mc",),
            ("ce",),
            "^(mnist|cifar100)",
            True,
        ),
        (
            "Table 3",
            "λ = 1 is the best weight.",
            "22-table-3-lambda-and-batch-size",
            ("cc-lambda",),
            ("lambda_1.0",),
            ("lambda_0.5", "lambda_1.5", "lambda_2.0"),
        ),
        (
            "Table 3",
            "Smaller batches are better than 64 and 128,",
            "22-table-3-lambda-and-batch-size",
            ("cc-batch",),
            ("batch_16", "batch_32"),
            ("batch_64", "batch_128"),
        ),
        (
            "Table 3",
            "but not as small as 8, where the relation between classes disappears.",
            "22-table-3-lambda-and-batch-size",
            ("cc-batch",),
            ("batch_16", "batch_32"),
            ("batch_8",),
        ),
        (
            "abstract",
            "The channel attention of a class becomes alike, and differs between classes.",
            "11-cc-loss",
            ("cc-gates",),
            ("cc",),
            ("gate",),
            "",
            True,
        ),
        (
            "its figure",
            "Features of a class are more compact and lie further from those of others (silhouette).",
            "30-t-sne",
            ("cc-figure",),
            ("cc",),
            ("ce", "gate"),
        ),
    ),
)


def ledger(folder: Path | None = None) -> pd.DataFrame:
    """Every comparison that a claim rests on, judged by the rule of `camlib.lab.verdict.verdict`.

    A comparison for which the paper has no number can neither be reproduced nor fail to be. With enough pairs it
    "supports" the claim or "contradicts" it if the interval of the gain leaves out 0, and is "undecided" otherwise.

    Args:
        folder: of the records, `data/records` by default.

    Returns:
        A frame with one line per claim, row, pair of arms and preset, in the order of `CLAIMS`: claim (index in
        `CLAIMS`), table, row, method, baseline (names), run, baseline_run, metric, preset, claimed (the paper's gain
        in points, NaN if it reports none), n (pairs), difference, half_width (points), finding. Presets other than
        "paper" have a line only where they have a pair of runs.

    Raises:
        RecordError: as `camlib.lab.record.counting`.
    """
    lines, judged = [], {}
    for index, claim in enumerate(CLAIMS):
        for name in claim.tables:
            table = TABLES[name]
            for preset, baseline in ((p, b) for b in claim.baselines for p in ("paper", "short")):
                if (name, preset, baseline) not in judged:  # many claims rest on one table
                    judged[name, preset, baseline] = verdict.on_table(table, preset, baseline, folder)
                found = judged[name, preset, baseline]
                for line in found[found["column"].isin(claim.methods)].itertuples():
                    if (line.n or preset == "paper") and re.search(claim.rows, line.row):
                        lines.append(
                            {
                                "claim": index,
                                "table": name,
                                "row": line.row,
                                "method": line.column,
                                "baseline": baseline,
                                "run": line.run,
                                "baseline_run": line.baseline_run,
                                "metric": table.entries[line.row, line.column].metric,
                                "preset": preset,
                                "claimed": line.claim,
                                "n": line.n,
                                "difference": line.difference,
                                "half_width": line.half_width,
                                "finding": _finding(line, claim.falls),
                            }
                        )
    return pd.DataFrame(lines)


def counted_once(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Of comparisons as in `ledger` one for each pair of arms, number and protocol: tables and claims share runs.

    Of those that share, one that a paper has a number for comes before one that it has none for.
    """
    pair = ["run", "baseline_run", "metric", "preset"]
    claimed_first = comparisons.sort_values("claimed", key=lambda claimed: claimed.isna(), kind="stable")
    repeated = claimed_first.duplicated(pair) & claimed_first["run"].notna() & claimed_first["baseline_run"].notna()
    return claimed_first[~repeated].sort_index()


def shifts(folder: Path | None = None) -> pd.DataFrame:
    """What was measured under our own shift, where grounds are set free: no paper claims anything about it.

    Args:
        folder: of the records, `data/records` by default.

    Returns:
        A frame with one line per comparison that has a pair of runs, each pair of arms and number once: table, and what
        `camlib.lab.verdict.by_protocol` gives.

    Raises:
        RecordError: as `camlib.lab.record.counting`.
    """
    lines = []
    for table in TABLES.values():
        if any(map(verdict.shifted, table.rows)):
            judged = verdict.by_protocol(table, rows="_grounds?$", folder=folder)
            lines.append(judged[judged["n"] > 0].assign(table=table.name))
    found = pd.concat(lines, ignore_index=True)
    metrics = [TABLES[line.table].entries[line.row, line.column].metric for line in found.itertuples()]
    repeated = found.assign(metric=metrics).duplicated(["run", "baseline_run", "metric", "preset"])
    return found[~repeated].reset_index(drop=True)


def _finding(line, falls: bool) -> str:
    if line.label != "no claim":
        return line.label
    if not verdict.decided(line):
        return "undecided"
    return "contradicts" if (line.difference < 0) != falls else "supports"


def to_say_more(line) -> str:
    """What it would take to say more of a comparison: a command, more pairs, or nothing if its interval leaves out 0.

    How many pairs is told from the spread of those there are: so many that an interval around the paper's gain, or,
    where it has none, around the gain that was measured, would leave out 0.

    Args:
        line: of `ledger`.
    """
    if line.n == 0:
        return f"Not run: python -m camlib plan {line.table}/{line.row} --seeds 0-4"
    if line.n < verdict.ENOUGH_SEEDS:
        preset = "" if line.preset == "paper" else f" --preset {line.preset}"
        return f"More seeds: python -m camlib plan {line.table}/{line.row} --seeds 0-4{preset}"
    gain = abs(line.difference if math.isnan(line.claimed) else line.claimed)
    if verdict.decided(line) or not gain:
        return ""
    spread = verdict.spread_of(line.n, line.half_width)
    pairs = next((n for n in range(line.n, 1000) if verdict.half_width(n, spread) < gain), None)
    if pairs == line.n:  # the claimed gain would show, so that its absence says something
        return ""
    whose = "the measured gain" if math.isnan(line.claimed) else "the paper's gain"
    return f"To tell {whose} of {gain:.2f} points from 0 would take {pairs or 'more than 1,000'} pairs of seeds."


class Answer(NamedTuple):
    """What a table has to say, in sentences; see `answer`.

    Attributes:
        paper: the largest and the smallest gain that the paper reports, and where.
        measured: one sentence for each comparison that has been run.
        still_open: how much of it has not been run, and the command that prints what that would cost.
    """

    paper: str
    measured: tuple[str, ...]
    still_open: str


def answer(
    table: Table,
    baseline: str | None = None,
    *,
    methods: Sequence[str] = (),
    rows: str = "",
    folder: Path | None = None,
) -> Answer:
    """What the paper says in a table, what was measured, and what is still open.

    Args:
        table, baseline, methods, rows, folder: as in `camlib.lab.verdict.by_protocol`.

    Raises:
        RecordError, UnknownName: as `camlib.lab.verdict.by_protocol`.
    """
    judged = verdict.by_protocol(table, baseline, methods=methods, rows=rows, folder=folder)
    against = table.columns[baseline or table.baseline]
    measured = (measurement(line, table, against) for line in judged[judged["n"] > 0].itertuples())
    return Answer(_paper(judged, table, against), tuple(measured), _still_open(table, folder))


def _paper(judged: pd.DataFrame, table: Table, against: str) -> str:
    claimed = judged.drop_duplicates(["row", "column"]).dropna(subset="claim").sort_values("claim", kind="stable")
    if claimed.empty:
        return "No paper reports these comparisons."
    what = table.unit.removesuffix(" %")
    ends = [
        f"{verdict.in_points(line.claim, table.unit)} ({table.rows[line.row]}, {table.columns[line.column]})"
        for line in (claimed.iloc[-1], claimed.iloc[0])
    ]
    if len(claimed) == 1:
        return f"Against {against}, {what} {ends[0]}."
    return f"Against {against}, {what} from {ends[0]} to {ends[1]}, over {len(claimed)} comparisons."


def measurement(line, table: Table, against: str) -> str:
    """A comparison that has been run, in one sentence: difference, interval, pairs, data, kind of test, protocol.

    Args:
        line: of `camlib.lab.verdict.by_protocol`, with at least one pair.
        table: the one that it is of.
        against: the heading of the baseline.
    """
    enough = line.n >= verdict.ENOUGH_SEEDS
    gain = verdict.in_points(line.difference, table.unit, f" ± {line.half_width:.2f}" if enough else "")
    pairs = f"{line.n} pair{'s' if line.n > 1 else ''} of seeds"
    few = "" if enough else f", fewer than the {verdict.ENOUGH_SEEDS} from which anything follows"
    data = manifest()[Run(line.run, line.preset).experiment.data]["title"]
    test = (
        "under our own shift of the test images" if verdict.shifted(line.row) else "on images like the training images"
    )
    ours = SMALL in table.rows[line.row] or line.run.startswith(("scenes", "cifar100_tenth"))
    protocol = "our full" if ours and line.preset == "paper" else line.preset
    return (
        f"{table.rows[line.row]}: {table.columns[line.column]}, {table.unit.removesuffix(' %')} {gain} than {against} "
        f"({'mean and 95 % interval' if enough else 'mean'}, {pairs}{few}; {data}, {test}, {protocol} protocol)."
    )


def found(
    table: Table,
    baseline: str | None = None,
    *,
    methods: Sequence[str] = (),
    rows: str = "",
    folder: Path | None = None,
) -> list[str]:
    """What the comparisons of a table came to: how many were run, their verdicts counted, and the decided ones.

    What the paper reports comes first, then comparisons of our own, last those under our shift.

    Args:
        table, baseline, methods, rows, folder: as in `camlib.lab.verdict.by_protocol`.

    Raises:
        RecordError, UnknownName: as `camlib.lab.verdict.by_protocol`.
    """
    judged = verdict.by_protocol(table, baseline, methods=methods, rows=rows, folder=folder)
    against = table.columns[baseline or table.baseline]
    shift, reported = judged["row"].map(verdict.shifted).astype(bool), judged["claim"].notna()
    return [
        sentence
        for opening, lines in (
            ("The paper reports {} with {}.", judged[reported]),
            ("We added {} with {}, on images like the training images.", judged[~reported & ~shift]),
            ("We added {} with {}, with the grounds set free.", judged[~reported & shift]),
        )
        for sentence in _came_to(opening, lines, table, against)
    ]


def _came_to(opening: str, judged: pd.DataFrame, table: Table, against: str) -> list[str]:
    total = len(judged.drop_duplicates(["row", "column"]))
    if not total:
        return []
    ran = judged[judged["n"] > 0]
    done = len(ran.drop_duplicates(["row", "column"]))
    opening = opening.format("one comparison" if total == 1 else f"{total} comparisons", against)
    if not done:
        return [f"{opening} {'It has not' if total == 1 else 'None of them has'} been run here."]
    counts = ran["label"].value_counts(sort=False)
    # "no claim" says what the paper left out, and nothing of what was found.
    labels = ", ".join(f"{count} {label}" for label, count in counts.items() if label != "no claim")
    how_many = f"{done} of them {'has' if done == 1 else 'have'}"
    if done == total:
        how_many = "It has" if total == 1 else "All have"
    decided = ran[ran["n"] >= verdict.ENOUGH_SEEDS].sort_values("difference", ascending=False, kind="stable")
    if len(decided) > 3:  # nobody reads a wall of sentences: the two ends of the range say enough
        decided = decided.iloc[[0, -1]]
    return [
        f"{opening} {how_many} been run{f': {labels}' if labels else ''}.",
        *(measurement(line, table, against) for line in decided.itertuples()),
    ]


def _still_open(table: Table, folder: Path | None) -> str:
    seeds = [[len(record.counting(name, preset, folder)) for preset in verdict.PROTOCOLS] for name in table.runs]
    never, few = sum(not any(s) for s in seeds), sum(0 < max(s) < verdict.ENOUGH_SEEDS for s in seeds)
    short = sum(paper == 0 < short for paper, short in seeds)
    counts = (
        (never, "have no record"),
        (short, "have been run by the short protocol only"),
        (few, f"have fewer than {verdict.ENOUGH_SEEDS} seeds"),
    )
    said = [f"{count} {what}" for count, what in counts if count]
    open_runs = ", ".join(said) if said else "none: all have their seeds by the full protocol"
    command = f"python -m camlib plan {table.name} --seeds 0-4"
    return f"Of the {len(seeds)} runs behind this table {open_runs}. What the rest costs on your machine: {command}"
