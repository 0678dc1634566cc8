"""The tables of CC-Loss (Song et al. 2021), and rows that a machine without an accelerator can train.

The poster does not number its tables; they are counted in its order. Of the protocol it tells λ = 1 and that its
numbers are means of five rounds. By Table 3, those of Tables 1 and 2 are of batches of 32 on CIFAR-100 and of 16 on
Cars-196. Everything else is our reading: 32 on MNIST, SGD with momentum, cosine decay, learning rates, the nets and
augmentation of the other papers' tables.
"""

from dataclasses import replace

from camlib.losses.cc import FORMS
from camlib.recipes.cam_loss import CE, SMALL, cifar
from camlib.recipes.experiment import CLASSES, Cell, Experiment, Table, call
from camlib.recipes.icasc import scenes
from camlib.train import Recipe


def _with_cc(weight: float = 1.0, **arguments) -> dict:
    return CE | {"cc": (weight, call("CCLoss", **arguments))}


# What takes part in a comparison: the loss, and what it asks of the net.
_ARMS = {
    "ce": ("CE loss", {"terms": CE}),
    "gate": ("CE loss, gate", {"terms": CE, "gate": True}),
    "cc": ("CC-Loss, gate", {"terms": _with_cc(), "gate": True}),
    "focal": ("focal loss", {"terms": {"ce": (1.0, call("FocalLoss"))}}),
    "a_softmax": ("A-softmax", {"terms": {"ce": (1.0, call("ASoftmax"))}, "head": "no_bias"}),
    "mc": ("MC-Loss", {"terms": CE | {"mc": (1.0, call("MCLoss"))}, "channels_per_class": 3}),
    "ical": ("ICAL", {"terms": CE | {"ical": (5.0, call("ICAL"))}, "head": "no_bias"}),
    "fical": (
        "FICAL",
        {"terms": CE | {"fical": (5.0, call("FICAL", num_classes=CLASSES))}, "head": "no_bias"},
    ),
}


def _mnist(net: str, **more) -> Experiment:
    recipe = Recipe(epochs=30, learning_rate=0.01, weight_decay=5e-4)
    return Experiment(net, "mnist", recipe=recipe, batch_size=32, augment=(), **more)


def _mnist_slim(net: str, **more) -> Experiment:
    """Five epochs are enough for nets of this size, and short enough for five seeds of everything."""
    recipe = Recipe(epochs=5, learning_rate=0.05, weight_decay=5e-4, precision="bfloat16", channels_last=True)
    recipe = replace(recipe, test_every=5)
    return Experiment(net, "mnist", recipe=recipe, batch_size=32, augment=(), tests=(call("Embedding"),), **more)


def _cifar100(net: str, **more) -> Experiment:
    recipe = Recipe(epochs=160, learning_rate=0.025, weight_decay=5e-4)
    return Experiment(net, "cifar100", recipe=recipe, batch_size=32, **more)


def _cars(net: str, **more) -> Experiment:
    """The paper's accuracies ask for weights pre-trained on ImageNet: give them by `--start`."""
    recipe = Recipe(epochs=90, learning_rate=0.01, weight_decay=5e-4)
    return Experiment(
        net, "cars196", recipe=recipe, transform="fine_grained", **{"batch_size": 16, "augment": ()} | more
    )


# Row -> heading, what makes an experiment, its net.
_ROWS = {
    "mnist_vgg16": ("VGG-16, MNIST", _mnist, "vgg16_bn"),
    "mnist_resnet18": ("ResNet-18, MNIST", _mnist, "resnet18_cifar"),
    "cifar100_vgg16": ("VGG-16, CIFAR-100", _cifar100, "vgg16_bn"),
    "cifar100_resnet18": ("ResNet-18, CIFAR-100", _cifar100, "resnet18_cifar"),
    "cars196_vgg16": ("VGG-16, Cars-196", _cars, "vgg16_bn"),
    "cars196_resnet18": ("ResNet-18, Cars-196", _cars, "resnet18"),
    "mnist_vgg8_slim": (f"VGG-8, slim, MNIST ({SMALL})", _mnist_slim, "vgg8_slim"),
    "mnist_resnet18_slim": (f"ResNet-18, slim, MNIST ({SMALL})", _mnist_slim, "resnet18_slim"),
    # CAM-loss' recipe, batch 128 included, so that losses of all papers can be compared on one net.
    "cifar100_resnet20": (f"ResNet-20, CIFAR-100 ({SMALL})", cifar, "resnet20"),
    "scenes_resnet8": (f"ResNet-8, Scenes ({SMALL})", scenes, "resnet8"),
}

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


_HOMES = {  # runs that belong to another paper's table
    ("cifar100_resnet20", "ce"): "cam-table-1/resnet20/ce",
    ("scenes_resnet8", "ce"): "icasc-scenes/resnet8/ce",
}


def _home(row: str, arm: str) -> str:
    """The cell that the runs of an arm are recorded under."""
    return _HOMES.get((row, arm), f"cc-table-{2 if arm == 'gate' else 1}/{row}/{arm}")


def _cell(table: str, row: str, arm: str, paper: float | None, experiment: Experiment, home: str) -> Cell:
    return Cell(table, row, arm, paper, experiment, None if home == f"{table}/{row}/{arm}" else home)


def _experiment(row: str, arm: str, **more) -> Experiment:
    _, make, net = _ROWS[row]
    return make(net, **_ARMS[arm][1] | more)


