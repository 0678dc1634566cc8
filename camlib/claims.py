"""The claims of the three papers, and what the records say about each: the book's ledger."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from camlib import recipes, records


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
        metrics: look only at cells that show one of these numbers; at all cells if empty.
        falls: ahead means less, in numbers of which a table counts more as better.
    """

    paper: str
    item: str
    text: str
    chapter: str
    tables: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ("ce",)
    metrics: tuple[str, ...] = ()
    falls: bool = False


_ICASC = ("icasc_grad_cam", "icasc")

CLAIMS = (
    Claim(
        "CAM-loss",
        "Table 1",
        "It lowers the error of every network structure tried.",
        "2-cam-loss/20-table-1-network-structures",
        ("cam-table-1",),
        ("cam",),
    ),
    Claim(
        "CAM-loss",
        "Table 2",
        "It adds to every regularisation method.",
        "2-cam-loss/21-table-2-regularisation",
        ("cam-table-2", "cam-regularizers"),
        ("cam",),
    ),
    Claim(
        "CAM-loss",
        "Table 3",
        "It is better than other losses that ask for compact classes.",
        "2-cam-loss/22-table-3-other-losses",
        ("cam-table-3",),
        ("cam",),
        ("ce", "center", "l_softmax", "sm_softmax"),
    ),
    Claim(
        "CAM-loss",
        "Table 4",
        "It is better than suppressing the CAMs of negative classes.",
        "2-cam-loss/23-table-4-negative-cam",
        ("cam-table-4",),
        ("cam",),
        ("negative_cam", "negative_cam_kd"),
    ),
    Claim(
        "CAM-loss",
        "Table 5",
        "Nets that were trained with it transfer better.",
        "2-cam-loss/24-table-5-fine-tuning",
        ("cam-table-5",),
        ("cam",),
    ),
    Claim(
        "CAM-loss",
        "Table 6",
        "It improves classification from a few examples.",
        "2-cam-loss/25-table-6-few-shot",
        ("cam-table-6",),
        ("cam",),
    ),
    Claim(
        "CAM-loss",
        "Table 7",
        "CAAM-CAM matching teaches a student better than logits (KD) or attention (AT).",
        "2-cam-loss/26-table-7-distillation",
        ("cam-table-7",),
        ("ccm",),
        ("ce", "kd", "at"),
    ),
    Claim(
        "CAM-loss",
        "Figure 3",
        "Any simple choice of start epoch and weight beats the baseline.",
        "2-cam-loss/11-choosing-alpha",
        ("cam-figure-3",),
        ("cam",),
    ),
    Claim(
        "CAM-loss",
        "Figure 5",
        "It lessens the harm that the background does.",
        "2-cam-loss/31-where-it-looks",
        ("cam-scenes",),
        ("cam",),
    ),
    Claim(
        "CAM-loss",
        "§3.1",
        "What helps is the CAM of the target class, not a guide as such (implied; the paper runs no control).",
        "2-cam-loss/13-controls",
        ("cam-controls", "cam-scenes"),
        ("cam",),
        ("cam_detached", "random_class", "uniform"),
    ),
    Claim("CAM-loss", "Figure 4", "Test error falls faster.", "2-cam-loss/30-error-curves"),
    Claim("CAM-loss", "abstract", "Its additional cost can be neglected.", "5-compare/40-side-by-side"),
    Claim(
        "ICASC",
        "Table 2",
        "A_ch gives better seeds for segmentation than Grad-CAM and Grad-CAM++.",
        "3-icasc/20-table-2-segmentation",
        ("icasc-table-2",),
        ("channel_weighted",),
        ("grad_cam", "grad_cam_pp"),
    ),
    Claim(
        "ICASC",
        "Table 3",
        "Each of its parts improves accuracy.",
        "3-icasc/21-table-3-ablation",
        ("icasc-table-3",),
        ("inner", "inner_consistent", "icasc"),
    ),
    Claim(
        "ICASC",
        "Table 4",
        "It improves accuracy on CIFAR-100, with either attention.",
        "3-icasc/22-table-4-cifar-100",
        ("icasc-table-4", "icasc-scenes"),
        _ICASC,
    ),
    Claim(
        "ICASC",
        "Table 5",
        "It does so on Caltech-256, with few images and with more.",
        "3-icasc/23-table-5-caltech-256",
        ("icasc-table-5",),
        _ICASC,
    ),
    Claim("ICASC", "Table 6", "It does so on ImageNet.", "3-icasc/24-table-6-ilsvrc", ("icasc-table-6",), _ICASC),
    Claim(
        "ICASC", "Table 7", "It does so on birds, CUB-200-2011.", "3-icasc/25-table-7-cub", ("icasc-table-7",), _ICASC
    ),
    Claim(
        "ICASC",
        "Table 8",
        "It does so for images with several labels, VOC 2012.",
        "3-icasc/26-table-8-voc",
        ("icasc-table-8",),
        _ICASC,
    ),
    Claim(
        "ICASC",
        "Table 9",
        "A_ch inside the loss is better than Grad-CAM.",
        "3-icasc/27-table-9-attention-mechanisms",
        ("icasc-table-9",),
        ("icasc",),
        ("icasc_grad_cam",),
    ),
    Claim(
        "ICASC",
        "Figure 9",
        "The probabilities of the true and the likeliest other class lie further apart (KS statistic).",
        "3-icasc/30-ks-chart",
        ("icasc-figure-9",),
        _ICASC,
        metrics=("ks", "ks_pair"),
    ),
    Claim(
        "ICASC",
        "Figure 10",
        "The attention of the five likeliest classes overlaps less.",
        "3-icasc/31-top-5-attention",
        ("icasc-figure-9",),
        _ICASC,
        metrics=("top5_overlap",),
        falls=True,
    ),
    Claim(
        "ICASC",
        "§3.2",
        "What helps is to separate from the most confusing class (implied; the paper runs no control).",
        "3-icasc/11-attention-separation",
        ("icasc-table-4", "icasc-scenes"),
        ("icasc",),
        ("random_confuser",),
    ),
    Claim(
        "ICASC",
        "Figure 5",
        "A_ch shifts less between layers than Grad-CAM and lies better on the object.",
        "3-icasc/10-gradient-attention",
    ),
    Claim(
        "CC-Loss",
        "Table 1",
        "It is better than other losses.",
        "4-cc-loss/20-table-1-loss-functions",
        ("cc-table-1",),
        ("cc",),
        ("ce", "focal", "a_softmax", "mc", "ical", "fical"),
    ),
    Claim(
        "CC-Loss",
        "Table 2",
        "Its gate alone improves accuracy slightly.",
        "4-cc-loss/21-table-2-channel-attention",
        ("cc-table-2",),
        ("gate",),
    ),
    Claim(
        "CC-Loss",
        "Table 2",
        "The loss improves on the gate alone.",
        "4-cc-loss/21-table-2-channel-attention",
        ("cc-table-2",),
        ("cc",),
        ("gate",),
    ),
    Claim(
        "CC-Loss",
        "Table 2",
        "The same, by the two other readings of its formula.",
        "4-cc-loss/11-cc-loss",
        ("cc-forms",),
        ("ratio", "hinge"),
        ("gate",),
    ),
    Claim(
        "CC-Loss",
        "Table 3",
        "It gains at every weight up to 1.5 and at every batch size, and loses at λ = 2.",
        "4-cc-loss/22-table-3-lambda-and-batch-size",
        ("cc-table-3",),
        ("cc",),
        ("gate",),
    ),
    Claim(
        "CC-Loss",
        "its t-SNE figure",
        "Features of a class are more compact and lie further from those of others (silhouette).",
        "4-cc-loss/30-t-sne",
        ("cc-figure",),
        ("cc",),
        ("ce", "gate"),
    ),
)


