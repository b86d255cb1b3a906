"""A CUDA device that is none: tensors that say they are on it, compute on the CPU, and refuse what it would refuse.

Under `a_gpu()` all that asks for `cuda` gets it, with the numbers that a CPU computes. Tensors of two devices in one
operation are an error, as they are there, and what would make the CPU wait for the GPU is counted.
"""

import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
MEMORY = 80 << 30
WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
    *("equal", "_linalg_check_errors", "histc"),
}
"""Operations whose result, or its size, the CPU must know."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that take indices from the CPU, too, and wait for masks, which they count."""


class OnGPU(Tensor):
    """A tensor that says it is on the GPU; `held` is on the CPU, and so is this for autograd, which wants a driver."""

    held: Tensor
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGPU":
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, layout=held.layout
        )
        made.held = held
        return made

    @property
    def data(self) -> "OnGPU":  # type: ignore[override]
        return self.detach()  # type: ignore[return-value]

    @data.setter
    def data(self, value: "OnGPU") -> None:
        assert isinstance(value, OnGPU), "a tensor of the CPU in a parameter of the GPU"
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in INNER:
                return tree_map(_wrapped, func(*tree_map(_held, args), **tree_map(_held, kwargs)))
            if func in MOVES:
                return MOVES[func](*args, **kwargs)
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} of a tensor of a GPU that has gone")


class _Down(torch.autograd.Function):
    """From the GPU."""

    @staticmethod
    def forward(ctx: Any, value: OnGPU) -> Tensor:  # type: ignore[override]
        gpu().wait("to the CPU")
        return value.held.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return OnGPU(grad)


class _Up(torch.autograd.Function):
    """To the GPU."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # type: ignore[override]
        gpu().wait("to the GPU")
        return OnGPU(value.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: OnGPU) -> Tensor:  # type: ignore[override]
        return grad.held


def _to(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, where the tensor or the one it is to be like is on the GPU."""
    other = args[0] if args and isinstance(args[0], Tensor) else kwargs.pop("other", None)
    if other is not None:
        device, dtype = other.device, other.dtype
    else:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
    if device is not None and device.type == "cpu" and isinstance(value, OnGPU):
        value = _Down.apply(value)
    if device is not None and device.type == "cuda" and not isinstance(value, OnGPU):
        value = _Up.apply(value)
    return value if dtype is None else value.to(dtype=dtype)


def _like_new(value: Tensor, data: Any, dtype: torch.dtype | None = None) -> Tensor:
    return _Up.apply(torch.tensor(data, dtype=dtype or value.dtype))


MOVES: dict[Any, Any] = {
    Tensor.to: _to,
    Tensor.cpu: lambda value, *_: _Down.apply(value),
    Tensor.cuda: lambda value, *_: value,
    Tensor.tolist: lambda value: _Down.apply(value).tolist(),
    Tensor.numpy: lambda value, **_: _refuse(),
    Tensor.new_tensor: _like_new,
    Tensor.__reduce_ex__: lambda value, protocol: value.held.__reduce_ex__(protocol),
    Tensor.__deepcopy__: lambda value, memo: _copied(value),
    Tensor.__repr__: lambda value, **_: f"OnGPU({value.held!r})",
}


def _copied(value: Tensor) -> Tensor:
    copied = OnGPU(value.held.clone()).requires_grad_(value.requires_grad)
    return torch.nn.Parameter(copied, value.requires_grad) if isinstance(value, torch.nn.Parameter) else copied


INNER = {torch.quantile, Tensor.quantile, torch.nn.functional.one_hot}
"""Functions that make tensors of their own where autograd thinks theirs are; none of them is learned through."""


def _refuse() -> None:
    raise TypeError("can't convert a tensor of the GPU to numpy")


class GPU(TorchDispatchMode):
    """What runs on it."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # nobody looks for a driver under this one

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        """How often the CPU waited, by the function of ours in which it did and what it waited for."""

    def wait(self, name: str) -> None:
        """Count it."""
        frames = traceback.extract_stack()
        ours = [frame for frame in frames if "/pvd_nerfstudio/" in frame.filename]
        place = f"{Path(ours[-1].filename).stem}.{ours[-1].name}" if ours else "elsewhere"
        self.waits[f"{place}: {name}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        ours = [value for value in tensors if isinstance(value, OnGPU)]
        name = func._schema.name.split("::")[1]
        goes_up = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda"
        if not ours and not goes_up:
            return func(*args, **kwargs)
        strange = [value for value in tensors if not isinstance(value, OnGPU) and (value.dim() > 0 or name == "copy_")]
        if name == "copy_" and strange:
            self.wait("copy_")
            args[0].copy_(args[1].held) if ours[0] is args[1] else args[0].held.copy_(args[1])
            return args[0]
        if ours and strange and name not in INDEXED:
            raise RuntimeError(f"{func}: a tensor of the CPU, {tuple(strange[0].shape)}, among those of the GPU")
        self._count(name, tensors, ours, goes_up, kwargs)
        if goes_up:
            kwargs = kwargs | {"device": torch.device("cpu")}
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        wrapped = tree_map(_wrapped, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if ours else wrapped

    def _count(self, name: str, tensors: list, ours: list, goes_up: bool, kwargs: dict[str, Any]) -> None:
        is_one = name in INDEXED - {"index"} and tensors[-1].numel() == 1  # what a mask is filled with
        is_mask = name in INDEXED and not is_one and any(value.dtype == torch.bool for value in tensors[1:])
        is_from_cpu = name in INDEXED and len(ours) < len(tensors)
        is_moved = name == "_to_copy" and goes_up and not ours
        is_repeated = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in WAITS or is_mask or is_moved or is_from_cpu or is_repeated:
            self.wait("to the GPU" if is_moved else name)


class _Made(TorchFunctionMode):
    """`torch.tensor`, which looks for a driver by itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == "cuda":
            return _Up.apply(func(*args, **(kwargs | {"device": "cpu"})))
        return func(*args, **kwargs)


def gpu() -> GPU:
    """The one that is there."""
    mode = torch.utils._python_dispatch._get_current_dispatch_mode()
    assert isinstance(mode, GPU)
    return mode


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGPU) else value


def _wrapped(value: Any) -> Any:
    return OnGPU(value) if isinstance(value, Tensor) else value


class GPUGenerator(Generator):
    """Random numbers, those of the CPU."""

    def __new__(cls, device: Any = "cpu") -> "GPUGenerator":
        made = super().__new__(cls)
        made.where = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA if self.where.type == "cuda" else self.where


@contextmanager
def a_gpu() -> Iterator[GPU]:
    """All that runs in it has a GPU, none of nerfacc's and gsplat's kernels, and no tiny-cuda-nn."""
    with pytest.MonkeyPatch.context() as patch, GPU() as mode, _Made():
        for name, module in list(sys.modules.items()):
            if name.startswith("pvd_nerfstudio") and hasattr(module, "Generator"):
                patch.setattr(module, "Generator", GPUGenerator)
        patch.setattr(torch.cuda, "synchronize", lambda device=None: None)
        patch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=MEMORY))
        # A parameter that is moved is another one: no tensor of the CPU becomes one of these.
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        torch._C._ensureCUDADeviceGuardSet()  # who knows how to switch devices: nobody, without complaint
        yield mode
