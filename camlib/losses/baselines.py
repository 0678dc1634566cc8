"""Cross-entropy, and the losses that the papers compare with: margin losses take its place, others go beside it."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from camlib.maps import full_precision
from camlib.objective import State
from camlib.observe import Output, weight_of
from camlib.target import check_single_label


class CrossEntropy(nn.Module):
    """Cross-entropy between the target rows and the softmax of the logits (CAM-loss, Eq. 5).

    -Σ_k T_k log softmax(z)_k, mean over the batch; for one-hot rows this is -log p of the target class.
    """

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        return F.cross_entropy(out.logits.float(), target)


class CenterLoss(nn.Module):
    """Center loss: pooled features are drawn to the running centre of their class.

    mean over the batch of ‖F_i - c_y‖², without the 1/2 of the source; its weight is 0.003. In training, each
    call then moves the centres by the source's own rule,

    c_j <- c_j - rate · Σ_{i: y_i = j} (c_j - F_i) / (1 + n_j), n_j being the images of class j in the batch.

    The centres are a buffer and no optimiser's: this rule divides by n_j and knows nothing of the weight, where
    an optimiser would be given gradients divided by N and multiplied by the weight and, in mixed precision, the
    scale of the loss. Under torchrun the sums run over the batches of all processes. Centres start at 0, so
    that nothing is drawn at random; a class's centre is among its features after a few of its images.

    Args:
        num_classes: K.
        features: C, the pooled features of the net.
        rate: the centres' own learning rate, 0 … 1.

    Raises:
        ValueError: `rate` lies outside 0 … 1; when called, a target row is mixed or multi-hot, or the net has
            another number of features or classes.

    Source: Wen et al., "A discriminative feature learning approach for deep face recognition", 2016.
    """

    def __init__(self, num_classes: int, features: int, rate: float = 0.5):
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is {rate}, expected 0 … 1")
        self.rate = rate
        self.register_buffer("centers", torch.zeros(num_classes, features))

    def extra_repr(self) -> str:
        classes, features = self.centers.shape
        return f"num_classes={classes}, features={features}, rate={self.rate}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        check_single_label(target, "CenterLoss")
        if self.centers.shape != (out.logits.shape[1], out.pooled.shape[1]):
            classes, features = out.logits.shape[1], out.pooled.shape[1]
            raise ValueError(
                f"centers have shape {tuple(self.centers.shape)}, but the net has {classes} classes and {features} "
                f"features: use CenterLoss(num_classes={classes}, features={features})"
            )
        features = full_precision(out.pooled)
        loss = (features - self.centers[target.argmax(1)]).square().sum(1).mean()
        if self.training:
            self._move(features.detach(), target)
        return loss

    def _move(self, features: Tensor, target: Tensor) -> None:
        with torch.autocast(features.device.type, enabled=False):
            ones = torch.ones_like(features[:, :1])
            sums = target.T.to(features.dtype) @ torch.cat([features, ones], 1)
        if dist.is_initialized():
            dist.all_reduce(sums)
        sums, counts = sums[:, :-1], sums[:, -1:]
        self.centers -= self.rate * (counts * self.centers - sums) / (1 + counts)


class SMSoftmax(nn.Module):
    """Soft-margin softmax: cross-entropy with the target's logit lowered by a margin, z_y - m.

    Args:
        margin: m, in units of the logits.

    Raises:
        ValueError: the margin is negative; when called, a target row is mixed or multi-hot.

    Source: Liang et al., "Soft-margin softmax for deep classification", 2017.
    """

    def __init__(self, margin: float):
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin is {margin}, expected at least 0")
        self.margin = margin

    def extra_repr(self) -> str:
        return f"margin={self.margin}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        check_single_label(target, "SMSoftmax")
        return F.cross_entropy(full_precision(out.logits) - self.margin * target, target.argmax(1))


class AMSoftmax(nn.Module):
    """Additive-margin softmax: cross-entropy of s cos θ_k, with s (cos θ_y - m) for the target.

    θ_k is the angle between the pooled features and row k of the classifier's weight; neither their lengths nor
    a bias count. A net whose head multiplies by the lengths is tested with them.

    Args:
        scale: s.
        margin: m.

    Raises:
        ValueError: the scale is not positive or the margin is negative; when called, a target row is mixed or
            multi-hot.

    Source: Wang et al., "Additive margin softmax for face verification", 2018.
    """

    def __init__(self, scale: float = 30.0, margin: float = 0.35):
        super().__init__()
        if scale <= 0 or margin < 0:
            raise ValueError(
                f"scale is {scale} and margin {margin}, expected a positive scale and a margin of 0 or more"
            )
        self.scale, self.margin = scale, margin

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margin={self.margin}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        check_single_label(target, "AMSoftmax")
        with torch.autocast(out.pooled.device.type, enabled=False):
            # The slope at features of length 0 is 1 / eps.
            features = F.normalize(full_precision(out.pooled), eps=1e-5)
            cosine = features @ F.normalize(full_precision(weight_of(out, "AMSoftmax"))).T
        return F.cross_entropy(self.scale * (cosine - self.margin * target), target.argmax(1))


class LSoftmax(nn.Module):
    """Large-margin softmax: cross-entropy with the target's angle multiplied by a margin.

    The logits are ‖w_k‖ ‖x‖ cos θ_k, computed from pooled features x and the classifier's weight without bias:
    use it with `head="no_bias"`. The target's is ‖w_y‖ ‖x‖ (lambda cos θ_y + psi(θ_y)) / (1 + lambda), with
    psi(θ) = (-1)^k cos(m θ) - 2k for θ in k pi / m … (k + 1) pi / m, which falls from 1 to 1 - 2m without a jump.

    lambda starts near 1000, where this is plain softmax, and falls as in the authors' code: in training step
    n = 1, 2, … it is max(lambda_min, 1000 (1 + gamma n)^-35). The count of steps is a buffer, so that a resumed
    run goes on with it. With the defaults lambda is 1 after 8,700 steps.

    Args:
        margin: m, a whole number.
        gamma: how fast lambda falls; inversely proportional to the number of steps it takes.
        lambda_min: where it stops; the authors advise 5 or 10 for difficult data.

    Raises:
        ValueError: the margin is no whole number from 1, or `gamma` or `lambda_min` is negative; when called, a
            target row is mixed or multi-hot.

    Source: Liu et al., "Large-margin softmax loss for convolutional neural networks", 2016.
    """

    power = 35

    def __init__(self, margin: int = 4, gamma: float = 2.5e-5, lambda_min: float = 0.0):
        super().__init__()
        if margin < 1 or margin != int(margin):
            raise ValueError(f"margin is {margin}, expected a whole number from 1: it multiplies the angle")
        if gamma < 0 or lambda_min < 0:
            raise ValueError(f"gamma is {gamma} and lambda_min {lambda_min}, expected 0 or more")
        self.margin, self.gamma, self.lambda_min = int(margin), gamma, lambda_min
        self.register_buffer("steps", torch.tensor(0))

    def extra_repr(self) -> str:
        return f"margin={self.margin}, gamma={self.gamma}, lambda_min={self.lambda_min}"

    def rows(self, out: Output) -> Tensor:
        """The classifier's weight (K, C) as this loss uses it."""
        return full_precision(weight_of(out, type(self).__name__))

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        check_single_label(target, type(self).__name__)
        if self.training:
            self.steps += 1
        lambda_ = (1000 * (1.0 + self.gamma * self.steps) ** -self.power).clamp_min(self.lambda_min)
        labels = target.argmax(1)
        features, rows = full_precision(out.pooled), self.rows(out)
        with torch.autocast(features.device.type, enabled=False):
            logits = features @ rows.T
        own = rows[labels]
        cosine = (F.normalize(features) * F.normalize(own)).sum(1)
        lengths = torch.linalg.vector_norm(features, dim=1) * torch.linalg.vector_norm(own, dim=1)
        lowered = lengths * (lambda_ * cosine + _psi(cosine, self.margin)) / (1 + lambda_)
        return F.cross_entropy(logits.scatter(1, labels[:, None], lowered[:, None]), labels)


