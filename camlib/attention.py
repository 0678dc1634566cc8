"""Attention of an observed net to a class, at any of its layers."""

import torch
from torch import Tensor

from camlib.maps import attend, cam, gradients_of_score, weighted_sum
from camlib.names import lookup
from camlib.observe import Observed, Output

KINDS = {"grad_cam": "Grad-CAM", "grad_cam_pp": "Grad-CAM++", "channel_weighted": "A_ch"}


def attention(
    out: Output, target: Tensor, layer: int = -1, kind: str = "channel_weighted", create_graph: bool = False
) -> Tensor:
    """The map of where a net looks for each image's target, by the gradient of the target's score.

    The same as `camlib.maps.grad_cam`, `grad_cam_pp` and `channel_weighted` at `out.maps[layer]`. At the last layer
    no gradient has to go back through the net: what is pooled enters the logits by its mean alone, so that the
    gradient is that of `out.pooled`, spread evenly over the positions. This holds for any classifier behind the
    pooling, and for a linear one the channel weights are closed forms in its weight.

    Args:
        out: what an observed model returned, with gradients enabled.
        target: (N, K) rows; the score is Σ(logits · T), so a multi-hot row gives one map for all its classes.
        layer: an index of `out.maps`.
        kind: a key of `KINDS`: "grad_cam", "grad_cam_pp" or "channel_weighted".
        create_graph: let gradients flow through the channel weights too.

    Returns:
        (N, H, W), non-negative, in float32 at least. Gradients flow to `out.maps[layer]`.

    Raises:
        ValueError: there is no such layer, the target does not fit, or there are no gradients.
        UnknownName: the kind is unknown.

    Source: ICASC, §3.1.
    """
    return attentions(out, target, (layer,), kind, create_graph)[0]


def attentions(
    out: Output,
    target: Tensor,
    layers: tuple[int, ...],
    kind: str = "channel_weighted",
    create_graph: bool = False,
) -> list[Tensor]:
    """`attention` at several layers, from one backward pass.

    Args:
        layers: indices of `out.maps`.
        out, target, kind, create_graph: as in `attention`.

    Returns:
        For each layer (N, H, W).

    Raises:
        ValueError, UnknownName: as `attention` does.
    """
    lookup(KINDS, kind, "kind of attention")
    count = len(out.maps)
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(
                f"there is no layer {layer}: the model shows {count} of its stages. "
                "Pass images that leave more of them larger than one cell, or name stages in observe(model, stages=…)"
            )
    last = [layer % count == count - 1 for layer in layers]
    at = [out.pooled if is_last else out.maps[layer] for layer, is_last in zip(layers, last, strict=True)]
    found = []
    gradients = gradients_of_score(out.logits, target, *at, create_graph=create_graph)
    for layer, is_last, gradient in zip(layers, last, gradients, strict=True):
        maps = out.maps[layer]
        if is_last:
            gradient = (gradient / maps[0, 0].numel())[:, :, None, None].expand_as(maps)
        found.append(attend(kind, gradient, maps))
    return found


def class_map(out: Output, target: Tensor) -> Tensor:
    """The class activation map of each image's target, also where the classifier is not linear.

    `camlib.maps.cam` with the classifier's weight if there is one; else to first order, Σ_c ∂score/∂pooled_c f_c, with
    the score Σ(logits · T): for a linear classifier that is the same. The weights of the channels are constants.

    Args:
        out: what an observed model returned; with gradients enabled where `out.weight` is None.
        target: (N, K) rows.

    Returns:
        (N, H, W), of either sign, in float32 at least. Gradients flow to `out.maps[-1]` alone.

    Raises:
        ValueError: the target does not fit, or there are no gradients where they are needed.
    """
    if out.weight is not None:
        return cam(out.maps[-1], out.weight.detach(), target)
    (channel_weights,) = gradients_of_score(out.logits, target, out.pooled)
    return weighted_sum(channel_weights, out.maps[-1])


@torch.no_grad()
def run_for_attention(observed: Observed, images: Tensor) -> Output:
    """Run a net for its attention at the last layer: nothing is recorded but the way from `pooled` to the logits.

    As `observed(images)`, for which `attention(out, target)` works, at the price of a forward pass without
    gradients. The other entries of `maps` are cut off.

    Args:
        observed: in evaluation mode, or dropout in front of its classifier is drawn a second time.
        images: (N, C, H, W), floating point.

    Returns:
        The output; gradients reach `pooled` only.
    """
    out = observed(images)
    pooled = out.pooled.detach().requires_grad_()
    with torch.enable_grad():
        return out._replace(logits=observed.classify(pooled), pooled=pooled)
