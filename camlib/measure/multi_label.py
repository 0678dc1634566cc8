"""Tests of nets whose images show several classes each."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from camlib.attention import KINDS, attention, run_for_attention
from camlib.data.loader import Batches
from camlib.maps import Cells
from camlib.measure.accuracy import evaluating, hits
from camlib.measure.localisation import energy_inside, pointing_game, threshold_iou
from camlib.measure.segmentation import segments
from camlib.names import lookup
from camlib.precision import mixed_precision
from camlib.target import one_hot


class MultiLabel:
    """Tests of a net whose images show several classes (ICASC, Table 8).

    Called, it returns for every class that enough test images show, and some do not, "average_precision_NAME", by
    scikit-learn, which is not interpolated as PASCAL's older one was; their mean, "mean_average_precision"; "auc", the
    mean area under the ROC curves of the same classes; "accuracy", the share of images whose likeliest class is
    one of theirs; "loss", the multi-label soft margin. Where the set has segments, it also measures the attention at
    the last layer to each class an image shows, against that class's pixels: "energy_inside", "pointing_game" and
    "iou" (`threshold_iou`), each a mean over pairs of image and class. Unknown pixels count as outside. The test's
    transform must keep the whole image, or maps and pixels do not lie on each other. A map's cells count as blocks of
    pixels here, wherever they look: so the records were made, which must stay comparable.

    Every process tests all images.

    Args:
        attention: the kind of map, a key of `camlib.attention.KINDS`.
        least: leave classes out of both means that fewer test images show: their precision is chance.

    Raises:
        UnknownName: the kind of map is unknown.
        ValueError: when called, no class is left.
    """

    def __init__(self, attention: str = "channel_weighted", least: int = 1):
        lookup(KINDS, attention, "kind of attention")  # at once, and not after a training
        self.attention, self.least = attention, least

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        from sklearn.metrics import average_precision_score, roc_auc_score  # takes seconds to import

        source = loader.source
        located = source is not None and source.segments is not None
        classes = source.classes if source else [str(k) for k in range(loader.num_classes)]
        logits, targets, places = [], [], {"energy_inside": [], "pointing_game": [], "iou": []}
        with evaluating(model, loader) as observed:
            for index, (images, target) in zip(loader.indices(0), loader.batches(0), strict=True):
                with mixed_precision(loader.device, precision):
                    out = run_for_attention(observed, images)
                    if located:
                        shown = segments(loader, index, images.shape[-2:]).to(loader.device)
                        for k in target.any(0).nonzero().flatten().tolist():
                            masks = shown == k + 1
                            some = masks.any(2).any(1) & (target[:, k] > 0)
                            rows = one_hot(torch.full_like(index, k), loader.num_classes).to(loader.device)
                            maps, masks = attention(out, rows, kind=self.attention)[some].detach(), masks[some]
                            step = masks.shape[-1] / maps.shape[-1]
                            blocks = Cells((step - 1) / 2, step)
                            places["energy_inside"].append(energy_inside(maps, masks, blocks))
                            places["pointing_game"].append(pointing_game(maps, masks, blocks).float())
                            places["iou"].append(threshold_iou(maps, masks, cells=blocks))
                logits.append(out.logits.detach().float().cpu())
                targets.append(target.cpu())
        logits, targets = torch.cat(logits), torch.cat(targets)
        varying = [k for k, column in enumerate(targets.unbind(1)) if self.least <= column.sum() < len(column)]
        if not varying:
            raise ValueError(
                f"no class is shown by {self.least} or more of the {len(targets)} test images, but not by all: "
                "test on more of them, or choose a lower least"
            )
        columns = [(targets[:, k].numpy(), logits[:, k].numpy()) for k in varying]
        precisions = [float(average_precision_score(*column)) for column in columns]
        metrics = {
            "accuracy": hits(logits, targets)[:, 0].float().mean().item(),
            "loss": F.multilabel_soft_margin_loss(logits, targets).item(),
            "mean_average_precision": float(np.mean(precisions)),
            "auc": float(np.mean([roc_auc_score(*column) for column in columns])),
        }
        for k, value in zip(varying, precisions, strict=True):
            metrics[f"average_precision_{classes[k].replace(' ', '_')}"] = value
        measured = {name: torch.cat(found) for name, found in places.items() if found}
        return metrics | {name: found.mean().item() for name, found in measured.items() if len(found)}
