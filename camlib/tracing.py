"""A classifier as a graph: what images pass through on their way to the logits, and where maps are averaged."""

import copy
import inspect
import math
import traceback
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from camlib.models.gate import Gate

# Of the square pictures tried: some nets take one size only.
SIZES = (224, 32, 64, 28, 160, 240, 256, 288, 299, 384, 448, 512)

# The axes of positions: channels first, channels last, a list of tokens.
LAYOUTS = {"NCHW": (2, 3), "NHWC": (1, 2), "NLC": (1,)}


class NotObservable(ValueError):
    """The model has no maps in the papers' sense; the message says what is missing."""


class Traced:
    """A classifier as a `torch.fx.GraphModule` and what running it on one square picture showed.

    Modules stay whole, so that they keep their own behaviour in training and evaluation, may branch as they like,
    and can be compiled one by one. Opened are containers, whatever holds a `camlib.models.Gate`, and the modules
    asked for.

    Args:
        model: left as it is; the graph shares its parameters and buffers.
        opened: names of modules to trace into.

    Attributes:
        module: the graph, with modules.
        shapes: of every tensor in it.
        numbers: every other result, as a batch size.
        channels: of the picture.
        logits: the node of what the classifier returns.

    Raises:
        NotObservable: the model cannot be traced, or does not run.
    """

    def __init__(self, model: nn.Module, opened: list[str]):
        self.name = type(model).__name__
        self.module = _symbolic(model, opened)
        self.nodes = list(self.module.graph.nodes)
        self.logits = self.nodes[-1].args[0]
        self._skeleton = copy.deepcopy(self.module).to("meta").float()
        self.shapes, self.numbers = self._run_on_meta()

    def _run_on_meta(self) -> tuple[dict[fx.Node, tuple[int, ...]], dict[fx.Node, object]]:
        """Nothing is computed on the meta device but shapes."""
        reason = None
        convolution = next((m.in_channels for m in self.module.modules() if isinstance(m, nn.Conv2d)), 3)
        self._skeleton.eval()
        # The first convolution may see more than the picture's channels, where pixels were moved to channels before.
        for channels in dict.fromkeys((convolution, 3, 1)):
            for size in SIZES:
                recorder = _Recorder(self._skeleton, self.module.graph)
                try:
                    recorder.run(torch.empty(1, channels, size, size, device="meta"))
                except Exception as error:
                    reason = reason or error
                else:
                    self.channels = channels
                    return recorder.shapes, recorder.numbers
        raise NotObservable(
            f"{self.name} runs on no square picture of {', '.join(map(str, SIZES))} pixels; "
            f"at {SIZES[0]}: {_first(reason)}"
        ) from reason

    def called(self, node: fx.Node) -> object:
        """What a node calls: a module's class, a function, or the name of a tensor's method."""
        return type(self.module.get_submodule(node.target)) if node.op == "call_module" else node.target

    def describe(self, node: object) -> str:
        """What stands in the graph, in words."""
        if not isinstance(node, fx.Node):
            return f"a {type(node).__name__}"
        called = self.called(node)
        return f"'{node.name}' ({getattr(called, '__name__', called)})"

    @cached_property
    def passages(self) -> list[fx.Node]:
        """The tensors that everything on the way from the images to the logits passes through, in order."""
        place = {node: number for number, node in enumerate(self.nodes)}
        found, reach, depends = [], 0, set()
        for node in self.nodes[:-1]:
            if node in self.numbers or not (node.op == "placeholder" or depends.intersection(node.all_input_nodes)):
                continue
            depends.add(node)
            if place[node] >= reach and node in self.shapes:
                found.append(node)
            reach = max([reach, *(place[user] for user in node.users if user not in self.numbers)])
        return found

    def averaged(self, start: fx.Node, end: fx.Node) -> str | None:
        """The layout in which `end` is, in training mode too, nothing but the mean of `start` over its positions."""
        between = self.nodes[self.nodes.index(start) + 1 : self.nodes.index(end) + 1]
        modules = [self.module.get_submodule(node.target) for node in between if node.op == "call_module"]
        state = [*(node for node in between if node.op == "get_attr")]
        for module in modules:
            state += [*module.parameters(), *module.buffers()]
        if state:
            return None
        # Tried on numbers, as there are too many ways to write a mean. Dropout shows in training mode.
        values = torch.randn(self.shapes[start], device="cpu", generator=torch.Generator("cpu").manual_seed(0))
        interpreter = _Interpreter(self._skeleton.train(), graph=self.module.graph)
        interpreter.env = {**self.numbers, start: values.clone()}  # a ReLU may work in place
        for node in between:
            if node not in self.numbers:
                interpreter.env[node] = interpreter.run_node(node)
        found = interpreter.env[end].flatten()
        for layout, axes in LAYOUTS.items():
            if len(layout) == values.ndim:
                mean = values.mean(axes).flatten()
                if len(mean) == len(found) and torch.allclose(mean, found, atol=1e-5):
                    return layout
        return None

    def is_own(self, node: fx.Node) -> bool:
        """Whether a node calls a module that is none of torch's own, which may hold what is looked for."""
        return node.op == "call_module" and not self.called(node).__module__.startswith("torch.nn.")


