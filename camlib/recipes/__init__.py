"""Every cell of every table of the papers, as data: what the paper reports and what to train for it.

A cell is named TABLE/ROW/COLUMN, as cam-table-1/resnet56/cam.
"""

from camlib.names import lookup
from camlib.recipes import cam_loss, cc_loss, compare, icasc
from camlib.recipes.experiment import PRESETS, Call, Cell, Experiment, NotRunnable, Table, call

TABLES = {table.name: table for table in (*cam_loss.tables(), *icasc.tables(), *cc_loss.tables(), *compare.tables())}


def cell(name: str) -> Cell:
    """The cell called TABLE/ROW/COLUMN.

    Raises:
        UnknownName: there is none; the message holds the nearest names.
    """
    everything = {name: cell for table in TABLES.values() for name, cell in table.cells.items()}
    return lookup(everything, name, "cell")
