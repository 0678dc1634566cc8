"""A photo of one's own: the five likeliest classes by some net, and where it looks for each."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torchvision
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transform

from camlib import models
from camlib.attention import KINDS, attention, class_map, run_for_attention
from camlib.data import load, normalised
from camlib.data.datasets import DataError
from camlib.lab import weights
from camlib.lab.runs import Run
from camlib.maps import Cells, weighted_sum
from camlib.names import UnknownName, lookup
from camlib.observe import NotObservable, Observed, Output, observe
from camlib.target import one_hot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = {"cam": "CAM", **KINDS}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LookError(ValueError):
    """A photo, a net or its weights cannot be used; the message says why."""


@dataclass(frozen=True)
class Net:
    """A classifier with what belongs to its weights.

    Attributes:
        observed: the classifier, in evaluation mode.
        classes: the names of its K classes.
        size: the side in pixels of the square it is shown.
        resize: the shorter side of a photo before that square is cut out of its middle.
        mean, std: of each channel, by which pixels in 0 … 1 are normalised.
        inner: whether the maps looked at are the first of `observed.stages`, in front of the averaged ones.
    """

    observed: Observed
    classes: tuple[str, ...]
    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    inner: bool = False

    def normalised(self, photos: Tensor) -> Tensor:
        """Photos as the net is fed: uint8 (N, 3, H, W) -> the same normalised, on its device and in its precision."""
        one = next(self.observed.parameters())
        return normalised(photos.to(one.device), *map(torch.tensor, (self.mean, self.std))).to(one.dtype)


def net(
    name: str = "resnet50",
    weights_from: str | Path = "DEFAULT",
    classes: Sequence[str] | None = None,
    size: int | None = None,
    layer: str | None = None,
) -> Net:
    """A net of torchvision, of timm where it is installed, or of `camlib.models`, in this order, ready to look.

    Args:
        name: of the net, as "resnet50".
        weights_from: a file of named tensors as `model.state_dict()` gives them, one that a run kept, whose
            normalisation is taken over, or "DEFAULT" for the weights that torchvision or timm fetch.
        classes: names for the K classes; by default those of torchvision's weights or of the run, else numbers.
        size: side of the square that the net is shown, in pixels; by default what its weights were trained with,
            or 224.
        layer: the name of a stage, to look at its maps in place of the averaged ones.

    Raises:
        LookError: there is no such net, its weights cannot be had or do not fit, or the number of names is wrong.
        NotObservable: the net has no maps, or no such layer.
    """
    state, kept = None, None
    if str(weights_from) != "DEFAULT":
        content = weights.unpacked(Path(weights_from))
        state, kept = weights.named_tensors(content, Path(weights_from)), weights.origin(content)
    model, names, made_for, resize, mean, std = _built(name, state)
    if state is not None:
        _fill(model, state, Path(weights_from))
    if kept:
        run, *look = kept
        mean, std = (tuple(values.tolist()) for values in look)
        names = _classes_of(run)
    observed = observe(model.eval(), stages=None if layer is None else (layer,))
    count = observed.num_classes
    chosen = tuple(classes or names or (f"class {k}" for k in range(count)))
    if len(chosen) != count:
        raise LookError(f"{len(chosen)} names of classes, but {name} has {count} classes")
    side = made_for if size is None else size
    if side < 1:
        raise LookError(f"a picture of {side} pixels a side cannot be shown: pass a size of 1 or more, as {made_for}")
    inner = layer is not None and len(observed.stages) > 1
    return Net(observed, chosen, side, round(resize * side / made_for), mean, std, inner)


def read(photos: Sequence[Path], net: Net) -> Tensor:
    """Photos as a net is shown them: uint8 (N, 3, size, size), the middle of each.

    Raises:
        LookError: a file is no picture that can be read.
    """
    squares = []
    for path in photos:
        try:
            with Image.open(path) as file:
                photo = transform.pil_to_tensor(ImageOps.exif_transpose(file).convert("RGB"))
        except UnidentifiedImageError as error:
            raise LookError(f"{path} is no picture that can be read: JPEG, PNG, GIF, WebP and others are") from error
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise LookError(f"{path} cannot be read: {error}") from error
        photo = transform.resize(photo, [net.resize], antialias=True)
        squares.append(transform.center_crop(photo, [net.size, net.size]))
    return torch.stack(squares)


def maps_of_likeliest(net: Net, photos: Tensor, kind: str = "cam", count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest classes of photos, and where the net looks for each, from one pass.

    At the layer that is averaged this costs hardly more than the logits do: no gradient goes back through the net.

    Args:
        net: from `net`; with a layer of its own choice, the maps are of that layer.
        photos: uint8 (N, 3, H, W), from `read`.
        kind: a key of `MAPS`; "cam" is `camlib.attention.class_map`, of the averaged maps only.
        count: how many classes.

    Returns:
        Their numbers (N, k), their probabilities (N, k), the maps (N, k, h, w).

    Raises:
        LookError: the net is in training mode, cannot be shown pictures of this size, or has no CAM at the layer.
        UnknownName: the kind is unknown.
    """
    lookup(MAPS, kind, "kind of map")
    observed, inner = net.observed, net.inner
    if inner and kind == "cam":
        raise LookError(
            f"a CAM is made of the maps that are averaged, not of {observed.stages[0]}: choose another kind"
        )
    if observed.training:
        raise LookError("the net is in training mode, where a batch changes what it answers: call net.observed.eval()")
    images = net.normalised(photos)
    # The CAM of a linear classifier is its weights times the maps: no gradient, and one product for all classes.
    by_weight = kind == "cam" and observed.head is not None
    try:
        with torch.set_grad_enabled(not by_weight):
            out = observed(images) if inner or by_weight else run_for_attention(observed, images)
    except (RuntimeError, AssertionError) as error:
        raise LookError(f"the net cannot be shown {net.size} × {net.size} pixels: {_first_line(error)}") from error
    if out.maps[0 if inner else -1].shape[2:].numel() == 1:
        raise LookError(f"{net.size} pixels leave a map of 1 × 1: the net's stride needs larger pictures")
    probabilities, numbers = out.logits.detach().float().softmax(1).topk(min(count, observed.num_classes))
    if by_weight:
        return numbers, probabilities, weighted_sum(out.weight[numbers], out.maps[-1])
    how = class_map if kind == "cam" else _by_gradient(kind, 0 if inner else -1)
    targets = one_hot(numbers.T.flatten(), observed.num_classes).unflatten(0, numbers.T.shape)
    return numbers, probabilities, torch.stack([how(out, target).detach() for target in targets], 1)