class ASoftmax(LSoftmax):
    """Angular softmax: L-Softmax with the rows of the classifier's weight scaled to length 1.

    lambda falls as in the authors' code, max(lambda_min, 1000 / (1 + gamma n)) in training step n = 1, 2, …:
    with the defaults it is 5 from step 1,659. A net whose head multiplies by the rows' lengths is tested with
    them.

    Args:
        margin: m, a whole number.
        gamma: how fast lambda falls.
        lambda_min: where it stops.

    Raises:
        ValueError: as for `LSoftmax`.

    Source: Liu et al., "SphereFace: deep hypersphere embedding for face recognition", 2017.
    """

    power = 1

    def __init__(self, margin: int = 4, gamma: float = 0.12, lambda_min: float = 5.0):
        super().__init__(margin, gamma, lambda_min)

    def rows(self, out: Output) -> Tensor:
        return F.normalize(full_precision(weight_of(out, type(self).__name__)))


def _psi(cosine: Tensor, margin: int) -> Tensor:
    """(-1)^k cos(m θ) - 2k of cos θ, where k counts the multiples of pi / m below θ.

    cos(m θ) is the Chebyshev polynomial of cos θ: unlike the arc cosine it has a finite slope at 0 and pi.
    """
    previous, multiple = torch.ones_like(cosine), cosine
    for _ in range(margin - 1):
        previous, multiple = multiple, 2 * cosine * multiple - previous
    k = sum((cosine < math.cos(j * math.pi / margin)).to(cosine.dtype) for j in range(1, margin))
    return (1 - 2 * (k % 2)) * multiple - 2 * k


