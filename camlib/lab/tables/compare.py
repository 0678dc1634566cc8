"""The comparison that no paper made: all methods on one net, one set of images and one protocol."""

from camlib.lab.table import Entry, Table
from camlib.lab.tables.cam_loss import scenes_rows

_COLUMNS = {
    "ce": "CE loss",
    "cam": "CAM-loss",
    "caam_detached": "CAM-loss, CAAM held fixed",  # ours: one half of it, see the controls
    "icasc": "ICASC, A_ch",
    "gate": "CE loss, gate",
    "cc": "CC-Loss, gate",
    "cc_normalised": "CC-Loss (normalised), gate",  # the formula is our reading, so a second one takes part
}


def tables() -> tuple[Table, ...]:
    """The table of the side-by-side chapter."""
    rows = {"cifar100_resnet20": "ResNet-20, CIFAR-100", "tenth": "ResNet-20, a tenth of CIFAR-100"}
    runs = {"cifar100_resnet20": ("cifar100/resnet20", "accuracy"), "tenth": ("cifar100_tenth/resnet20", "accuracy")}
    settings = (("scenes_fair", "Scenes, 250 images"), ("scenes", "Scenes"), ("animals_trap", "photographed trap"))
    for setting, heading in settings:
        more, its_runs = scenes_rows(heading, setting)
        rows, runs = rows | more, runs | its_runs
    entries = {
        (row, arm): Entry(f"{start}/{arm}", metric=metric) for row, (start, metric) in runs.items() for arm in _COLUMNS
    }
    return (Table("compare", "All methods on one net, accuracy", rows, _COLUMNS, entries, unit="accuracy %"),)
