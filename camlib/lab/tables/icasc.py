"""The tables and figures of ICASC (Wang et al. 2019), and the comparisons beside them that the paper did not make."""

from camlib.lab.table import Entry, Table
from camlib.lab.tables.cam_loss import SMALL, scenes_rows

_HEADINGS = {
    "ce": "baseline",
    "icasc_grad_cam": "ICASC, Grad-CAM",
    "icasc": "ICASC, A_ch",
    "icasc_random_confuser": "ICASC, A_ch, random confuser",
    "icasc_same_ground": "ICASC, A_ch, confuser on the same ground",
    "icasc_masked": "ICASC, A_ch, overlap divided inside the mask",
    **{f"icasc_weight_{weight}": f"ICASC, A_ch, weight {weight}" for weight in (0.03, 0.1, 0.3)},
    "icasc_late": "ICASC, A_ch, second half only",
    "icasc_unscaled": "ICASC, A_ch, maps not scaled",
    "icasc_inner": "with L_AS at the inner layer",
    "icasc_inner_consistent": "with L_AS at the inner layer and L_AC",
    "icasc_last": "with L_AS at the last layer",
    "icasc_last_consistent": "with L_AS at the last layer and L_AC",
    "icasc_separate": "with L_AS at both layers",
    "icasc_consistent": "with L_AC",
}


def _columns(*names: str) -> dict[str, str]:
    return {name: _HEADINGS[name] for name in names}


def _table_2() -> Table:
    """One net, and one run, for all kinds of attention and stages of a data set."""
    columns = {"grad_cam": "Grad-CAM", "grad_cam_pp": "Grad-CAM++", "channel_weighted": "A_ch"}
    paper = {"voc2012_deeplab": (56.65, 51.70, 57.97)}
    sets = {
        "voc2012": ("VGG-19 with BN, VOC 2012", "voc2012/vgg19_bn/ce"),
        "voc_animals": (f"ResNet-20, VOC-animals ({SMALL})", "voc_animals/resnet20/ce"),
        "scenes": (f"ResNet-8, Scenes, several objects ({SMALL})", "scenes_multi/resnet8/ce"),
    }
    what = {"seeds": "seeds", "refined": "seeds, refined", "deeplab": "DeepLabV3 on the seeds"}
    rows, entries = {}, {}
    for data, (heading, run) in sets.items():
        for stage, stage_heading in what.items():
            if stage == "deeplab" and data != "voc2012":
                continue
            row = f"{data}_{stage}"
            rows[row] = f"{heading}, {stage_heading}"
            for column, number in zip(columns, paper.get(row, (None,) * 3), strict=True):
                entries[row, column] = Entry(run, number, f"{stage}_{column}")
    title = "ICASC, Table 2: weak segmentation of VOC 2012 from attention maps, mean IoU"
    return Table("icasc-table-2", title, rows, columns, entries, unit="mean IoU %", baseline="grad_cam")


def _table_3() -> Table:
    """The eight combinations of the three terms; the paper has four of them. Its baseline is that of Table 7."""
    columns = _columns(
        "ce",
        "icasc_inner",
        "icasc_inner_consistent",
        "icasc",
        "icasc_last",
        "icasc_last_consistent",
        "icasc_separate",
        "icasc_consistent",
    )
    paper = dict(zip(columns, (81.70, 85.15, 85.77, 86.20), strict=False))
    rows = {"resnet50": "ResNet-50, CUB-200-2011", "resnet20": f"ResNet-20, CIFAR-100 ({SMALL})"}
    entries = {}
    for arm in columns:
        cited = "Sun et al. 2018" if arm == "ce" else None
        entries["resnet50", arm] = Entry(f"cub200_icasc/resnet50/{arm}", paper.get(arm), cited=cited)
        entries["resnet20", arm] = Entry(f"cifar100/resnet20/{arm}")
    for setting, heading in (("scenes_fair", "Scenes, 250 images"), ("scenes", "Scenes")):
        more, runs = scenes_rows(f"{heading} ({SMALL})", setting)
        rows |= more
        for row, (start, metric) in runs.items():
            entries |= {(row, arm): Entry(f"{start}/{arm}", metric=metric) for arm in columns}
    title = "ICASC, Table 3: ablation, top-1 accuracy"
    return Table("icasc-table-3", title, rows, columns, entries, unit="accuracy %")


