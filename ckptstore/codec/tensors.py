"""Torch tensors as arrays, each storage written once. Torch itself is never imported.

A pickled tensor carries its whole storage: a slice of 5 elements of a 40 MB tensor writes 40 MB. Here a
tensor that covers its storage writes it, later tensors on the same storage refer to that buffer by offset
and strides, and a slice of a storage that was not written takes only its own elements along.
"""

from __future__ import annotations

import pickle
import sys
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


def tensor_types() -> tuple[type, ...]:
    """The tensor types that are written as arrays; none unless torch has been imported.

    Other subclasses of Tensor carry more than their elements and keep their own pickling.
    """
    torch: Any = sys.modules.get("torch")
    nn: Any = sys.modules.get("torch.nn")
    named = (getattr(torch, "Tensor", None), getattr(nn, "Parameter", None), getattr(nn, "Buffer", None))
    return tuple(kind for kind in named if isinstance(kind, type))


class Storages:
    """What one dump has written of torch's storages."""

    def __init__(self) -> None:
        # By device and address, which stay unique: the pickler's memo keeps every tensor to its end.
        self._written: dict[tuple[str, int], pickle.PickleBuffer] = {}

    def reduce(self, tensor: Any, buffer_of: Callable[[np.ndarray[Any, Any]], pickle.PickleBuffer]) -> Any:
        """A reduce tuple for `tensor`, or NotImplemented for a layout other than plain strides.

        `buffer_of` makes a buffer of flat bytes.
        """
        if str(tensor.layout) != "torch.strided" or tensor.is_quantized or tensor.device.type == "meta":
            return NotImplemented
        plain = tensor.detach().resolve_conj().resolve_neg()
        dtype = _numpy_dtype(plain.dtype)
        storage = plain.untyped_storage()
        key = (str(plain.device), storage.data_ptr())
        shape = tuple(plain.shape)
        if plain.numel() == 0:
            return np.ndarray, (shape, dtype, buffer_of(np.empty(0, np.uint8)), 0, None, "C")
        if key not in self._written:
            if plain.numel() * dtype.itemsize != storage.nbytes():
                flat = _bytes_of(plain.cpu().contiguous().reshape(-1))
                return np.ndarray, (shape, dtype, buffer_of(flat), 0, None, "C")
            whole = plain.as_strided((plain.numel(),), (1,), 0)
            self._written[key] = buffer_of(_bytes_of(whole.cpu()))
        buffer = self._written[key]
        offset = plain.storage_offset() * dtype.itemsize
        if plain.is_contiguous():
            return np.ndarray, (shape, dtype, buffer, offset, None, "C")
        strides = tuple(step * dtype.itemsize for step in plain.stride())
        return np.ndarray, (shape, dtype, buffer, offset, strides, "C")


def _bytes_of(flat: Any) -> np.ndarray[Any, Any]:
    torch: Any = sys.modules["torch"]
    array: np.ndarray[Any, Any] = flat.view(torch.uint8).numpy()
    return array


def _numpy_dtype(torch_dtype: Any) -> np.dtype[Any]:
    name = str(torch_dtype).removeprefix("torch.")
    if name in _NUMPY_HAS:
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise InvalidRequest(
            f"a torch tensor of type {name}", "numpy has no such type", "pip install ml_dtypes, or convert it"
        ) from error
    if not hasattr(ml_dtypes, name):
        raise InvalidRequest(f"a torch tensor of type {name}", "neither numpy nor ml_dtypes has such a type")
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype
