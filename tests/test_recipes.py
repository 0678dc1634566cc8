"""Recipes: cells by name, presets, every experiment can be built and recorded.

CAM-loss, Tables 1–7 and CAM-loss, Figure 3. ICASC, Tables 2–9 and ICASC, Figure 9. CC-Loss, Tables 1–3.
"""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from camlib import recipes
from camlib.data import manifest
from camlib.data.augment import AUGMENTATIONS
from camlib.data.stream import TRANSFORMS
from camlib.models import HEADS, NETS, residual_blocks
from camlib.names import UnknownName
from camlib.objective import State
from camlib.observe import observe
from camlib.recipes import Call, Experiment, call
from camlib.train import Recipe, evaluate

CELLS = {name: cell for table in recipes.TABLES.values() for name, cell in table.cells.items()}
WITH_RECIPE = [name for name, cell in CELLS.items() if cell.experiment and not cell.shared]
HEAD = nn.Linear(64, 100)
CE = {"ce": (1.0, call("CrossEntropy"))}


@pytest.mark.parametrize("table", recipes.TABLES.values(), ids=lambda table: table.name)
def test_tables_name_their_cells_consistently(table):
    assert recipes.TABLES[table.name] is table
    assert table.unit in ("error %", "accuracy %", "mean IoU %", "score %")
    for name, cell in table.cells.items():
        assert recipes.cell(name) is cell
        assert name == cell.name == f"{table.name}/{cell.row}/{cell.column}"
        assert cell.row in table.rows
        assert cell.column in table.columns
    assert {cell.row for cell in table.cells.values()} == set(table.rows)
    assert {cell.column for cell in table.cells.values()} == set(table.columns)


def test_unknown_cell_answers_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no cell is called 'cam-table-1/resnet56/kam'.*resnet56/cam"):
        recipes.cell("cam-table-1/resnet56/kam")


def test_table_1_holds_the_papers_numbers():
    cells = recipes.TABLES["cam-table-1"].cells
    numbers = {name.split("/", 1)[1]: cell.paper for name, cell in cells.items() if cell.paper is not None}
    assert numbers == {
        "resnet56/ce": 28.80,
        "resnet56/cam": 27.34,
        "wrn28_10/ce": 18.37,
        "wrn28_10/cam": 17.49,
        "resnext29_8x64d/ce": 18.01,
        "resnext29_8x64d/cam": 17.24,
        "densenet_bc_190_40/ce": 17.67,
        "densenet_bc_190_40/cam": 16.98,
        "resnet50/ce": 23.68,
        "resnet50/cam": 22.98,
        "resnet101/ce": 22.30,
        "resnet101/cam": 21.73,
        "resnext50_32x4d/ce": 22.42,
        "resnext50_32x4d/cam": 21.91,
        "resnext101_32x8d/ce": 21.04,
        "resnext101_32x8d/cam": 20.45,
    }


def test_table_1_follows_the_papers_protocol():
    """CAM-loss, §4.2: 160 epochs, batch 128, learning rate 0.1 with cosine decay, c = 3 from epoch t = 20."""
    experiment = recipes.cell("cam-table-1/resnet56/cam").at("paper")
    assert (experiment.net, experiment.data, experiment.batch_size) == ("resnet56", "cifar100", 128)
    recipe = experiment.recipe
    assert (recipe.epochs, recipe.learning_rate, recipe.schedule) == (160, 0.1, "cosine")
    assert (recipe.precision, recipe.momentum, recipe.weight_decay) == ("float32", 0.9, 1e-4)
    assert experiment.terms == {
        "ce": (1.0, call("CrossEntropy")),
        "cam": (call("step_at", start=20, value=3.0), call("CAMLoss")),
    }
    assert experiment.train_images is None
    assert experiment.test_images is None


@pytest.mark.parametrize("preset", recipes.PRESETS)
@pytest.mark.parametrize("name", WITH_RECIPE)
def test_every_experiment_can_be_built_and_recorded(name, preset):
    cell = CELLS[name]
    experiment = cell.at(preset)
    described = experiment.objective(HEAD).describe()
    assert set(described) - {"mix"} == set(experiment.terms)
    assert "<" not in "".join(described.values()), "a size that was not filled in"
    assert experiment.data in manifest()
    assert experiment.net in NETS
    assert experiment.head in HEADS
    assert experiment.transform is None or experiment.transform in TRANSFORMS
    assert set(experiment.augment) <= set(AUGMENTATIONS)
    assert callable(experiment.tester())
    for other in (experiment.teacher, experiment.start):
        assert other is None or recipes.cell(other).at(preset).net
    plain = json.loads(json.dumps(asdict(experiment), allow_nan=False))
    assert plain["recipe"]["epochs"] == experiment.recipe.epochs