def _table_4() -> Table:
    columns = _columns("ce", "icasc_grad_cam", "icasc", "icasc_random_confuser")
    rows = {
        "resnet110": "ResNet-110",
        "resnet110_stochastic_depth": "ResNet-110, Stochastic Depth",
        "preresnet164": "ResNet-164, pre-activation",
        "resnet20": f"ResNet-20 ({SMALL})",
        "tenth": f"ResNet-20, a tenth of the images ({SMALL})",
    }
    runs = {"resnet20": "cifar100/resnet20", "tenth": "cifar100_tenth/resnet20"}
    paper = {"icasc_grad_cam": 74.02, "icasc": 76.11}
    cited = "Huang et al. 2016"
    entries = {
        ("resnet110", "ce"): Entry("cifar100_icasc/resnet110/ce", 72.78, cited=cited),
        **{("resnet110", arm): Entry(f"cifar100_icasc/resnet110/{arm}", paper.get(arm)) for arm in list(columns)[1:]},
        ("resnet110_stochastic_depth", "ce"): Entry("cifar100_icasc/resnet110/stochastic_depth", 75.42, cited=cited),
        ("preresnet164", "ce"): Entry("cifar100_icasc/preresnet164/ce", 75.63, cited=cited),
        **{(row, arm): Entry(f"{start}/{arm}") for row, start in runs.items() for arm in columns},
    }
    title = "ICASC, Table 4: CIFAR-100, top-1 accuracy"
    return Table("icasc-table-4", title, rows, columns, entries, unit="accuracy %")


def _deeper() -> Table:
    """ResNet-110 with ICASC beside what Table 4 says that it outperforms."""
    columns = {
        "icasc": "ResNet-110, ICASC, A_ch",
        "stochastic_depth": "ResNet-110, Stochastic Depth",
        "preresnet164": "ResNet-164, pre-activation",
    }
    of = _table_4()
    entries = {
        ("cifar100", "icasc"): of.entries["resnet110", "icasc"],
        ("cifar100", "stochastic_depth"): of.entries["resnet110_stochastic_depth", "ce"],
        ("cifar100", "preresnet164"): of.entries["preresnet164", "ce"],
    }
    rows = {"cifar100": "CIFAR-100"}
    title = "ICASC, Table 4: beside regularisation and depth, top-1 accuracy"
    return Table("icasc-deeper", title, rows, columns, entries, unit="accuracy %", baseline="stochastic_depth")


def _table_5() -> Table:
    """The top-1 numbers of the paper that are missing here could not be read in the copy that we have."""
    columns = _columns("ce", "icasc_grad_cam", "icasc")
    paper = {
        ("resnet18", 60, ""): (80.01, 80.28, 81.32),  # from Table 9
        ("resnet18", 30, "_top5"): (92.48, None, 92.87),
        ("resnet18", 60, "_top5"): (94.12, None, 94.57),
        ("vgg19_bn", 30, "_top5"): (90.05, None, 90.85),
        ("vgg19_bn", 60, "_top5"): (92.17, None, 93.25),
    }
    nets = {"resnet18": "ResNet-18", "vgg19_bn": "VGG-19 with BN"}
    rows, entries = {}, {}
    for net, heading in nets.items():
        for images in (30, 60):
            for ending, metric in (("", "accuracy"), ("_top5", "top5_accuracy")):
                row = f"{net}_{images}{ending}"
                rows[row] = f"{heading}, {images} images a class, top-{5 if ending else 1}"
                for arm, number in zip(columns, paper.get((net, images, ending), (None,) * 3), strict=True):
                    entries[row, arm] = Entry(f"caltech256_{images}/{net}/{arm}", number, metric)
    title = "ICASC, Table 5: Caltech-256, top-1 and top-5 accuracy"
    return Table("icasc-table-5", title, rows, columns, entries, unit="accuracy %")


def _table_6() -> Table:
    """The rows without ending are the centre crop's."""
    columns = _columns("ce", "icasc_grad_cam", "icasc")
    paper = {
        "resnet18": ("top-1", "accuracy_centre", 69.51, 69.84, 69.90),
        "resnet18_top5": ("top-5", "top5_accuracy_centre", 88.91, None, 89.71),
        "resnet18_ten_crop": ("ten crops, top-1", "accuracy", 72.12, None, 73.04),
        "resnet18_ten_crop_top5": ("ten crops, top-5", "top5_accuracy", 90.58, None, 90.65),
    }
    entries = {}
    for row, (_, metric, *numbers) in paper.items():
        for arm, number in zip(columns, numbers, strict=True):
            cited = "He et al. 2016" if arm == "ce" else None
            entries[row, arm] = Entry(f"imagenet_icasc/resnet18/{arm}", number, metric, cited)
    rows = {row: f"ResNet-18, {heading}" for row, (heading, *_) in paper.items()}
    title = "ICASC, Table 6: ImageNet, top-1 and top-5 accuracy"
    return Table("icasc-table-6", title, rows, columns, entries, unit="accuracy %")


