"""Double entry: the numbers of the papers' tables and the protocols of their runs, against the sheets in `sheets`."""

import inspect
import tomllib
from pathlib import Path

import pytest
import torch

from camlib import losses, measure
from camlib.data import manifest
from camlib.data.stream import TRANSFORMS
from camlib.lab.experiment import Call
from camlib.lab.runs import RUNS
from camlib.lab.tables import TABLES
from camlib.models.heads import CosineHead

PATHS = sorted(Path(__file__).with_name("sheets").glob("*.toml"))
SHEETS = {path.stem: tomllib.loads(path.read_text()) for path in PATHS}
VOC = SHEETS["icasc-table-8"]
for _name, _numbers in VOC["appendix_table_2"].items():
    VOC["columns"][_name] = {}
    for _arm, _number in zip(("", "_icasc_grad_cam", "_icasc_a_ch"), _numbers, strict=True):
        VOC["rows"].setdefault(f"resnet_18{_arm}", {})[_name] = _number


def words(text, place="@"):
    """ "a=b c" -> {"a": "b", "c": "c"}, each put into `place`."""
    pairs = (word.partition("=") for word in text.split())
    return {name: place.replace("@", other or name) for name, _, other in pairs}


def arms(places, **endings):
    """Each row alone and with the ending of a row of the method, as places whose column is the arm."""
    return {f"{row}{end}": f"{to}/{arm}" for row, to in places.items() for end, arm in ({"": "ce"} | endings).items()}


# Sheet -> (row -> row/column of our table, with a * for each gap; column -> what fills the gaps). Other columns, which
# are differences and the like, are in no table of ours.
NETS = """resnet_56=resnet56 wide_resnet_28_10=wrn28_10 resnext_29_8x64d=resnext29_8x64d densenet_bc_190_40
resnet_50=resnet50 resnet_101=resnet101 resnext_50_4x32d=resnext50_32x4d resnext_101_8x32d=resnext101_32x8d"""
METHODS = """cutout manifold_mixup stochdepth=stochastic_depth dropblock=drop_block mixup shakedrop cutmix
cutmix_shakedrop=both"""
CITED = (
    "mg_cnn spda_cnn racnn pn_cnn ram macnn_2parts=macnn resnet_50_mamc=resnet50_mamc resnet_101_mamc=resnet101_mamc"
)
ABLATION = """resnet_50=ce l_as_in=icasc_inner l_as_in_l_ac=icasc_inner_consistent l_as_in_l_as_la_l_ac=icasc"""
LOSSES = """ce_loss=ce focal_loss=focal a_softmax_loss=a_softmax mc_loss=mc ical fical ce_loss_cam=gate cc_loss=cc"""
CC = """mnist_vgg16 mnist_resnet18 cifar_100_vgg16=cifar100_vgg16 cifar_100_resnet18=cifar100_resnet18
cars_196_vgg16=cars196_vgg16 cars_196_resnet18=cars196_resnet18"""
PLACES = {
    "cam-table-1": (arms(words(NETS), _cam_loss="cam"), words("cifar_100 imagenet")),
    "cam-table-2": (
        words("ce_loss=ce cam_loss=cam", "*_none*/@") | arms(words(METHODS, "*_@*"), _cam_loss="cam"),
        words(
            """cifar_100_top_1=pyramid| cifar_100_top_5=pyramid|_top5
            imagenet_top_1=resnet50| imagenet_top_5=resnet50|_top5"""
        ),
    ),
    "cam-table-3": (
        words("ce_loss=ce center_loss=center l_softmax sm_softmax cam_loss=cam", "*/@"),
        words(
            """cifar_10_resnet_110=resnet110_cifar10 cifar_10_wrn_28_10=wrn28_10_cifar10
            cifar_100_resnet_110=resnet110_cifar100 cifar_100_wrn_28_10=wrn28_10_cifar100"""
        ),
    ),
    "cam-table-4": (
        words("ce_loss=ce negativecam=negative_cam cam_loss=cam", "*/@"),
        words(
            """cifar_100_resnet_56=resnet56 cifar_100_resnet_110=resnet110 imagenet_resnet_50=resnet50
            imagenet_resnet_101=resnet101"""
        ),
    ),
    "cam-table-5": (words("cub=cub200 stanford_dogs", "@/*"), words("ce_loss=ce cam_loss=cam")),
    "cam-table-6": (
        words("baseline=ce baseline_cam_loss=cam", "*/@"),
        words("mini_imagenet_1_shot mini_imagenet_5_shot cub_1_shot cub_5_shot mini_cub_5_shot=mini_to_cub_5_shot"),
    ),
    "cam-table-7": (words("a b c d e", "@/*"), words("baseline=ce kd at ccm")),
    "icasc-table-2": (words("grad_cam grad_cam_pp a_ch=channel_weighted", "voc2012_deeplab/@"), words("score")),
    "icasc-table-3": (words(ABLATION, "resnet50/@"), words("top_1")),
    "icasc-table-4": (
        arms(words("resnet_110=resnet110"), _icasc_a_ch="icasc", _icasc_grad_cam="icasc_grad_cam")
        | arms(
            words("resnet_110_with_stochastic_depth=resnet110_stochastic_depth resnet_164_pre_activation=preresnet164")
        ),
        words("top_1"),
    ),
    "icasc-table-5": (
        arms(words("rn_18=resnet18 vgg_19=vgg19_bn", "@*"), _icasc_a_ch="icasc"),
        words("n_30_top_5=_30_top5 n_60_top_1=_60 n_60_top_5=_60_top5"),
    ),
    "icasc-table-6": (
        arms(words("resnet_18=resnet18 resnet_18_tencrop=resnet18_ten_crop", "@*"), _icasc_a_ch="icasc"),
        words("top_1=| top_5=_top5"),
    ),
    "icasc-table-7": (
        arms(words("resnet_50=resnet50 resnet_101=resnet101"), _icasc_a_ch="icasc") | arms(words(CITED)),
        words("top_1"),
    ),
    "icasc-table-8": (
        words("resnet_18=ce resnet_18_icasc_grad_cam=icasc_grad_cam resnet_18_icasc_a_ch=icasc", "voc2012_*/@"),
        words("auc_score=auc ap=map") | words(" ".join(VOC["appendix_table_2"])),
    ),
    "icasc-table-9": (
        words("baseline=ce icasc_grad_cam icasc_a_ch=icasc", "*/@"),
        words("pascal_voc_2012=voc2012 caltech_256=caltech256 cub_200_2011=cub200 ilsvrc2012=imagenet"),
    ),
    "icasc-figure-9": (words("baseline=ce ours=icasc", "cub200_ks_pair/@"), words("statistic")),
    "cc-table-1": (words(LOSSES, "*/@"), words(CC)),
    "cc-table-2": (words(LOSSES, "*/@"), words(CC)),
    "cc-table-3": (
        words("lambda_0=lambda_1.0", "*_@/gate")
        | words("lambda_0_5=lambda_0.5 lambda_1=lambda_1.0 lambda_1_5=lambda_1.5 lambda_2=lambda_2.0", "*_@/cc")
        | words("batch_8 batch_16 batch_32 batch_64 batch_128", "*_@/cc"),
        words("mnist=mnist_vgg16 cifar_100=cifar100_vgg16 cars_196=cars196_vgg16"),
    ),
}


