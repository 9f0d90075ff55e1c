"""The calls that torch tensors are written as (`codec.tensors`), made as arrays, or as tensors if asked for.

Nothing is looked up in torch by a name from the file: each call that is known has its maker here, and its
arguments are checked. What is called otherwise stays a record.
"""

from __future__ import annotations

import bisect
import functools
import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.dtypes import NotPlainError
from ckptstore.errors import InvalidRequest

VIEW = "builtins.getattr()"
"""What the machine calls the result of ``getattr(torch.Tensor, "view")``."""
VIEW_METHOD = "torch.Tensor.view"
"""What a scan calls it."""
_REBUILD = "torch._tensor._rebuild_from_type_v2"


class Tensors(Protocol):
    """Makes what the file calls a tensor."""

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Any:
        """A tensor with the memory of `array`."""

    def view(self, tensor: Any, dtype: str) -> Any:
        """`tensor`, made of integers, as one of torch's type `dtype` with the same bits."""

    def parameter(self, tensor: Any, requires_grad: bool) -> Any:
        """A Parameter of `tensor`'s elements."""

    def with_gradient(self, tensor: Any) -> Any:
        """`tensor`, for which a gradient is wanted."""

    def is_tensor(self, value: Any) -> bool:
        """Whether it is one of those made here."""


class AsArrays:
    """Tensors as numpy arrays; ml_dtypes has the types that numpy lacks, where it is installed."""

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Any:
        """See `Tensors`."""
        return array

    def view(self, tensor: Any, dtype: str) -> Any:
        """See `Tensors`. A record with the integers where nothing here has such a type."""
        try:
            kind: Any = getattr(importlib.import_module("ml_dtypes"), dtype, None)
        except ImportError:
            kind = None
        if isinstance(kind, type) and np.dtype(kind).itemsize == tensor.dtype.itemsize:
            return tensor.view(kind)
        return Opaque(f"torch.{dtype}", (tensor,))

    def parameter(self, tensor: Any, requires_grad: bool) -> Any:
        """See `Tensors`."""
        return tensor

    def with_gradient(self, tensor: Any) -> Any:
        """See `Tensors`."""
        return tensor

    def is_tensor(self, value: Any) -> bool:
        """See `Tensors`."""
        return type(value) is np.ndarray or (isinstance(value, Opaque) and value.name.startswith("torch."))


