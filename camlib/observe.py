"""Any classifier with global average pooling and a linear head, made to show its maps."""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from camlib.models.gate import ChannelAttention, Gate


class Output(NamedTuple):
    """What an observed model returns.

    Attributes:
        logits: (N, K), the model's own output.
        maps: feature maps (N, C, H, W), one tensor per stage, from fine to coarse; `maps[-1]` is
            what global average pooling takes in (the f of the papers).
        pooled: (N, C), the mean of `maps[-1]` over H and W.
        weight: (K, C), the weight of the linear classifier, attached to it.
        gate: (N, C), the channel attention of the model's last `camlib.models.Gate`, or None if the model has no
            `camlib.models.Gate`.
    """

    logits: Tensor
    maps: tuple[Tensor, ...]
    pooled: Tensor
    weight: Tensor
    gate: Tensor | None = None


class Observed(nn.Module):
    """A classifier that returns `Output` instead of logits; made by `observe`.

    It shares every parameter and buffer with the model it was made from: training one trains both.

    Attributes:
        graph: the traced model, a `torch.fx.GraphModule`.
        stages: the name of the operation behind each entry of `Output.maps`.
        head: the classifier, an `nn.Linear` or a class made from it, as `camlib.models.CosineHead`.
    """

    def __init__(self, graph: fx.GraphModule, stages: tuple[str, ...], head: str):
        super().__init__()
        self.graph = graph
        self.stages = stages
        self._head = head
        self.training = graph.training
        convolution = next(m for m in graph.modules() if isinstance(m, nn.Conv2d))
        self.in_channels = convolution.in_channels

    @property
    def head(self) -> nn.Linear:
        return self.graph.get_submodule(self._head)

    def compile_blocks(self) -> None:
        """Compile every block of the model on its own, in place, with torch.compile.

        Compiling the whole model would hide the maps from `torch.autograd.grad`.
        """
        # Gradient maps run backward twice, and a donated buffer is gone after the first time.
        torch._functorch.config.donated_buffer = False
        # Blocks of one class share its forward, and with it one limit, which is 8 if nobody says otherwise.
        torch._dynamo.config.recompile_limit = 1000
        torch._dynamo.config.accumulated_recompile_limit = 1000
        for node in self.graph.graph.nodes:
            if node.op == "call_module":
                block = self.graph.get_submodule(node.target)
                if any(isinstance(module, nn.Conv2d) for module in block.modules()):
                    block.compile(dynamic=False)

    def forward(self, images: Tensor) -> Output:
        """Run the model on floating-point images (N, in_channels, H, W).

        Raises:
            ValueError: the images have another type, number of dimensions or number of channels.
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
        return Output(*self.graph(images))


class NotObservable(ValueError):
    """The model has no maps in the papers' sense; the message says what is missing."""


class _Closed(Exception):
    """A module of the model's own stands between the classifier and its maps: trace again, into it."""


