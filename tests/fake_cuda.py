"""An emulated GPU: tensors that report the device cuda:0 and keep their numbers on the CPU.

What it shows on a machine without a GPU: the code takes a GPU's ways (mixed precision in float16
with its gradient scaler, recorded steps), and ends in an error where an operation gets tensors
with dimensions from both devices, where a tensor of the device goes to NumPy, and where a step
that is recorded waits for the device.

What it cannot show: speed, memory, streams and their races, whether a kernel exists, a GPU's
rounding (autocast is the CPU's), cuDNN, several GPUs. A recorded step is simply called again at
each replay, so that a Python number which changes from step to step is not noticed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # PyTorch imports it at the first operator, and it lists PyTorch's functions
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")

# Operators that take indices, which may lie on the CPU; masks make the host wait.
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
COPIES = {"copy_", "_to_copy"}
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}
# Operators that refuse even a scalar (a tensor without dimensions) of the CPU.
STRICT = {"cat", "stack", "mm", "bmm", "addmm", "index_select", "gather", "embedding", "index_copy"}


class MixedDevices(AssertionError):
    """Tensors of both devices in one operation."""


class WaitsWhileRecorded(AssertionError):
    """A step that is recorded waits for the device; no RuntimeError, which `StepGraph` catches."""


class FakeCuda(Tensor):
    """A tensor of the emulated device; `elem` is the tensor of the CPU whose memory it has."""

    elem: Tensor
    recording = False  # whether a step is being recorded, for all tensors
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, elem: Tensor) -> FakeCuda:
        self = Tensor._make_subclass(cls, elem.detach())
        self.elem = elem.detach() if elem.requires_grad else elem
        return self

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, new: FakeCuda) -> None:
        torch._C.TensorBase.data.__set__(self, new)
        self.elem = new.elem

    def cpu(self) -> Tensor:
        return torch.ops.aten._to_copy(self, device=CPU)

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        return _tensor(data, **{"dtype": self.dtype, "device": CUDA, **kwargs})

    def tolist(self) -> Any:
        _check_waiting("tolist")
        return self.elem.tolist()

    def numpy(self, *_: Any, **__: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def __deepcopy__(self, memo: dict) -> FakeCuda:
        new = memo[id(self)] = FakeCuda(self.elem.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            new._is_param = True
        return new

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.elem.__reduce_ex__(protocol)  # files hold its numbers

    def __repr__(self) -> str:
        return f"FakeCuda({self.elem})"

    @classmethod
    def __torch_dispatch__(cls, function, kinds, args=(), kwargs=None):
        return _dispatch(function, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Also sees what makes a tensor of the device out of none, such as `torch.zeros`."""

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        return _dispatch(function, args, kwargs or {})


def _dispatch(function: Any, args: tuple, kwargs: dict) -> Any:
    """Compute an operator on the CPU, and wrap the results that belong on the device."""
    name = function.overloadpacket.__name__
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    ours = [x for x in tensors if isinstance(x, FakeCuda)]
    if name == "_has_compatible_shallow_copy_type":
        return len(ours) in (0, len(tensors))
    on_device = _is_on_device(name, kwargs.get("device"), bool(ours), bool(tensors))
    if name in COPIES:
        if on_device != bool(ours) or len(ours) not in (0, len(tensors)):
            _check_waiting(f"{name} between devices")
    elif ours:
        _check_operator(name, args, tensors)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": CPU}
    out = function(*tree_map(_elem, args), **tree_map(_elem, kwargs))
    if name.endswith("_") and isinstance(out, Tensor) and isinstance(args[0], Tensor):
        return args[0]
    same = {id(_elem(x)): x for x in tensors}
    return tree_map(lambda x: _wrapped(same.get(id(x), x), on_device), out)


def _is_on_device(name: str, device: Any, ours: bool, tensors: bool) -> bool:
    """Return whether the results of an operator belong on the device."""
    if ours and (name.startswith("new_") or name.endswith("_like")):
        return True
    if device is None:
        return ours
    if torch.device(device).type == "cuda":
        return True
    return (ours or not tensors) and _called_by_backward()


def _called_by_backward() -> bool:
    """Return whether PyTorch's own formula of a gradient, which takes a tensor for the CPU's, asks
    for a tensor."""
    frame = sys._getframe(1)
    between = ("fake_cuda.py", "_compile.py", "eval_frame.py", "_ops.py")
    while frame.f_code.co_filename.endswith(between):
        frame = frame.f_back
    return frame.f_code.co_filename.endswith("autograd/graph.py")