def _table_7() -> Table:
    columns = _columns("ce", "icasc_grad_cam", "icasc")
    rows = {"resnet50": "ResNet-50", "resnet101": "ResNet-101"}
    paper = {"resnet50": (81.7, 85.45, 86.2), "resnet101": (82.5, None, 86.5)}
    entries = {
        (net, arm): Entry(f"cub200_icasc/{net}/{arm}", number, cited="Sun et al. 2018" if arm == "ce" else None)
        for net in rows
        for arm, number in zip(columns, paper[net], strict=True)
    }
    cited = {
        "mg_cnn": ("MG-CNN", 83.0, "Wang et al. 2015"),
        "spda_cnn": ("SPDA-CNN", 85.1, "Zhang et al. 2016"),
        "racnn": ("RACNN", 85.3, "Sun et al. 2018"),
        "pn_cnn": ("PN-CNN", 85.4, "Branson et al. 2014"),
        "ram": ("RAM", 86.0, "Li et al. 2017"),
        "macnn": ("MACNN, 2 parts", 85.4, "Zheng et al. 2017"),
        "resnet50_mamc": ("ResNet-50, MAMC", 86.2, "Sun et al. 2018"),
        "resnet101_mamc": ("ResNet-101, MAMC", 86.5, "Sun et al. 2018"),
    }
    for row, (heading, number, source) in cited.items():
        rows[row] = heading
        entries[row, "ce"] = Entry(None, number, cited=source)
    title = "ICASC, Table 7: CUB-200-2011, top-1 accuracy"
    return Table("icasc-table-7", title, rows, columns, entries, unit="accuracy %")


# ICASC, appendix, table 2: ResNet-18, with ICASC by Grad-CAM, by A_ch.
_AVERAGE_PRECISIONS = {
    "aeroplane": (95.16, 96.33, 96.85),
    "bicycle": (76.18, 80.82, 82.41),
    "bird": (92.92, 94.69, 95.17),
    "boat": (84.82, 87.91, 89.13),
    "bottle": (53.32, 60.66, 61.07),
    "bus": (89.81, 91.73, 92.25),
    "car": (77.41, 80.11, 81.74),
    "cat": (93.91, 95.63, 96.28),
    "chair": (68.53, 73.04, 73.69),
    "cow": (57.41, 67.85, 71.12),
    "diningtable": (67.35, 73.07, 73.64),
    "dog": (88.18, 91.70, 92.62),
    "horse": (73.58, 80.89, 84.21),
    "motorbike": (82.36, 86.09, 87.51),
    "person": (95.69, 96.22, 96.44),
    "pottedplant": (46.38, 56.27, 57.75),
    "sheep": (78.79, 84.93, 86.15),
    "sofa": (54.83, 64.00, 64.63),
    "train": (92.05, 95.05, 95.56),
    "tvmonitor": (80.07, 85.32, 85.24),
}


def _table_8() -> Table:
    columns = _columns("ce", "icasc_grad_cam", "icasc", "icasc_late")
    score = {"map": ("mean average precision", "mean_average_precision"), "auc": ("AUC", "auc")}
    where = {
        "energy": ("energy inside the mask", "energy_inside"),
        "pointing": ("pointing game", "pointing_game"),
        "iou": ("IoU with the mask", "iou"),
    }
    each = {name: (f"average precision of {name}", f"average_precision_{name}") for name in _AVERAGE_PRECISIONS}
    paper = {"map": (77.44, 82.12, 83.17), "auc": (97.6, None, 98.1)} | _AVERAGE_PRECISIONS
    sets = {
        "voc2012": ("ResNet-18", "voc2012/resnet18", score | each),
        "animals": (f"ResNet-20, VOC-animals ({SMALL})", "voc_animals/resnet20", score | where),
        "scenes": (f"ResNet-8, Scenes, several objects ({SMALL})", "scenes_multi/resnet8", score | where),
    }
    rows, entries = {}, {}
    for data, (heading, runs, what) in sets.items():
        for ending, (metric_heading, metric) in what.items():
            row = f"{data}_{ending}"
            rows[row] = f"{heading}, {metric_heading}"
            numbers = paper.get(ending, ()) if data == "voc2012" else ()
            for k, arm in enumerate(columns):  # the last arm is ours alone
                entries[row, arm] = Entry(f"{runs}/{arm}", numbers[k] if k < len(numbers) else None, metric)
    title = "ICASC, Table 8, and table 2 of its appendix: VOC 2012, average precision and AUC"
    return Table("icasc-table-8", title, rows, columns, entries, unit="score %")


