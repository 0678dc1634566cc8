"""The tables and figures of CAM-loss (Wang et al. 2021), and the comparisons beside them that no paper made."""

from camlib.lab.table import Entry, Table

SMALL = "not in the paper"  # behind the rows that a machine without an accelerator can train
REGULARIZERS = {
    "none": "none",
    "cutout": "Cutout",
    "manifold_mixup": "Manifold Mixup",
    "stochastic_depth": "Stochastic Depth",
    "drop_block": "DropBlock",
    "mixup": "Mixup",
    "shakedrop": "ShakeDrop",
    "cutmix": "CutMix",
}


def _arm(regularizer: str, cam: bool = False) -> str:
    """The arm of a regulariser alone or with CAM-loss."""
    parts = [] if regularizer == "none" else [regularizer.replace("shakedrop", "shake_drop")]
    return "+".join([*parts, *(["cam"] if cam else [])]) or "ce"


def _table_1() -> Table:
    paper = {
        "resnet56": ("ResNet-56", "cifar100", 28.80, 27.34),
        "wrn28_10": ("WRN-28-10", "cifar100", 18.37, 17.49),
        "resnext29_8x64d": ("ResNeXt-29, 8×64d", "cifar100", 18.01, 17.24),
        "densenet_bc_190_40": ("DenseNet-BC-190-40", "cifar100", 17.67, 16.98),
        "resnet50": ("ResNet-50 (ImageNet)", "imagenet", 23.68, 22.98),
        "resnet101": ("ResNet-101 (ImageNet)", "imagenet", 22.30, 21.73),
        "resnext50_32x4d": ("ResNeXt-50, 32×4d (ImageNet)", "imagenet", 22.42, 21.91),
        "resnext101_32x8d": ("ResNeXt-101, 32×8d (ImageNet)", "imagenet", 21.04, 20.45),
        "resnet20": (f"ResNet-20 ({SMALL})", "cifar100", None, None),
    }
    columns = {"ce": "CE loss", "cam": "CAM-loss"}
    entries = {
        (net, arm): Entry(f"{setting}/{net}/{arm}", number)
        for net, (_, setting, *numbers) in paper.items()
        for arm, number in zip(columns, numbers, strict=True)
    }
    rows = {net: heading for net, (heading, *_) in paper.items()}
    return Table("cam-table-1", "CAM-loss, Table 1: network structures, top-1 error", rows, columns, entries)


def _table_2() -> Table:
    """Rows in pairs, top-1 and top-5 of the same runs. The paper says that its baselines stand in Yun et al. 2019."""
    columns = {"ce": "CE loss", "cam": "with CAM-loss"}
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
    nets = {
        "pyramid": ("PyramidNet-200", "cifar100_cutmix/pyramidnet200_a240"),
        "resnet50": ("ResNet-50 (ImageNet)", "imagenet_cutmix/resnet50"),
    }
    # Torchvision's nets have no slots for regularisers of the residual branch.
    no_run = ("resnet50_stochastic_depth", "resnet50_drop_block")
    rows, entries = {}, {}
    for row, numbers in paper.items():
        net, _, method = row.partition("_")
        heading = REGULARIZERS.get(method, "CutMix + ShakeDrop")
        for ending, metric, offset in (("", "accuracy", 0), ("_top5", "top5_accuracy", 1)):
            rows[row + ending] = f"{nets[net][0]}, {heading}, top-{5 if ending else 1}"
            for arm, number in zip(columns, numbers[offset::2], strict=False):
                name = "cutmix+shakedrop" if method == "both" else method
                parts = "+".join(_arm(part) for part in name.split("+"))
                if net == "resnet50":
                    parts = parts.replace("cutmix", "cutmix_always")
                if arm == "cam":
                    parts = "cam" if parts == "ce" else f"{parts}+cam"
                run = None if row in no_run else f"{nets[net][1]}/{parts}"
                entries[row + ending, arm] = Entry(run, number, metric, "Yun et al. 2019" if arm == "ce" else None)
    title = "CAM-loss, Table 2: with regularisation, top-1 and top-5 error"
    return Table("cam-table-2", title, rows, columns, entries)


