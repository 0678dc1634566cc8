"""Weak segmentation: attention maps of a net that knows class labels only, as a guess at what each pixel shows.

ICASC, §4.1 and Table 2 compare kinds of attention in this way. Segments are as in `camlib.data`: 0 the ground, k + 1
class k, 255 unknown.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50
from torchvision.transforms.v2.functional import rgb_to_grayscale

from camlib.attention import KINDS, attention, run_for_attention
from camlib.data.datasets import DataError, FileSet, load
from camlib.data.loader import Batches, Loader
from camlib.data.stream import StreamLoader
from camlib.measure.accuracy import evaluating
from camlib.observe import Observed
from camlib.target import one_hot


def segments(loader: Batches, index: Tensor, size: tuple[int, int]) -> Tensor:
    """What each pixel of some of a loader's images shows, brought to the size that the net sees them in.

    Right for transforms that keep the whole image, as "whole_299" does, and for images in memory.

    Args:
        loader: made from a set with segments.
        index: (n,), which images.
        size: height and width.

    Returns:
        uint8 (n, *size): 0 the ground, k + 1 class k, 255 unknown, as everywhere in an image without segments.

    Raises:
        ValueError: the set has no segments.
        DataError: a file cannot be read.
    """
    source = loader.source
    if source is None or source.segments is None:
        raise ValueError("the images have no segments: use a set that has them, as voc2012 or scenes_multi")
    found = torch.full((len(index), *size), 255, dtype=torch.uint8)
    for place, n in enumerate(index.tolist()):
        picture = source.segments[n]
        if picture is None:
            continue
        try:
            image = Image.fromarray(picture.cpu().numpy()) if isinstance(picture, Tensor) else Image.open(picture)
            picture = np.array(image.resize(size[::-1], Image.Resampling.NEAREST))
            found[place] = torch.as_tensor(picture, device=found.device)
        except (OSError, SyntaxError) as error:  # the latter is how PIL calls a damaged PNG
            raise DataError(f"{picture} cannot be read as an image ({error}): put it there again") from error
    return found


def seed_scores(maps: Tensor, size: tuple[int, int], foreground: float = 0.2) -> Tensor:
    """Scores of the ground and of every class at every pixel; the best one is the seed.

    A class scores its attention, divided by the map's maximum; the ground scores `foreground` everywhere. So a pixel
    belongs to the class with the highest attention, and to the ground where no class has more than a fifth of its
    maximum. SEC (Kolesnikov and Lampert 2016), which ICASC follows, takes the same fifth for classes; its seeds of the
    ground come from a saliency method that is not here, and it leaves pixels open where we decide.

    Args:
        maps: (N, K, H, W), not negative, zero for the classes that an image does not show.
        size: height and width of the images; maps are resized bilinearly.
        foreground: the share of the maximum.

    Returns:
        (N, K + 1, *size) in 0 … 1.
    """
    top = maps.amax((2, 3), keepdim=True)
    scaled = F.interpolate(maps / top.where(top > 0, 1), size=size, mode="bilinear", align_corners=False)
    return torch.cat([scaled.new_full((len(maps), 1, *size), foreground), scaled], 1)


def refine(scores: Tensor, images: Tensor, radius: int = 4, edge: float = 0.02) -> Tensor:
    """Fit scores to the edges of their image by a guided filter: in every window they become linear in the grey level.

    Where the image is flat this is a blur, and scores do not leak over edges. SEC and DeepLab use a dense conditional
    random field instead, which also joins distant pixels of like colour.

    Args:
        scores: (N, K + 1, H, W).
        images: (N, 1 or 3, H, W), in any range; each is stretched to 0 … 1.
        radius: windows are 2 · radius + 1 pixels wide and high.
        edge: standard deviation of the grey level in a window, in 0 … 1, above which it counts as an edge.

    Returns:
        (N, K + 1, H, W).

    Source: He, Sun and Tang, "Guided image filtering", 2013.
    """
    grey = rgb_to_grayscale(images) if images.shape[1] == 3 else images
    low, high = grey.amin((2, 3), keepdim=True), grey.amax((2, 3), keepdim=True)
    grey = (grey - low) / (high - low).clamp_min(1e-6)

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)

    mean_grey, mean_scores = mean(grey), mean(scores)
    slope = (mean(grey * scores) - mean_grey * mean_scores) / (mean(grey * grey) - mean_grey**2 + edge**2)
    return mean(slope) * grey + mean(mean_scores - slope * mean_grey)


def confusion_matrix(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each true class were taken for each: int64 (K + 1, K + 1), unknown pixels left out.

    Args:
        predicted: integers in 0 … K, any shape.
        true: segments of the same shape.
        num_classes: K.
    """
    known = true != 255
    pairs = true[known].long() * (num_classes + 1) + predicted[known].long()
    return pairs.bincount(minlength=(num_classes + 1) ** 2).view(num_classes + 1, num_classes + 1).cpu()


