"""The tables of CC-Loss (Song et al. 2020), and rows that a machine without an accelerator can train.

The poster does not number its tables; they are counted in its order.
"""

from camlib.lab.table import Entry, Table
from camlib.lab.tables.cam_loss import SMALL, scenes_rows

_HEADINGS = {
    "ce": "CE loss",
    "gate": "CE loss, gate",
    "cc": "CC-Loss, gate",
    "focal": "focal loss",
    "a_softmax": "A-softmax",
    "mc": "MC-Loss",
    "ical": "ICAL",
    "fical": "FICAL",
    "cc_late": "CC-Loss, gate, second half only",
    "cc_lambda_0.02": "CC-Loss, gate, λ = 0.02",
    "cc_lambda_0.1": "CC-Loss, gate, λ = 0.1",
    "triplet": "triplet loss, gate",
}
FORMS = {
    "gate": "CE loss, gate",
    "cc": "ratio",
    "cc_normalised": "normalised difference",
    "cc_hinge": "hinge, m = 1",
    "cc_difference": "difference",
}

# Row -> heading, start of its runs' names, metric.
_ROWS = {
    "mnist_vgg16": ("VGG-16, MNIST", "mnist/vgg16_bn", "accuracy"),
    "mnist_resnet18": ("ResNet-18, MNIST", "mnist/resnet18_cifar", "accuracy"),
    "cifar100_vgg16": ("VGG-16, CIFAR-100", "cifar100_cc/vgg16_bn", "accuracy"),
    "cifar100_resnet18": ("ResNet-18, CIFAR-100", "cifar100_cc/resnet18_cifar", "accuracy"),
    "cars196_vgg16": ("VGG-16, Cars-196", "cars196/vgg16_bn", "accuracy"),
    "cars196_resnet18": ("ResNet-18, Cars-196", "cars196/resnet18", "accuracy"),
}
_OURS = {
    "mnist_vgg8_slim": (f"VGG-8, slim, MNIST ({SMALL})", "mnist/vgg8_slim", "accuracy"),
    "mnist_few": (f"VGG-8, slim, 1,200 images of MNIST ({SMALL})", "mnist_few/vgg8_slim", "accuracy"),
    "mnist_resnet18_slim": (f"ResNet-18, slim, MNIST ({SMALL})", "mnist/resnet18_slim", "accuracy"),
    # CAM-loss' protocol, batch 128 included, so that losses of all papers can be compared on one net.
    "cifar100_resnet20": (f"ResNet-20, CIFAR-100 ({SMALL})", "cifar100/resnet20", "accuracy"),
}
for _setting, _heading in (("scenes_fair", "Scenes, 250 images"), ("scenes", "Scenes")):
    _rows, _runs = scenes_rows(f"{_heading} ({SMALL})", _setting)
    _OURS |= {row: (heading, *_runs[row]) for row, heading in _rows.items()}

_PAPER = {  # in the order of _ROWS
    "ce": (97.43, 97.52, 74.49, 77.38, 88.02, 85.77),
    "gate": (97.66, 97.67, 74.54, 77.57, 88.15, 86.04),
    "focal": (97.64, 97.68, 74.46, 77.63, 88.21, 85.98),
    "a_softmax": (98.10, 98.32, 74.55, 77.78, 90.02, 87.22),
    "mc": (98.20, 98.45, 72.51, 70.18, 92.80, None),
    "ical": (97.83, 98.21, 74.79, 77.71, 89.32, 86.67),
    "fical": (98.22, 98.40, 74.98, 78.18, 89.70, 87.38),
    "cc": (98.32, 98.52, 75.49, 78.23, 91.46, 88.41),
}
_SPREAD = {  # of five runs, where the poster prints it
    "gate": (0.02, 0.01, 0.02, 0.01, 0.03, 0.02),
    "cc": (0.08, 0.09, 0.15, 0.07, 0.09, 0.06),
}


def _comparison(name: str, title: str, columns: tuple[str, ...]) -> Table:
    rows, entries = _ROWS | _OURS, {}
    paper, spread = (
        {arm: dict(zip(_ROWS, of.get(arm, ()), strict=False)) for arm in columns} for of in (_PAPER, _SPREAD)
    )
    for row, (_, runs, metric) in rows.items():
        for arm in columns:
            entries[row, arm] = Entry(f"{runs}/{arm}", paper[arm].get(row), metric, spread=spread[arm].get(row))
    headings = {row: heading for row, (heading, *_) in rows.items()}
    return Table(name, title, headings, {arm: _HEADINGS[arm] for arm in columns}, entries, unit="accuracy %")


