"""Any classifier that averages its maps, made to show them."""

import contextlib
import copy
import math
import operator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from camlib.maps import Cells
from camlib.models.gate import ChannelAttention
from camlib.tracing import LAYOUTS, SIZES, NotObservable, Traced, layout_of


class Output(NamedTuple):
    """What an observed model returns.

    Attributes:
        logits: (N, K), the model's own output.
        maps: feature maps (N, C, H, W), one tensor per stage, from fine to coarse; `maps[-1]` is
            what global average pooling takes in (the f of the papers).
        pooled: (N, C), the mean of `maps[-1]` over H and W.
        weight: (K, C), the weight of the linear classifier, attached to it; the identity where the model averages
            class maps; None where more than one linear layer stands between `pooled` and `logits`.
        gate: (N, C), the channel attention of the model's last `camlib.models.Gate`, or None if the model has no
            `camlib.models.Gate`.
    """

    logits: Tensor
    maps: tuple[Tensor, ...]
    pooled: Tensor
    weight: Tensor | None
    gate: Tensor | None = None


def weight_of(out: Output, term: str) -> Tensor:
    """The weight (K, C) of an output's linear classifier, for a term that cannot do without it.

    Raises:
        ValueError: there is none; the message names the term and the way out.
    """
    if out.weight is None:
        raise ValueError(
            f"{term} needs a linear classifier behind the pooling, but this model has more than one layer there: "
            "put one nn.Linear in their place, or take a term that works without its weight, as CAMLoss or ICASC"
        )
    return out.weight


class Observed(nn.Module):
    """A classifier that returns `Output` instead of logits; made by `observe`.

    It shares every parameter and buffer with the model it was made from: training one trains both.

    Attributes:
        graph: the traced model, a `torch.fx.GraphModule`.
        stages: the name of the operation behind each entry of `Output.maps`.
        head: the classifier, an `nn.Linear`, a class made from it as `camlib.models.CosineHead`, or a 1 × 1
            convolution; None where `Output.weight` is None or the identity.
        in_channels: of the images.
        num_classes: K.
    """

    def __init__(
        self, graph: fx.GraphModule, stages: tuple[str, ...], head: str | None, in_channels: int, num_classes: int
    ):
        super().__init__()
        self.graph = graph
        self.stages = stages
        self._head = head
        self._compiled = False
        self.training = graph.training
        self.in_channels, self.num_classes = in_channels, num_classes

    @property
    def head(self) -> nn.Linear | nn.Conv2d | None:
        return self._head and self.graph.get_submodule(self._head)

    def classify(self, pooled: Tensor) -> Tensor:
        """The logits (N, K) of pooled features (N, C): what the model does behind its average."""
        nodes = list(self.graph.graph.nodes)
        logits, _, start, *_ = nodes[-1].args[0]
        interpreter = fx.Interpreter(self.graph)
        interpreter.env[start] = pooled
        for node in nodes[nodes.index(start) + 1 : nodes.index(logits) + 1]:
            interpreter.env[node] = interpreter.run_node(node)
        return interpreter.env[logits]

    def cells(self, layer: int = -1) -> Cells:
        """At which pixels the cells of `Output.maps[layer]` look.

        Geometry alone decides it, the strides and paddings on every way from the image, not the weights: in a copy of
        the model every convolution passes on what is at its centre, and the gradient of a cell shows its pixel.

        Raises:
            NotObservable: the cells do not lie on a square grid, as where tokens see the whole picture or only part of
                the pools can be read.
        """
        graph = _with_central_taps(self.graph)  # and all on the processor, whichever device is torch's default
        # Small is fast, but cells at the edge see pools cut off; some nets take one size only.
        for size in (48, 160, *SIZES):
            noise = torch.Generator().manual_seed(0)
            images = 0.5 + torch.rand(1, self.in_channels, size, size, generator=noise, device="cpu")
            images.requires_grad_()
            try:
                maps = graph(images)[1][layer]
            except (RuntimeError, ValueError, AssertionError):
                continue
            if min(maps.shape[2:]) >= 5:
                break
        else:
            raise NotObservable(f"maps[{layer}] has less than five cells a side at every size of a picture tried")
        middle = [side // 2 for side in maps.shape[2:]]
        centres = torch.stack([_seen(images, maps, y, y) for y in range(middle[0] - 1, middle[0] + 2)])
        step = ((centres[2] - centres[0]) / 2).mean().item()
        first = (centres[1] - step * torch.tensor(middle, device="cpu")).mean().item()
        places = torch.arange(middle[0] - 1, middle[0] + 2, device="cpu")[:, None]
        if not (centres - (first + step * places)).abs().max() < 0.05 * step:
            raise NotObservable(
                f"where the cells of maps[{layer}] look cannot be told from strides and paddings: "
                "pass camlib.maps.Cells instead"
            )
        return Cells(round(first, 1), round(step, 1))

    def compile_blocks(self) -> None:
        """Compile every block of the model on its own, in place, with torch.compile.

        Compiling the whole model would hide the maps from `torch.autograd.grad`.
        """
        self._compiled = True
        for node in self.graph.graph.nodes:
            if node.op == "call_module":
                block = self.graph.get_submodule(node.target)
                if any(isinstance(module, nn.Conv2d) for module in block.modules()):
                    block.compile(dynamic=False)

    def forward(self, images: Tensor) -> Output:
        """Run the model on floating-point images (N, in_channels, H, W).

        Raises:
            ValueError: the images have another type, number of dimensions or of channels than the model takes, or are
                on another device.
        """
        if not images.is_floating_point():
            raise ValueError(
                f"images have dtype {images.dtype}, expected floating point: "
                "normalise them first, as camlib.data.Loader does"
            )
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected (N, {self.in_channels}, H, W): "
                f"this model was built for {self.in_channels} channels"
            )
        own = next(self.graph.parameters())
        if images.device != own.device:
            raise ValueError(
                f"images are on {images.device} and the model on {own.device}: move one to the other's device"
            )
        if images.dtype != own.dtype and not torch.is_autocast_enabled(own.device.type):
            raise ValueError(
                f"images have dtype {images.dtype} and the model {own.dtype}: convert one, or use torch.autocast"
            )
        with self._settings():
            return Output(*self.graph(images))

    def _settings(self) -> contextlib.AbstractContextManager:
        """What compiled blocks ask of torch, for the length of a call: the settings are the whole process's."""
        if not self._compiled:
            return contextlib.nullcontext()
        settings = contextlib.ExitStack()
        # Gradient maps run backward twice, and a donated buffer is gone after the first time.
        settings.enter_context(torch._functorch.config.patch(donated_buffer=False))
        # Blocks of one class share its forward, and with it one limit, which is 8 if nobody says otherwise.
        limits = {"recompile_limit": 1000, "accumulated_recompile_limit": 1000}
        settings.enter_context(torch._dynamo.config.patch(limits))
        return settings