def cells():
    """Every number of the sheets that our tables can hold: (table, row, column, row of ours, column of ours)."""
    for table, (rows, columns) in PLACES.items():
        for row, told in SHEETS[table]["rows"].items():
            for column in filter(told.__contains__, columns):
                found = rows[row]
                for part in columns[column].split("|"):
                    found = found.replace("*", part if "*" in rows[row] else "", 1)
                yield table, row, column, *found.split("/")


CELLS = list(cells())


@pytest.mark.parametrize("table", [name for name in SHEETS if name != "cam-figure-3"])
def test_numbers(table):
    """A number that another table of the paper prints of the same run stands in that one's sheet."""
    ours, sheet = TABLES[table].entries, SHEETS[table]
    seen = {}
    for name, row, column, *place in CELLS:
        entry, told = TABLES[name].entries[tuple(place)], SHEETS[name]["rows"][row]
        number = round(100 * told[column], 9) if told[column] < 1 else told[column]  # AUC and KS are printed as shares
        seen[entry.run, entry.metric] = seen[name, *place] = number
        if name == table:
            assert entry.paper == number, place
            assert bool(entry.cited) == (column in told.get("cited", ())), place
            assert entry.spread == told.get(f"{column}_spread", told.get("cited_spread", {}).get(column)), place
    for place, entry in ours.items():
        if entry.paper is not None:
            assert entry.paper == seen.get((table, *place), seen.get((entry.run, entry.metric))), place
    printed = {column for row in sheet["rows"].values() for column in sheet["columns"] if column in row}
    assert {column for column in printed if "delta" not in column} - {"location"} == set(PLACES[table][1]) & printed