def figure(net: Net, photos: Sequence[Path], kind: str = "cam") -> "tuple[Figure, str]":
    """Photos beside themselves lit by the maps of their five likeliest classes, with an alternative text.

    Raises:
        LookError, UnknownName: as `read` and `maps_of_likeliest` do.
    """
    from camlib import plots  # takes seconds to import

    images = read(photos, net)
    numbers, probabilities, maps = maps_of_likeliest(net, images, kind)
    cells, placed = _cells(net, maps.shape[-1])
    headings = [
        [f"{net.classes[k]}\n{p:.0%}" for k, p in zip(*row, strict=True)]
        for row in zip(numbers.tolist(), probabilities.tolist(), strict=True)
    ]
    labels = [Path(path).stem[:16] for path in photos]
    picture, text = plots.class_maps(images, maps.cpu(), headings, labels, [None] * len(labels), cells)
    return picture, text.replace("\n", " ") + placed


def _cells(net: Net, count: int) -> tuple[Cells, str]:
    """Where the cells of maps with so many a side look, and a sentence if that cannot be told."""
    try:
        return net.observed.cells(0 if net.inner else -1), ""
    except NotObservable:
        step = net.size / count
        return Cells((step - 1) / 2, step), " Where its cells look cannot be told: they are drawn as blocks of pixels."