def ledger(folder: Path | None = None) -> pd.DataFrame:
    """Every comparison that a claim rests on, judged by the rule of `camlib.records.verdict`.

    A comparison for which the paper has no number can neither be reproduced nor fail to be. With enough pairs it
    "supports" the claim or "contradicts" it if the interval of the gain leaves out 0, and is "undecided" otherwise.

    Args:
        folder: of the records, `data/records` by default.

    Returns:
        A frame with one line per claim, row, pair of arms and preset, in the order of `CLAIMS`: claim (index in
        `CLAIMS`), table, row, method, baseline (names), preset, claimed (the paper's gain in points, NaN if it
        reports none), n (pairs), difference, half_width (points), finding. Presets other than "paper" have a line
        only where they have a pair of runs.

    Raises:
        RecordError: as `camlib.records.results`.
    """
    lines = []
    for index, claim in enumerate(CLAIMS):
        for table in claim.tables:
            cells = recipes.TABLES[table].cells
            for preset, baseline in ((p, b) for b in claim.baselines for p in ("paper", "short")):
                judged = records.verdicts(table, preset, baseline, folder)
                for line in judged[judged["column"].isin(claim.methods)].itertuples():
                    metric = cells[f"{table}/{line.row}/{line.column}"].metric
                    if (line.n or preset == "paper") and metric in (claim.metrics or (metric,)):
                        lines.append(
                            {
                                "claim": index,
                                "table": table,
                                "row": line.row,
                                "method": line.column,
                                "baseline": baseline,
                                "preset": preset,
                                "claimed": line.claim,
                                "n": line.n,
                                "difference": line.difference,
                                "half_width": line.half_width,
                                "finding": _finding(line, claim.falls),
                            }
                        )
    return pd.DataFrame(lines)


def _finding(line, falls: bool) -> str:
    if line.label != "no claim":
        return line.label
    if abs(line.difference) <= line.half_width:
        return "undecided"
    return "contradicts" if (line.difference < 0) != falls else "supports"
