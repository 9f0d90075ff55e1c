"""MessagePack as RLlib writes it, to plain data and arrays.

Two file names, one dialect: ``.msgpck`` (old API stack, Ray 2.4 on) and ``.msgpack`` (new API stack,
Ray 2.41 on) both hold MessagePack patched by the package msgpack_numpy. Integer map keys are legal
(the state of Adam has them), which msgpack's own strict default refuses: RLlib can't read these files.

What can't be data stays inert: extension types, pickles inside object arrays and RLlib's marker for
what it could not serialise come back as `Opaque` records or as the very string that was stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptstore.codec import npy
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import UnsafeContent

MAX_CONTAINERS = 20_000_000  # lists and maps in one document; an empty one is 1 byte there and 60 here
NOT_SERIALIZABLE = "__not_serializable__"
"""What RLlib stores in place of functions and classes it can't express."""


def loads(data: bytes, max_containers: int = MAX_CONTAINERS) -> object:
    """The one value in `data`; UnsafeContent if it is malformed, too deep, too large or followed by more."""
    import msgpack  # here, so that only reading such a file needs the package

    left = max_containers

    def count(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise UnsafeContent("msgpack", f"it holds more than {max_containers} lists and maps")
        return value

    try:
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            object_hook=lambda raw: count(_decode_map(raw)),
            list_hook=count,
            ext_hook=lambda number, body: Opaque(f"msgpack.ext{number}", args=(body,)),
            timestamp=1,
        )
    except UnsafeContent:
        raise
    # What the package raises for malformed input; TypeError for a key that can't be one.
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise UnsafeContent("msgpack", str(error) or type(error).__name__) from error


def _decode_map(raw: dict[Any, Any]) -> object:
    return _decode_numpy(raw) if b"nd" in raw or "nd" in raw else _decode_complex(raw)


def _field(raw: dict[Any, object], name: str) -> object:
    """msgpack_numpy's field `name`: bytes keys, or str where an old packer made no difference."""
    return raw.get(name.encode(), raw.get(name))


def _decode_numpy(raw: dict[Any, object]) -> object:
    """What msgpack_numpy means by a map with the key ``nd``; `raw` itself if it isn't one of its own."""
    is_array, data, spec = _field(raw, "nd"), _field(raw, "data"), _field(raw, "type")
    if not isinstance(is_array, bool) or not isinstance(data, bytes):
        return raw
    if not is_array:
        return npy.array(data, npy.dtype_of(spec), ())[()]
    kind = _field(raw, "kind")
    if kind in (b"O", "O"):  # the data are a pickle: kept, never loaded
        return Opaque("pickle.loads", args=(data,))
    if kind in (b"V", "V") and isinstance(spec, list):
        spec = [tuple(_as_text(part) for part in item) for item in spec if isinstance(item, list)]
    elif isinstance(spec, bytes):
        spec = spec.decode("latin-1")
    return npy.array(data, npy.dtype_of(spec), npy.shape_of(_field(raw, "shape")))


def _as_text(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _decode_complex(raw: dict[Any, object]) -> object:
    """A complex number, which msgpack_numpy keeps as its text."""
    if len(raw) == 2 and _field(raw, "complex") is True:
        text = _field(raw, "data")
        try:
            return np.complex128(complex(str(_as_text(text))))
        except ValueError:
            return raw
    return raw
