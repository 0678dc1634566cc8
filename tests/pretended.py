"""A GPU that is not there: python tests/pretended.py book/1-foundations/10-class-activation-maps.ipynb …

Runs chapters as on a machine with a GPU. Their tensors lie on the processor and some say "cuda:0": what would fail on
a real one, because a tensor stayed behind, fails here too. It knows which storages are meant to be on the GPU, and
every operation on tensors of both kinds is an error.
"""

import contextlib
import io
import os
import re
import sys
import time
import traceback
from pathlib import Path

import matplotlib
import nbformat
import torch
from IPython.display import display
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
FACTORIES = _device_constructors()
LIKE = {torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like, torch.rand_like, torch.randn_like}
NEW = {getattr(torch.Tensor, f"new_{name}") for name in ("empty", "zeros", "ones", "full", "tensor")}
# A real GPU takes tensors of the processor here: copies, and an index into a tensor of the GPU.
MIXED = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"}


def tensors(*things):
    return [leaf for leaf in tree_leaves(things) if isinstance(leaf, torch.Tensor)]


class Marks(TorchDispatchMode):
    """Which storages are on the GPU, carried from the inputs of every operation to its outputs."""

    def __init__(self):
        super().__init__()
        self.on_gpu = {}
        self.ambient = False  # for what an operation makes inside, without an input

    def of(self, tensor):
        return self.on_gpu.get(tensor.untyped_storage()._cdata, False)

    def set(self, tensor, gpu):
        self.on_gpu[tensor.untyped_storage()._cdata] = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tensors(args, kwargs)
        kinds = {self.of(tensor) for tensor in given if tensor.ndim}
        name = func.overloadpacket.__name__
        if len(kinds) == 2 and (name not in MIXED or ("index" in name and not self.of(given[0]))):
            raise RuntimeError(f"{name}: tensors on cuda:0 and on the processor")
        known = {tensor.untyped_storage()._cdata for tensor in given}
        gpu = any(map(self.of, given)) if given else self.ambient
        results = func(*args, **(kwargs or {}))
        for result in tensors(results):
            if result.untyped_storage()._cdata not in known:
                self.set(result, gpu)
        return results


class Pretended(TorchFunctionMode):
    """What Python asks of a tensor's device, and the device it asks for."""

    def __init__(self, marks):
        super().__init__()
        self.marks, self.default = marks, CPU

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, marks = dict(kwargs or {}), self.marks
        given = tensors(args, kwargs)
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and marks.of(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if func in (torch.Tensor.cpu, torch.Tensor.cuda):
            func, args = torch.Tensor.to, (args[0], CPU if func is torch.Tensor.cpu else GPU)
        if func is torch.Tensor.to:
            return self.to(*args, **kwargs)
        before, marks.ambient = marks.ambient, any(marks.of(tensor) for tensor in given)
        try:
            made = func in FACTORIES or func in LIKE or func in NEW or "device" in kwargs
            wanted = kwargs.pop("device", None)
            result = func(*args, **kwargs)
        finally:
            marks.ambient = before
        if not made or not isinstance(result, torch.Tensor):
            return result
        if wanted is None:
            kept = func in LIKE or func in NEW or (func is torch.as_tensor and given) or func is torch.from_numpy
            wanted = (GPU if given and marks.of(given[0]) else CPU) if kept else self.default
        gpu = torch.device(wanted).type == "cuda"
        generator = kwargs.get("generator")
        if generator is not None and gpu != getattr(generator, "gpu", False):
            raise RuntimeError(f"{func.__name__}: the generator and what it fills are on two devices")
        if given and result.untyped_storage()._cdata == given[0].untyped_storage()._cdata:
            return self.to(result, wanted)
        marks.set(result, gpu)
        return result

    def to(self, tensor, *args, **kwargs):
        gpu = before = self.marks.of(tensor)
        rest = []
        for value in args:
            if isinstance(value, torch.Tensor):
                gpu = self.marks.of(value)
                rest.append(value.dtype)
            elif isinstance(value, (str, torch.device, int)) and not isinstance(value, bool):
                gpu = torch.device(value).type == "cuda"
            elif isinstance(value, torch.dtype):
                rest.append(value)
        device = kwargs.pop("device", None)
        gpu = gpu if device is None else torch.device(device).type == "cuda"
        if rest or kwargs:
            tensor = torch.Tensor.to(tensor, *rest, **kwargs)
        if gpu != before:
            tensor = tensor.clone()
            self.marks.set(tensor, gpu)
        return tensor


class Generator(torch.Generator):
    """A generator of the processor that may be said to be one of the GPU."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.gpu = torch.device(device).type == "cuda"
        return made


def install():
    """Start to pretend; there is no way back in this process."""
    marks = Marks()
    pretended = Pretended(marks)
    torch.set_default_device = lambda device: setattr(pretended, "default", torch.device(device or CPU))
    torch.get_default_device = lambda: pretended.default
    torch.Tensor.device = property(lambda tensor: GPU if marks.of(tensor) else CPU)
    torch.Tensor.is_cuda = property(marks.of)
    torch.Generator = Generator
    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_name = lambda device=None: "a pretended GPU"
    torch.cuda.synchronize = torch.cuda.reset_peak_memory_stats = lambda device=None: None
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda optimizer: None
    torch.cuda.max_memory_allocated = lambda device=None: 0
    marks.__enter__()
    pretended.__enter__()


def run(path):
    """Execute the code cells of a chapter; returns their errors, each as a text."""
    names, errors = {"__name__": "__main__", "display": display}, []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            source = re.sub(r"^( *)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE)
            try:
                exec(compile(source, cell.id, "exec"), names)
            except Exception:
                errors.append(f"\n{cell.id}: {traceback.format_exc(limit=-12)}")
    return errors


if __name__ == "__main__":
    os.environ.setdefault("CAMLIB_PRESET", "quick")
    matplotlib.use("agg")
    install()
    bad = 0
    for path in map(Path, sys.argv[1:]):
        start = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            errors = run(path)
        print(f"{path}: {''.join(errors) or 'passed'} ({time.monotonic() - start:.0f} s)", flush=True)
        bad += len(errors)
    sys.exit(bool(bad))
