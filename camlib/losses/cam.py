"""CAM-loss: the class-agnostic map is drawn towards the target's class activation map."""

import torch
from torch import Tensor, nn

from camlib.attention import class_map
from camlib.maps import caam, grad_cam, grad_cam_pp, minmax
from camlib.objective import State
from camlib.observe import Output
from camlib.target import one_hot

GRADIENT_MAPS = {"grad_cam": grad_cam, "grad_cam_pp": grad_cam_pp}


class CAMLoss(nn.Module):
    """L_cam, the distance between the stretched CAAM and the stretched target CAM (CAM-loss, Eq. 4).

    mean over H × W, then over the batch, of |minmax(CAAM) - minmax(CAM of the target)|^p, in 0 … 1.
    The classifier's weight is detached: cross-entropy alone moves it (CAM-loss, Algorithm 1). Used as
    `Objective(ce=(1.0, CrossEntropy()), cam=(step_at(20, 3.0), CAMLoss()))` (CAM-loss, Eq. 6).

    Args:
        p: 1 for the absolute difference the paper uses, 2 for its square.
        detach_cam: also hold the CAM fixed, so that the CAAM moves towards it and never the other way.
            Off by default: Algorithm 1 read literally lets the gradient into both maps.
        detach_caam: hold the CAAM fixed, so that the CAM moves towards it: a control, in no paper.
        attention: the map in place of the CAM: "cam", or "grad_cam" or "grad_cam_pp" (CAM-loss, §3.1). With
            global average pooling and a linear head, Grad-CAM is the CAM with its negative part cut off: where
            the evidence for the target is negative everywhere, the guide is 0 everywhere. Where the classifier is
            not linear, "cam" is `camlib.attention.class_map`, the CAM to first order.

    Raises:
        ValueError: `p` is neither 1 nor 2, `attention` is unknown, or both maps are held fixed; when called, the
            last maps are a single cell, or a gradient map is asked for without gradients.
    """

    def __init__(self, p: int = 1, detach_cam: bool = False, attention: str = "cam", detach_caam: bool = False):
        super().__init__()
        if p not in (1, 2):
            raise ValueError(f"p is {p}, expected 1 (absolute difference) or 2 (squared difference)")
        if attention not in ("cam", *GRADIENT_MAPS):
            raise ValueError(f"attention is {attention!r}, expected 'cam', 'grad_cam' or 'grad_cam_pp'")
        if detach_cam and detach_caam:
            raise ValueError("detach_cam and detach_caam together leave no map to move: choose one")
        self.p, self.detach_cam, self.attention, self.detach_caam = p, detach_cam, attention, detach_caam

    def extra_repr(self) -> str:
        # Checkpoints and records from before there was a choice hold the text without it.
        chosen = "" if self.attention == "cam" else f", attention={self.attention!r}"
        chosen += ", detach_caam=True" if self.detach_caam else ""
        return f"p={self.p}, detach_cam={self.detach_cam}{chosen}"

    def guide(self, out: Output, target: Tensor) -> Tensor:
        """The map (N, H, W) that the CAAM is drawn to: here the stretched map of the target."""
        if self.attention == "cam":
            return minmax(class_map(out, target))
        return minmax(GRADIENT_MAPS[self.attention](out.logits, out.maps[-1], target))

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        if out.maps[-1].shape[2:].numel() == 1:
            raise ValueError(
                "the last maps are 1 × 1, so min-max leaves nothing of them and L_cam is 0 for every net: "
                "pass larger images, or a net with a smaller stride"
            )
        seen, guide = minmax(caam(out.maps[-1])), self.guide(out, target)
        difference = (seen.detach() if self.detach_caam else seen) - (guide.detach() if self.detach_cam else guide)
        return difference.abs().mean() if self.p == 1 else difference.square().mean()


class RandomClassCAMLoss(CAMLoss):
    """A control: L_cam with the CAM of a class drawn at random among those the target rules out.

    If it helps as much as `CAMLoss`, what helps is not the target's map. In no paper. The draw comes from
    torch's global generator, anew for each image and step.

    Raises:
        ValueError: a target row rules out no class.
    """

    def guide(self, out: Output, target: Tensor) -> Tensor:
        others = (target == 0).float()
        if not others.any(1).all():
            raise ValueError("a target row has every class positive, so no other class can be drawn")
        drawn = torch.multinomial(others, 1).squeeze(1)
        return super().guide(out, one_hot(drawn, target.shape[1]))


class UniformCAMLoss(CAMLoss):
    """A control: the stretched CAAM is drawn to the constant 1/2, a guide that points nowhere. In no paper."""

    def guide(self, out: Output, target: Tensor) -> Tensor:
        maps = out.maps[-1]
        return torch.full((maps.shape[0], *maps.shape[2:]), 0.5, device=maps.device)