class FocalLoss(nn.Module):
    """Focal loss: cross-entropy in which classes that are already sure count less.

    -Σ_k T_k (1 - p_k)^gamma log p_k with p the softmax of the logits, mean over the batch. For one-hot rows that
    is the target's class alone; a mixed row mixes the losses of its classes.

    Args:
        gamma: 0 is cross-entropy; the source takes 2.

    Raises:
        ValueError: `gamma` is negative.

    Source: Lin et al., "Focal loss for dense object detection", 2017, with softmax in place of the sigmoid.
    """

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}, expected at least 0")
        self.gamma = gamma

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        log_p = F.log_softmax(full_precision(out.logits), 1)
        # Where p rounds to 1, a root of 1 - p has no slope.
        rest = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -(target * rest**self.gamma * log_p).sum(1).mean()


class NegativeCAM(nn.Module):
    """Homogeneous negative CAM: the CAMs of the strongest wrong classes are kept low, or without peaks.

    The CAM of class k is Σ_c W_kc f_c + b_k here, bias included, and W learns. The negative classes are those a
    target row rules out, the strongest those of the largest sum over the map: as the mean of such a CAM is the
    logit (CAM-loss, Eq. 1), they are the largest logits. For the same reason the bias, which `Output` does not
    hold, is the logit minus the mean of the CAM without it. Needs a linear head.

    Args:
        form: "mse", the mean of the squared CAMs over the k classes, H × W and the batch, with weight 0.07; or
            "kd", -mean_xy log softmax_xy(CAM), the cross-entropy of the map's softmax to a uniform map, summed
            over the k classes as in the authors' code, then mean over the batch, with weight 0.005.
        k: how many negative classes; the source takes 100 of ImageNet's 1000.

    Raises:
        ValueError: `form` is unknown or k is below 1; when called, an image has fewer than k negative classes.

    Source: Sun et al., "Fixing localization errors to improve image classification", 2020.
    """

    def __init__(self, form: str = "mse", k: int = 10):
        super().__init__()
        if form not in ("mse", "kd"):
            raise ValueError(f"form is {form!r}, expected 'mse' or 'kd'")
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        self.form, self.k = form, k

    def extra_repr(self) -> str:
        return f"form={self.form!r}, k={self.k}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        negative = target == 0
        fewest = int(negative.sum(1).min())
        if self.k > fewest:
            raise ValueError(
                f"k is {self.k}, but a target row rules out only {fewest} of {target.shape[1]} classes: "
                "choose k within that number"
            )
        logits, maps = full_precision(out.logits), full_precision(out.maps[-1])
        strongest = logits.detach().masked_fill(~negative, -math.inf).topk(self.k, 1).indices
        with torch.autocast(maps.device.type, enabled=False):
            # Only the rows of these classes: all K maps of every image would be K / k times as much.
            cams = torch.einsum(
                "nkc,nchw->nkhw", full_precision(weight_of(out, "NegativeCAM"))[strongest], maps
            ).flatten(2)
        if self.form == "kd":  # the softmax over the map does not see a bias
            return -F.log_softmax(cams, 2).mean(2).sum(1).mean()
        return (cams - cams.mean(2, keepdim=True) + logits.gather(1, strongest)[..., None]).square().mean()