def _regularizers() -> Table:
    columns = {"ce": "CE loss", "cam": "with CAM-loss"}
    rows, entries = {}, {}
    for net, heading in (("resnet56", "ResNet-56"), ("resnet20", "ResNet-20")):
        for method, method_heading in REGULARIZERS.items():
            rows[f"{net}_{method}"] = f"{heading}, {method_heading}"
            for arm in columns:
                entries[f"{net}_{method}", arm] = Entry(f"cifar100/{net}/{_arm(method, cam=arm == 'cam')}")
    title = "CAM-loss with each regulariser on a net that is quick to train: top-1 error on CIFAR-100"
    return Table("cam-regularizers", title, rows, columns, entries)


def _table_3() -> Table:
    """The baselines are those of ISDA (Wang et al. 2019), means of five runs, but for ResNet-110 on CIFAR-100."""
    columns = {
        "ce": "CE loss",
        "center": "center loss",
        "l_softmax": "L-Softmax",
        "sm_softmax": "SM-Softmax",
        "cam": "CAM-loss",
    }
    paper = {
        "resnet110_cifar10": ("ResNet-110, CIFAR-10", "cifar10_isda/resnet110", 6.76, 6.38, 6.46, 6.49, 6.29),
        "wrn28_10_cifar10": ("WRN-28-10, CIFAR-10", "cifar10_isda/wrn28_10", 3.82, 3.76, 3.69, 3.71, 3.49),
        "resnet110_cifar100": ("ResNet-110, CIFAR-100", "cifar100_isda/resnet110", 27.68, 26.88, 27.03, 26.97, 26.56),
        "wrn28_10_cifar100": ("WRN-28-10, CIFAR-100", "cifar100_isda/wrn28_10", 18.53, 18.50, 18.48, 18.40, 17.87),
        "resnet20_cifar100": (f"ResNet-20, CIFAR-100 ({SMALL})", "cifar100/resnet20", *[None] * 5),
    }
    spread = {"resnet110_cifar10": 0.34, "wrn28_10_cifar10": 0.15, "wrn28_10_cifar100": 0.07}
    entries = {}
    for row, (_, runs, *numbers) in paper.items():
        for column, number in zip(columns, numbers, strict=True):
            quoted = column == "ce" and row in spread
            cited = "Wang et al. 2019 (ISDA)" if quoted else None
            entries[row, column] = Entry(
                f"{runs}/{column}", number, cited=cited, spread=spread[row] if quoted else None
            )
    rows = {row: heading for row, (heading, *_) in paper.items()}
    return Table("cam-table-3", "CAM-loss, Table 3: other loss functions, top-1 error", rows, columns, entries)


def _table_4() -> Table:
    """The paper does not say which form of NegativeCAM it ran; its number stands beside the first."""
    columns = {
        "ce": "CE loss",
        "negative_cam": "NegativeCAM, mse form",
        "negative_cam_kd": "NegativeCAM, kd form",
        "cam": "CAM-loss",
    }
    paper = {
        "resnet56": ("ResNet-56", "cifar100/resnet56", 28.80, 27.37, None, 27.34),
        # The numbers of CE and CAM-loss are those of Table 3, and so are their runs.
        "resnet110": ("ResNet-110", "cifar100_isda/resnet110", 27.68, 26.76, None, 26.56),
        "resnet50": ("ResNet-50 (ImageNet)", "imagenet/resnet50", 23.68, 23.32, None, 22.98),
        "resnet101": ("ResNet-101 (ImageNet)", "imagenet/resnet101", 22.30, 22.02, None, 21.73),
        "resnet20": (f"ResNet-20 ({SMALL})", "cifar100/resnet20", *[None] * 4),
    }
    entries = {}
    for row, (_, runs, *numbers) in paper.items():
        for column, number in zip(columns, numbers, strict=True):
            k = "_k100" if runs.startswith("imagenet") and column.startswith("negative") else ""
            entries[row, column] = Entry(f"{runs}/{column}{k}", number)
    rows = {row: heading for row, (heading, *_) in paper.items()}
    return Table("cam-table-4", "CAM-loss, Table 4: NegativeCAM, top-1 error", rows, columns, entries)


def _table_5() -> Table:
    columns = {"ce": "CE loss", "cam": "CAM-loss"}
    paper = {
        "cub200": ("CUB-200-2011", "cub200/resnet50", 85.6, 86.7),
        "stanford_dogs": ("Stanford Dogs", "stanford_dogs/resnet50", 83.9, 84.6),
        "scenes": (f"Scenes, fine classes ({SMALL})", "scenes_fine/resnet8", None, None),
    }
    entries = {
        (row, arm): Entry(f"{runs}/ce_from_{arm}", number)
        for row, (_, runs, *numbers) in paper.items()
        for arm, number in zip(columns, numbers, strict=True)
    }
    rows = {row: heading for row, (heading, *_) in paper.items()}
    title = "CAM-loss, Table 5: fine-tuning nets that were pre-trained with each loss, top-1 accuracy"
    return Table("cam-table-5", title, rows, columns, entries, unit="accuracy %")