@pytest.mark.parametrize("name", WITH_RECIPE)
def test_at_quick_every_objective_gives_a_finite_loss_and_gradient(name):
    experiment = CELLS[name].at("quick")
    torch.manual_seed(0)
    observed = observe(experiment.model(10)).train()
    teacher = observe(recipes.cell(experiment.teacher).at("quick").model(10)) if experiment.teacher else None
    images, target = torch.randn(4, 3, 32, 32), torch.eye(10)[:4]
    late = State(epoch=10**6, train_accuracy=1.0)
    loss = experiment.objective(observed.head, teacher)(observed, images, target, late)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in observed.parameters())


@pytest.mark.parametrize("name", [name for name in WITH_RECIPE if CELLS[name].experiment.start])
def test_a_net_to_start_from_fits(name):
    experiment = CELLS[name].at("paper")
    assert recipes.cell(experiment.start).at("paper").net == experiment.net


@pytest.mark.parametrize("name", [name for name in WITH_RECIPE if CELLS[name].experiment.teacher])
def test_a_net_to_learn_from_fits(name):
    experiment = CELLS[name].at("paper")
    teacher = recipes.cell(experiment.teacher).at("paper")
    assert (teacher.data, teacher.teacher) == (experiment.data, None)


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if cell.shared])
def test_a_shared_cell_is_the_same_experiment(name):
    cell = CELLS[name]
    assert cell.runs == cell.shared
    assert CELLS[cell.shared].experiment == cell.experiment
    assert CELLS[cell.shared].shared is None


def test_arms_of_a_row_differ_in_what_the_table_compares_only():
    """The loss; where it asks for one, the head, the gate or the teacher; in Table 5 the net to start from."""
    for cell in CELLS.values():
        baseline = CELLS[f"{cell.table}/{cell.row}/{recipes.TABLES[cell.table].baseline}"]
        if cell.experiment:
            same = {"terms": CE, "head": "linear", "teacher": None, "start": None}
            same |= {"gate": False, "channels_per_class": None}
            assert replace(cell.experiment, **same) == replace(baseline.experiment, **same)


def test_a_number_that_the_paper_only_cites_says_from_where_and_has_a_recipe_only_if_it_is_a_baseline():
    for cell in CELLS.values():
        if cell.experiment is None:
            assert cell.cited
            assert cell.paper is not None
        if cell.cited:
            assert cell.column == "ce"


def test_the_numbers_of_the_other_tables():
    """One entry of every row and column, as they stand in the paper."""
    numbers = {
        "cam-table-2/pyramid_none/ce": 16.45,
        "cam-table-2/pyramid_none_top5/cam": 3.28,
        "cam-table-2/pyramid_mixup/ce": 15.63,
        "cam-table-2/pyramid_both_top5/cam": 2.18,
        "cam-table-2/resnet50_drop_block_top5/ce": 5.98,
        "cam-table-2/resnet50_cutmix/cam": 21.16,
        "cam-table-3/resnet110_cifar10/center": 6.38,
        "cam-table-3/wrn28_10_cifar10/l_softmax": 3.69,
        "cam-table-3/resnet110_cifar100/sm_softmax": 26.97,
        "cam-table-3/wrn28_10_cifar100/cam": 17.87,
        "cam-table-4/resnet56/negative_cam": 27.37,
        "cam-table-4/resnet101/cam": 21.73,
        "cam-table-5/cub200/cam": 86.7,
        "cam-table-5/stanford_dogs/ce": 83.9,
        "cam-table-6/mini_imagenet_1_shot/ce": 52.18,
        "cam-table-6/cub_5_shot/cam": 88.93,
        "cam-table-6/mini_to_cub_5_shot/ce": 65.88,
        "cam-table-7/a/ccm": 21.46,
        "cam-table-7/d/kd": 27.11,
        "cam-table-7/e/at": 20.22,
        "icasc-table-2/voc2012_deeplab/grad_cam_pp": 51.70,
        "icasc-table-3/resnet50/inner_consistent": 85.77,
        "icasc-table-4/resnet110/icasc": 76.11,
        "icasc-table-4/preresnet164/ce": 75.63,
        "icasc-table-5/resnet18_60/icasc": 81.32,
        "icasc-table-5/vgg19_bn_30_top5/ce": 90.05,
        "icasc-table-6/resnet18_ten_crop/icasc": 73.04,
        "icasc-table-6/resnet18_top5/ce": 88.91,
        "icasc-table-7/resnet101/icasc": 86.5,
        "icasc-table-7/racnn/ce": 85.3,
        "icasc-table-8/voc2012_map/icasc": 83.17,
        "icasc-table-8/voc2012_auc/ce": 97.6,
        "icasc-table-8/voc2012_sofa/icasc_grad_cam": 64.00,
        "icasc-table-9/imagenet/icasc_grad_cam": 69.84,
        "icasc-figure-9/cub200_ks_pair/icasc": 74.0,
        "cc-table-1/mnist_vgg16/focal": 97.64,
        "cc-table-1/mnist_resnet18/a_softmax": 98.32,
        "cc-table-1/cifar100_vgg16/mc": 72.51,
        "cc-table-1/cifar100_resnet18/fical": 78.18,
        "cc-table-1/cars196_vgg16/cc": 91.46,
        "cc-table-1/cars196_resnet18/ical": 86.67,
        "cc-table-2/mnist_vgg16/gate": 97.66,
        "cc-table-2/cars196_resnet18/ce": 85.77,
        "cc-table-3/cifar100_vgg16_lambda_1.5/cc": 75.04,
        "cc-table-3/mnist_vgg16_lambda_0.5/gate": 97.66,
        "cc-table-3/cars196_vgg16_batch_64/cc": 90.6,
    }
    assert {name: CELLS[name].paper for name in numbers} == numbers