def _measured(run: str, number: float | None = None, spread: float | None = None) -> Entry:
    return Entry(run, number, spread=spread)


def _table_3() -> Table:
    """λ = 0 is the gate alone, which stands beside every row. The paper ran both sweeps on VGG-16."""
    rows, entries = {}, {}
    lambdas = {  # λ -> the paper's numbers and their spread, by row of the other tables
        0.5: {"mnist_vgg16": (98.04, 0.05), "cifar100_vgg16": (75.12, 0.03), "cars196_vgg16": (89.53, 0.07)},
        1.0: {"mnist_vgg16": (98.32, 0.08), "cifar100_vgg16": (75.49, 0.15), "cars196_vgg16": (91.46, 0.09)},
        1.5: {"mnist_vgg16": (97.95, 0.06), "cifar100_vgg16": (75.04, 0.09), "cars196_vgg16": (89.42, 0.05)},
        2.0: {"mnist_vgg16": (97.53, 0.03), "cifar100_vgg16": (74.32, 0.12), "cars196_vgg16": (87.84, 0.02)},
    }
    batches = {
        8: {"cifar100_vgg16": (74.9, 0.12), "cars196_vgg16": (91.3, 0.12)},
        16: {"cifar100_vgg16": (75.3, 0.07), "cars196_vgg16": (91.5, 0.09)},
        32: {"cifar100_vgg16": (75.5, 0.15), "cars196_vgg16": (91.3, 0.16)},
        64: {"cifar100_vgg16": (75.1, 0.14), "cars196_vgg16": (90.6, 0.18)},
        128: {"cifar100_vgg16": (74.5, 0.14), "cars196_vgg16": (89.9, 0.15)},
    }
    usual_batch = {"cifar100_vgg16": 32, "cars196_vgg16": 16, "mnist_vgg8_slim": 32}
    gates = dict(zip(_ROWS, zip(_PAPER["gate"], _SPREAD["gate"], strict=True), strict=True))
    everything = _ROWS | _OURS
    for base in (*lambdas[1.0], "mnist_few", "mnist_vgg8_slim", "cifar100_resnet20"):
        heading, runs, _ = everything[base]
        for weight, numbers in lambdas.items():
            row = f"{base}_lambda_{weight}"
            rows[row] = f"{heading}, λ = {weight}"
            arm = "cc" if weight == 1 else f"cc_lambda_{weight}"
            entries[row, "gate"] = _measured(f"{runs}/gate", *gates.get(base, ()))
            entries[row, "cc"] = _measured(f"{runs}/{arm}", *numbers.get(base, ()))
    for base, usual in usual_batch.items():
        heading, runs, _ = everything[base]
        setting, net = runs.split("/")
        for size, numbers in batches.items():
            row = f"{base}_batch_{size}"
            rows[row] = f"{heading}, batch {size}"
            start = runs if size == usual else f"{setting}_batch_{size}/{net}"
            entries[row, "gate"] = Entry(f"{start}/gate")
            entries[row, "cc"] = _measured(f"{start}/cc", *numbers.get(base, ()))
    columns = {arm: _HEADINGS[arm] for arm in ("gate", "cc")}
    title = "CC-Loss, Table 3: λ and batch size, accuracy"
    return Table("cc-table-3", title, rows, columns, entries, unit="accuracy %", baseline="gate")


def _across(name: str, title: str, kind: str, of: Table, columns: dict[str, str], baseline: str) -> Table:
    """Rows of CC-Loss, Table 3 beside each other, which its claims compare."""
    rows, entries = {}, {}
    for row, heading in of.rows.items():
        base, found, value = row.partition(f"_{kind}_")
        if found:
            rows[base] = heading.rsplit(", ", 1)[0]
            entries[base, f"{kind}_{value}"] = of.entries[row, "cc"]
    return Table(name, title, rows, columns, entries, unit="accuracy %", baseline=baseline)


