"""Torch tensors written as a call that makes a tensor from an indexed array. Torch itself is never imported.

A pickled tensor carries its whole storage, as a zip archive inside the pickle: a slice of 5 elements of a
40 MB tensor writes 40 MB. Here a tensor that covers its storage writes it as one array, later tensors on
the same storage are views of that array, and a slice of a storage that was not written takes only its own
elements along. In the pickle stands

====================  =====================================================================
tensor                ``torch.from_numpy(array)``
a type numpy lacks    ``getattr(torch.Tensor, "view")(torch.from_numpy(ints), torch.bfloat16)``
Parameter             ``torch._utils._rebuild_parameter(tensor, requires_grad, hooks)``
with attributes       ``torch._tensor._rebuild_from_type_v2(torch.from_numpy, type, (array,), state)``
====================  =====================================================================

of which the last two are torch's own since 1.0 and 1.11: an ordinary ``pickle.load`` gives tensors that
share memory as they did. The safe decoder knows these calls, and makes arrays of them.
"""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from ckptstore.errors import InvalidRequest

_NUMPY_HAS = frozenset(
    f"{kind}{bits}"
    for kind, sizes in {
        "uint": (8, 16, 32, 64),
        "int": (8, 16, 32, 64),
        "float": (16, 32, 64),
        "complex": (64, 128),
    }.items()
    for bits in sizes
) | {"bool"}
INTEGERS = {1: "int8", 2: "int16", 4: "int32", 8: "int64"}
"""The integer type that carries the bits of a type of that many bytes which numpy doesn't have."""


class Call:
    """A call of `function` with `args`, to be written as an argument of another."""

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        self.reduced = (function, args)


class Method:
    """The method `name` of the class `owner`, written as ``getattr(owner, name)``."""

    def __init__(self, owner: type, name: str) -> None:
        self.reduced = (getattr, (owner, name))

    def __call__(self) -> None:
        """Only so that a pickler takes it for a function."""


def tensor_types() -> tuple[type, ...]:
    """The tensor types that are written as arrays; none unless torch has been imported."""
    torch: Any = sys.modules.get("torch")
    nn: Any = sys.modules.get("torch.nn")
    named = (getattr(torch, "Tensor", None), getattr(nn, "Parameter", None))
    return tuple(kind for kind in named if isinstance(kind, type))


def is_tensor_subclass(kind: type) -> bool:
    """Whether `kind` is a subclass of Tensor that carries more than its elements.

    Its memory is never borrowed: what it shows may be a shard, or nothing at all.
    """
    base: Any = getattr(sys.modules.get("torch"), "Tensor", None)
    return isinstance(base, type) and issubclass(kind, base) and kind not in tensor_types()


def refuse_lossy(tensor: Any) -> Any:
    """InvalidRequest for a subclass that would come back as less than it is; else NotImplemented.

    That is a DTensor, one process's part of an array, and a subclass of Parameter that has no pickling of
    its own: torch would write the elements of an FSDP shard, and read them as a Parameter.
    """
    kind, parameter = type(tensor), sys.modules["torch.nn"].Parameter
    if any(base.__name__ == "DTensor" for base in kind.__mro__):
        raise InvalidRequest(
            f"a shard of a {tuple(tensor.shape)} tensor on a mesh of {tensor.device_mesh.size()} processes",
            "one process alone can't save what it holds a part of",
            "Pass tensor.full_tensor(), or get_model_state_dict(..., full_state_dict=True)",
        )
    if issubclass(kind, parameter) and kind.__reduce_ex__ is parameter.__reduce_ex__:
        raise InvalidRequest(
            f"a {kind.__module__}.{kind.__qualname__}",
            "torch would read it as a plain Parameter",
            "Pass the module's state_dict() instead",
        )
    return NotImplemented


class Storages:
    """What one dump has written of torch's storages."""

    def __init__(self) -> None:
        # By device and address, which stay unique: the pickler's memo keeps every tensor to its end.
        self._written: dict[tuple[str, int], pickle.PickleBuffer] = {}
        self.dtypes: set[Any] = set()
        """Types of torch's that are named because a tensor is of them."""

    def reduce(self, tensor: Any, buffer_of: Callable[[np.ndarray[Any, Any]], pickle.PickleBuffer]) -> Any:
        """A reduce tuple for `tensor`, or NotImplemented for what torch has to pickle itself.

        That is every layout but plain strides, and what torch refuses. `buffer_of` makes a buffer of flat
        bytes.
        """
        if (
            str(tensor.layout) != "torch.strided"
            or tensor.is_quantized
            or tensor.device.type == "meta"
            or any(name is not None for name in getattr(tensor, "names", ()))
        ):
            return NotImplemented
        torch: Any = sys.modules["torch"]
        plain = tensor.detach().resolve_conj().resolve_neg()
        name = str(plain.dtype).removeprefix("torch.")
        if name not in _NUMPY_HAS and plain.element_size() not in INTEGERS:
            return NotImplemented
        made: tuple[Any, tuple[Any, ...]] = (torch.from_numpy, (self._array(plain, buffer_of),))
        if name not in _NUMPY_HAS:
            self.dtypes.add(plain.dtype)
            made = (Method(torch.Tensor, "view"), (Call(*made), plain.dtype))
        return _with_kind(tensor, made)

    def _array(self, plain: Any, buffer_of: Callable[[np.ndarray[Any, Any]], pickle.PickleBuffer]) -> Call:
        """The call that makes an array of the tensor's elements, over its storage where that is written."""
        name = str(plain.dtype).removeprefix("torch.")
        dtype = np.dtype(name if name in _NUMPY_HAS else INTEGERS[plain.element_size()])
        storage = plain.untyped_storage()
        key = (str(plain.device), storage.data_ptr())
        shape = tuple(plain.shape)
        if plain.numel() == 0:
            return Call(np.ndarray, (shape, dtype, buffer_of(np.empty(0, np.uint8)), 0, None, "C"))
        if key not in self._written:
            if plain.numel() * dtype.itemsize != storage.nbytes():
                flat = _bytes_of(plain.cpu().contiguous().reshape(-1))
                return Call(np.ndarray, (shape, dtype, buffer_of(flat), 0, None, "C"))
            whole = plain.as_strided((plain.numel(),), (1,), 0)
            self._written[key] = buffer_of(_bytes_of(whole.cpu()))
        buffer = self._written[key]
        offset = plain.storage_offset() * dtype.itemsize
        if plain.is_contiguous():
            return Call(np.ndarray, (shape, dtype, buffer, offset, None, "C"))
        strides = tuple(step * dtype.itemsize for step in plain.stride())
        return Call(np.ndarray, (shape, dtype, buffer, offset, strides, "C"))


def _with_kind(tensor: Any, made: tuple[Any, tuple[Any, ...]]) -> Any:
    """The call `made`, which gives the elements, made into the kind of tensor it is, with its attributes."""
    torch: Any = sys.modules["torch"]
    state = dict(tensor.__dict__)
    if type(tensor) is not torch.Tensor:
        given: tuple[Any, ...] = (Call(*made), tensor.requires_grad, OrderedDict())
        if state:
            return torch._utils._rebuild_parameter_with_state, (*given, state)
        return torch._utils._rebuild_parameter, given
    if tensor.requires_grad:
        state["requires_grad"] = True
    function, args = made
    return (torch._tensor._rebuild_from_type_v2, (function, torch.Tensor, args, state)) if state else made


def _bytes_of(flat: Any) -> np.ndarray[Any, Any]:
    torch: Any = sys.modules["torch"]
    array: np.ndarray[Any, Any] = flat.view(torch.uint8).numpy()
    return array