def _table_6() -> Table:
    """One trained net is tested with each number of shots.

    On CUB-50 CAM-loss waits until training accuracy is above one half (CAM-loss, §3.2): at the epoch that the other
    rows take, a net with so few images may know nothing yet.
    """
    columns = {"ce": "Baseline++", "cam": "Baseline++ with CAM-loss"}
    few_birds = f"CUB-50, 112 px, CAM-loss once half is learnt ({SMALL})"
    paper = {
        "mini_imagenet_1_shot": ("Mini-ImageNet", "mini_imagenet_few_shot", 1, 52.18, 54.80),
        "mini_imagenet_5_shot": ("Mini-ImageNet", "mini_imagenet_few_shot", 5, 75.86, 77.54),
        "cub_1_shot": ("CUB-200-2011", "cub200_few_shot", 1, 67.08, 74.12),
        "cub_5_shot": ("CUB-200-2011", "cub200_few_shot", 5, 84.19, 88.93),
        "mini_to_cub_5_shot": ("Mini-ImageNet to CUB", "mini_to_cub", 5, 65.88, 68.63),
        "cub50_1_shot": (few_birds, "cub50_few_shot", 1, None, None),
        "cub50_5_shot": (few_birds, "cub50_few_shot", 5, None, None),
    }
    adaptive = {("cub50_few_shot", "cam"): "cam_adaptive"}
    entries = {
        (row, arm): Entry(f"{setting}/resnet18/{adaptive.get((setting, arm), arm)}", number, f"accuracy_{shots}_shot")
        for row, (_, setting, shots, *numbers) in paper.items()
        for arm, number in zip(columns, numbers, strict=True)
    }
    rows = {row: f"{heading}, {shots}-shot" for row, (heading, _, shots, *_) in paper.items()}
    title = "CAM-loss, Table 6: 5-way few-shot accuracy"
    return Table("cam-table-6", title, rows, columns, entries, unit="accuracy %")


def _table_7() -> Table:
    columns = {"ce": "student alone", "kd": "KD", "at": "AT", "ccm": "CCM"}
    paper = {
        "a": ("WRN-28-4 to WRN-16-4", "wrn16_4", "wrn28_4", 23.14, 21.93, 21.77, 21.46),
        "b": ("WRN-28-4 to WRN-28-2", "wrn28_2", "wrn28_4", 25.40, 23.12, 22.82, 22.50),
        "c": ("WRN-28-4 to WRN-16-2", "wrn16_2", "wrn28_4", 27.94, 26.05, 25.85, 25.45),
        "d": ("WRN-28-4 to ResNet-56", "resnet56", "wrn28_4", 28.80, 27.11, 26.98, 26.48),
        "e": ("PyramidNet-200 to WRN-28-4", "wrn28_4", "pyramidnet200_a240", 20.97, 20.08, 20.22, 19.93),
        "f": (f"ResNet-20 to ResNet-8 ({SMALL})", "resnet8", "resnet20", *[None] * 4),
    }
    entries = {
        (row, arm): Entry(f"cifar100/{student}/{arm if arm == 'ce' else f'{arm}_from_{teacher}'}", number)
        for row, (_, student, teacher, *numbers) in paper.items()
        for arm, number in zip(columns, numbers, strict=True)
    }
    rows = {row: f"({row}) {heading}" for row, (heading, *_) in paper.items()}
    title = "CAM-loss, Table 7: distillation on CIFAR-100, top-1 error"
    return Table("cam-table-7", title, rows, columns, entries)


