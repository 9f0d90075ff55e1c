"""Rebuild numpy dtypes from what an untrusted pickle says about them.

A dtype decides how memory is read: one that lies about its size or where its fields are is a read outside
of an array. So each is made from a code that we know, and every number in its state is checked against
that before numpy sees it.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

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
MOST_DIMENSIONS = 32  # what numpy 1 allows; numpy 2 doubled it
SCALAR_TYPES: dict[str, type[np.generic]] = {
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
SCALAR_TYPES |= {"bool": np.bool_, "long": np.dtype("l").type, "ulong": np.dtype("L").type}


class NotPlainError(Exception):
    """Not plain data that we can make: keep it as a record."""


class Dtypes:
    """Makes the dtypes of one pickle."""

    def __init__(self) -> None:
        # Size of each dtype written out with its fields, by id; the dtype is kept so that its id stays taken.
        self._extent: dict[int, tuple[np.dtype[Any], int, int]] = {}

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
            return _dtype_of_name(what.name)
        if not isinstance(what, str):
            raise NotPlainError
        return _dtype_of_code(what)

    def with_state(self, dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
        """`dtype` with the byte order, fields, unit or shape that its pickled state adds."""
        if type(state) is not tuple or len(state) < 5 or type(state[0]) is not int:
            raise UnsafeContent("pickle", "malformed numpy dtype state")
        version, order, subdtype, names, fields = state[:5]
        order = text_of(order)
        if not 3 <= version <= 4 or order not in ("<", ">", "|", "="):
            raise UnsafeContent("pickle", f"unknown numpy dtype state, version {version}")
        if subdtype is not None:
            return self._sub(subdtype)
        if names is not None or fields is not None:
            if dtype.kind != "V":
                raise UnsafeContent("pickle", f"fields in a dtype of kind {dtype.kind}")
            return self._make_structured(dtype, names, fields, state)
        if (
            dtype.kind in "SUV"
            and dtype.num < 256
            and len(state) > 5
            and (type(state[5]) is not int or state[5] not in (-1, dtype.itemsize))
        ):
            raise UnsafeContent("pickle", "numpy dtype whose item size contradicts its code")
        metadata = state[8] if version == 4 and len(state) > 8 else None
        if dtype.kind in "Mm" and metadata is not None:
            dtype = _with_unit(dtype, metadata)
        elif metadata:
            raise NotPlainError  # what else is attached to a dtype; kept as a record
        if dtype.num >= 256:  # of ml_dtypes, which knows only the machine's own order
            return dtype
        return dtype.newbyteorder("<") if order == "<" else dtype.newbyteorder(">") if order == ">" else dtype

    def _sub(self, subdtype: Any) -> np.dtype[Any]:
        if type(subdtype) is not tuple or len(subdtype) != 2 or not isinstance(subdtype[0], np.dtype):
            raise UnsafeContent("pickle", "malformed numpy subarray dtype")
        base, shape = subdtype
        shape = shape_of((shape,) if type(shape) is int else shape)
        if base.hasobject:
            raise NotPlainError
        if math.prod(length or 1 for length in shape) * (base.itemsize or 1) > _LARGEST:
            raise UnsafeContent("pickle", "numpy subarray dtype is too large")
        fields, depth = self._extent_of(base)
        made = np.dtype((base, shape))
        return self._note(made, fields + 1, depth + 1)

    def _make_structured(
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
        known = [*names, *(title for title in titles if title is not None)]
        if len(set(known)) != len(known):
            raise UnsafeContent("pickle", "numpy structured dtype with two fields of one name")
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
        if dtype.names is not None or dtype.subdtype is not None:  # not made here: its size is not known
            raise UnsafeContent("pickle", "numpy dtype of unknown extent")
        return 1, 0

    def _note(self, dtype: np.dtype[Any], fields: int, depth: int) -> np.dtype[Any]:
        if fields > _MOST_FIELDS or depth > _DEEPEST_DTYPE:
            raise UnsafeContent("pickle", "numpy dtype has too many fields or is nested too deeply")
        self._extent[id(dtype)] = (dtype, fields, depth)
        return dtype


def text_of(value: Any) -> str:
    """`value` if it is text, else the empty text: an array in its place would compare item by item."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if type(value) is str else ""


def shape_of(value: Any) -> tuple[int, ...]:
    if type(value) not in (tuple, list) or len(value) > MOST_DIMENSIONS:
        raise UnsafeContent("pickle", "malformed shape of a numpy array")
    shape = tuple(value)
    if any(type(length) is not int or length < 0 for length in shape):
        raise UnsafeContent("pickle", "malformed shape of a numpy array")
    # numpy multiplies the lengths that are not zero, even when another one is.
    if math.prod(length or 1 for length in shape) > _LARGEST * _LARGEST:
        raise UnsafeContent("pickle", "shape of a numpy array overflows")
    return shape


def _dtype_of_code(code: str) -> np.dtype[Any]:
    match = _CODE.match(code)
    if match is None:
        if code in SCALAR_TYPES and code not in ("void", "str_", "bytes_"):
            return np.dtype(SCALAR_TYPES[code])
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


def _dtype_of_name(name: str) -> np.dtype[Any]:
    module, _, short = name.rpartition(".")
    if module == "numpy":
        if short == "record":
            return np.dtype((np.record, []))
        if short in SCALAR_TYPES:
            return np.dtype(SCALAR_TYPES[short])
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
    unit = text_of(unit)
    if unit not in _UNITS or type(number) is not int or not 1 <= number <= _LARGEST or len(rest) != 2:
        raise UnsafeContent("pickle", "malformed unit of a numpy datetime dtype")
    kind = "M8" if dtype.kind == "M" else "m8"
    return np.dtype(kind if unit == "generic" else f"{kind}[{number}{unit}]")