def _table(
    name: str,
    title: str,
    rows: dict[str, str],
    columns: dict[str, str],
    cells: list[Cell],
    unit: str = "accuracy %",
    baseline: str = "ce",
) -> Table:
    return Table(name, title, rows, columns, {cell.name: cell for cell in cells}, unit=unit, baseline=baseline)


def _comparison(name: str, title: str, columns: tuple[str, ...]) -> Table:
    cells = []
    paper = {arm: dict(zip(_ROWS, _PAPER[arm], strict=False)) for arm in columns}  # ours have none
    for row in _ROWS:
        for arm in columns:
            cells.append(_cell(name, row, arm, paper[arm].get(row), _experiment(row, arm), _home(row, arm)))
    rows = {row: heading for row, (heading, *_) in _ROWS.items()}
    return _table(name, title, rows, {arm: _ARMS[arm][0] for arm in columns}, cells)


def _table_3() -> Table:
    """λ = 0 is the gate alone, which stands beside every row. The paper ran both sweeps on VGG-16."""
    name, rows, cells = "cc-table-3", {}, []
    lambdas = {  # λ -> the paper's numbers, by row of the other tables
        0.5: {"mnist_vgg16": 98.04, "cifar100_vgg16": 75.12, "cars196_vgg16": 89.53},
        1.0: {"mnist_vgg16": 98.32, "cifar100_vgg16": 75.49, "cars196_vgg16": 91.46},
        1.5: {"mnist_vgg16": 97.95, "cifar100_vgg16": 75.04, "cars196_vgg16": 89.42},
        2.0: {"mnist_vgg16": 97.53, "cifar100_vgg16": 74.32, "cars196_vgg16": 87.84},
    }
    batches = {
        8: {"cifar100_vgg16": 74.9, "cars196_vgg16": 91.3},
        16: {"cifar100_vgg16": 75.3, "cars196_vgg16": 91.5},
        32: {"cifar100_vgg16": 75.5, "cars196_vgg16": 91.3},
        64: {"cifar100_vgg16": 75.1, "cars196_vgg16": 90.6},
        128: {"cifar100_vgg16": 74.5, "cars196_vgg16": 89.9},
    }
    gates = dict(zip(_ROWS, _PAPER["gate"], strict=False))
    for base in ("mnist_vgg16", "cifar100_vgg16", "cars196_vgg16", "mnist_vgg8_slim", "cifar100_resnet20"):
        for weight, numbers in lambdas.items():
            row = f"{base}_lambda_{weight}"
            rows[row] = f"{_ROWS[base][0]}, λ = {weight}"
            home = _home(base, "cc") if weight == 1 else f"{name}/{row}/cc"
            experiment = _experiment(base, "cc", terms=_with_cc(weight))
            cells.append(_cell(name, row, "gate", gates.get(base), _experiment(base, "gate"), _home(base, "gate")))
            cells.append(_cell(name, row, "cc", numbers.get(base), experiment, home))
    for base in ("cifar100_vgg16", "cars196_vgg16", "mnist_vgg8_slim"):
        for size, numbers in batches.items():
            row = f"{base}_batch_{size}"
            rows[row] = f"{_ROWS[base][0]}, batch {size}"
            for arm in ("gate", "cc"):
                experiment = _experiment(base, arm)
                home = _home(base, arm) if size == experiment.batch_size else f"{name}/{row}/{arm}"
                # The rate goes with the batch, so that what differs is how many pairs a step sees.
                rate = experiment.recipe.learning_rate * size / experiment.batch_size
                recipe = replace(experiment.recipe, learning_rate=rate)
                experiment = replace(experiment, batch_size=size, recipe=recipe)
                cells.append(_cell(name, row, arm, numbers.get(base) if arm == "cc" else None, experiment, home))
    title = "CC-Loss, Table 3: λ and batch size, accuracy"
    return _table(name, title, rows, {arm: _ARMS[arm][0] for arm in ("gate", "cc")}, cells, baseline="gate")


def _forms() -> Table:
    """What the poster leaves open: each reading of the loss, on the nets of our own rows."""
    name, cells = "cc-forms", []
    rows = {row: _ROWS[row][0] for row in _ROWS if SMALL in _ROWS[row][0]}
    columns = {"gate": _ARMS["gate"][0], "difference": "difference", "ratio": "ratio", "hinge": "hinge, m = 1"}
    for row in rows:
        cells.append(_cell(name, row, "gate", None, _experiment(row, "gate"), _home(row, "gate")))
        for form in FORMS:
            home = _home(row, "cc") if form == FORMS[0] else f"{name}/{row}/{form}"
            terms = _with_cc() if form == FORMS[0] else _with_cc(form=form)
            cells.append(_cell(name, row, form, None, _experiment(row, "cc", terms=terms), home))
    return _table(name, "CC-Loss by each reading of its formula, accuracy", rows, columns, cells, baseline="gate")


def _figure() -> Table:
    """What the picture of the features claims, as a number of the runs of Table 2."""
    name, columns = "cc-figure", ("ce", "gate", "cc")
    rows = {row: _ROWS[row][0] for row in ("mnist_vgg8_slim", "mnist_resnet18_slim")}
    cells = [
        Cell(name, row, arm, experiment=_experiment(row, arm), shared=_home(row, arm), metric="silhouette")
        for row in rows
        for arm in columns
    ]
    title = "CC-Loss, its t-SNE figure: silhouette of the features by class, times 100"
    return _table(name, title, rows, {arm: _ARMS[arm][0] for arm in columns}, cells, unit="score %")


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
        _forms(),
        _figure(),
    )
