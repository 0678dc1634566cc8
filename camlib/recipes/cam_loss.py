"""The tables and figures of CAM-loss (Wang et al. 2021), and the comparisons beside them that no paper made."""

from dataclasses import replace

from camlib.recipes.experiment import CLASSES, FEATURES, Cell, Experiment, Table, call
from camlib.train import Recipe

CE = {"ce": (1.0, call("CrossEntropy"))}


def _with_cam(term: str = "CAMLoss", *, t: int = 20, c: float = 3.0, **arguments) -> dict:
    """CAM-loss, Eq. 6 with Eq. 7's t and c."""
    return CE | {"cam": (call("step_at", start=t, value=c), call(term, **arguments))}


CAM = _with_cam()

_ARMS = {
    "ce": CE,
    "cam": CAM,
    "cam_detached": _with_cam(detach_cam=True),
    "random_class": _with_cam("RandomClassCAMLoss"),
    "uniform": _with_cam("UniformCAMLoss"),
}

_HEADINGS = {
    "ce": "CE loss",
    "cam": "CAM-loss",
    "cam_detached": "CAM held fixed",
    "random_class": "CAM of a random class",
    "uniform": "uniform guide",
}

# Weight decay and Nesterov's momentum as in each net's own paper, which CAM-loss, §4.2 follows.
_NETS = {
    "resnet20": {"weight_decay": 1e-4},
    "resnet56": {"weight_decay": 1e-4},
    "resnet110": {"weight_decay": 1e-4},
    "wrn16_2": {"weight_decay": 5e-4, "nesterov": True},
    "wrn16_4": {"weight_decay": 5e-4, "nesterov": True},
    "wrn28_2": {"weight_decay": 5e-4, "nesterov": True},
    "wrn28_4": {"weight_decay": 5e-4, "nesterov": True},
    "wrn28_10": {"weight_decay": 5e-4, "nesterov": True},
    "resnext29_8x64d": {"weight_decay": 5e-4},
    "densenet_bc_190_40": {"weight_decay": 1e-4, "nesterov": True},
    "resnet8": {"weight_decay": 1e-4},
}
SMALL = "not in the paper"  # behind the rows that a machine without an accelerator can train


def cifar(net: str, terms: dict, data: str = "cifar100", **more) -> Experiment:
    """CAM-loss, §4.2: 160 epochs, batch 128, learning rate 0.1 with cosine decay."""
    recipe = Recipe(epochs=160, learning_rate=0.1, **_NETS[net])
    return Experiment(net, data, terms, recipe, tests=(call("Confusion"),), **more)