def layout_of(shape: tuple[int, ...], likely: str = "NCHW") -> str | None:
    """The layout of a tensor made from a square picture, if it has a square of positions, more than one."""
    for layout in (likely, *LAYOUTS):
        if len(shape) == len(layout) and shape[0] == 1:  # more than one: the windows of a picture
            sides = [shape[axis] for axis in LAYOUTS[layout]]
            side = math.isqrt(math.prod(sides)) if layout == "NLC" else sides[0]
            if side > 1 and math.prod(sides) == side**2:
                return layout
    return None


class _Tracer(fx.Tracer):
    def __init__(self, opened: list[str]):
        super().__init__()
        self.opened = opened

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        contains_gate = any(isinstance(part, Gate) for part in module.modules())
        return type(module).forward is not nn.Sequential.forward and name not in self.opened and not contains_gate


def _symbolic(model: nn.Module, opened: list[str]) -> fx.GraphModule:
    modes = {module: module.training for module in model.modules()}
    try:
        graph = fx.GraphModule(model, _Tracer(opened).trace(model.eval()))
    except Exception as error:
        raise NotObservable(
            f"{type(model).__name__} cannot be traced symbolically{_line_of(error)}: {_first(error)}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    graph.training = model.training
    for number, node in enumerate(list(graph.graph.nodes)):
        if node.op == "call_function" and node.target in (F.dropout, F.dropout2d):
            # A functional dropout would stay frozen in the mode it was traced in; a module follows train() and eval().
            kind = nn.Dropout if node.target is F.dropout else nn.Dropout2d
            name, rate = f"functional_dropout_{number}", node.kwargs.get("p", 0.5)
            graph.add_submodule(name, kind(node.args[1] if len(node.args) > 1 else rate).train(model.training))
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.call_module(name, (node.args[0],)))
            graph.graph.erase_node(node)
        elif node.op == "call_function" and _takes_its_mode(node.target):
            raise NotObservable(
                f"{type(model).__name__} calls {node.target.__name__} with training as an argument, "
                "which tracing would freeze: use the module of the same name instead"
            )
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _takes_its_mode(function: object) -> bool:
    try:
        return "training" in inspect.signature(function).parameters
    except ValueError:  # a builtin without a signature
        return False


def _first(error: Exception) -> str:
    """The first sentence of an error: torch's go on for a page."""
    return str(error).splitlines()[0].split(". ")[0]


def _line_of(error: Exception) -> str:
    """The last line of the model's own code on the way to an error."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/torch/" not in frame.filename and frame.filename != __file__]
    return f" at '{own[-1].line}' ({own[-1].filename.rpartition('/')[2]}, line {own[-1].lineno})" if own else ""


class _Interpreter(fx.Interpreter):
    """Runs a graph as its generated code would: the lists that a module gets may be changed by it."""

    extra_traceback = False

    def call_module(self, target: str, args: tuple, kwargs: dict) -> object:
        return super().call_module(target, tuple(list(a) if isinstance(a, list) else a for a in args), kwargs)


class _Recorder(_Interpreter):
    """Runs a graph and keeps the shape of every tensor and every result that holds none."""

    def __init__(self, skeleton: fx.GraphModule, graph: fx.Graph):
        super().__init__(skeleton, graph=graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.numbers: dict[fx.Node, object] = {}

    def run_node(self, node: fx.Node) -> object:
        result = super().run_node(node)
        if isinstance(result, Tensor):
            self.shapes[node] = tuple(result.shape)
        elif not isinstance(result, (tuple, list)) or isinstance(result, torch.Size):
            self.numbers[node] = result
        return result