def _figure_3() -> Table:
    """The figure prints no numbers, so no entry has one of the paper's."""
    settings = {f"t_{t}": (f"t = {t}, c = 1", f"cam_t{t}_c1") for t in (0, 10, 20, 30, 40, 60, 80)}
    # t = 20, c = 1 belongs to both halves; t = 20, c = 3 is Table 1's.
    settings |= {f"c_{c}": (f"t = 20, c = {c}", "cam" if c == 3 else f"cam_t20_c{c}") for c in (1, 2, 3, 4, 5)}
    settings["adaptive"] = ("from 50 % training accuracy, c = 3", "cam_adaptive")
    columns = {"ce": "CE loss", "cam": "CAM-loss"}
    rows, entries = {}, {}
    for net, heading in (("resnet56", "ResNet-56"), ("resnet20", f"ResNet-20 ({SMALL})")):
        for setting, (setting_heading, arm) in settings.items():
            rows[f"{net}_{setting}"] = f"{heading}, {setting_heading}"
            entries[f"{net}_{setting}", "ce"] = Entry(f"cifar100/{net}/ce")
            entries[f"{net}_{setting}", "cam"] = Entry(f"cifar100/{net}/{arm}")
    title = "CAM-loss, Figure 3: start epoch t and weight c, top-1 error on CIFAR-100"
    return Table("cam-figure-3", title, rows, columns, entries)


def _figure_3_halves() -> tuple[Table, Table]:
    """What the two halves of the figure compare: start epochs at c = 1, weights at t = 20."""
    figure, tables = _figure_3(), []
    for name, kind, values, best in (
        ("cam-start", "t", (0, 10, 20, 30, 40, 60, 80), "t_30"),
        ("cam-weight", "c", (1, 2, 3, 4, 5), "c_3"),
    ):
        columns = {f"{kind}_{value}": f"{kind} = {value}" for value in values}
        rows = {"resnet56": "ResNet-56", "resnet20": f"ResNet-20 ({SMALL})"}
        entries = {(row, column): figure.entries[f"{row}_{column}", "cam"] for row in rows for column in columns}
        title = f"CAM-loss, Figure 3, by {'start epoch t' if kind == 't' else 'weight c'}: top-1 error on CIFAR-100"
        tables.append(Table(name, title, rows, columns, entries, baseline=best))
    return tuple(tables)


HEADINGS = {
    "ce": "CE loss",
    "cam": "CAM-loss",
    "cam_detached": "CAM held fixed",
    "caam_detached": "CAAM held fixed",
    "random_class": "CAM of a random class",
    "uniform": "uniform guide",
}


def _controls() -> Table:
    rows = {
        "resnet20": "ResNet-20",
        "resnet56": "ResNet-56",
        "tenth": "ResNet-20, a tenth of the images",
    }
    runs = {"resnet20": "cifar100/resnet20", "resnet56": "cifar100/resnet56", "tenth": "cifar100_tenth/resnet20"}
    entries = {(row, arm): Entry(f"{runs[row]}/{arm}") for row in rows for arm in HEADINGS}
    title = "Controls for CAM-loss that no paper ran: top-1 error on CIFAR-100"
    return Table("cam-controls", title, rows, HEADINGS, entries)


# The tests that a net of Scenes passes through, like its training images and under a shift: never one for the other.
SCENES_TESTS = {
    "": ("images like the training images", "accuracy"),
    "_free_grounds": ("grounds set free", "accuracy_free_grounds"),
    "_foreign_ground": ("grounds set free, foreign ground", "accuracy_foreign_ground"),
}


def scenes_rows(heading: str, setting: str = "scenes") -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Rows of a table on Scenes, one for each test, and for each the start of the runs' names and the metric."""
    tests = {"": ("grounds free in training and test", "accuracy")} if setting == "scenes_fair" else SCENES_TESTS
    rows = {f"{setting}_resnet8{ending}": f"ResNet-8, {heading}, {what}" for ending, (what, _) in tests.items()}
    return rows, {f"{setting}_resnet8{ending}": (f"{setting}/resnet8", metric) for ending, (_, metric) in tests.items()}


def _scenes() -> Table:
    rows, runs = scenes_rows("Scenes")
    fair, fair_runs = scenes_rows("Scenes, 250 images", "scenes_fair")
    everything = runs | fair_runs
    columns = HEADINGS | {
        "cam_detached_c1": "CAM held fixed, c = 1",
        "still_guide_from_resnet8": "CAM of another net, still",
    }
    entries = {
        (row, arm): Entry(f"{start}/{arm}", metric=metric)
        for row, (start, metric) in everything.items()
        for arm in columns
    }
    title = "CAM-loss and its controls on Scenes, top-1 error"
    return Table("cam-scenes", title, rows | fair, columns, entries)


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
        *_figure_3_halves(),
        _controls(),
        _regularizers(),
        _scenes(),
    )
