"""Every number that a run reports."""

from camlib.measure.accuracy import TenCrop, evaluate
from camlib.measure.few_shot import FewShot
from camlib.measure.free_grounds import FreeGrounds
from camlib.measure.grouping import Grouping, distance_ratio, nearest_mean_accuracy, silhouette, tsne
from camlib.measure.ks_chart import Confusion, confusion, ks
from camlib.measure.localisation import (
    attention_overlap,
    attention_shift,
    energy_inside,
    pointing_game,
    threshold_iou,
)
from camlib.measure.metrics import expected_calibration_error, spatial_rank
from camlib.measure.multi_label import MultiLabel
from camlib.measure.segmentation import WeakSegmentation
