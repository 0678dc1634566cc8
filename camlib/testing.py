"""What a trained net is tested by besides plain accuracy: callables (model, test loader, precision) -> metrics."""

import torch
from torch import nn

from camlib.analysis import attention_overlap, confusion, expected_calibration_error, ks
from camlib.attention import attention, look
from camlib.data.loader import Batches
from camlib.few_shot import FewShot as FewShot
from camlib.observe import Observed, observe
from camlib.target import one_hot
from camlib.train import evaluate, mixed_precision


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
        metrics = evaluate(model, loader, precision)
        observed = (model if isinstance(model, Observed) else observe(model)).to(loader.device)
        modes = {module: module.training for module in observed.modules()}
        observed.eval()
        logits, targets, overlaps = [], [], []
        for images, target in loader.batches(0):
            with mixed_precision(loader.device, precision):
                out = look(observed, images)
                likeliest = out.logits.topk(min(5, target.shape[1]), 1).indices
                rows = [one_hot(classes, target.shape[1]) for classes in likeliest.unbind(1)]
                maps = torch.stack([attention(out, row, kind=self.attention).detach() for row in rows], 1)
            overlaps.append(attention_overlap(maps).cpu())
            logits.append(out.logits.detach().float().cpu())
            targets.append(target.cpu())
        for module, mode in modes.items():
            module.training = mode
        logits, targets = torch.cat(logits), torch.cat(targets)
        metrics["calibration_error"] = expected_calibration_error(logits, targets)
        for name, pair in (("ks", False), ("ks_pair", True)):
            found = ks(*confusion(logits, targets, pair))
            metrics |= {name: found.statistic, f"{name}_location": found.location}
        return metrics | {"top5_overlap": torch.cat(overlaps).mean().item()}