TERMS = {
    losses.CrossEntropy: "ce",
    losses.MultiLabelSoftMargin: "multi_label_soft_margin",
    losses.CAMLoss: "cam",
    losses.CenterLoss: "center",
    losses.LSoftmax: "l_softmax",
    losses.SMSoftmax: "sm_softmax",
    losses.NegativeCAM: "negative_cam",
    losses.KD: "kd",
    losses.AT: "at",
    losses.CCM: "ccm",
    losses.FocalLoss: "focal",
    losses.ASoftmax: "a_softmax",
    losses.MCLoss: "mc",
    losses.ICAL: "ical",
    losses.FICAL: "fical",
    losses.CCLoss: "cc",
}
ARGUMENTS = {"centre_learning_rate": "rate", "xi": "channels_per_class"}
REGULARISERS = {"cutmix_always": "cutmix", "shake_drop": "shakedrop", "drop_block": "dropblock"}
REGULARISERS |= {"ManifoldMixup": "manifold_mixup"}
METRICS = {"mean average precision (%)": "mean_average_precision", "area under the ROC curve": "auc"}
METRICS |= {
    f"top{k}_{kind}": f"top{k}_accuracy".removeprefix("top1_") for k in (1, 5) for kind in ("error", "accuracy")
}
# What the papers leave unsaid is plain.
PLAIN = {"regularisers": [], "dropout": None, "gate": False, "teacher": None, "nesterov": False, "test": "centre crop"}
# Not of the run, or held by the tests of what does it.
ELSEWHERE = {"heading", "cited", "cited_spread", "rows", "columns", "no_extra_anno", "one_stage", "table", "seeds"}
ELSEWHERE |= {"mask", "layer", "layers", "fine_tuning", "weight_decay_in_the_appendix", "ways", "classes", "novel"}


def plain(name):
    """A net's name without the paper's spelling: "WRN-28-10" -> "wrn2810"."""
    return "".join(letter for letter in name.lower() if letter.isalnum()).replace("alpha", "a")


def claims(table, row, column):
    """What a sheet says of the run behind a number, later entries over earlier ones, in the words of `truth`."""
    sheet = SHEETS[table]
    told = PLAIN | {key: sheet[key] for key in ("data", "metric") if key in sheet}
    for entry in sheet["protocol"]:
        if row in entry.get("rows", [row]) and column in entry.get("columns", [column]):
            told |= entry
    told |= sheet["columns"][column] | sheet["rows"][row]
    told = {key: value for key, value in told.items() if key.removesuffix("_spread") not in sheet["columns"]}
    metric = f"accuracy_{told.pop('shots')}_shot" if "shots" in told else METRICS.get(told.pop("metric", None))
    net = told.pop("student", told.get("net"))
    told |= {"gate": bool(told["gate"]), "metric": metric, "net": plain(net) if net else None}
    told["teacher"] = plain(told["teacher"]) if told["teacher"] and column != "baseline" else None
    if "image" in told:
        told["image"] = int(str(told["image"]).strip("'}")[-3:])
    if "start" in told:
        other = told["start"]
        places = [place for name, of, _, *place in CELLS if (name, of) == (other["table"], other["row"])]
        told["start"] = TABLES[other["table"]].entries[tuple(places[0])].run
    terms = {name: term if isinstance(term, dict) else {"weight": term} for name, term in told.get("terms", {}).items()}
    told |= {"terms": {name: {"weight": 1, "from_epoch": 0} | term for name, term in terms.items()}}
    return {
        key: value for key, value in told.items() if key in PLAIN or (key not in ELSEWHERE and value not in (None, {}))
    }


def terms_of(experiment):
    """An objective in the sheets' words: term -> its weight, the epoch that it starts from, its arguments."""
    found = {}
    for weight, term in experiment.terms.values():
        late = weight.arguments if isinstance(weight, Call) else {"start": 0, "value": weight}
        defaults = {each.name: each.default for each in inspect.signature(term.function).parameters.values()}
        told = defaults | term.arguments | {"weight": late["value"], "from_epoch": late.get("start")} | late
        if issubclass(term.function, losses.ICASC):
            found |= {name: told for name, layer in (("as_in", -2), ("as_la", -1)) if layer in told["separate"]}
            found |= {"ac": told} if told["consistent"] else {}
        else:
            found[TERMS[term.function]] = told
    return found


