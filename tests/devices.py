"""A GPU that is not there: tensors said to be on it lie on the CPU, and what a real one refuses is refused.

A label travels with every tensor. Operations that meet both labels raise as CUDA does, but for scalars, and for an
index on the CPU into what lies on the GPU, which it takes. Only where tensors are is looked at, not what is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
INDEXING = {"__getitem__", "__setitem__", "index_put", "index_put_"}
MOVING = {"to", "cuda", "cpu"}
ANYWHERE = {"copy_", "_has_compatible_shallow_copy_type"}  # take tensors of both
HOST = {"numpy", "__array__"}  # what reads a tensor's memory from Python
FRESH = frozenset(
    "arange zeros ones full empty rand randn randint randperm eye linspace".split()
)  # on the CPU unless told
FINE = frozenset("exp expm1 log log1p log2 log10 log_softmax softmax softplus sum norm pow prod cumsum rsqrt".split())


class PretendGPU(TorchFunctionMode):
    """While it lasts, `device="cuda"` works."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        owner = getattr(getattr(function, "__self__", None), "__name__", "")
        if name == "__get__" and owner in ("device", "is_cuda", "data", "grad"):
            return self._property(owner, function, args, kwargs)
        if name == "__set__":
            out = function(*args, **kwargs)
            if isinstance(args[1], Tensor):
                self.labels[args[0]] = self.label(args[1])
            return out
        if name in MOVING and args and isinstance(args[0], Tensor):
            return self._moved(function, name, args, kwargs)
        where = self._meeting(name, args, kwargs)
        if "device" in kwargs and kwargs["device"] is not None:
            where = _device(kwargs["device"])
            kwargs["device"] = CPU if where == GPU else kwargs["device"]
        elif name in FRESH:
            where = CPU
        if name in HOST and where == GPU:
            raise TypeError("can't convert cuda tensor to numpy")
        out = function(*args, **kwargs)
        for tensor in _tensors(out):
            self.labels[tensor] = where or CPU
        return out

    def label(self, tensor: Tensor) -> torch.device:
        """Where a tensor is said to be."""
        where: torch.device = self.labels.get(tensor, CPU)
        return where

    def _property(self, owner: str, function: Any, args: Any, kwargs: Any) -> Any:
        where = self.label(args[0])
        if owner == "device":
            return where if function(*args, **kwargs).type != "meta" else function(*args, **kwargs)
        if owner == "is_cuda":
            return where == GPU
        out = function(*args, **kwargs)
        for tensor in _tensors(out):
            self.labels[tensor] = where
        return out

    def _moved(self, function: Any, name: str, args: Any, kwargs: Any) -> Tensor:
        where, said = self.label(args[0]), [*args[1:], *kwargs.values()]
        if name != "to":
            where, said = (GPU if name == "cuda" else CPU), []
        for one in said:
            if isinstance(one, (str, torch.device)):
                where = _device(one)
            elif isinstance(one, Tensor):
                where, said = self.label(one), [one.dtype]
        dtypes = [one for one in said if isinstance(one, torch.dtype)]
        out: Tensor = args[0].clone() if where != self.label(args[0]) else args[0]
        out = Tensor.to(out, dtypes[0]) if dtypes else out
        self.labels[out] = where
        return out

    def _meeting(self, name: str, args: Any, kwargs: Any) -> torch.device | None:
        given = list(_tensors((args, kwargs)))
        if name in INDEXING and given:
            first = self.label(given[0])
            if first == CPU and any(self.label(x) == GPU for x in given[1:] if x.dim()):
                raise RuntimeError(f"{name}: indices should be on the same device as the indexed tensor (cpu)")
            return first
        if name in ANYWHERE:
            return self.label(given[0])
        labels = {self.label(x) for x in given if x.dim()}
        if len(labels) > 1:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")
        if labels:
            return labels.pop()
        scalars = {self.label(x) for x in given}
        return GPU if GPU in scalars else CPU if scalars else None


class AutocastAsOnAGPU(TorchFunctionMode):
    """What autocast does on CUDA and not on a CPU: `FINE` operations are in float32 whatever they are given."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__ in FINE and torch.is_autocast_enabled("cpu"):
            args = tuple(x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x for x in args)
        return function(*args, **(kwargs or {}))


def _device(said: Any) -> torch.device:
    return GPU if torch.device(said).type == "cuda" else torch.device(said)


def _tensors(said: Any) -> Iterator[Tensor]:
    if isinstance(said, Tensor):
        yield said
    elif isinstance(said, dict):
        for value in said.values():
            yield from _tensors(value)
    elif isinstance(said, (list, tuple)):
        for value in said:
            yield from _tensors(value)