def observe(model: nn.Module, stages: tuple[str, ...] | None = None) -> Observed:
    """Make a classifier return its feature maps, pooled features and classifier weight beside its logits.

    It works on every model that ends in global average pooling and one linear layer: the nets of
    `camlib.models`, of `torchvision.models` and of timm. The model is traced symbolically once; the tensor
    in front of the pooling becomes `maps[-1]`, so that mean(CAM) + bias is the logit (CAM-loss, Eq. 1
    and CAM-loss, Figure 2), or, for a subclass of `nn.Linear`, what that class makes of the two. The attention of a
    `camlib.models.Gate` in the model, the last if there are several, becomes `gate`.

    Args:
        model: the classifier. Its parameters are shared, not copied. Auxiliary heads that it uses in
            training only (GoogLeNet) are left out.
        stages: names of submodules whose outputs become `maps`, followed by the pooled maps in any case.
            By default the last tensor at each spatial resolution is taken.

    Returns:
        A module that maps images (N, C, H, W) to `Output`.

    Raises:
        NotObservable: no global average pooling in front of one linear layer, or no way to trace the
            model; the message names what stands there instead.
    """
    opened: set[str] = set()
    while True:
        graph = _trace(model, opened)
        try:
            head = _head(graph, model)
            shapes = _shapes(graph)
            pooled, maps = _pooling(graph, head, shapes)
            break
        except _Closed as module:
            opened.add(str(module))
    if stages is None:
        chosen = _last_of_each_resolution(maps, shapes)
    else:
        chosen = [_node_of(graph, name, shapes) for name in stages]
        chosen = [node for node in chosen if node is not maps] + [maps]

    output = next(node for node in graph.graph.nodes if node.op == "output")
    with graph.graph.inserting_before(output):
        weight = graph.graph.get_attr(f"{head.target}.weight")
    gates = [node for node in graph.graph.nodes if _kind(graph, node) is ChannelAttention]
    # A plain tuple: up to torch 2.11 generated code prints a NamedTuple by its repr, which it then cannot run.
    output.args = ((head, tuple(chosen), pooled, weight, gates[-1] if gates else None),)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    names = tuple(node.target if node.op == "call_module" else node.name for node in chosen)
    return Observed(graph, names, head.target)


class _Tracer(fx.Tracer):
    """Opens containers, whatever holds a gate, and the modules it is told to open; everything else stays whole.

    Blocks that stay whole keep their own behaviour in training and evaluation, may branch as they like,
    and can be compiled one by one.
    """

    def __init__(self, opened: set[str]):
        super().__init__()
        self.opened = opened

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        contains_gate = any(isinstance(part, Gate) for part in module.modules())
        return type(module).forward is not nn.Sequential.forward and name not in self.opened and not contains_gate


def _trace(model: nn.Module, opened: set[str]) -> fx.GraphModule:
    modes = {module: module.training for module in model.modules()}
    try:
        graph = fx.GraphModule(model, _Tracer(opened).trace(model.eval()))
    except Exception as error:
        raise NotObservable(f"{type(model).__name__} cannot be traced symbolically: {error}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    graph.training = model.training
    # A functional dropout would stay frozen in the mode it was traced in; a module follows train() and eval().
    for number, node in enumerate(list(graph.graph.nodes)):
        if node.op == "call_function" and node.target in (F.dropout, F.dropout2d):
            kind = nn.Dropout if node.target is F.dropout else nn.Dropout2d
            name, rate = f"functional_dropout_{number}", node.kwargs.get("p", 0.5)
            graph.add_submodule(name, kind(node.args[1] if len(node.args) > 1 else rate).train(model.training))
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.call_module(name, (node.args[0],)))
            graph.graph.erase_node(node)
        elif node.op == "call_function" and "training" in node.kwargs:
            raise NotObservable(
                f"{type(model).__name__} calls {node.target.__name__} with training={node.kwargs['training']}, "
                "which tracing would freeze: use the module of the same name instead"
            )
    return graph


def _head(graph: fx.GraphModule, model: nn.Module) -> fx.Node:
    result = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    while isinstance(result, fx.Node) and _kind(graph, result) in (nn.Identity, nn.Flatten):  # as in timm's heads
        result = result.args[0]
    if not (isinstance(result, fx.Node) and _is_linear(graph, result)):
        _look_inside(graph, result)
        raise NotObservable(
            f"{type(model).__name__} does not end in a linear layer but in {_describe(graph, result)}: "
            "a class activation map needs global average pooling followed by one nn.Linear"
        )
    return result


_POOLING = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean, "mean")
_RESHAPING = (nn.Flatten, torch.flatten, torch.squeeze, torch.reshape, "flatten", "squeeze", "reshape", "view")
_NOTHING_IN_EVALUATION = (nn.Dropout, nn.Dropout2d, nn.Identity)