def mean_iou(matrix: Tensor) -> float:
    """Mean intersection over union of the ground and all classes, as PASCAL VOC counts it: over the pixels of a set.

    Classes that neither the truth nor the prediction holds are left out of the mean.

    Args:
        matrix: from `confusion_matrix`, summed over the images.

    Raises:
        ValueError: the matrix counts no pixel.
    """
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    if not union.any():
        raise ValueError("the matrix counts no pixel: every one of them was unknown")
    return (matrix.diagonal()[union > 0] / union[union > 0]).mean().item()


class WeakSegmentation:
    """Test a classifier by what its attention says of every pixel (ICASC, Table 2 and ICASC, Figure 8).

    Called, it returns mean intersections over union, for each key of `camlib.attention.KINDS`: "seeds_KIND" and
    "refined_KIND", of seeds at the last layer of the test images, made *with the images' true classes given*, and, if
    `deeplab` is not 0, "deeplab_KIND", of a DeepLabV3 that was trained on refined seeds of the training images and is
    told nothing. Only the last is what the paper reports, and of another DeepLab at that. The test's transform must
    keep the whole image. Every process tests all images.

    Args:
        deeplab: epochs to train DeepLabV3 for, for each kind.
        data: the set whose training images it is trained on.
        train_images: only the first so many of them, or None for all.

    Raises:
        ValueError: when called, the test images have no segments.
    """

    def __init__(self, deeplab: int = 0, data: str | None = None, train_images: int | None = None):
        self.deeplab, self.data, self.train_images = deeplab, data, train_images

    def __call__(self, model: nn.Module, loader: Batches, precision: str = "float32") -> dict[str, float]:
        classes = loader.num_classes
        matrices = {f"{stage}_{kind}": 0 for stage in ("seeds", "refined") for kind in KINDS}
        with evaluating(model, loader) as observed:
            nets = {kind: self.train_deeplab(observed, kind, loader) for kind in KINDS if self.deeplab}
            for index, (images, target) in zip(loader.indices(0), loader.batches(0), strict=True):
                true = segments(loader, index, images.shape[-2:]).to(loader.device)
                for kind in KINDS:
                    scores = attention_scores(observed, images, target, kind)
                    guesses = {"seeds": scores.argmax(1), "refined": refine(scores, images).argmax(1)}
                    if self.deeplab:
                        with torch.no_grad():
                            guesses["deeplab"] = nets[kind](images)["out"].argmax(1)
                    for stage, guess in guesses.items():
                        name = f"{stage}_{kind}"
                        matrices[name] = matrices.get(name, 0) + confusion_matrix(guess, true, classes)
        return {name: mean_iou(matrix) for name, matrix in matrices.items()}

    def train_deeplab(self, observed: Observed, kind: str, loader: Batches) -> nn.Module:
        """Train DeepLabV3 on refined seeds, made anew for every batch, so that they are flipped with their images.

        Stochastic gradient descent at 0.01 with polynomial decay, momentum 0.9, weight decay 0.0005, batches of 16,
        from fresh weights: our settings.

        Returns:
            The net in evaluation mode.
        """
        torch.manual_seed(loader.seed)
        training = _training_loader(load(self.data, "train", count=self.train_images), loader)
        net = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=loader.num_classes + 1, aux_loss=None)
        net.to(loader.device).train()
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, self.deeplab * len(training), power=0.9)
        for epoch in range(self.deeplab):
            for images, target in training.batches(epoch):
                if len(images) > 1:  # batch normalisation of the pooled branch needs two
                    seeds = refine(attention_scores(observed, images, target, kind), images).argmax(1)
                    optimizer.zero_grad()
                    F.cross_entropy(net(images)["out"], seeds).backward()
                    optimizer.step()
                schedule.step()
        return net.eval()


def attention_scores(observed: Observed, images: Tensor, target: Tensor, kind: str) -> Tensor:
    """`seed_scores` of a net's attention at its last layer, of the classes that the rows of the target name.

    Args:
        observed: in evaluation mode.
        images: (N, C, H, W), floating point.
        target: (N, K) rows.
        kind: a key of `camlib.attention.KINDS`.

    Returns:
        (N, K + 1, H, W).
    """
    out = run_for_attention(observed, images)
    maps = out.maps[-1].new_zeros(*target.shape, *out.maps[-1].shape[2:], dtype=torch.float32)
    for k in (target > 0).any(0).nonzero().flatten().tolist():
        rows = one_hot(torch.full((len(target),), k, device=target.device), target.shape[1])
        shown = (target[:, k] > 0)[:, None, None]
        maps[:, k] = attention(out, rows, kind=kind).detach() * shown
    return seed_scores(maps, images.shape[-2:])


def _training_loader(source, test_loader: Batches) -> Batches:
    common = {"augment": (), "shuffle": True, "seed": test_loader.seed, "device": test_loader.device}
    if isinstance(source, FileSet):
        return StreamLoader(source, test_loader.num_classes, 16, transform=test_loader.transform, **common)
    mean, std = (part.flatten() for part in (test_loader.mean, test_loader.std))
    return Loader(source.images, source.labels, test_loader.num_classes, 16, mean=mean, std=std, **common)