def _table_9() -> Table:
    """Every number stands in another table too; those of Grad-CAM the paper prints here only."""
    columns = _columns("ce", "icasc_grad_cam", "icasc")
    rows = {
        "voc2012": ("ResNet-18, VOC 2012, mean average precision", _table_8(), "voc2012_map"),
        "cub200": ("ResNet-50, CUB-200-2011", _table_7(), "resnet50"),
        "caltech256": ("ResNet-18, Caltech-256, 60 images a class", _table_5(), "resnet18_60"),
        "imagenet": ("ResNet-18, ImageNet", _table_6(), "resnet18"),
        "cifar100": ("ResNet-110, CIFAR-100 (Table 4)", _table_4(), "resnet110"),
        "resnet20": (f"ResNet-20, CIFAR-100 ({SMALL})", _table_4(), "resnet20"),
        "animals": (f"ResNet-20, VOC-animals, mean average precision ({SMALL})", _table_8(), "animals_map"),
        "scenes": (f"ResNet-8, Scenes, images like the training images ({SMALL})", _small_scenes(), "scenes_resnet8"),
    }
    entries = {(row, arm): table.entries[of, arm] for row, (_, table, of) in rows.items() for arm in columns}
    headings = {row: heading for row, (heading, *_) in rows.items()}
    title = "ICASC, Table 9: two kinds of attention, top-1 accuracy"
    return Table("icasc-table-9", title, headings, columns, entries, unit="accuracy %")


def _confusion() -> Table:
    """The figure's two statistics are read off it; the paper prints them in its text."""
    columns = _columns("ce", "icasc_grad_cam", "icasc", "icasc_random_confuser")
    rows = {
        "cub200": ("ResNet-50, CUB-200-2011", "cub200_icasc/resnet50"),
        "resnet110": ("ResNet-110, CIFAR-100", "cifar100_icasc/resnet110"),
        "resnet20": (f"ResNet-20, CIFAR-100 ({SMALL})", "cifar100/resnet20"),
        "tenth": (f"ResNet-20, a tenth of CIFAR-100 ({SMALL})", "cifar100_tenth/resnet20"),
        "scenes": (f"ResNet-8, Scenes ({SMALL})", "scenes/resnet8"),
    }
    what = {
        "ks": "KS statistic",
        "ks_pair": "KS statistic, probabilities of the two classes only",
        "top5_overlap": "overlap of the top five classes' attention",
    }
    # Figure 9 names no reading; its numbers are just above what its accuracies demand of this one.
    paper = {("cub200", "ks_pair", "ce"): 64.0, ("cub200", "ks_pair", "icasc"): 74.0}
    headings, entries = {}, {}
    for row, (heading, runs) in rows.items():
        for metric, metric_heading in what.items():
            headings[f"{row}_{metric}"] = f"{heading}, {metric_heading}"
            for arm in columns:
                entries[f"{row}_{metric}", arm] = Entry(f"{runs}/{arm}", paper.get((row, metric, arm)), metric)
    title = (
        "ICASC, Figures 9 and 10: separation of the two likeliest classes, in probability and in attention, times 100"
    )
    return Table("icasc-figure-9", title, headings, columns, entries, unit="score %")


def _small_scenes() -> Table:
    arms = ("ce", "icasc_grad_cam", "icasc", "icasc_random_confuser", "icasc_late", "icasc_unscaled")
    return _on_scenes("icasc-scenes", "ICASC and its control on Scenes", arms)


def _why() -> Table:
    """What could refute that ICASC moves a net to the ground because most confusing classes stand on another one."""
    arms = ("ce", "icasc", "icasc_same_ground", "icasc_masked")
    arms += tuple(f"icasc_weight_{weight}" for weight in (0.03, 0.1, 0.3))
    return _on_scenes("icasc-why", "ICASC on Scenes: the confuser on the same ground, other totals and weights", arms)


def _on_scenes(name: str, title: str, arms: tuple[str, ...]) -> Table:
    columns = _columns(*arms)
    rows, runs = scenes_rows("Scenes")
    fair, fair_runs = scenes_rows("Scenes, 250 images", "scenes_fair")
    entries = {
        (row, arm): Entry(f"{start}/{arm}", metric=metric)
        for row, (start, metric) in (runs | fair_runs).items()
        for arm in columns
    }
    return Table(name, title, rows | fair, columns, entries, unit="accuracy %")


def tables() -> tuple[Table, ...]:
    """Every table that ICASC's chapters read, in the paper's order and then ours."""
    return (
        _table_2(),
        _table_3(),
        _table_4(),
        _deeper(),
        _table_5(),
        _table_6(),
        _table_7(),
        _table_8(),
        _table_9(),
        _confusion(),
        _small_scenes(),
        _why(),
    )