def truth(entry):
    """What the run behind a number is, in the sheets' words."""
    experiment = RUNS[entry.run]
    schedule, terms, data = experiment.schedule, terms_of(experiment), manifest()[experiment.data]
    calls = (*experiment.regularize, *filter(None, [experiment.mix]))
    changes = {change.function.__name__: change.arguments for change in calls}
    augmented = {*experiment.augment, *changes} - {"crop", "flip", "dropout"}
    tests = {test.function: test.arguments for test in experiment.tests}
    few_shot = tests.get(measure.FewShot)
    ten_crops = measure.TenCrop in tests and not entry.metric.endswith("_centre")
    picture = TRANSFORMS[experiment.transform][0] if experiment.transform else lambda image: image
    teacher = plain(experiment.teacher.split("/")[1]) if experiment.teacher else None
    return {
        "net": plain(experiment.net),
        "data": data.get("like", experiment.data).removesuffix("_few_shot").removesuffix("_30"),
        "epochs": schedule.epochs,
        "learning_rate": schedule.learning_rate,
        "schedule": schedule.annealing,
        "milestones": list(schedule.milestones),
        "decay": schedule.decay,
        "weight_decay": schedule.weight_decay,
        "momentum": schedule.momentum,
        "nesterov": schedule.nesterov,
        "optimiser": schedule.optimizer,
        "batch": experiment.batch_size,
        "regularisers": sorted(REGULARISERS.get(name, name) for name in augmented),
        "cutmix": {"probability": 1.0 if "cutmix_always" in augmented else 0.5, "beta": 1},
        "dropout": changes["dropout"].get("rate", 0.3) if "dropout" in changes else None,
        "gate": experiment.gate,
        "head": {"kind": experiment.head, "scale": CosineHead(1, 1).scale},
        "image": picture(torch.zeros(3, 600, 700, dtype=torch.uint8)).shape[-1],
        "terms_named": sorted(terms),
        "lambda": terms["cc"]["weight"] if "cc" in terms else 0,
        "form": terms["cc"]["form"] if "cc" in terms else "ratio",
        "attention": next(
            (terms[name]["attention"] for name in ("as_in", "as_la") if name in terms), "channel_weighted"
        ),
        "teacher": teacher,
        "start": experiment.start,
        "metric": entry.metric.removesuffix("_centre"),
        "test": {"episodes": few_shot["episodes"], "interval": "95 %"}
        if few_shot
        else ("ten crops" if ten_crops else "centre crop"),
        **{f"{split}_images_per_class": number / data["classes"] for split, number in data["images"].items()},
    }


@pytest.mark.parametrize(("table", "row", "column", "of", "arm"), CELLS)
def test_protocol(table, row, column, of, arm):
    entry = TABLES[table].entries[of, arm]
    if entry.run is None:
        return  # the paper cites it, see test_tables
    told, found, terms = claims(table, row, column), truth(entry), terms_of(RUNS[entry.run])
    named = told.pop("net", None)
    assert found["net"].startswith(named) if named else plain(of).startswith(found["net"])
    teacher = told.pop("teacher")
    assert found["teacher"].startswith(teacher) if teacher else found["teacher"] is None
    asked = told.pop("terms", terms)
    assert set(terms) == set(asked)
    for name, term in asked.items():
        for key, value in term.items():
            assert terms[name][ARGUMENTS.get(key, key)] == value, (name, key)
    if ical := told.pop("ical", None):
        assert ical["weight_from"] <= terms[told["terms_named"][1]]["weight"] <= ical["weight_to"]
    if forms := told.pop("negative_cam", None):
        for form, run in (("mse", entry.run), ("kd", entry.run.replace("negative_cam", "negative_cam_kd"))):
            term = terms_of(RUNS[run])["negative_cam"]
            assert (term["form"], term["k"], term["weight"]) == (form, forms["k"], forms[f"weight_{form}"])
    for key, value in told.items():
        assert found[key] == value, key


def test_figure_3():
    """Its curves cannot be read: what is held is which settings there are, and that the paper's best are among them."""
    told = SHEETS["cam-figure-3"]["settings"]
    rows = {row: entry.run for (row, column), entry in TABLES["cam-figure-3"].entries.items() if column == "cam"}
    ours = {row[9:]: terms_of(RUNS[run])["cam"] for row, run in rows.items() if row.startswith("resnet56_")}
    adaptive = ours.pop("adaptive")
    assert adaptive["threshold"] == told["adaptive"]["from_train_accuracy"]
    for row, term in ours.items():
        varied, _, value = row.partition("_")
        t, c = (int(value), told["left"]["c"]) if varied == "t" else (told["elsewhere"]["t"], int(value))
        assert (term["from_epoch"], term["weight"]) == (t, c)
    assert {f"t_{told['left']['best_t']}", f"c_{told['right']['best_c']}"} <= set(ours)
