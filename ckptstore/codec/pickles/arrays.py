"""Rebuild numpy arrays and scalars from what an untrusted pickle says about them.

numpy's own ``__setstate__`` trusts its arguments: a false length is a read outside of memory, a
second state frees what others look at. Here every number is checked against the bytes that are really
there before numpy sees any of it, and objects are never made from bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import Meter
from ckptstore.codec.pickles.dtypes import SCALAR_TYPES, Dtypes, NotPlainError, shape_of, text_of
from ckptstore.errors import UnsafeContent

Array = np.ndarray[Any, Any]

_FARTHEST = 2**62  # a stride or a number of items beyond this would overflow in numpy


class Arrays:
    """Makes the arrays of one pickle. Remembers which are still waiting for their state."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.charge = meter.charge
        self._waiting: dict[int, Array] = {}
        self.dtypes = Dtypes()

    def _shape(self, value: Any, dtype: np.dtype[Any]) -> tuple[int, ...]:
        shape = shape_of(value)
        if math.prod(shape) * dtype.itemsize == 0:
            # No bytes bound the lengths here, and a walk over 10**18 empty rows would never end.
            self._meter.charge(8 * math.prod(length or 1 for length in shape))
        return shape

    # ---- Arrays

    def make_empty(self) -> Array:
        """An empty array that gets its content from a state that follows."""
        array: Array = np.ndarray((0,), "b")
        self._waiting[id(array)] = array
        return array

    def reconstruct(self, args: tuple[Any, ...]) -> Array:
        """``_reconstruct(numpy.ndarray, (0,), b'b')``."""
        if len(args) != 3 or not _is_reference(args[0], "numpy.ndarray"):
            raise NotPlainError
        return self.make_empty()

    def fill(self, array: Array, state: Any) -> None:
        """Give a waiting array its content: `state` is (version, shape, dtype, fortran, bytes or list)."""
        # Only once: filling frees the old memory, which views of it could still be looking at.
        if self._waiting.pop(id(array), None) is not array:
            raise UnsafeContent("pickle", "state for a numpy array that already has its content")
        if type(state) is not tuple or len(state) not in (4, 5):
            raise UnsafeContent("pickle", "malformed numpy array state")
        shape, dtype, fortran, content = state[-4:]
        if isinstance(dtype, Opaque):
            raise NotPlainError
        if not _whole(dtype) or type(fortran) not in (bool, int):
            raise UnsafeContent("pickle", "malformed numpy array state")
        shape = self._shape(shape, dtype)
        count = math.prod(shape)
        if dtype.kind == "T":
            self._fill_text(array, shape, dtype, fortran, content)
            return
        if dtype.hasobject:
            if dtype != np.dtype(object) or type(content) is not list or len(content) != count:
                raise UnsafeContent("pickle", "numpy array of objects without its objects")
            self._meter.charge(8 * count)
            self._set(array, (1, shape, dtype, bool(fortran), content))
            return
        if isinstance(content, str):  # protocols 0 to 2 of Python 2
            content = content.encode("latin-1")
        if not isinstance(content, (bytes, bytearray)) or len(content) != count * dtype.itemsize:
            raise UnsafeContent("pickle", "numpy array whose bytes don't fit its shape and dtype")
        self._meter.charge(len(content))
        # A copy: numpy would take the bytes object itself as writable memory, and others may hold it too.
        self._set(array, (1, shape, dtype, bool(fortran), bytes(memoryview(content))))

    def _fill_text(
        self, array: Array, shape: tuple[int, ...], dtype: Any, fortran: Any, content: Any
    ) -> None:
        """Strings of any length: a list of them, with what stands for a missing one."""
        missing = getattr(dtype, "na_object", "")
        if type(content) is not list or len(content) != math.prod(shape):
            raise UnsafeContent("pickle", "numpy array of text without its text")
        for item in content:
            if type(item) is not str and (
                item is not missing
                and not (type(item) is float and item != item and isinstance(missing, float))
            ):
                raise UnsafeContent("pickle", "numpy array of text that holds something else")
        self._meter.charge(sum(len(item) for item in content if type(item) is str) + 16 * len(content))
        self._set(array, (1, shape, dtype, bool(fortran), content))

    @staticmethod
    def _set(array: Any, checked: tuple[Any, ...]) -> None:
        array.__setstate__(checked)

    def ndarray(self, args: tuple[Any, ...]) -> Array:
        """``numpy.ndarray(shape, dtype, buffer, offset, strides, order)``: a view of the buffer."""
        if not 2 <= len(args) <= 6:
            raise NotPlainError
        dtype = self.dtypes.as_dtype(args[1])
        shape = self._shape(args[0], dtype)
        if len(args) == 2 or args[2] is None:
            # Without a buffer numpy hands out memory as it finds it.
            if math.prod(shape):
                raise UnsafeContent("pickle", "numpy array without content")
            return self.make_empty() if dtype == np.dtype("b") and shape == (0,) else np.ndarray(shape, dtype)
        given = args[3:]
        offset, strides, order = given + (0, None, None)[len(given) :]
        order = "C" if order is None else text_of(order)
        view = _bytes_like(args[2])
        plain = _whole(dtype) and not dtype.hasobject
        if not plain or type(offset) is not int or offset < 0 or order not in ("C", "F"):
            raise UnsafeContent("pickle", "numpy array with impossible arguments")
        if strides is None:
            if offset + math.prod(shape) * dtype.itemsize > view.nbytes:
                raise UnsafeContent("pickle", "numpy array is larger than its bytes")
        else:
            strides = self._strides(shape, dtype.itemsize, strides, offset, view.nbytes)
        if view.nbytes == 0:
            return _empty(shape, dtype, view.readonly, strides, order)
        array: Array = np.ndarray(shape, dtype, args[2], offset, strides, "F" if order == "F" else "C")
        return array

    def _strides(
        self, shape: tuple[int, ...], itemsize: int, strides: Any, offset: int, size: int
    ) -> tuple[int, ...]:
        if type(strides) is not tuple or len(strides) != len(shape):
            raise UnsafeContent("pickle", "malformed strides of a numpy array")
        if any(type(step) is not int or abs(step) > _FARTHEST for step in strides):
            raise UnsafeContent("pickle", "malformed strides of a numpy array")
        if math.prod(shape):
            reach = [step * (length - 1) for step, length in zip(strides, shape, strict=True)]
            first = offset + sum(r for r in reach if r < 0)
            last = offset + sum(r for r in reach if r > 0) + itemsize
            if first < 0 or last > size:
                raise UnsafeContent("pickle", "strides of a numpy array lead outside of its bytes")
            # Elements that share memory make a small file a large array once it is copied.
            if math.prod(shape) * itemsize > last - first:
                self._meter.charge(math.prod(shape) * itemsize)
        return strides

    def frombuffer(self, args: tuple[Any, ...]) -> Array:
        """``_frombuffer(buffer, dtype, shape, order[, axis_order])``, numpy's own protocol-5 form."""
        if len(args) not in (4, 5):
            raise NotPlainError
        buffer, dtype, shape, order = args[:4]
        axes = args[4] if len(args) == 5 else None
        dtype = self.dtypes.as_dtype(dtype)
        shape = self._shape(shape, dtype)
        if text_of(order) == "K" and axes is not None:
            if type(axes) is not tuple or sorted(map(int, axes)) != list(range(len(shape))):
                raise UnsafeContent("pickle", "malformed axes of a numpy array")
            turned: Array = self._exact(buffer, dtype, shape, "C").transpose(axes)
            return turned
        return self._exact(buffer, dtype, shape, order)

    def _exact(self, buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> Array:
        if _bytes_like(buffer).nbytes != math.prod(shape) * dtype.itemsize:
            raise UnsafeContent("pickle", "numpy array whose bytes don't fit its shape and dtype")
        return self.ndarray((shape, dtype, buffer, 0, None, order))

    # ---- Scalars

    def scalar(self, args: tuple[Any, ...]) -> Any:
        """``scalar(dtype, bytes)``."""
        if len(args) != 2 or not _whole(args[0]) or args[0].hasobject:
            raise NotPlainError
        dtype, content = args
        if isinstance(content, str):
            content = content.encode("latin-1")
        if not isinstance(content, (bytes, bytearray)) or len(content) != dtype.itemsize:
            raise UnsafeContent("pickle", "numpy scalar whose bytes don't fit its dtype")
        self._meter.charge(len(content))
        return np.ndarray((1,), dtype, bytearray(content) or None)[0]

    def take(self, args: tuple[Any, ...]) -> Any:
        """``numpy.take(array_of_one, 0)``: a scalar, as our writer spells it."""
        if (
            len(args) != 2
            or type(args[0]) is not np.ndarray
            or type(args[1]) is not int
            or args[1]
            or args[0].shape != (1,)
        ):
            raise NotPlainError
        return np.take(args[0], 0)

    def make_scalar(self, name: str, args: tuple[Any, ...]) -> Any:
        """``numpy.float32(1.5)`` and the like."""
        kind = SCALAR_TYPES.get(name)
        value = args[0] if len(args) == 1 else None
        if kind is None or value is None:
            raise NotPlainError
        if issubclass(kind, (np.str_, np.bytes_)):
            if type(value) is not (str if kind is np.str_ else bytes):
                raise NotPlainError
        elif issubclass(kind, np.bool_):
            if type(value) is not bool:
                raise NotPlainError
        elif issubclass(kind, np.integer) and not issubclass(kind, np.timedelta64):
            if type(value) is not int or not np.iinfo(kind).min <= value <= np.iinfo(kind).max:
                raise NotPlainError
        elif issubclass(kind, np.inexact):
            if type(value) not in (float, complex) or (type(value) is complex) != (
                issubclass(kind, np.complexfloating)
            ):
                raise NotPlainError
        else:
            raise NotPlainError
        with np.errstate(all="ignore"):
            return kind(value)


def is_scalar_type(name: str) -> bool:
    """Whether ``numpy.<name>(value)`` is a scalar that :meth:`Arrays.make_scalar` may know."""
    return name in SCALAR_TYPES


def _is_reference(value: Any, name: str) -> bool:
    return isinstance(value, Opaque) and value.is_reference and value.name == name


def _whole(dtype: Any) -> bool:
    """A dtype that an array can have: subarrays are for fields only."""
    return isinstance(dtype, np.dtype) and dtype.subdtype is None


def _bytes_like(value: Any) -> memoryview:
    if isinstance(value, Opaque):
        raise NotPlainError
    if type(value) not in (bytes, bytearray, memoryview):
        raise UnsafeContent("pickle", f"numpy array over a value of type {type(value).__name__}")
    return memoryview(value)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], readonly: bool, strides: Any, order: Any) -> Array:
    """An array of nothing; some numpy releases refuse to make one over an empty buffer."""
    array: Array = np.ndarray(shape, dtype, None, 0, strides, order)
    if array.nbytes:
        raise UnsafeContent("pickle", "numpy array is larger than its bytes")
    array.flags.writeable = not readonly
    return array