def _pooling(graph: fx.GraphModule, head: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]) -> tuple[fx.Node, fx.Node]:
    """Walk back from the classifier to the pooled features (N, C), before dropout, and the maps they pool."""
    node = pooled = head.args[0]
    while not _is_map(shapes.get(node, ())):
        if _kind(graph, node) not in _POOLING + _RESHAPING + _NOTHING_IN_EVALUATION:
            _look_inside(graph, node)
            raise NotObservable(
                f"in front of the classifier '{head.target}' stands {_describe(graph, node)}, not global "
                "average pooling: a class activation map is not defined for this model"
            )
        if len(shapes[node]) == 2:
            pooled = node
        node = node.args[0]
    if shapes[pooled][1] != shapes[node][1]:
        raise NotObservable(
            f"the classifier '{head.target}' takes {shapes[pooled][1]} features of {shapes[node][1]} channels, so its "
            "input is not a mean over the whole map: a class activation map is not defined for this model"
        )
    return pooled, node


def _look_inside(graph: fx.GraphModule, node: object) -> None:
    """Raise `_Closed` if the node calls a module made of others: it may hold a classifier or a pooling."""
    if isinstance(node, fx.Node) and node.op == "call_module":
        module = graph.get_submodule(node.target)
        own = not type(module).__module__.startswith("torch.nn.")
        if own and next(module.parameters(recurse=False), None) is None:
            raise _Closed(node.target)


def _shapes(graph: fx.GraphModule) -> dict[fx.Node, tuple[int, ...]]:
    """The shape of every tensor for one image, from a copy on the meta device: nothing is computed."""
    skeleton = copy.deepcopy(graph).to("meta").float().eval()
    channels = next((m.in_channels for m in graph.modules() if isinstance(m, nn.Conv2d)), None)
    if channels is None:
        raise NotObservable("the model has no 2-d convolution, so it has no maps")
    for size in (224, 32, 64, 28):  # a net that pools by a fixed window accepts one size only
        recorder = _Recorder(skeleton)
        try:
            recorder.run(torch.empty(1, channels, size, size, device="meta"))
            break
        except Exception as error:
            reason = error
    else:
        raise NotObservable(f"the model does not run on square images of 224, 64, 32 or 28 pixels: {reason}")
    twins = zip(graph.graph.nodes, skeleton.graph.nodes, strict=True)
    return {node: recorder.shapes[twin] for node, twin in twins if twin in recorder.shapes}


class _Recorder(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph)
        self.extra_traceback = False
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, node: fx.Node) -> object:
        result = super().run_node(node)
        if isinstance(result, Tensor):
            self.shapes[node] = tuple(result.shape)
        return result


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[2] > 1


def _last_of_each_resolution(maps: fx.Node, shapes: dict[fx.Node, tuple[int, ...]]) -> list[fx.Node]:
    last = {}
    for node, shape in shapes.items():
        # The images traced are square, so a tensor that is not has its channels elsewhere.
        if node.op != "placeholder" and _is_map(shape) and shape[2] == shape[3]:
            last[shape[2:]] = node
        if node is maps:
            break
    last.pop(shapes[maps][2:], None)
    return [*last.values(), maps]


def _node_of(graph: fx.GraphModule, stage: str, shapes: dict[fx.Node, tuple[int, ...]]) -> fx.Node:
    calls = [n for n in graph.graph.nodes if n.op == "call_module" and _is_map(shapes.get(n, ()))]
    inside = [node for node in calls if f"{node.target}.".startswith(f"{stage}.")]
    if not inside:
        raise NotObservable(f"the model has no stage '{stage}'; it has {', '.join(str(n.target) for n in calls)}")
    return inside[-1]


def _kind(graph: fx.GraphModule, node: fx.Node) -> object:
    """What a node calls: a module's class, a function, or the name of a tensor's method."""
    return type(graph.get_submodule(node.target)) if node.op == "call_module" else node.target


def _is_linear(graph: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph.get_submodule(node.target), nn.Linear)


def _describe(graph: fx.GraphModule, node: object) -> str:
    if not isinstance(node, fx.Node):
        return f"a {type(node).__name__}"
    kind = _kind(graph, node)
    return f"'{node.name}' ({getattr(kind, '__name__', kind)})"
