"""What the codec's tests share: dumping into memory, cutting a file at its regions, comparing values."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from ckptstore.codec.indexed import write as indexed
from ckptstore.codec.indexed.read import load_trusted, skeleton
from ckptstore.codec.indexed.regions import Region
from ckptstore.codec.pickles import safe


def dumped(obj: object) -> tuple[bytes, list[Region]]:
    file = io.BytesIO()
    regions = indexed.dump(obj, file.write)
    return file.getvalue(), regions


def cut(data: bytes, regions: list[Region]) -> tuple[list[bytes], list[bytearray]]:
    """The gaps and the arrays' bytes."""
    gaps, buffers, end = [], [], 0
    for offset, length in regions:
        gaps.append(data[end:offset])
        buffers.append(bytearray(data[offset : offset + length]))
        end = offset + length
    return [*gaps, data[end:]], buffers


def _by_skeleton(load: Callable[..., Any]) -> Callable[[bytes, list[Region]], Any]:
    def read(data: bytes, regions: list[Region]) -> Any:
        gaps, buffers = cut(data, regions)
        return load(skeleton(gaps, regions), buffers)

    return read


PythonUnpickler: Any = pickle._Unpickler
"""The real unpickler, in Python: the one in C loses bytes where an opcode reaches beyond its frame."""


def python_loads(data: bytes, buffers: list[bytearray]) -> Any:
    """What the unpickler in Python makes of `data`."""
    return PythonUnpickler(io.BytesIO(data), buffers=buffers).load()


# Every way to open a file of ours; all must give the same.
READERS: dict[str, Callable[[bytes, list[Region]], Any]] = {
    "pickle in C": lambda data, regions: pickle.loads(data),
    "pickle in Python": lambda data, regions: python_loads(data, []),
    "pickle in Python on the skeleton": _by_skeleton(python_loads),
    "safe": lambda data, regions: safe.loads(data),
    "safe on the skeleton": _by_skeleton(safe.loads),
    "trusted": _by_skeleton(load_trusted),
}


def same(a: Any, b: Any) -> bool:
    """Equal in type, dtype, bytes and writability, NaN included. For values without cycles."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape or a.flags.writeable != b.flags.writeable:
            return False
        if a.dtype.hasobject:
            return all(same(x, y) for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
        return bool(a.tobytes() == b.tobytes())
    if isinstance(a, (np.longdouble, np.clongdouble)):
        return bool(a == b)  # the bytes between the value's end and the item's are whatever was there
    if isinstance(a, np.generic):
        return bool(a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and a != a:
        return bool(b != b)
    return bool(a == b)