def test_icasc_follows_the_papers_protocol():
    """ICASC, Table 1 and appendix A: 160 epochs and steps on CIFAR-100, one cosine of 20 epochs on VOC."""
    cifar = recipes.cell("icasc-table-4/resnet110/icasc").at("paper")
    assert cifar.terms == CE | {"icasc": (1.0, call("ICASC"))}
    assert (cifar.recipe.epochs, cifar.recipe.milestones, cifar.recipe.weight_decay) == (160, (81, 122), 5e-4)
    voc = recipes.cell("icasc-table-8/voc2012_map/icasc").at("paper")
    assert (voc.batch_size, voc.recipe.epochs, voc.recipe.schedule, voc.recipe.weight_decay) == (16, 20, "cosine", 1e-3)
    assert voc.terms["ce"] == (1.0, call("MultiLabelSoftMargin"))
    cub = recipes.cell("icasc-table-7/resnet50/icasc").at("paper")
    assert (cub.batch_size, cub.recipe.learning_rate, cub.recipe.milestones) == (10, 1e-3, (30, 60))
    imagenet = recipes.cell("icasc-table-6/resnet18_ten_crop/ce").at("paper")
    assert (imagenet.batch_size, imagenet.recipe.epochs, imagenet.recipe.milestones) == (256, 90, (30, 60))


def test_cc_loss_is_asked_of_a_net_with_a_gate_and_compared_with_the_gate_alone():
    """CC-Loss, Tables 1–3: λ = 1; batch 32 on CIFAR-100."""
    names = [f"cc-table-{cell}" for cell in ("2/cifar100_vgg16/ce", "2/cifar100_vgg16/gate", "1/cifar100_vgg16/cc")]
    ce, gate, cc = (recipes.cell(name).at("paper") for name in names)
    assert [experiment.gate for experiment in (ce, gate, cc)] == [False, True, True]
    assert ce.terms == gate.terms == CE
    assert cc.terms == CE | {"cc": (1.0, call("CCLoss"))}
    assert ce.batch_size == gate.batch_size == cc.batch_size == 32
    assert observe(gate.model(10))(torch.randn(2, 3, 32, 32)).gate.shape == (2, 512)
    weights = [recipes.cell(f"cc-table-3/mnist_vgg16_lambda_{w}/cc").at("paper") for w in (0.5, 1.0, 1.5, 2.0)]
    assert [experiment.terms["cc"][0] for experiment in weights] == [0.5, 1.0, 1.5, 2.0]
    assert all(replace(experiment, terms=CE) == replace(weights[0], terms=CE) for experiment in weights)


def test_batches_of_cc_loss_keep_the_rate_per_image():
    experiments = [recipes.cell(f"cc-table-3/cars196_vgg16_batch_{size}/cc").at("paper") for size in (8, 32, 128)]
    assert [experiment.batch_size for experiment in experiments] == [8, 32, 128]
    assert [experiment.recipe.learning_rate for experiment in experiments] == [0.005, 0.02, 0.08]


def test_top_5_rows_are_the_runs_of_their_top_1_rows():
    top5 = [cell for cell in CELLS.values() if cell.row.endswith("_top5")]
    assert top5
    for cell in top5:
        first = CELLS[cell.name.replace("_top5", "")]
        assert cell.metric == f"top5_{first.metric}"
        assert cell.experiment == first.experiment
        if cell.experiment:
            assert cell.runs == first.runs


def test_each_call_builds_a_fresh_term():
    experiment = recipes.cell("cam-table-1/resnet20/cam").at("paper")
    terms = [experiment.objective(HEAD).terms["cam"][1] for _ in range(2)]
    assert terms[0] is not terms[1]