def save(picture: "Figure", path: Path) -> None:
    """Write a figure under its name once it is whole.

    Raises:
        LookError: its ending names no kind of picture.
        OSError: the place cannot be written.
    """
    kinds = picture.canvas.get_supported_filetypes()
    kind = path.suffix.removeprefix(".").lower()
    if kind not in kinds:
        raise LookError(f"{path} ends in no kind of picture that can be written: {', '.join(sorted(kinds))}")
    part = path.with_name(f"{path.name}.part")
    picture.savefig(part, format=kind, dpi=160, bbox_inches="tight")
    part.replace(path)


def _by_gradient(kind: str, layer: int) -> Callable[[Output, Tensor], Tensor]:
    return lambda out, target: attention(out, target, layer, kind)


def _built(
    name: str, state: dict[str, Tensor] | None
) -> tuple[nn.Module, tuple[str, ...], int, int, tuple[float, ...], tuple[float, ...]]:
    """The model, names of its classes, the size it is made for, the size before the crop, mean and std."""
    count = {} if state is None else {"num_classes": _classes(state)}
    if name in torchvision.models.list_models(torchvision.models):
        if state is not None:
            return torchvision.models.get_model(name, weights=None, **count), (), 224, 256, *IMAGENET
        chosen = torchvision.models.get_model_weights(name).DEFAULT
        made = chosen.transforms()
        model = _fetched(name, lambda: torchvision.models.get_model(name, weights=chosen))
        sides = made.crop_size[0], made.resize_size[0]
        return model, tuple(chosen.meta["categories"]), *sides, tuple(made.mean), tuple(made.std)
    known = {*torchvision.models.list_models(torchvision.models), *models.NETS}
    if importlib.util.find_spec("timm"):
        import timm

        known |= set(timm.list_models())
        if name in timm.list_models():
            model = _fetched(name, lambda: timm.create_model(name, pretrained=state is None, **count))
            made = timm.data.resolve_model_data_config(model)
            side = made["input_size"][-1]
            return model, (), side, round(side / made["crop_pct"]), tuple(made["mean"]), tuple(made["std"])
    lookup(dict.fromkeys(known), name, "net")
    if state is None:
        raise LookError(f"{name} is a net of camlib.models, whose weights nobody publishes: pass --weights FILE")
    return models.create(name, **count), (), 32, 32, *IMAGENET


def _fetched(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except (OSError, RuntimeError) as error:
        raise LookError(
            f"the weights of {name} cannot be fetched ({_first_line(error)}): pass --weights FILE"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _classes_of(run: Run) -> tuple[str, ...]:
    """The names of the classes of a run's data; none if they are not here, or the run is no longer known."""
    try:
        return load(run.experiment.data, "test", count=1).classes
    except (DataError, UnknownName):
        return ()


def _classes(state: dict[str, Tensor]) -> int:
    """The rows of the last matrix or 1 × 1 convolution, the classifier's."""
    classifiers = [tensor for tensor in state.values() if tensor.ndim in (2, 4) and set(tensor.shape[2:]) <= {1}]
    if not classifiers:
        raise LookError("the weights hold no matrix and no 1 × 1 convolution, and so no classifier")
    return len(classifiers[-1])


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    shapes = {
        key: tuple(tuple(tensors[key].shape) if key in tensors else "nothing" for tensors in (state, own))
        for key in dict.fromkeys([*own, *state])
    }
    wrong = [
        f"'{key}' is {given} in it and {wanted} in the net"
        for key, (given, wanted) in shapes.items()
        if given != wanted
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise LookError(f"{path} belongs to another net: {'; '.join(wrong[:3])}{more}")
    model.load_state_dict(state)
