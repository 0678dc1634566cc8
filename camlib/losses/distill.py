"""Distillation: a student learns from the logits or the maps of a teacher (CAM-loss, §3.3).

All three read `state.teacher`. The paper's whole loss (CAM-loss, Eq. 12) is
`Objective(teacher=observe(net), ce=(0.5, CrossEntropy()), kd=(0.5, KD()), ccm=(1.0, CCM()))`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from camlib.maps import caam, cam, full_precision, minmax
from camlib.objective import State
from camlib.observe import Output, weight_of


class KD(nn.Module):
    """Knowledge distillation: the student's softened probabilities follow the teacher's (CAM-loss, Eq. 8).

    tau² Σ_i (p_ti log p_ti - p_ti log p_si), mean over the batch, with p = softmax(z / tau) of the student s and
    the teacher t. Not negative, and 0 where both agree.

    Args:
        temperature: tau; the paper takes 4.
        reduction: "batchmean" sums over the classes, as is usual; "paper" divides by their number too, as
            Eq. 8 is written: 100 times smaller on CIFAR-100.

    Raises:
        ValueError: the temperature is not positive, or `reduction` is unknown; when called, there is no
            teacher, or it has another number of classes.

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015.
    """

    def __init__(self, temperature: float = 4.0, reduction: str = "batchmean"):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}, expected more than 0")
        if reduction not in ("batchmean", "paper"):
            raise ValueError(f"reduction is {reduction!r}, expected 'batchmean' or 'paper'")
        self.temperature, self.reduction = temperature, reduction

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, reduction={self.reduction!r}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        teacher = _teacher(out, state, "KD")
        student_log, teacher_log = (
            F.log_softmax(full_precision(logits) / self.temperature, 1) for logits in (out.logits, teacher.logits)
        )
        loss = self.temperature**2 * F.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
        return loss / out.logits.shape[1] if self.reduction == "paper" else loss


class AT(nn.Module):
    """Attention transfer: the student's map follows the teacher's map of the same kind (CAM-loss, Eq. 9).

    Maps of different size are compared at the smaller size: the larger one is averaged down before it is
    stretched. Each network's CAM uses its own classifier, and the student's classifier learns too: the paper
    says nothing of it, and matching the teacher's map leaves no trivial solution.

    Args:
        form: "cam_l2", the mean square of minmax(CAM of the student) - minmax(CAM of the teacher), the distance
            of CAM-loss, §4.5; "cam_l1", its mean absolute value, as in Eq. 9; "original", no CAM at all, but
            the mean square difference of Q / ‖Q‖, with Q = mean_c f² and its length over the whole map, as the
            source has it. Each is a mean over H × W, then over the batch.

    Raises:
        ValueError: `form` is unknown; when called, there is no teacher, it has another number of classes, or
            the maps cannot be compared.

    Source: Zagoruyko and Komodakis, "Paying more attention to attention", 2017.
    """

    def __init__(self, form: str = "cam_l2"):
        super().__init__()
        if form not in ("cam_l2", "cam_l1", "original"):
            raise ValueError(f"form is {form!r}, expected 'cam_l2', 'cam_l1' or 'original'")
        self.form = form

    def extra_repr(self) -> str:
        return f"form={self.form!r}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        teacher = _teacher(out, state, "AT")
        if self.form == "original":
            pair = (full_precision(net.maps[-1]).square().mean(1) for net in (out, teacher))
            student, teacher = (F.normalize(a.flatten(1)) for a in _same_size(*pair))
        else:
            pair = (cam(net.maps[-1], weight_of(net, "AT"), target) for net in (out, teacher))
            student, teacher = (minmax(a) for a in _same_size(*pair))
        difference = student - teacher
        return difference.abs().mean() if self.form == "cam_l1" else difference.square().mean()


class CCM(nn.Module):
    """CAAM-CAM matching: the student's CAAM follows the teacher's CAM of the target (CAM-loss, Eq. 10).

    mean over H × W, then over the batch, of |minmax(CAAM of the student) - minmax(CAM of the teacher)|, in
    0 … 1. The paper writes no mean over H × W; a sum would outweigh cross-entropy. For maps of one size it is at
    most L_cam of the student plus AT with "cam_l1" (CAM-loss, Eq. 11). Maps of different size are compared at
    the smaller size: the larger one is averaged down before it is stretched.

    Raises:
        ValueError: when called, there is no teacher, it has another number of classes, or the maps cannot be
            compared.
    """

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        teacher = _teacher(out, state, "CCM")
        student_map, teacher_map = _same_size(
            caam(out.maps[-1]), cam(teacher.maps[-1], weight_of(teacher, "CCM"), target)
        )
        return (minmax(student_map) - minmax(teacher_map)).abs().mean()


def _teacher(out: Output, state: State, term: str) -> Output:
    """What the teacher says of the same images, detached."""
    if state.teacher is None:
        raise ValueError(f"{term} needs a teacher: pass Objective(teacher=observe(net), …)")
    logits, maps, _, weight, _ = state.teacher
    if logits.shape[1] != out.logits.shape[1]:
        raise ValueError(
            f"the teacher has {logits.shape[1]} classes and the student {out.logits.shape[1]}: "
            f"{term} needs a teacher of the same classes"
        )
    weight = weight if weight is None else weight.detach()
    return state.teacher._replace(logits=logits.detach(), maps=(maps[-1].detach(),), weight=weight)


def _same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps (N, H, W) at the size of the smaller one."""
    (h, w), (teacher_h, teacher_w) = student.shape[1:], teacher.shape[1:]
    smaller = (min(h, teacher_h), min(w, teacher_w))
    sizes = f"the student's maps are {h} × {w}, the teacher's {teacher_h} × {teacher_w}"
    if smaller not in ((h, w), (teacher_h, teacher_w)):
        raise ValueError(
            f"{sizes}: one is higher, the other wider, so neither can be averaged down to the other: "
            "choose nets that both reduce the images alike in height and in width"
        )
    if smaller == (1, 1):
        raise ValueError(
            f"{sizes}: nothing is left of a single cell once it is stretched. "
            "Pass larger images, or nets with a smaller stride"
        )
    if (h, w) != smaller:
        student = F.adaptive_avg_pool2d(student, smaller)
    if (teacher_h, teacher_w) != smaller:
        teacher = F.adaptive_avg_pool2d(teacher, smaller)
    return student, teacher
