"""Every table of the papers, and ours: the paper's numbers, each beside the run that stands behind it."""

from camlib.lab.table import Entry, Table
from camlib.lab.tables import cam_loss, cc_loss, compare, icasc

TABLES: dict[str, Table] = {
    table.name: table for table in (*cam_loss.tables(), *icasc.tables(), *cc_loss.tables(), *compare.tables())
}