def _imagenet(net: str, terms: dict, augment: tuple[str, ...] = ()) -> Experiment:
    """CAM-loss, §4.2: 120 epochs, batch 1024, learning rate 0.4 (512 and 0.2 for ResNeXt-101), cosine decay."""
    halves = 2 if net == "resnext101_32x8d" else 1
    recipe = Recipe(epochs=120, learning_rate=0.4 / halves, weight_decay=1e-4)
    return Experiment(net, "imagenet", terms, recipe, 1024 // halves, augment, transform="imagenet")


def _pyramid(terms: dict, augment: tuple[str, ...] = (), shake: bool = False) -> Experiment:
    """The setup of CutMix's comparison (Yun et al. 2019), which CAM-loss, Table 2 follows."""
    recipe = Recipe(epochs=300, learning_rate=0.25, schedule="steps", milestones=(150, 225), nesterov=True)
    regularize = (call("shake_drop"),) if shake else ()
    return Experiment(
        "pyramidnet200_a240", "cifar100", terms, recipe, 64, ("crop", "flip", *augment), regularize=regularize
    )


def _table(name: str, title: str, rows: dict[str, str], columns: dict[str, str], cells: list[Cell], **more) -> Table:
    return Table(name, title, rows, columns, {cell.name: cell for cell in cells}, **more)


def _table_1() -> Table:
    paper = {
        "resnet56": ("ResNet-56", 28.80, 27.34),
        "wrn28_10": ("WRN-28-10", 18.37, 17.49),
        "resnext29_8x64d": ("ResNeXt-29, 8×64d", 18.01, 17.24),
        "densenet_bc_190_40": ("DenseNet-BC-190-40", 17.67, 16.98),
        "resnet50": ("ResNet-50 (ImageNet)", 23.68, 22.98),
        "resnet101": ("ResNet-101 (ImageNet)", 22.30, 21.73),
        "resnext50_32x4d": ("ResNeXt-50, 32×4d (ImageNet)", 22.42, 21.91),
        "resnext101_32x8d": ("ResNeXt-101, 32×8d (ImageNet)", 21.04, 20.45),
        "resnet20": (f"ResNet-20 ({SMALL})", None, None),
    }
    name, columns = "cam-table-1", {"ce": "CE loss", "cam": "CAM-loss"}
    cells = [
        Cell(name, net, arm, number, cifar(net, _ARMS[arm]) if net in _NETS else _imagenet(net, _ARMS[arm]))
        for net, (_, *numbers) in paper.items()
        for arm, number in zip(columns, numbers, strict=True)
    ]
    rows = {net: heading for net, (heading, *_) in paper.items()}
    return _table(name, "CAM-loss, Table 1: network structures, top-1 error", rows, columns, cells)


def _table_2() -> Table:
    """Rows in pairs, top-1 and top-5 of the same runs."""
    name, columns = "cam-table-2", {"ce": "CE loss", "cam": "with CAM-loss"}
    arms = {"ce": CE, "cam": CAM}
    runnable = {
        "pyramid_none": ("PyramidNet-200, none", _pyramid, {}),
        "pyramid_shakedrop": ("PyramidNet-200, ShakeDrop", _pyramid, {"shake": True}),
        "pyramid_cutmix": ("PyramidNet-200, CutMix", _pyramid, {"augment": ("cutmix",)}),
        "pyramid_both": ("PyramidNet-200, CutMix + ShakeDrop", _pyramid, {"augment": ("cutmix",), "shake": True}),
        "resnet50_none": ("ResNet-50 (ImageNet), none", _imagenet, {"net": "resnet50"}),
        "resnet50_cutmix": (
            "ResNet-50 (ImageNet), CutMix",
            _imagenet,
            {"net": "resnet50", "augment": ("cutmix_always",)},
        ),
    }
    paper = {  # top-1 and top-5 error of CE, then of CAM-loss
        "pyramid_none": (16.45, 3.69, 15.79, 3.28),
        "pyramid_cutout": (16.53, 3.65),
        "pyramid_manifold_mixup": (16.14, 4.07),
        "pyramid_stochastic_depth": (15.86, 3.33),
        "pyramid_drop_block": (15.73, 3.26),
        "pyramid_mixup": (15.63, 3.99),
        "pyramid_shakedrop": (15.08, 2.72, 14.56, 2.56),
        "pyramid_cutmix": (14.47, 2.97, 14.01, 2.93),
        "pyramid_both": (13.81, 2.29, 13.49, 2.18),
        "resnet50_none": (23.68, 7.05, 22.98, 6.52),
        "resnet50_cutout": (22.93, 6.66),
        "resnet50_manifold_mixup": (22.50, 6.21),
        "resnet50_stochastic_depth": (22.46, 6.27),
        "resnet50_drop_block": (21.87, 5.98),
        "resnet50_mixup": (22.58, 6.40),
        "resnet50_cutmix": (21.54, 5.92, 21.16, 5.79),
    }
    nets = {"pyramid": "PyramidNet-200", "resnet50": "ResNet-50 (ImageNet)"}
    rows, cells = {}, []
    for row, numbers in paper.items():
        net, _, method = row.partition("_")
        heading = runnable[row][0] if row in runnable else f"{nets[net]}, {_REGULARIZERS[method][0]}"
        for ending, metric, offset in (("", "accuracy", 0), ("_top5", "top5_accuracy", 1)):
            rows[row + ending] = f"{heading}, top-{5 if ending else 1}"
            for arm, number in zip(columns, numbers[offset::2], strict=False):
                # The paper says that its baselines stand in Yun et al. 2019.
                cell = Cell(
                    name, row + ending, arm, number, metric=metric, cited="Yun et al. 2019" if arm == "ce" else None
                )
                if row in runnable:
                    _, make, options = runnable[row]
                    same = "cam-table-1/resnet50/" if row == "resnet50_none" else f"{name}/{row}/" if ending else None
                    cell = replace(cell, experiment=make(terms=arms[arm], **options), shared=same and same + arm)
                cells.append(cell)
    title = "CAM-loss, Table 2: with regularisation, top-1 and top-5 error"
    return _table(name, title, rows, columns, cells)


_REGULARIZERS = {  # heading, and what the experiment gains
    "none": ("none", {}),
    "cutout": ("Cutout", {"augment": ("crop", "flip", "cutout")}),
    "manifold_mixup": ("Manifold Mixup", {"mix": call("ManifoldMixup")}),
    "stochastic_depth": ("Stochastic Depth", {"regularize": (call("stochastic_depth"),)}),
    "drop_block": ("DropBlock", {"regularize": (call("drop_block"),)}),
    "mixup": ("Mixup", {"augment": ("crop", "flip", "mixup")}),
    "shakedrop": ("ShakeDrop", {"regularize": (call("shake_drop"),)}),
    "cutmix": ("CutMix", {"augment": ("crop", "flip", "cutmix")}),
}


def _regularizers() -> Table:
    name, columns = "cam-regularizers", {"ce": "CE loss", "cam": "with CAM-loss"}
    rows = {
        f"{net}_{method}": f"{heading}, {method_heading}"
        for net, heading in (("resnet56", "ResNet-56"), ("resnet20", "ResNet-20"))
        for method, (method_heading, _) in _REGULARIZERS.items()
    }
    cells = []
    for row in rows:
        net, _, method = row.partition("_")
        for arm in columns:
            shared = f"cam-table-1/{net}/{arm}" if method == "none" else None
            experiment = cifar(net, _ARMS[arm], **_REGULARIZERS[method][1])
            cells.append(Cell(name, row, arm, experiment=experiment, shared=shared))
    title = "CAM-loss with each regulariser on a net that is quick to train: top-1 error on CIFAR-100"
    return _table(name, title, rows, columns, cells)


def _table_3() -> Table:
    columns = {
        "ce": "CE loss",
        "center": "center loss",
        "l_softmax": "L-Softmax",
        "sm_softmax": "SM-Softmax",
        "cam": "CAM-loss",
    }
    arms = {
        "ce": {"terms": CE},
        "center": {
            "terms": CE | {"center": (0.003, call("CenterLoss", num_classes=CLASSES, features=FEATURES))},
        },
        "l_softmax": {"terms": {"ce": (1.0, call("LSoftmax"))}, "head": "no_bias"},
        "sm_softmax": {"terms": {"ce": (1.0, call("SMSoftmax", margin=0.3))}},  # no margin is published: ours
        "cam": {"terms": CAM},
    }
    paper = {
        "resnet110_cifar10": ("ResNet-110, CIFAR-10", 6.76, 6.38, 6.46, 6.49, 6.29),
        "wrn28_10_cifar10": ("WRN-28-10, CIFAR-10", 3.82, 3.76, 3.69, 3.71, 3.49),
        "resnet110_cifar100": ("ResNet-110, CIFAR-100", 27.68, 26.88, 27.03, 26.97, 26.56),
        "wrn28_10_cifar100": ("WRN-28-10, CIFAR-100", 18.53, 18.50, 18.48, 18.40, 17.87),
        "resnet20_cifar100": (f"ResNet-20, CIFAR-100 ({SMALL})", *[None] * 5),
    }
    name, cells = "cam-table-3", []
    for row, (_, *numbers) in paper.items():
        net, _, data = row.rpartition("_")
        for column, number in zip(columns, numbers, strict=True):
            also = data == "cifar100" and net != "resnet110" and column in ("ce", "cam")
            shared = f"cam-table-1/{net}/{column}" if also else None
            cells.append(Cell(name, row, column, number, cifar(net, data=data, **arms[column]), shared))
    rows = {row: heading for row, (heading, *_) in paper.items()}
    return _table(name, "CAM-loss, Table 3: other loss functions, top-1 error", rows, columns, cells)


def _table_4() -> Table:
    columns = {
        "ce": "CE loss",
        "negative_cam": "NegativeCAM, mse form",
        "negative_cam_kd": "NegativeCAM, kd form",
        "cam": "CAM-loss",
    }
    paper = {  # the paper does not say which form of NegativeCAM it ran; its number stands beside the first
        "resnet56": ("ResNet-56", 28.80, 27.37, None, 27.34),
        "resnet110": ("ResNet-110", 27.68, 26.76, None, 26.56),
        "resnet50": ("ResNet-50 (ImageNet)", 23.68, 23.32, None, 22.98),
        "resnet101": ("ResNet-101 (ImageNet)", 22.30, 22.02, None, 21.73),
        "resnet20": (f"ResNet-20 ({SMALL})", *[None] * 4),
    }
    name, cells = "cam-table-4", []
    for net, (_, *numbers) in paper.items():
        make, k = (cifar, 10) if net in _NETS else (_imagenet, 100)
        arms = {
            "ce": CE,
            "negative_cam": CE | {"negative_cam": (0.07, call("NegativeCAM", form="mse", k=k))},
            "negative_cam_kd": CE | {"negative_cam": (0.005, call("NegativeCAM", form="kd", k=k))},
            "cam": CAM,
        }
        for column, number in zip(columns, numbers, strict=True):
            home = f"cam-table-3/resnet110_cifar100/{column}" if net == "resnet110" else f"cam-table-1/{net}/{column}"
            shared = home if column in ("ce", "cam") else None
            cells.append(Cell(name, net, column, number, make(net, arms[column]), shared))
    rows = {net: heading for net, (heading, *_) in paper.items()}
    return _table(name, "CAM-loss, Table 4: NegativeCAM, top-1 error", rows, columns, cells)


def _table_5() -> Table:
    name, columns = "cam-table-5", {"ce": "CE loss", "cam": "CAM-loss"}
    fine = Recipe(epochs=90, learning_rate=1e-3, weight_decay=5e-4)
    rows = {
        "cub200": "CUB-200-2011",
        "stanford_dogs": "Stanford Dogs",
        "scenes": f"Scenes, fine classes ({SMALL})",
    }
    experiments = {
        "cub200": Experiment("resnet50", "cub200", CE, fine, 8, (), transform="fine_grained"),
        "stanford_dogs": Experiment("resnet50", "stanford_dogs", CE, fine, 16, (), transform="fine_grained"),
        "scenes": Experiment(
            "resnet8",
            "scenes_fine",
            CE,
            Recipe(epochs=12, learning_rate=0.01, weight_decay=5e-4, precision="bfloat16", channels_last=True),
        ),
    }
    paper = {"cub200": (85.6, 86.7), "stanford_dogs": (83.9, 84.6), "scenes": (None, None)}
    starts = {"cub200": "cam-table-1/resnet50", "stanford_dogs": "cam-table-1/resnet50", "scenes": "cam-scenes/resnet8"}
    cells = [
        Cell(name, row, arm, number, replace(experiments[row], start=f"{starts[row]}/{arm}"))
        for row in rows
        for arm, number in zip(columns, paper[row], strict=True)
    ]
    title = "CAM-loss, Table 5: fine-tuning nets that were pre-trained with each loss, top-1 accuracy"
    return _table(name, title, rows, columns, cells, unit="accuracy %")


def _table_6() -> Table:
    """Baseline++ as Chen et al. 2019 train it: 400 epochs, batch 16, Adam at 0.001, no decay."""
    name, columns = "cam-table-6", {"ce": "Baseline++", "cam": "Baseline++ with CAM-loss"}
    recipe = Recipe(epochs=400, learning_rate=1e-3, schedule="steps", optimizer="adam", weight_decay=0, test_every=400)
    data = {
        "mini_imagenet": ("Mini-ImageNet", "mini_imagenet_few_shot", "few_shot", (1, 5)),
        "cub": ("CUB-200-2011", "cub200_few_shot", "few_shot", (1, 5)),
        "mini_to_cub": ("Mini-ImageNet to CUB", "mini_to_cub", "few_shot", (5,)),
        "cub50": (f"CUB-50, 112 px ({SMALL})", "cub50_few_shot", "few_shot_112", (1, 5)),
    }
    paper = {
        "mini_imagenet_1_shot": (52.18, 54.80),
        "mini_imagenet_5_shot": (75.86, 77.54),
        "cub_1_shot": (67.08, 74.12),
        "cub_5_shot": (84.19, 88.93),
        "mini_to_cub_5_shot": (65.88, 68.63),
        "cub50_1_shot": (None, None),
        "cub50_5_shot": (None, None),
    }
    rows, cells = {}, []
    for source, (heading, data_name, transform, shots) in data.items():
        for shot in shots:
            row = f"{source}_{shot}_shot"
            rows[row] = f"{heading}, {shot}-shot"
            for arm, number in zip(columns, paper[row], strict=True):
                experiment = Experiment(
                    "resnet18",
                    data_name,
                    _ARMS[arm],
                    recipe,
                    16,
                    (),
                    transform=transform,
                    head="cosine",
                    tests=(call("FewShot", ways=5, shots=shots, episodes=600),),
                )
                # One trained net is tested with each number of shots.
                shared = f"{name}/{source}_{shots[0]}_shot/{arm}" if shot != shots[0] else None
                cells.append(Cell(name, row, arm, number, experiment, shared, f"accuracy_{shot}_shot"))
    title = "CAM-loss, Table 6: 5-way few-shot accuracy"
    return _table(name, title, rows, columns, cells, unit="accuracy %")


def _table_7() -> Table:
    """CAM-loss, Eq. 12 with β = 0.5 and γ = 1, or 10 for AT."""
    name, columns = "cam-table-7", {"ce": "student alone", "kd": "KD", "at": "AT", "ccm": "CCM"}
    kd = {"ce": (0.5, call("CrossEntropy")), "kd": (0.5, call("KD"))}
    arms = {"ce": CE, "kd": kd, "at": kd | {"at": (10.0, call("AT"))}, "ccm": kd | {"ccm": (1.0, call("CCM"))}}
    pairs = {
        "a": ("WRN-28-4 to WRN-16-4", "wrn16_4", "cam-table-7/e/ce", 23.14, 21.93, 21.77, 21.46),
        "b": ("WRN-28-4 to WRN-28-2", "wrn28_2", "cam-table-7/e/ce", 25.40, 23.12, 22.82, 22.50),
        "c": ("WRN-28-4 to WRN-16-2", "wrn16_2", "cam-table-7/e/ce", 27.94, 26.05, 25.85, 25.45),
        "d": ("WRN-28-4 to ResNet-56", "resnet56", "cam-table-7/e/ce", 28.80, 27.11, 26.98, 26.48),
        "e": ("PyramidNet-200 to WRN-28-4", "wrn28_4", "cam-table-2/pyramid_none/ce", 20.97, 20.08, 20.22, 19.93),
        "f": (f"ResNet-20 to ResNet-8 ({SMALL})", "resnet8", "cam-table-1/resnet20/ce", *[None] * 4),
    }
    cells = []
    for row, (_, student, teacher, *numbers) in pairs.items():
        for column, number in zip(columns, numbers, strict=True):
            shared = "cam-table-1/resnet56/ce" if (row, column) == ("d", "ce") else None
            experiment = cifar(student, arms[column], teacher=None if column == "ce" else teacher)
            cells.append(Cell(name, row, column, number, experiment, shared))
    rows = {row: f"({row}) {heading}" for row, (heading, *_) in pairs.items()}
    title = "CAM-loss, Table 7: distillation on CIFAR-100, top-1 error"
    return _table(name, title, rows, columns, cells)


def _figure_3() -> Table:
    """The figure prints no numbers, so no cell has one of the paper's."""
    settings = (
        {f"t_{t}": (f"t = {t}, c = 1", _with_cam(t=t, c=1.0)) for t in (0, 10, 20, 30, 40, 60, 80)}
        | {f"c_{c}": (f"t = 20, c = {c}", _with_cam(c=float(c))) for c in (1, 2, 3, 4, 5)}
        | {
            "adaptive": (
                "from 50 % training accuracy, c = 3",
                CE | {"cam": (call("after_accuracy", threshold=0.5, value=3.0), call("CAMLoss"))},
            )
        }
    )
    name, columns = "cam-figure-3", {"ce": "CE loss", "cam": "CAM-loss"}
    rows, cells = {}, []
    for net, heading in (("resnet56", "ResNet-56"), ("resnet20", f"ResNet-20 ({SMALL})")):
        for setting, (setting_heading, terms) in settings.items():
            row = f"{net}_{setting}"
            rows[row] = f"{heading}, {setting_heading}"
            # t = 20, c = 1 belongs to both halves; t = 20, c = 3 is Table 1's.
            same = {"c_1": f"{name}/{net}_t_20/cam", "c_3": f"cam-table-1/{net}/cam"}.get(setting)
            cells.append(Cell(name, row, "ce", experiment=cifar(net, CE), shared=f"cam-table-1/{net}/ce"))
            cells.append(Cell(name, row, "cam", experiment=cifar(net, terms), shared=same))
    title = "CAM-loss, Figure 3: start epoch t and weight c, top-1 error on CIFAR-100"
    return _table(name, title, rows, columns, cells)


def _controls() -> Table:
    rows = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
    name = "cam-controls"
    cells = [
        Cell(
            name,
            net,
            arm,
            experiment=cifar(net, _ARMS[arm]),
            shared=f"cam-table-1/{net}/{arm}" if arm in ("ce", "cam") else None,
        )
        for net in rows
        for arm in _HEADINGS
    ]
    title = "Controls for CAM-loss that no paper ran: top-1 error on CIFAR-100"
    return _table(name, title, rows, _HEADINGS, cells)


def _scenes() -> Table:
    name = "cam-scenes"
    recipe = Recipe(epochs=160, weight_decay=5e-4, precision="bfloat16", channels_last=True)
    cells = [
        Cell(name, "resnet8", arm, experiment=Experiment("resnet8", "scenes", _ARMS[arm], recipe).lasting(12))
        for arm in _HEADINGS
    ]
    title = "CAM-loss and its controls on Scenes: class and ground go together in training, not in the test"
    return _table(name, title, {"resnet8": "ResNet-8, Scenes"}, _HEADINGS, cells)


def tables() -> tuple[Table, ...]:
    """Every table that CAM-loss' chapters read, in the paper's order and then ours."""
    return (
        _table_1(),
        _table_2(),
        _table_3(),
        _table_4(),
        _table_5(),
        _table_6(),
        _table_7(),
        _figure_3(),
        _controls(),
        _regularizers(),
        _scenes(),
    )
