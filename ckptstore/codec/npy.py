"""Arrays from a dtype string, a shape and raw bytes, with every length checked before numpy sees it.

Three of RLlib's encodings spell arrays this way (msgpack, torch storages, base64 ``.npy`` texts inside
JSON). None of them goes through numpy's own ``__setstate__`` or through a pickle.
"""

from __future__ import annotations

import ast
import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ckptstore.codec.pickles.budget import Meter
from ckptstore.errors import UnsafeContent

MAX_DIMENSIONS = 64  # what numpy 2 holds; numpy 1 says 32 and refuses by itself
_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADER_BYTES = 64 * 1024  # a structured dtype with hundreds of fields still fits


def dtype_of(spec: object) -> np.dtype[Any]:
    """The dtype that `spec` names; UnsafeContent for anything that holds Python objects or no bytes."""
    if not isinstance(spec, (str, list)):
        raise UnsafeContent("array", f"{str(spec)[:80]!r} is not a dtype")  # numpy takes None for float64
    try:
        dtype: np.dtype[Any] = np.dtype(spec)
    except (TypeError, ValueError, SyntaxError, RecursionError) as error:
        raise UnsafeContent("array", f"{str(spec)[:80]!r} is not a dtype") from error
    if dtype.hasobject or dtype.itemsize == 0:
        raise UnsafeContent("array", f"the dtype {dtype} can't be made from bytes")
    return dtype


def shape_of(raw: object) -> tuple[int, ...]:
    """`raw` as a shape: a short sequence of non-negative integers."""
    if (
        not isinstance(raw, Sequence)
        or isinstance(raw, (str, bytes))
        or len(raw) > MAX_DIMENSIONS
        or not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**48 for n in raw)
    ):
        raise UnsafeContent("array", f"{str(raw)[:80]!r} is not a shape")
    return tuple(raw)


def count_of(shape: Sequence[int]) -> int:
    """How many elements a shape has, in exact integers: numpy's own product may wrap around."""
    count = 1
    for length in shape:
        count *= length
    return count


def array(data: bytes | memoryview, dtype: np.dtype[Any], shape: Sequence[int], order: str = "C") -> Any:
    """A writable array over a copy of `data`, which must be exactly as long as dtype and shape say."""
    view = memoryview(data).cast("B")
    expected = count_of(shape) * dtype.itemsize
    if view.nbytes != expected:
        raise UnsafeContent("array", f"{view.nbytes} bytes where {dtype} {tuple(shape)} needs {expected}")
    flat: Any = np.frombuffer(bytearray(view), dtype=dtype)
    try:
        return flat.reshape(tuple(shape), order=order)
    except ValueError as error:
        raise UnsafeContent("array", f"numpy can't hold the shape {tuple(shape)!r:.80}") from error


def npy_base64(text: str | bytes, meter: Meter, max_bytes: int = 64 * 2**20) -> Any:
    """The array in RLlib's space JSON: base64 of zlib of a ``.npy`` file, at most `max_bytes` inflated.

    What it inflates to is charged to `meter`, because a small file may hold many such texts.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        inflater = zlib.decompressobj()
        data = inflater.decompress(packed, max_bytes)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise UnsafeContent("array", f"not base64 of zlib ({error})") from error
    if not inflater.eof:
        raise UnsafeContent("array", f"cut short, or more than {max_bytes} bytes when inflated")
    meter.charge(len(data))
    return npy(data)


def npy(data: bytes) -> Any:
    """The array in the ``.npy`` file `data` (versions 1 to 3), never an object array."""
    found = read_header(data)
    return array(memoryview(data)[found.start :], dtype_of(found.descr), found.shape, found.order)


class Header(NamedTuple):
    """What an ``.npy`` file says of its array, checked but for the dtype."""

    descr: object
    shape: tuple[int, ...]
    order: str
    start: int
    """Where the data begin."""


def read_header(data: bytes) -> Header:
    """The header that `data`, the start of an ``.npy`` file, begin with. UnsafeContent if it is none."""
    if not data.startswith(_NPY_MAGIC) or len(data) < 12 or data[6] not in {1, 2, 3}:
        raise UnsafeContent("array", "not a .npy file")
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > _NPY_HEADER_BYTES or start + length > len(data):
        raise UnsafeContent("array", f"the .npy header claims {length} bytes")
    try:
        header = ast.literal_eval(
            data[start : start + length].decode("utf-8" if data[6] == 3 else "latin-1").strip()
        )
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise UnsafeContent("array", "the .npy header can't be read") from error
    return Header(descr, shape_of(shape), "F" if fortran is True else "C", start + length)


HEADER_BYTES = 12 + _NPY_HEADER_BYTES
"""The most that a header takes."""