def _with_central_taps(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy in which nothing but the places is left of convolutions, pools and norms."""
    graph = copy.deepcopy(graph).cpu().float().eval()
    for name, module in list(graph.named_modules()):
        if isinstance(module, nn.Conv2d):
            taps = [slice((k - 1) // 2, k // 2 + 1) for k in module.kernel_size]  # of an even size the middle two
            nn.init.zeros_(module.weight)
            module.weight.data[:, :, taps[0], taps[1]] = 1 / module.weight.shape[1]
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MaxPool2d):
            mean = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
            graph.set_submodule(name, mean)
        elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            graph.set_submodule(name, nn.Identity())
    return graph


def _seen(images: Tensor, maps: Tensor, y: int, x: int) -> Tensor:
    """The centre (2,) of the pixels that a cell depends on, each by its share in the gradient's square."""
    (gradient,) = torch.autograd.grad(maps[0, :, y, x].sum(), images, retain_graph=True)
    share = gradient.square().sum((0, 1))
    share = share / share.sum()
    pixels = torch.arange(len(share), dtype=share.dtype, device=share.device)
    return torch.stack([share.sum(1) @ pixels, share.sum(0) @ pixels])


def observe(model: nn.Module, stages: tuple[str, ...] | None = None) -> Observed:
    """Make a classifier return its feature maps, pooled features and classifier weight beside its logits.

    It works on every model that averages maps, or tokens that are maps, and makes its logits from the mean alone:
    the nets of `camlib.models`, and most of `torchvision.models` and of timm. The model is traced symbolically once;
    the tensor in front of the average becomes `maps[-1]`, so that mean(CAM) + bias is the logit (CAM-loss, Eq. 1
    and CAM-loss, Figure 2) where the classifier is one linear layer, or, for a subclass of `nn.Linear`, what that
    class makes of the two. The attention of a `camlib.models.Gate` in the model, the last if there are several,
    becomes `gate`.

    Args:
        model: the classifier. Its parameters are shared, not copied. Auxiliary heads that it uses in
            training only (GoogLeNet) are left out.
        stages: names of submodules whose outputs become `maps`, followed by the averaged maps in any case.
            By default the last tensor at each spatial resolution is taken.

    Returns:
        A module that maps images (N, C, H, W) to `Output`.

    Raises:
        NotObservable: the model averages no maps, or there is no way to trace it; the message names what
            stands there instead, or the line that stops the tracing.
    """
    traced, maps, layout, pooled = _find_average(model)
    if stages is None:
        chosen = _last_of_each_resolution(traced, maps, layout)
    else:
        chosen = [node for node in (_node_of(traced, name, layout) for name in stages) if node is not maps] + [maps]
    names = tuple(node.target if node.op == "call_module" else node.name for node in chosen)
    head = _head(traced, pooled)

    graph, output = traced.module.graph, traced.nodes[-1]
    shown = tuple(_as_maps(traced, node, layout) for node in chosen)
    flat = _as_rows(traced, pooled)
    with graph.inserting_before(output):
        weight = None
        if head is not None:
            weight = graph.get_attr(f"{head}.weight")
            if isinstance(traced.module.get_submodule(head), nn.Conv2d):
                weight = graph.call_method("flatten", (weight, 1))
        elif traced.logits is pooled:
            like, classes = next(traced.module.parameters()), traced.shapes[pooled][1]
            identity = torch.eye(classes, dtype=like.dtype, device=like.device)
            traced.module.register_buffer("identity", identity, persistent=False)
            weight = graph.get_attr("identity")
    gates = [node for node in graph.nodes if traced.called(node) is ChannelAttention]
    # A plain tuple: up to torch 2.11 generated code prints a NamedTuple by its repr, which it then cannot run.
    output.args = ((traced.logits, shown, flat, weight, gates[-1] if gates else None),)
    graph.eliminate_dead_code()
    traced.module.recompile()
    return Observed(traced.module, names, head, traced.channels, traced.shapes[traced.logits][1])


def _find_average(model: nn.Module) -> tuple[Traced, fx.Node, str, fx.Node]:
    """Trace a model, opening no more of its modules than it takes: the graph, the maps, their layout, their mean."""
    opened: list[str] = []
    closed: dict[str, str] = {}  # what cannot be opened, and why
    while True:
        try:
            traced = Traced(model, opened)
        except NotObservable as error:
            if not opened:
                raise
            closed[opened.pop()] = str(error)
            continue
        if len(traced.shapes.get(traced.logits, ())) != 2:
            found, wanted = None, [traced.logits] if isinstance(traced.logits, fx.Node) else []
        else:
            found = _average(traced)
            wanted = [_first_without_positions(traced)] if found is None else _behind(traced, found[-1])
        inside = next((node.target for node in wanted if traced.is_own(node) and node.target not in closed), None)
        if inside is not None:
            opened.append(inside)
        elif found is None:
            raise NotObservable(_refusal(traced, closed))
        else:
            return traced, *found


def _first_without_positions(traced: Traced) -> fx.Node:
    shapes = ((node, traced.shapes[node][1:]) for node in traced.passages)
    return next(node for node, shape in shapes if math.prod(shape) == max(shape))


def _average(traced: Traced) -> tuple[fx.Node, str, fx.Node] | None:
    """The maps, as early as they are what is averaged, their layout, and the mean, as flat as it becomes."""
    first = traced.passages.index(_first_without_positions(traced))
    mean, found = traced.passages[first], None
    for node in reversed(traced.passages[:first]):
        layout = traced.averaged(node, mean)
        if layout is not None:
            found = node, layout
        elif found is not None:
            break
    if found is None:
        return None
    maps, layout = found
    if layout_of(traced.shapes[maps], layout) is None:
        raise NotObservable(
            f"{traced.name} averages {traced.shapes[maps][1]} tokens, which are no square of positions: "
            "leave a class token out of the mean"
        )
    rows = (node for node in traced.passages[first:] if len(traced.shapes[node]) == 2 and traced.averaged(maps, node))
    return maps, layout, next(rows, mean)


def _behind(traced: Traced, pooled: fx.Node) -> list[fx.Node]:
    """The modules behind the average that may hold the classifier."""
    calls = [node for node in traced.nodes[traced.nodes.index(pooled) + 1 :] if node.op == "call_module"]
    modules = [traced.module.get_submodule(node.target) for node in calls]
    return [
        node
        for node, module in zip(calls, modules, strict=True)
        if not isinstance(module, _LINEAR) and any(isinstance(part, _LINEAR) for part in module.modules())
    ]


def _refusal(traced: Traced, closed: dict[str, str]) -> str:
    if len(traced.shapes.get(traced.logits, ())) != 2:
        stands, wanted = traced.logits, "in logits (N, K)"
        text = f"{traced.name} does not end {wanted} but in {traced.describe(stands)}"
    else:
        stands = _first_without_positions(traced)
        text = (
            f"{traced.name} does not average maps over all their positions, but makes its features by "
            f"{traced.describe(stands)}: a class activation map is not defined for it"
        )
        if traced.called(stands) is operator.getitem:
            text += "; if they are a class token, timm.create_model(…, global_pool='avg') makes a net that averages"
    reason = closed.get(stands.target) if isinstance(stands, fx.Node) else None
    return f"{text}; {reason}" if reason else text


_LINEAR = (nn.Linear, nn.Conv2d)
_RESHAPING = (nn.Identity, nn.Flatten, torch.flatten, torch.squeeze, torch.reshape)
_RESHAPING += ("flatten", "squeeze", "reshape", "view")
_NOTHING_IN_EVALUATION = (nn.Dropout, nn.Dropout2d)


def _head(traced: Traced, pooled: fx.Node) -> str | None:
    """The name of the one linear layer between pooled features and logits; None if there is more or less."""

    def back(node: fx.Node, through: tuple) -> fx.Node:
        while node is not pooled and traced.called(node) in through:
            node = node.all_input_nodes[0]
        return node

    node = back(traced.logits, _RESHAPING)
    module = traced.module.get_submodule(node.target) if node.op == "call_module" else None
    if not isinstance(module, _LINEAR) or (isinstance(module, nn.Conv2d) and module.groups > 1):
        return None
    return node.target if back(node.all_input_nodes[0], _RESHAPING + _NOTHING_IN_EVALUATION) is pooled else None


def _side(shape: tuple[int, ...], layout: str) -> int:
    return math.isqrt(shape[1]) if layout == "NLC" else shape[LAYOUTS[layout][0]]


def _last_of_each_resolution(traced: Traced, maps: fx.Node, likely: str) -> list[fx.Node]:
    last = {}
    for node in traced.nodes[: traced.nodes.index(maps)]:
        layout = layout_of(traced.shapes.get(node, ()), likely)
        if node.op != "placeholder" and layout is not None:
            last[_side(traced.shapes[node], layout)] = node
    last.pop(_side(traced.shapes[maps], likely), None)
    return [*last.values(), maps]


def _node_of(traced: Traced, stage: str, likely: str) -> fx.Node:
    calls = [n for n in traced.nodes if n.op == "call_module" and layout_of(traced.shapes.get(n, ()), likely)]
    inside = [node for node in calls if f"{node.target}.".startswith(f"{stage}.")]
    if not inside:
        raise NotObservable(f"the model has no stage '{stage}'; it has {', '.join(str(n.target) for n in calls)}")
    return inside[-1]


def _as_maps(traced: Traced, node: fx.Node, likely: str) -> fx.Node:
    """A tensor in the papers' layout (N, C, H, W), on its way to the logits, so that gradients reach it."""
    layout, graph = layout_of(traced.shapes[node], likely), traced.module.graph
    if layout == "NCHW":
        return node
    with graph.inserting_after(node):
        if layout == "NHWC":
            shown = graph.call_method("permute", (node, 0, 3, 1, 2))
        else:
            shown = graph.call_function(tokens_as_maps, (node, traced.nodes[0]))
    with graph.inserting_after(shown):
        back = graph.call_method("permute", (shown, 0, 2, 3, 1))
    if layout == "NLC":
        with graph.inserting_after(back):
            back = graph.call_method("flatten", (back, 1, 2))
    node.replace_all_uses_with(back, lambda user: user is not shown)
    return shown


def _as_rows(traced: Traced, pooled: fx.Node) -> fx.Node:
    """The pooled features as (N, C), on their way to the logits."""
    shape, graph = traced.shapes[pooled], traced.module.graph
    if len(shape) == 2:
        return pooled
    with graph.inserting_after(pooled):
        flat = graph.call_method("flatten", (pooled, 1))
    with graph.inserting_after(flat):
        back = graph.call_method("unflatten", (flat, 1, shape[1:]))
    pooled.replace_all_uses_with(back, lambda user: user is not flat)
    return flat


def tokens_as_maps(tokens: Tensor, images: Tensor) -> Tensor:
    """A list of tokens (N, L, C) as maps (N, C, h, w) of the images' (N, ·, H, W) shape.

    Raises:
        ValueError: L is no h · w with h / w = H / W.
    """
    length, (height, width) = tokens.shape[1], images.shape[2:]
    h = round(math.sqrt(length * height / width))
    if h == 0 or length % h or abs(h * h * width - length * height) > length * height / 10:
        raise ValueError(
            f"{length} tokens of a picture of {height} × {width} pixels are no grid of positions: "
            "pass a square picture of the size the model was made for"
        )
    return tokens.transpose(1, 2).unflatten(2, (h, length // h))