class MCLoss(nn.Module):
    """Mutual-channel loss: every class has ξ channels of its own, each of which alone tells it, at another place.

    Of K · ξ maps f, channels k ξ … k ξ + ξ - 1 belong to class k. α L_dis + β (1 - L_div), beside cross-entropy, with

    - L_dis, cross-entropy of the logits g_k = mean_xy max_j (m_kj f_kj). In training m leaves out ⌊ξ/2⌋ channels of
      every class, drawn anew in each step and shared by its images; it is 1 in evaluation mode.
    - L_div = 1/(K ξ) Σ_k Σ_xy max_j softmax_xy(f_kj), mean over the batch: 1/ξ if the channels of a class look at
      the same place, near 1 if each looks at another.

    α, β and this scaling of L_div are those of the authors' code. `create("vgg16_bn", 100, channels_per_class=3)`
    makes a net with the channels. The draw comes from torch's global generator.

    Args:
        alpha, beta: the weights of the two parts.
        channels_per_class: ξ.

    Raises:
        ValueError: ξ is below 1; when called, the net has another number of channels.

    Source: Chang et al., "The devil is in the channels: mutual-channel loss for fine-grained image
    classification", 2020.
    """

    def __init__(self, alpha: float = 1.5, beta: float = 20.0, channels_per_class: int = 3):
        super().__init__()
        if channels_per_class < 1:
            raise ValueError(f"channels_per_class is {channels_per_class}, expected at least 1")
        self.alpha, self.beta, self.channels_per_class = alpha, beta, channels_per_class

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, channels_per_class={self.channels_per_class}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        maps, classes = full_precision(out.maps[-1]), target.shape[1]
        if maps.shape[1] != classes * self.channels_per_class:
            raise ValueError(
                f"the net has {maps.shape[1]} channels, expected {self.channels_per_class} for each of {classes} "
                f"classes: build it with camlib.models.create(…, channels_per_class={self.channels_per_class})"
            )
        maps = maps.unflatten(1, (classes, self.channels_per_class)).flatten(3)
        kept = maps
        if self.training:
            order = torch.rand(maps.shape[1:3], device=maps.device).argsort(1)
            kept = maps * (order >= self.channels_per_class // 2)[..., None]
        discriminative = F.cross_entropy(kept.amax(2).mean(2), target)
        diversity = maps.softmax(3).amax(2).sum(2).mean() / self.channels_per_class
        return self.alpha * discriminative + self.beta * (1 - diversity)


class ICAL(nn.Module):
    """Inter-class angular loss: the rows of the classifier's weight point away from each other.

    The mean cosine of all pairs of rows, a row with itself included: ‖Σ_k w_k / ‖w_k‖‖² / K². Beside cross-entropy,
    with a weight of 5 … 10 and a head without bias; it depends on no image.

    Source: Hui et al., "Inter-class angular loss for convolutional neural networks", 2019.
    """

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        rows = F.normalize(full_precision(weight_of(out, "ICAL")))
        return rows.mean(0).square().sum()


class FICAL(nn.Module):
    """Focal inter-class angular loss: ICAL in which pairs of classes count by how often they are confused.

    1/K² Σ_{i ≠ j} q_ij cos(w_i, w_j), with q symmetric and 1 on average, so that equal confusion gives ICAL up to
    its constant 1/K. q is proportional to r_ij + r_ji, r_ij being a running mean of the probability that the net
    gives class j on images of class i. In training, each call first moves the rows of the classes in the batch
    (under torchrun, in the batches of all processes) by a share `rate` towards what the net says now.

    Of the paper its abstract was to be had, which names a "confusion rate-weighted cosine distance", evaluated
    anew in each iteration: how the rate is measured is our reading.

    Args:
        num_classes: K.
        rate: how much of a running mean a step replaces, 0 … 1.

    Raises:
        ValueError: `rate` lies outside 0 … 1; when called, the net has another number of classes, or a target
            row is mixed or multi-hot.

    Source: Wei et al., "FICAL: focal inter-class angular loss for image classification", 2019.
    """

    def __init__(self, num_classes: int, rate: float = 0.1):
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is {rate}, expected 0 … 1")
        self.rate = rate
        self.register_buffer("confusion", torch.full((num_classes, num_classes), 1 / num_classes))

    def extra_repr(self) -> str:
        return f"num_classes={len(self.confusion)}, rate={self.rate}"

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        check_single_label(target, "FICAL")
        if len(self.confusion) != target.shape[1]:
            raise ValueError(
                f"FICAL was made for {len(self.confusion)} classes, but the net has {target.shape[1]}: "
                f"use FICAL(num_classes={target.shape[1]})"
            )
        if self.training:
            self._move(full_precision(out.logits).detach().softmax(1), target)
        weights = self.confusion + self.confusion.T
        weights = weights.fill_diagonal_(0)
        weights = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny) * (1 - 1 / len(weights))
        rows = F.normalize(full_precision(weight_of(out, "FICAL")))
        with torch.autocast(rows.device.type, enabled=False):
            return (weights * (rows @ rows.T)).sum()

    def _move(self, probabilities: Tensor, target: Tensor) -> None:
        with torch.autocast(target.device.type, enabled=False):
            ones = torch.ones_like(probabilities[:, :1])
            sums = target.T.to(probabilities.dtype) @ torch.cat([probabilities, ones], 1)
        if dist.is_initialized():
            dist.all_reduce(sums)
        sums, counts = sums[:, :-1], sums[:, -1:]
        now = sums / counts.clamp_min(1)
        self.confusion += self.rate * (now - self.confusion) * (counts > 0)


class MultiLabelSoftMargin(nn.Module):
    """Binary cross-entropy of each class's sigmoid, mean over classes and batch: L_C for several labels (ICASC, §3.4).

    -1/K Σ_k [T_k log σ(z_k) + (1 - T_k) log σ(-z_k)].
    """

    def forward(self, out: Output, target: Tensor, state: State) -> Tensor:
        return F.multilabel_soft_margin_loss(out.logits.float(), target)
