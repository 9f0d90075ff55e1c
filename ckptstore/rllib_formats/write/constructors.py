"""Write pickles that call classes of RLlib and gymnasium, without either of them installed.

Beside every component RLlib's new API stack keeps a pickle of its class and of the constructor's arguments.
Python's pickler imports whatever it names, so this module writes the few opcodes itself.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ckptstore.errors import InvalidRequest


class Named(NamedTuple):
    """A class or function, by module and name."""

    module: str
    name: str

    @classmethod
    def parse(cls, dotted: str) -> Named:
        """The class or function with the dotted name `dotted`."""
        module, _, name = dotted.rpartition(".")
        return cls(module, name)


class Call(NamedTuple):
    """The result of calling `what` with `args`."""

    what: Named
    args: tuple[Any, ...]


def dumps(value: Any, path: str = "") -> bytes:
    """The pickle, of protocol 5, of plain data that may hold names and calls.

    Raises InvalidRequest, naming the path below `path`, for anything else.
    """
    return b"".join([b"\x80\x05", *_opcodes(value, path), b"."])


def _opcodes(value: Any, path: str) -> list[bytes]:
    if isinstance(value, Named):
        # Not with the older opcode, whose names end in line breaks: RLlib unpickles from pyarrow's files,
        # which can't read a line.
        return [*_opcodes(value.module, path), *_opcodes(value.name, path), b"\x93"]
    if isinstance(value, Call):
        return [*_opcodes(value.what, path), *_opcodes(value.args, path), b"R"]
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        value = value.item()
    if value is None or isinstance(value, bool):
        return [{None: b"N", True: b"\x88", False: b"\x89"}[value]]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return [b"\x8a", bytes([len(data)]), data] if len(data) < 256 else _refuse(value, path)
    if isinstance(value, float):
        return [b"G", struct.pack(">d", value)]
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return [b"X", struct.pack("<I", len(data)), data]
    if isinstance(value, bytes):
        return [b"B", struct.pack("<I", len(value)), value]
    if isinstance(value, bytearray):
        return [b"\x96", struct.pack("<Q", len(value)), bytes(value)]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        # The same call as in indexed pickles; on a bytearray, so that the array is writable.
        dtype = Call(Named("numpy", "dtype"), (value.dtype.str,))
        return _opcodes(
            Call(Named("numpy", "ndarray"), (value.shape, dtype, bytearray(value.tobytes()))), path
        )
    if isinstance(value, tuple):
        return [b"(", *_each(value, path), b"t"]
    if isinstance(value, list):
        return [b"](", *_each(value, path), b"e"]
    if isinstance(value, Mapping):
        parts = [b"}("]
        for key, item in value.items():
            parts += [*_opcodes(key, path), *_opcodes(item, f"{path}/{key}")]
        return [*parts, b"u"]
    return _refuse(value, path)


def _each(values: Any, path: str) -> list[bytes]:
    return [code for index, item in enumerate(values) for code in _opcodes(item, f"{path}/{index}")]


def _refuse(value: Any, path: str) -> list[bytes]:
    raise InvalidRequest(
        path,
        f"it is of type {type(value).__name__}, which can't be an argument of a constructor",
        "Use numbers and text",
    )


def space(description: Any, path: str) -> Any:
    """The call that makes the gymnasium space of a `description` in the model; None for None."""
    if description is None:
        return None
    kind = str(description.get("space")).replace("-", "_") if isinstance(description, Mapping) else ""
    make = _SPACES.get(kind)
    if make is None:
        raise InvalidRequest(
            path, f"no constructor of gymnasium's is known for {kind!r:.60}", "Migrate it to 1.1"
        )
    try:
        name, args = make(description, path)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        why = f"it isn't described as a {kind} is ({type(error).__name__}: {error!s:.100})"
        raise InvalidRequest(path, why, "Migrate it to 1.1") from error
    return Call(Named("gymnasium.spaces", name), args)


def _box(space: Mapping[str, Any], path: str) -> tuple[str, tuple[Any, ...]]:
    shape, dtype = tuple(int(size) for size in space["shape"]), np.dtype(space["dtype"])
    low, high = (_as_bound(space.get(side, limit), shape, dtype) for side, limit in _LIMITS)
    return "Box", (low, high, shape, dtype.name)


_LIMITS = (("low", -np.inf), ("high", np.inf))


def _as_bound(value: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """A bound for the constructor: one number for all elements, or an array of one for each."""
    bound = np.asarray(value)
    if bound.ndim == 0:
        return float(bound)
    if bound.shape != shape:
        raise ValueError(f"its bounds have the shape {bound.shape}, not {shape}")
    return bound.astype(dtype)


def _inner(spaces: Any, path: str) -> Any:
    if isinstance(spaces, Mapping):
        return {key: space(item, f"{path}/{key}") for key, item in spaces.items()}
    return [space(item, f"{path}/{index}") for index, item in enumerate(spaces)]


_SPACES: dict[str, Any] = {
    "box": _box,
    "discrete": lambda space, path: ("Discrete", (int(space["n"]), None, int(space.get("start", 0)))),
    "multi_discrete": lambda space, path: ("MultiDiscrete", (np.asarray(space["nvec"]),)),
    "multi_binary": lambda space, path: ("MultiBinary", (space["n"],)),
    "tuple": lambda space, path: ("Tuple", (_inner(space["spaces"], path),)),
    "dict": lambda space, path: ("Dict", (_inner(space["spaces"], path),)),
}
