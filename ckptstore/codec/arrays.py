"""Rebuilds numpy dtypes, arrays and scalars from what an untrusted pickle says about them.

numpy's own ``__setstate__`` trusts its arguments: a lying length, item size or field offset is a read
outside of memory. Here every number is checked against the bytes that are really there before numpy sees
any of it, and objects are never made from bytes.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from ckptstore.codec.budget import Meter
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import UnsafeContent

_CODE = re.compile(r"([<>|=]?)(?:([?biufcOSUVMmgGeEdDfFBhHlLqQpP])(\d{0,10}))\Z")
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8, 12, 16), "c": (8, 16, 24, 32)}
_SIZES |= {"M": (8,), "m": (8,), "O": (4, 8)}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNITS = _words("generic Y M W D h m s ms us μs ns ps fs as")
_ML_DTYPES = _words(
    """bfloat16 float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn float8_e4m3fnuz float8_e5m2
    float8_e5m2fnuz float8_e8m0fnu float6_e2m3fn float6_e3m2fn float4_e2m1fn int1 int2 int4 uint1 uint2
    uint4"""
)
_LARGEST = 2**31 - 1  # numpy keeps item sizes in an int
_MOST_FIELDS = 10_000
_DEEPEST_DTYPE = 32
_MOST_DIMENSIONS = 32  # what numpy 1 allows; numpy 2 doubled it
_SCALAR_TYPES: dict[str, type[np.generic]] = {
    name: kind
    for name in _words(
        """bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intc uintc longlong ulonglong
        float16 float32 float64 longdouble complex64 complex128 clongdouble float96 float128
        complex192 complex256 str_ bytes_ datetime64 timedelta64 void"""
    )
    # Not getattr: numpy 1 warns when asked for names that it does not have.
    if isinstance(kind := vars(np).get(name), type) and issubclass(kind, np.generic)
}
# What numpy 2 calls these; numpy 1 has the types under other names.
_SCALAR_TYPES |= {"bool": np.bool_, "long": np.dtype("l").type, "ulong": np.dtype("L").type}

Array = np.ndarray[Any, Any]


class NotPlainError(Exception):
    """What is described is no plain data that we can make; keep it as a record."""


class Arrays:
    """Makes the arrays of one pickle. Remembers which are still waiting for their state."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._waiting: dict[int, Array] = {}
        # Size of each dtype written out with its fields, by id; the dtype is kept so that the id stays its.
        self._extent: dict[int, tuple[np.dtype[Any], int, int]] = {}

    # -- dtypes ---------------------------------------------------------------------------------------

    def dtype(self, args: tuple[Any, ...]) -> np.dtype[Any]:
        """``numpy.dtype(code, align, copy)``: the type before its state is applied."""
        if not 1 <= len(args) <= 3 or any(type(flag) not in (bool, int) for flag in args[1:]):
            raise NotPlainError
        return self.as_dtype(args[0])

    def as_dtype(self, what: Any) -> np.dtype[Any]:
        """A dtype from a dtype, its code, or a reference to a scalar type."""
        if isinstance(what, np.dtype):
            return what
        if isinstance(what, bytes):
            what = what.decode("ascii")
        if isinstance(what, Opaque) and what.is_reference:
            return _named_dtype(what.name)
        if not isinstance(what, str):
            raise NotPlainError
        return _coded_dtype(what)

    def with_state(self, dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
        """``dtype`` with the byte order, fields, unit or shape that its pickled state adds."""
        if type(state) is not tuple or len(state) < 5 or type(state[0]) is not int:
            raise UnsafeContent("pickle", "malformed numpy dtype state")
        version, order, subdtype, names, fields = state[:5]
        if not 3 <= version <= 4 or _text(order) not in ("<", ">", "|", "="):
            raise UnsafeContent("pickle", f"unknown numpy dtype state, version {version}")
        order = _text(order)
        if subdtype is not None:
            return self._sub(subdtype)
        if names is not None or fields is not None:
            if dtype.kind != "V":
                raise UnsafeContent("pickle", f"fields in a dtype of kind {dtype.kind}")
            return self._structured(dtype, names, fields, state)
        if (
            dtype.kind in "SUV"
            and dtype.num < 256
            and len(state) > 5
            and state[5] not in (-1, dtype.itemsize)
        ):
            raise UnsafeContent("pickle", "numpy dtype whose item size contradicts its code")
        metadata = state[8] if version == 4 and len(state) > 8 else None
        if dtype.kind in "Mm" and metadata is not None:
            dtype = _with_unit(dtype, metadata)
        elif metadata:
            raise NotPlainError  # what else is attached to a dtype; kept as a record
        return dtype.newbyteorder(order) if order in ("<", ">") and dtype.num < 256 else dtype

    def _sub(self, subdtype: Any) -> np.dtype[Any]:
        if type(subdtype) is not tuple or len(subdtype) != 2 or not isinstance(subdtype[0], np.dtype):
            raise UnsafeContent("pickle", "malformed numpy subarray dtype")
        base, shape = subdtype
        shape = _shape((shape,) if type(shape) is int else shape)
        if base.hasobject:
            raise NotPlainError
        if math.prod(length or 1 for length in shape) * (base.itemsize or 1) > _LARGEST:
            raise UnsafeContent("pickle", "numpy subarray dtype is too large")
        fields, depth = self._extent_of(base)
        made = np.dtype((base, shape))
        return self._note(made, fields + 1, depth + 1)

    def _structured(
        self, dtype: np.dtype[Any], names: Any, fields: Any, state: tuple[Any, ...]
    ) -> np.dtype[Any]:
        size = state[5] if len(state) > 5 else -1
        if type(names) is not tuple or type(fields) is not dict or len(state) < 8:
            raise UnsafeContent("pickle", "malformed numpy structured dtype")
        if type(size) is not int or not 0 <= size <= _LARGEST or (size != dtype.itemsize and dtype.itemsize):
            raise UnsafeContent("pickle", "numpy structured dtype whose size contradicts its code")
        formats, offsets, titles = [], [], []
        total, deepest = 1, 0
        for name in names:
            field = fields.get(name) if type(name) is str else None
            if type(field) is not tuple or not 2 <= len(field) <= 3 or not isinstance(field[0], np.dtype):
                raise UnsafeContent("pickle", "malformed field in a numpy structured dtype")
            offset = field[1]
            if type(offset) is not int or offset < 0 or offset + field[0].itemsize > size:
                raise UnsafeContent("pickle", "field lies outside of its numpy structured dtype")
            if field[0].hasobject:
                raise NotPlainError  # bytes and references mixed: kept as a record
            count, depth = self._extent_of(field[0])
            total, deepest = total + count, max(deepest, depth)
            formats.append(field[0])
            offsets.append(offset)
            titles.append(field[2] if len(field) == 3 else None)
        if any(title is not None and type(title) is not str for title in titles):
            raise NotPlainError
        spec = {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}
        if any(titles):
            spec["titles"] = titles
        made = np.dtype(spec)  # type: ignore[call-overload]
        if type(state[7]) is int and state[7] & 0x80:  # NPY_ALIGNED_STRUCT
            aligned = np.dtype(spec, align=True)  # type: ignore[call-overload]
            made = aligned if aligned.itemsize == size else made
        if dtype.type is np.record:
            made = np.dtype((np.record, made))
        return self._note(made, total, deepest + 1)

    def _extent_of(self, dtype: np.dtype[Any]) -> tuple[int, int]:
        known = self._extent.get(id(dtype))
        if known is not None:
            return known[1], known[2]
        if dtype.names is not None or dtype.subdtype is not None:  # none of ours: its size is not known
            raise UnsafeContent("pickle", "numpy dtype of unknown extent")
        return 1, 0

    def _note(self, dtype: np.dtype[Any], fields: int, depth: int) -> np.dtype[Any]:
        if fields > _MOST_FIELDS or depth > _DEEPEST_DTYPE:
            raise UnsafeContent("pickle", "numpy dtype has too many fields or is nested too deeply")
        self._extent[id(dtype)] = (dtype, fields, depth)
        return dtype

    def _shape(self, value: Any, dtype: np.dtype[Any]) -> tuple[int, ...]:
        shape = _shape(value)
        if math.prod(shape) * dtype.itemsize == 0:
            # No bytes bound the lengths here, and a walk over 10**18 empty rows would never end.
            self._meter.charge(8 * math.prod(length or 1 for length in shape))
        return shape

    # -- arrays ---------------------------------------------------------------------------------------

    def waiting(self) -> Array:
        """An empty array that gets its content from a state that follows."""
        array: Array = np.ndarray((0,), "b")
        self._waiting[id(array)] = array
        return array

    def reconstruct(self, args: tuple[Any, ...]) -> Array:
        """``_reconstruct(numpy.ndarray, (0,), b'b')``."""
        if len(args) != 3 or not _is_reference(args[0], "numpy.ndarray"):
            raise NotPlainError
        return self.waiting()

    def fill(self, array: Array, state: Any) -> None:
        """Give a waiting array its content: ``state`` is (version, shape, dtype, fortran, bytes or list)."""
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

    @staticmethod
    def _set(array: Any, checked: tuple[Any, ...]) -> None:
        array.__setstate__(checked)

    def ndarray(self, args: tuple[Any, ...]) -> Array:
        """``numpy.ndarray(shape, dtype, buffer, offset, strides, order)``: a view of the buffer."""
        if not 2 <= len(args) <= 6:
            raise NotPlainError
        dtype = self.as_dtype(args[1])
        shape = self._shape(args[0], dtype)
        if len(args) == 2 or args[2] is None:
            # Without a buffer numpy hands out memory as it finds it.
            if math.prod(shape):
                raise UnsafeContent("pickle", "numpy array without content")
            return self.waiting() if dtype == np.dtype("b") and shape == (0,) else np.ndarray(shape, dtype)
        given = args[3:]
        offset, strides, order = given + (0, None, None)[len(given) :]
        view = _bytes_like(args[2])
        plain = _whole(dtype) and not dtype.hasobject
        if not plain or type(offset) is not int or offset < 0 or order not in ("C", "F", None):
            raise UnsafeContent("pickle", "numpy array with impossible arguments")
        if strides is None:
            if offset + math.prod(shape) * dtype.itemsize > view.nbytes:
                raise UnsafeContent("pickle", "numpy array is larger than its bytes")
        else:
            strides = self._strides(shape, dtype.itemsize, strides, offset, view.nbytes)
        if view.nbytes == 0:
            return _empty(shape, dtype, view.readonly, strides, order)
        array: Array = np.ndarray(shape, dtype, args[2], offset, strides, order or "C")
        return array

    def _strides(
        self, shape: tuple[int, ...], itemsize: int, strides: Any, offset: int, size: int
    ) -> tuple[int, ...]:
        if type(strides) is not tuple or len(strides) != len(shape):
            raise UnsafeContent("pickle", "malformed strides of a numpy array")
        if any(type(step) is not int or abs(step) > _LARGEST * _LARGEST for step in strides):
            raise UnsafeContent("pickle", "malformed strides of a numpy array")
        if math.prod(shape):
            reach = [step * (length - 1) for step, length in zip(strides, shape, strict=True)]
            first = offset + sum(r for r in reach if r < 0)
            last = offset + sum(r for r in reach if r > 0) + itemsize
            if first < 0 or last > size:
                raise UnsafeContent("pickle", "strides of a numpy array lead outside of its bytes")
            # Elements that share memory make a small file a large array for whoever copies it.
            if math.prod(shape) * itemsize > last - first:
                self._meter.charge(math.prod(shape) * itemsize)
        return strides

    def frombuffer(self, args: tuple[Any, ...]) -> Array:
        """``_frombuffer(buffer, dtype, shape, order[, axis_order])``, numpy's own protocol-5 form."""
        if len(args) not in (4, 5):
            raise NotPlainError
        buffer, dtype, shape, order = args[:4]
        axes = args[4] if len(args) == 5 else None
        dtype = self.as_dtype(dtype)
        shape = self._shape(shape, dtype)
        if order == "K" and axes is not None:
            if type(axes) is not tuple or sorted(map(int, axes)) != list(range(len(shape))):
                raise UnsafeContent("pickle", "malformed axes of a numpy array")
            turned: Array = self._exact(buffer, dtype, shape, "C").transpose(axes)
            return turned
        return self._exact(buffer, dtype, shape, order)

    def _exact(self, buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> Array:
        if _bytes_like(buffer).nbytes != math.prod(shape) * dtype.itemsize:
            raise UnsafeContent("pickle", "numpy array whose bytes don't fit its shape and dtype")
        return self.ndarray((shape, dtype, buffer, 0, None, order))

    # -- scalars --------------------------------------------------------------------------------------

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
        if len(args) != 2 or type(args[0]) is not np.ndarray or args[1] != 0 or args[0].shape != (1,):
            raise NotPlainError
        return np.take(args[0], 0)

    def typed_scalar(self, name: str, args: tuple[Any, ...]) -> Any:
        """``numpy.float32(1.5)`` and the like."""
        kind = _SCALAR_TYPES.get(name)
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
    """Whether ``numpy.<name>(value)`` is a scalar that :meth:`Arrays.typed_scalar` may know."""
    return name in _SCALAR_TYPES


def _is_reference(value: Any, name: str) -> bool:
    return isinstance(value, Opaque) and value.is_reference and value.name == name


def _whole(dtype: Any) -> bool:
    """A dtype that an array can have: subarrays are for fields only."""
    return isinstance(dtype, np.dtype) and dtype.subdtype is None


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _shape(value: Any) -> tuple[int, ...]:
    if type(value) not in (tuple, list) or len(value) > _MOST_DIMENSIONS:
        raise UnsafeContent("pickle", "malformed shape of a numpy array")
    shape = tuple(value)
    if any(type(length) is not int or length < 0 for length in shape):
        raise UnsafeContent("pickle", "malformed shape of a numpy array")
    # numpy multiplies the lengths that are not zero, even when another one is.
    if math.prod(length or 1 for length in shape) > _LARGEST * _LARGEST:
        raise UnsafeContent("pickle", "shape of a numpy array overflows")
    return shape


def _bytes_like(value: Any) -> memoryview:
    if isinstance(value, Opaque):
        raise NotPlainError
    if type(value) not in (bytes, bytearray, memoryview):
        raise UnsafeContent("pickle", f"numpy array over a {type(value).__name__}")
    return memoryview(value)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], readonly: bool, strides: Any, order: Any) -> Array:
    """An array of nothing; some numpy releases refuse to make one over an empty buffer."""
    array: Array = np.ndarray(shape, dtype, None, 0, strides, order or "C")
    if array.nbytes:
        raise UnsafeContent("pickle", "numpy array is larger than its bytes")
    array.flags.writeable = not readonly
    return array