def _check_operator(name: str, args: tuple, tensors: list[Tensor]) -> None:
    """Raise MixedDevices or WaitsWhileRecorded if an operator on the device deserves it."""
    others = [x for x in tensors if not isinstance(x, FakeCuda)]
    waits = name in WAITING
    if name in INDEXED:
        indices = [x for x in args[1] if x is not None]
        others = [x for x in (args[0], *args[2:3]) if isinstance(x, Tensor) and not x.is_cuda]
        fills = name.startswith("index_put") and not args[2].dim()  # it needs no list of places
        masks = not fills and any(x.dtype in (torch.bool, torch.uint8) for x in indices)
        waits = masks or not all(x.is_cuda for x in indices)
    if any(x.dim() for x in others) or (others and name in STRICT):
        shapes = {str(x.device): [] for x in tensors}
        for x in tensors:
            shapes[str(x.device)].append(tuple(x.shape))
        raise MixedDevices(f"{name} of tensors {shapes}")
    if waits:
        _check_waiting(name)


def _check_waiting(what: str) -> None:
    if FakeCuda.recording:
        raise WaitsWhileRecorded(what)


def _elem(x: Any) -> Any:
    return x.elem if isinstance(x, FakeCuda) else x


def _wrapped(x: Any, on_device: bool) -> Any:
    plain = on_device and isinstance(x, Tensor) and not isinstance(x, FakeCuda)
    return FakeCuda(x) if plain else x


# What Python's side of PyTorch asks a tensor's own device for


_REAL_TO, _REAL_TENSOR, _REAL_AS_TENSOR = Tensor.to, torch.tensor, torch.as_tensor


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Stand in for `Tensor.to`, which takes every tensor here for one of the CPU."""
    given = [*args, *kwargs.values()]
    if like := [x for x in given if isinstance(x, Tensor)]:
        given = [like[0].dtype, like[0].device]
    for dtype in (x for x in given if isinstance(x, torch.dtype)):
        tensor = _REAL_TO(tensor, dtype)
    for device in (torch.device(x) for x in given if isinstance(x, str | torch.device)):
        if (device.type == "cuda") != tensor.is_cuda:
            tensor = torch.ops.aten._to_copy(tensor, device=CUDA if not tensor.is_cuda else CPU)
    if "memory_format" in kwargs:
        tensor = _REAL_TO(tensor, memory_format=kwargs["memory_format"])
    return tensor


def _tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
    made = _REAL_TENSOR(data, **kwargs)
    return made if device is None else made.to(device)


def _as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    made = data if isinstance(data, Tensor) else _REAL_AS_TENSOR(data)
    return made.to(*(x for x in (dtype, device) if x is not None))


class _Autocast(torch.autocast):
    """The CPU's autocast for that of the device."""

    def __init__(self, device_type: str, **kwargs: Any) -> None:
        super().__init__("cpu", **kwargs)


def _of_the_cpu(function: Callable) -> Callable:
    return lambda device_type=None: function("cpu")


def _graphed(function: Callable, inputs: tuple, capture_error_mode: str = "global") -> Callable:
    """Stand in for `torch.cuda.make_graphed_callables`: one pass to warm up, one recorded."""
    learned = [x for x in inputs if x.requires_grad]
    for FakeCuda.recording in (False, True):
        try:
            torch.autograd.grad(function(*inputs)["loss"], learned)
        finally:
            FakeCuda.recording = False

    def replay(*given: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            for kept, new in zip(inputs, given, strict=True):
                if kept is not new:
                    kept.copy_(new)
        return function(*inputs)

    return replay


def _nothing(*_: Any, **__: Any) -> None:
    pass


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """Emulate a GPU in this thread, for code that asks PyTorch whether there is one."""
    future, optimizer = torch.__future__, torch.optim.Optimizer
    graphs = [name for name in dir(optimizer) if name.endswith("graph_capture_health_check")]
    stand_ins: dict[Any, dict[str, Any]] = {
        torch.cuda: {
            "_lazy_init": _nothing,
            "manual_seed_all": _nothing,
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "get_device_name": lambda *_: "an emulated GPU",
            "make_graphed_callables": _graphed,
        },
        torch: {
            "tensor": _tensor,
            "as_tensor": _as_tensor,
            "autocast": _Autocast,
            "is_autocast_enabled": _of_the_cpu(torch.is_autocast_enabled),
            "get_autocast_dtype": _of_the_cpu(torch.get_autocast_dtype),
        },
        torch.amp: {"autocast": _Autocast},
        Tensor: {"to": _to},
        torch.utils.data._utils.pin_memory: {"pin_memory": lambda data, *_: data},
        optimizer: dict.fromkeys(graphs, _nothing),
    }
    with contextlib.ExitStack() as stack:
        for owner, names in stand_ins.items():
            for name, stand_in in names.items():
                stack.enter_context(mock.patch.object(owner, name, stand_in))
        before = future.get_overwrite_module_params_on_conversion()
        stack.callback(future.set_overwrite_module_params_on_conversion, before)
        future.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_Factories())
        yield
