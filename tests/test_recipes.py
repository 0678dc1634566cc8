"""Recipes: cells by name, presets, every experiment can be built and recorded (CAM-loss, Table 1)."""

import json
from dataclasses import asdict, replace

import pytest

from camlib import recipes
from camlib.data import manifest
from camlib.data.augment import AUGMENTATIONS
from camlib.models import NETS
from camlib.names import UnknownName
from camlib.recipes import Call, Experiment, call
from camlib.train import Recipe

CELLS = {name: cell for table in recipes.TABLES.values() for name, cell in table.cells.items()}
WITH_RECIPE = [name for name, cell in CELLS.items() if cell.experiment]
CE = {"ce": (1.0, call("CrossEntropy"))}


@pytest.mark.parametrize("table", recipes.TABLES.values(), ids=lambda table: table.name)
def test_tables_name_their_cells_consistently(table):
    assert recipes.TABLES[table.name] is table
    assert table.unit in ("error %", "accuracy %")
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
        "resnext50/ce": 22.42,
        "resnext50/cam": 21.91,
        "resnext101/ce": 21.04,
        "resnext101/cam": 20.45,
    }


def test_table_1_follows_the_papers_protocol():
    """CAM-loss, §4.2: 160 epochs, batch 128, learning rate 0.1 with cosine decay, c = 3 from epoch t = 20."""
    experiment = recipes.cell("cam-table-1/resnet56/cam").at("paper")
    assert (experiment.net, experiment.data, experiment.batch_size) == ("resnet56", "cifar100", 128)
    recipe = experiment.recipe
    assert (recipe.epochs, recipe.learning_rate, recipe.schedule) == (160, 0.1, "cosine")
    assert (recipe.precision, recipe.momentum, recipe.weight_decay) == ("float32", 0.9, 1e-4)
    assert experiment.objective().describe() == {
        "ce": "1.0 * CrossEntropy()",
        "cam": "step_at(start=20, value=3.0) * CAMLoss(p=1, detach_cam=False)",
    }
    assert experiment.train_images is None
    assert experiment.test_images is None


@pytest.mark.parametrize("preset", recipes.PRESETS)
@pytest.mark.parametrize("name", WITH_RECIPE)
def test_every_experiment_can_be_built_and_recorded(name, preset):
    cell = CELLS[name]
    experiment = recipes.PRESETS[preset](cell.experiment)
    described = experiment.objective().describe()
    assert list(described) == list(experiment.terms)
    assert experiment.data in manifest()
    assert set(experiment.augment) <= set(AUGMENTATIONS)
    plain = json.loads(json.dumps(asdict(experiment), allow_nan=False))
    assert plain["recipe"]["epochs"] == experiment.recipe.epochs
    if experiment.net in NETS:
        assert cell.at(preset) == experiment


@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if cell.shared])
def test_a_shared_cell_is_the_same_experiment(name):
    cell = CELLS[name]
    assert cell.runs == cell.shared
    assert CELLS[cell.shared].experiment == cell.experiment
    assert CELLS[cell.shared].shared is None


def test_arms_of_a_row_differ_in_their_terms_only():
    for cell in CELLS.values():
        baseline = CELLS.get(f"{cell.table}/{cell.row}/ce")
        if cell.experiment and baseline:
            assert replace(cell.experiment, terms=CE) == replace(baseline.experiment, terms=CE)


def test_each_call_builds_a_fresh_term():
    experiment = recipes.cell("cam-table-1/resnet20/cam").at("paper")
    terms = [experiment.objective().terms["cam"][1] for _ in range(2)]
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


def test_a_cell_without_recipe_or_net_says_so():
    with pytest.raises(recipes.NotRunnable, match="cam-table-1/resnet50/ce has no recipe"):
        recipes.cell("cam-table-1/resnet50/ce").at("paper")
    unbuilt = replace(recipes.cell("cam-table-1/resnet56/ce"), experiment=Experiment("net9", "scenes", CE, Recipe(1)))
    with pytest.raises(recipes.NotRunnable, match=r"its net net9 is not built yet; built are .*resnet56"):
        unbuilt.at("paper")


def test_unknown_preset_answers_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no preset is called 'quik'; the nearest: quick"):
        recipes.cell("cam-table-1/resnet56/ce").at("quik")


def test_a_call_that_names_nothing_fails_where_it_is_built():
    experiment = Experiment("resnet20", "scenes", {"ce": (1.0, Call("CrossEntrophy"))}, Recipe(epochs=1))
    with pytest.raises(AttributeError, match="CrossEntrophy"):
        experiment.objective()