def _coded_dtype(code: str) -> np.dtype[Any]:
    match = _CODE.match(code)
    if match is None:
        if code in _SCALAR_TYPES and code not in ("void", "str_", "bytes_"):
            return np.dtype(_SCALAR_TYPES[code])
        if code in ("float", "int", "complex", "bool", "object"):
            return np.dtype(code)
        raise NotPlainError
    _, kind, digits = match.groups()
    if digits:
        size = int(digits)
        if kind in "SUV":
            if size * (4 if kind == "U" else 1) > _LARGEST:
                raise UnsafeContent("pickle", "numpy dtype is too large")
        elif size not in _SIZES.get(kind, ()):
            raise UnsafeContent("pickle", f"no numpy dtype {code!r}")
    try:
        return np.dtype(object if kind == "O" else code)
    except TypeError:
        raise NotPlainError from None  # a size that this machine's long double doesn't have


def _named_dtype(name: str) -> np.dtype[Any]:
    module, _, short = name.rpartition(".")
    if module == "numpy":
        if short == "record":
            return np.dtype((np.record, []))
        if short in _SCALAR_TYPES:
            return np.dtype(_SCALAR_TYPES[short])
        raise NotPlainError
    if module in ("builtins", "__builtin__") and short in ("float", "int", "bool", "complex", "object"):
        return np.dtype(short)
    if module in ("ml_dtypes", "ml_dtypes._ml_dtypes_ext") and short in _ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError:
            raise NotPlainError from None
        if hasattr(ml_dtypes, short):
            dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, short))
            return dtype
    raise NotPlainError


def _with_unit(dtype: np.dtype[Any], metadata: Any) -> np.dtype[Any]:
    if type(metadata) is not tuple or len(metadata) != 2 or type(metadata[1]) is not tuple:
        raise UnsafeContent("pickle", "malformed unit of a numpy datetime dtype")
    unit, number, *rest = metadata[1]
    unit = _text(unit)
    if unit not in _UNITS or type(number) is not int or not 1 <= number <= _LARGEST or len(rest) != 2:
        raise UnsafeContent("pickle", "malformed unit of a numpy datetime dtype")
    kind = "M8" if dtype.kind == "M" else "m8"
    return np.dtype(kind if unit == "generic" else f"{kind}[{number}{unit}]")
