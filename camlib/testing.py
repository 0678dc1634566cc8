"""What a trained net is tested by besides plain accuracy: callables (model, test loader, precision) -> metrics."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from camlib.analysis import (
    attention_overlap,
    confusion,
    distance_ratio,
    energy_inside,
    expected_calibration_error,
    ks,
    pointing_game,
    silhouette,
    threshold_iou,
)
from camlib.attention import attention, look
from camlib.data.loader import Batches
from camlib.few_shot import FewShot as FewShot
from camlib.observe import Output
from camlib.segmentation import WeakSegmentation as WeakSegmentation
from camlib.segmentation import segments
from camlib.target import check_single_label, one_hot
from camlib.train import evaluate, evaluating, hits, mixed_precision


class Embedding:
    """How features group by class: what a t-SNE picture of them claims, as numbers (CC-Loss, its figure).

    Called, it returns what `camlib.train.evaluate` does, and of the pooled features of all test images
    "distance_ratio" and "silhouette" (see `camlib.analysis`); if the net has a gate, "gate_distance_ratio" of it.
    Every process tests all images.

    Raises:
        ValueError: when called, the images show several classes each, or features cannot be grouped.
    """

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        features, gates, labels = [], [], []

        def each(out: Output, target: Tensor) -> None:
            check_single_label(target, "Embedding")
            features.append(out.pooled.detach().float().cpu())
            gates.append(None if out.gate is None else out.gate.float().cpu())
            labels.append(target.argmax(1).cpu())

        metrics = evaluate(model, loader, precision, each)
        features, labels = torch.cat(features), torch.cat(labels)
        metrics |= {"distance_ratio": distance_ratio(features, labels), "silhouette": silhouette(features, labels)}
        if gates[0] is not None:
            metrics["gate_distance_ratio"] = distance_ratio(torch.cat(gates), labels)
        return metrics


class TenCrop:
    """Test every image on its centre, four corners and their mirror images (ICASC, Table 6).

    Called with a loader whose transform gives ten crops, as "imagenet_ten_crop", it returns "accuracy" and
    "top5_accuracy" by the mean of the ten softmaxes, "accuracy_centre", "top5_accuracy_centre" and "loss"
    (cross-entropy) by the crop at the centre. Images of one crop only, as those in memory, are their own centre.
    """

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        sums = torch.zeros(5, dtype=torch.float64)
        with evaluating(model, loader) as observed, torch.no_grad():
            for images, target in loader.batches(0):
                crops = images if images.ndim == 5 else images[:, None]
                with mixed_precision(loader.device, precision):
                    logits = observed(crops.flatten(0, 1)).logits.float().view(*crops.shape[:2], -1)
                centre = logits[:, crops.shape[1] // 2 - 1 if crops.shape[1] > 1 else 0]
                for k, answer in enumerate((logits.softmax(2).mean(1), centre)):
                    right = hits(answer, target, 5)
                    sums[2 * k : 2 * k + 2] += torch.stack([right[:, 0].sum(), right.any(1).sum()]).cpu()
                sums[4] += F.cross_entropy(centre, target, reduction="sum").cpu()
        names = ("accuracy", "top5_accuracy", "accuracy_centre", "top5_accuracy_centre", "loss")
        return dict(zip(names, (sums / loader.count).tolist(), strict=True))


class MultiLabel:
    """Tests of a net whose images show several classes (ICASC, Table 8).

    Called, it returns for every class that enough test images show, and some do not, "average_precision_NAME", by
    scikit-learn, which is not interpolated as PASCAL's older one was; their mean, "mean_average_precision"; "auc", the
    mean area under the ROC curves of the same classes; "accuracy", the share of images whose likeliest class is
    one of theirs; "loss", the multi-label soft margin. Where the set has segments, it also measures the attention at
    the last layer to each class an image shows, against that class's pixels: "energy_inside", "pointing_game" and
    "iou" (`threshold_iou`), each a mean over pairs of image and class. Unknown pixels count as outside. The test's
    transform must keep the whole image, or maps and pixels do not lie on each other.

    Every process tests all images.

    Args:
        attention: the kind of map, a key of `camlib.attention.KINDS`.
        least: leave classes out of both means that fewer test images show: their precision is chance.

    Raises:
        ValueError: when called, no class is left.
    """

    def __init__(self, attention: str = "channel_weighted", least: int = 1):
        self.attention, self.least = attention, least

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        source = loader.source
        located = source is not None and source.segments is not None
        classes = source.classes if source else [str(k) for k in range(loader.num_classes)]
        logits, targets, places = [], [], {"energy_inside": [], "pointing_game": [], "iou": []}
        with evaluating(model, loader) as observed:
            for index, (images, target) in zip(loader.indices(0), loader.batches(0), strict=True):
                with mixed_precision(loader.device, precision):
                    out = look(observed, images)
                    if located:
                        shown = segments(loader, index, images.shape[-2:]).to(loader.device)
                        for k in target.any(0).nonzero().flatten().tolist():
                            masks = shown == k + 1
                            some = masks.any(2).any(1) & (target[:, k] > 0)
                            rows = one_hot(torch.full_like(index, k), loader.num_classes).to(loader.device)
                            maps, masks = attention(out, rows, kind=self.attention)[some].detach(), masks[some]
                            places["energy_inside"].append(energy_inside(maps, masks))
                            places["pointing_game"].append(pointing_game(maps, masks).float())
                            places["iou"].append(threshold_iou(maps, masks))
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


class Confusion:
    """How far a net holds the right class apart from the likeliest wrong one, in probability and in attention.

    Called, it returns what `camlib.train.evaluate` does and "calibration_error" (`expected_calibration_error`); "ks",
    "ks_location", "ks_pair" and "ks_pair_location", the distance between the distributions of the two classes'
    probabilities as they are, and renormalised over the two (ICASC, Figure 9); "top5_overlap", the mean
    `attention_overlap` of the five likeliest classes' maps at the last layer (ICASC, Figures 1, 2 and 10).

    Every process tests all images.

    Args:
        attention: the kind of map, a key of `camlib.attention.KINDS`.
    """

    def __init__(self, attention: str = "channel_weighted"):
        self.attention = attention

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        logits, targets, overlaps = [], [], []

        def each(out: Output, target: Tensor) -> None:
            likeliest = out.logits.topk(min(5, target.shape[1]), 1).indices
            rows = [one_hot(classes, target.shape[1]) for classes in likeliest.unbind(1)]
            maps = torch.stack([attention(out, row, kind=self.attention).detach() for row in rows], 1)
            overlaps.append(attention_overlap(maps).cpu())
            logits.append(out.logits.detach().float().cpu())
            targets.append(target.cpu())

        metrics = evaluate(model, loader, precision, each)
        logits, targets = torch.cat(logits), torch.cat(targets)
        metrics["calibration_error"] = expected_calibration_error(logits, targets)
        for name, pair in (("ks", False), ("ks_pair", True)):
            found = ks(*confusion(logits, targets, pair))
            metrics |= {name: found.statistic, f"{name}_location": found.location}
        return metrics | {"top5_overlap": torch.cat(overlaps).mean().item()}