def _lambdas(of: Table) -> Table:
    columns = {f"lambda_{weight}": f"λ = {weight}" for weight in (0.5, 1.0, 1.5, 2.0)}
    return _across("cc-lambda", "CC-Loss, Table 3, by λ: accuracy", "lambda", of, columns, "lambda_1.0")


def _batches(of: Table) -> Table:
    columns = {f"batch_{size}": f"batch {size}" for size in (8, 16, 32, 64, 128)}
    return _across("cc-batch", "CC-Loss, Table 3, by batch size: accuracy", "batch", of, columns, "batch_32")


def _gates() -> Table:
    """Whether the gates of a class are alike: distances within classes over those between, times 100; 100 by chance."""
    columns = {arm: _HEADINGS[arm] for arm in ("gate", "cc")}
    metric, rows, entries = "gate_distance_ratio", {}, {}
    for row in ("mnist_vgg8_slim", "mnist_few", "mnist_resnet18_slim", "scenes_resnet8", "scenes_fair_resnet8"):
        heading, runs, _ = _OURS[row]
        rows[row] = heading
        entries |= {(row, arm): Entry(f"{runs}/{arm}", metric=metric) for arm in columns}
    title = "CC-Loss: distances between gates within a class over those between classes, times 100"
    return Table("cc-gates", title, rows, columns, entries, unit="score %", baseline="gate")


def _forms() -> Table:
    """What the poster leaves open: each reading of the loss, on the nets of our own rows."""
    rows = {row: heading for row, (heading, *_) in _OURS.items()}
    entries = {
        (row, arm): Entry(f"{runs}/{arm}", metric=metric) for row, (_, runs, metric) in _OURS.items() for arm in FORMS
    }
    title = "CC-Loss by each reading of its formula, accuracy"
    return Table("cc-forms", title, rows, FORMS, entries, unit="accuracy %", baseline="gate")


def _why() -> Table:
    """What CC-Loss does apart from its gate: a narrow one, later, weaker, and another loss that groups the gates."""
    arms = ("ce", "gate", "cc", "cc_late", "cc_lambda_0.1", "cc_lambda_0.02", "triplet")
    rows, entries = {}, {}
    for row, (heading, runs, metric) in _OURS.items():
        setting = runs.split("/")[0]
        if setting not in ("scenes", "scenes_fair"):
            continue
        rows[row] = heading
        entries |= {(row, arm): Entry(f"{runs}/{arm}", metric=metric) for arm in arms}
        rows[f"{row}_narrow"] = f"{heading}, gate with 4 units in place of 32"
        narrow = {"ce": "ce", "gate": "gate_narrow", "cc": "cc_narrow"}
        entries |= {(f"{row}_narrow", of): Entry(f"{runs}/{arm}", metric=metric) for of, arm in narrow.items()}
    title = "CC-Loss on Scenes: the gate's width, a late start, lower weights, a triplet loss; accuracy"
    columns = {arm: _HEADINGS[arm] for arm in arms}
    return Table("cc-why", title, rows, columns, entries, unit="accuracy %", baseline="gate")


def _figure() -> Table:
    """What the picture of the features claims, as a number of the runs of Table 2."""
    columns = {arm: _HEADINGS[arm] for arm in ("ce", "gate", "cc")}
    rows = {row: _OURS[row][0] for row in ("mnist_vgg8_slim", "mnist_resnet18_slim")}
    entries = {(row, arm): Entry(f"{_OURS[row][1]}/{arm}", metric="silhouette") for row in rows for arm in columns}
    title = "CC-Loss, its t-SNE figure: silhouette of the features by class, times 100"
    return Table("cc-figure", title, rows, columns, entries, unit="score %")


def tables() -> tuple[Table, ...]:
    """Every table that CC-Loss' chapters read, in the paper's order."""
    return (
        _comparison(
            "cc-table-1",
            "CC-Loss, Table 1: loss functions, accuracy",
            ("ce", "focal", "a_softmax", "mc", "ical", "fical", "cc"),
        ),
        _comparison("cc-table-2", "CC-Loss, Table 2: the gate, accuracy", ("ce", "gate", "cc")),
        _table_3(),
        _lambdas(_table_3()),
        _batches(_table_3()),
        _gates(),
        _forms(),
        _why(),
        _figure(),
    )