class AsTorch:
    """Tensors as torch's own, in the memory of the arrays or moved to a device; for one pickle.

    ImportError where torch is not installed.
    """

    def __init__(self, device: Any = None) -> None:
        import torch

        self._torch: Any = torch
        self._device = device
        self._starts: list[int] = []
        self._moved: list[tuple[np.ndarray[Any, Any], int, Any]] = []

    def from_numpy(self, array: np.ndarray[Any, Any]) -> Any:
        """See `Tensors`. Arrays that share memory here share it on the device."""
        if self._device is None:
            return self._torch.from_numpy(array)
        itemsize = array.dtype.itemsize
        low = array.ctypes.data
        reach = [(length - 1) * step for length, step in zip(array.shape, array.strides, strict=True)]
        if not array.size or any(step % itemsize or step < 0 for step in array.strides):
            return self._torch.from_numpy(array).to(self._device)
        storage, offset = self._storage(array, low, low + sum(reach) + itemsize)
        if offset % itemsize:
            return self._torch.from_numpy(array).to(self._device)
        kind = self._torch.from_numpy(np.empty(0, array.dtype)).dtype
        steps = tuple(step // itemsize for step in array.strides)
        empty = self._torch.empty(0, dtype=kind, device=self._device)
        return empty.set_(storage, offset // itemsize, array.shape, steps)

    def _storage(self, array: np.ndarray[Any, Any], low: int, high: int) -> tuple[Any, int]:
        """What holds the memory from `low` to `high` on the device, and the offset of `low` in it.

        A storage that was written whole comes before the views of it (`codec.tensors`).
        """
        at = bisect.bisect_right(self._starts, low) - 1
        if at >= 0 and high <= self._moved[at][1]:
            return self._moved[at][2], low - self._starts[at]
        itemsize = array.dtype.itemsize
        flat = np.lib.stride_tricks.as_strided(array, ((high - low) // itemsize,), (itemsize,))
        storage = self._torch.from_numpy(flat).to(self._device, copy=True).untyped_storage()
        self._starts.insert(at + 1, low)
        self._moved.insert(at + 1, (array, high, storage))
        return storage, 0

    def view(self, tensor: Any, dtype: str) -> Any:
        """See `Tensors`."""
        kind = getattr(self._torch, dtype, None)
        if not isinstance(kind, self._torch.dtype):
            raise NotPlainError
        return tensor.view(kind)

    def parameter(self, tensor: Any, requires_grad: bool) -> Any:
        """See `Tensors`."""
        return self._torch.nn.Parameter(tensor, requires_grad and _has_gradients(tensor))

    def with_gradient(self, tensor: Any) -> Any:
        """See `Tensors`."""
        return tensor.requires_grad_() if _has_gradients(tensor) else tensor

    def is_tensor(self, value: Any) -> bool:
        """See `Tensors`."""
        return isinstance(value, self._torch.Tensor)


def _has_gradients(tensor: Any) -> bool:
    return bool(tensor.is_floating_point() or tensor.is_complex())


def make_tensors(kind: str, map_location: Any = None) -> Callable[[], Tensors] | None:
    """What makes tensors of `kind`, "torch" or "numpy", one for each pickle; None for arrays.

    `map_location` is the device that torch's go to. InvalidRequest for a kind or device that isn't there.
    """
    if kind == "numpy":
        if map_location is not None:
            raise InvalidRequest("map_location", "arrays have no device", "Pass tensors='torch' with it")
        return None
    if kind != "torch":
        raise InvalidRequest("tensors", f"{kind!r} is not known", "Pass 'numpy' or 'torch'")
    try:
        import torch
    except ImportError as error:
        raise InvalidRequest("tensors='torch'", "torch is not installed", "pip install torch") from error
    if map_location is None:
        return AsTorch
    try:
        device = torch.empty(0, device=map_location).device
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        raise InvalidRequest("map_location", why, "Pass a device that is here, such as 'cpu'") from error
    return functools.partial(AsTorch, device)


def _from_numpy(tensors: Tensors, args: tuple[Any, ...]) -> Any:
    if len(args) != 1 or type(args[0]) is not np.ndarray or args[0].dtype.kind not in "biufc":
        raise NotPlainError
    return tensors.from_numpy(args[0])


def _view(tensors: Tensors, args: tuple[Any, ...]) -> Any:
    if len(args) != 3:
        raise NotPlainError
    method, tensor, dtype = args
    if not (
        isinstance(method, Opaque)
        and method.args is not None
        and len(method.args) == 2
        and _is_reference(method.args[0], "torch.Tensor")
        and method.args[1] == "view"
        and isinstance(dtype, Opaque)
        and dtype.is_reference
        and dtype.name.startswith("torch.")
        and tensors.is_tensor(tensor)
        and not isinstance(tensor, Opaque)
    ):
        raise NotPlainError
    return tensors.view(tensor, dtype.name.removeprefix("torch."))


def _parameter(tensors: Tensors, args: tuple[Any, ...]) -> Any:
    if len(args) < 3 or not tensors.is_tensor(args[0]) or type(args[1]) is not bool:
        raise NotPlainError
    return tensors.parameter(args[0], args[1])


def _rebuild(tensors: Tensors, args: tuple[Any, ...]) -> Any:
    """``_rebuild_from_type_v2(function, type, args, state)``; of the state only requires_grad counts."""
    if len(args) != 4 or type(args[2]) is not tuple or not _is_reference(args[1], "torch.Tensor"):
        raise NotPlainError
    function = args[0]
    if _is_reference(function, "torch.from_numpy"):
        made = _from_numpy(tensors, args[2])
    else:
        made = _view(tensors, (function, *args[2]))
    wanted = type(args[3]) is dict and args[3].get("requires_grad") is True
    return tensors.with_gradient(made) if wanted else made


def _is_reference(value: Any, name: str) -> bool:
    return isinstance(value, Opaque) and value.is_reference and value.name == name


def name_for_scan(name: str, args: tuple[Any, ...]) -> str:
    """The name that a scan shows for the call of `name`: what matters of these is what they are called with.

    ``getattr`` that takes ``torch.Tensor.view`` is a method of tensors and nothing else. Torch's
    ``_rebuild_from_type_v2`` calls its first argument, which for our files is one of two.
    """
    if name == "builtins.getattr" and _gets_view(args):
        return VIEW_METHOD
    if name == VIEW and args and _is_view(args[0]):
        return f"{VIEW_METHOD}()"
    if name == _REBUILD and not _rebuilds(args):
        return f"{_REBUILD}()"
    return name


def _gets_view(args: tuple[Any, ...] | None) -> bool:
    return (
        args is not None and len(args) == 2 and _is_reference(args[0], "torch.Tensor") and args[1] == "view"
    )


def _is_view(value: Any) -> bool:
    return isinstance(value, Opaque) and value.name == "builtins.getattr" and _gets_view(value.args)


def _rebuilds(args: tuple[Any, ...]) -> bool:
    if len(args) != 4 or not _is_reference(args[1], "torch.Tensor"):
        return False
    return _is_reference(args[0], "torch.from_numpy") or _is_view(args[0])


TORCH_MAKERS: dict[str, Callable[[Tensors, tuple[Any, ...]], Any]] = {
    "torch.from_numpy": _from_numpy,
    VIEW: _view,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    _REBUILD: _rebuild,
}
