"""The comparison that no paper made: all methods on one net, one set of images and one recipe."""

from camlib.recipes import cam_loss, cc_loss, icasc
from camlib.recipes.cam_loss import CAM, cifar
from camlib.recipes.experiment import Cell, Table

_COLUMNS = {
    "ce": "CE loss",
    "cam": "CAM-loss",
    "icasc": "ICASC, A_ch",
    "gate": "CE loss, gate",
    "cc": "CC-Loss, gate",
    "cc_hinge": "CC-Loss (hinge), gate",  # the formula is our reading, so a second one takes part
}


def _homes() -> dict[str, dict[str, str]]:
    """Row -> column -> the cell of a paper's table that it is a run of."""
    cc = {
        row: {"gate": f"cc-table-2/{row}/gate", "cc": f"cc-table-1/{row}/cc", "cc_hinge": f"cc-forms/{row}/hinge"}
        for row in _ROWS
    }
    return {
        "scenes_resnet8": {"ce": "icasc-scenes/resnet8/ce", "icasc": "icasc-scenes/resnet8/icasc"}
        | cc["scenes_resnet8"],
        "cifar100_resnet20": {
            "ce": "cam-table-1/resnet20/ce",
            "cam": "cam-table-1/resnet20/cam",
            "icasc": "icasc-table-4/resnet20/icasc",
        }
        | cc["cifar100_resnet20"],
    }


_ROWS = {"scenes_resnet8": "ResNet-8, Scenes", "cifar100_resnet20": "ResNet-20, CIFAR-100"}


def tables() -> tuple[Table, ...]:
    """The table of the side-by-side chapter."""
    everything = {}
    for table in (*cam_loss.tables(), *icasc.tables(), *cc_loss.tables()):
        everything |= table.cells
    cells, name = {}, "compare"
    own = {"scenes_resnet8": icasc.scenes(terms=CAM), "cifar100_resnet20": cifar("resnet20", CAM)}
    for row, homes in _homes().items():
        for column in _COLUMNS:
            home = homes.get(column)
            experiment = everything[home].experiment if home else own[row]
            cell = Cell(name, row, column, experiment=experiment, shared=home)
            cells[cell.name] = cell
    return (Table(name, "All methods on one net, accuracy", _ROWS, _COLUMNS, cells, unit="accuracy %"),)