@pytest.mark.parametrize(
    ("preset", "net", "data", "epochs", "start"),
    [
        ("quick", "resnet8", "scenes", 4, 1),  # 20 · 4/160 = 0.5
        ("short", "resnet56", "cifar100", 30, 4),  # 3.75
        ("colab", "resnet56", "cifar100", 15, 2),  # 1.875
        ("paper", "resnet56", "cifar100", 160, 20),
    ],
)
def test_presets_change_sizes_and_lengths(preset, net, data, epochs, start):
    paper = recipes.cell("cam-table-1/resnet56/cam").at("paper")
    experiment = recipes.cell("cam-table-1/resnet56/cam").at(preset)
    assert (experiment.net, experiment.data, experiment.recipe.epochs) == (net, data, epochs)
    weight, term = experiment.terms["cam"]
    assert weight == call("step_at", start=start, value=3.0)
    assert term == paper.terms["cam"][1]
    changed = {"epochs", "precision", "channels_last"}
    same = asdict(experiment.recipe).items() - asdict(paper.recipe).items()
    assert {name for name, _ in same} <= changed


@pytest.mark.parametrize(
    ("epochs", "milestones", "start"),
    [(160, (81, 122), 20), (30, (15, 23), 4), (80, (41, 61), 10), (4, (2, 3), 1), (320, (162, 244), 40)],
)
def test_epochs_that_are_named_move_in_proportion(epochs, milestones, start):
    """Rounded half up: 122 · 30/160 = 22.875, 81 · 80/160 = 40.5, 20 · 4/160 = 0.5."""
    terms = CE | {"cam": (call("step_at", start=20, value=3.0), call("CAMLoss"))}
    recipe = Recipe(epochs=160, schedule="steps", milestones=(81, 122))
    moved = Experiment("resnet110", "cifar100", terms, recipe).lasting(epochs)
    assert (moved.recipe.epochs, moved.recipe.milestones) == (epochs, milestones)
    assert moved.terms["cam"] == (call("step_at", start=start, value=3.0), call("CAMLoss"))
    assert moved.terms["ce"] == CE["ce"]


def test_a_weight_that_names_no_epoch_stays():
    adaptive = (call("after_accuracy", threshold=0.5, value=3.0), call("CAMLoss"))
    experiment = Experiment("resnet56", "cifar100", CE | {"cam": adaptive}, Recipe(epochs=160))
    assert experiment.lasting(30).terms["cam"] == adaptive


def test_a_cell_without_recipe_says_so():
    with pytest.raises(recipes.NotRunnable, match="cam-table-2/pyramid_cutout/ce has no recipe"):
        recipes.cell("cam-table-2/pyramid_cutout/ce").at("paper")


def test_large_batches_shrink_for_a_chapter_and_their_rate_with_them():
    experiment = recipes.cell("cam-table-1/resnet50/cam")
    assert (experiment.at("paper").batch_size, experiment.at("paper").recipe.learning_rate) == (1024, 0.4)
    assert (experiment.at("quick").batch_size, experiment.at("quick").recipe.learning_rate) == (128, 0.05)
    assert experiment.at("quick").transform is None


def test_unknown_preset_answers_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no preset is called 'quik'; the nearest: quick"):
        recipes.cell("cam-table-1/resnet56/ce").at("quik")


def test_a_call_that_names_nothing_fails_where_it_is_built():
    experiment = Experiment("resnet20", "scenes", {"ce": (1.0, Call("CrossEntrophy"))}, Recipe(epochs=1))
    with pytest.raises(AttributeError, match="CrossEntrophy"):
        experiment.objective(HEAD)


def test_a_net_is_built_with_its_regularisers():
    experiment = replace(recipes.cell("cam-regularizers/resnet20_none/ce").experiment, net="resnet8")
    shaken = replace(experiment, regularize=(call("shake_drop", last=0.3),))
    assert {type(block.residual_drop) for block in residual_blocks(experiment.model(10))} == {nn.Identity}
    assert [block.residual_drop.p for block in residual_blocks(shaken.model(10))] == pytest.approx([0.1, 0.2, 0.3])


def test_what_several_tests_measure_is_put_together(monkeypatch):
    for name, metrics in (("First", {"a": 1.0}), ("Second", {"b": 2.0})):
        monkeypatch.setattr(f"camlib.testing.{name}", lambda metrics=metrics: lambda *_: metrics, raising=False)
    experiment = recipes.cell("cam-table-1/resnet20/ce").experiment
    both = replace(experiment, tests=(call("First"), call("Second")))
    assert both.tester()(None, None, "float32") == {"a": 1.0, "b": 2.0}
    assert replace(experiment, tests=()).tester() is evaluate
