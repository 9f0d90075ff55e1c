"""MessagePack as RLlib writes it, to plain data and arrays.

Two file names, one dialect: ``.msgpck`` (old API stack, Ray 2.4 on) and ``.msgpack`` (new API stack,
Ray 2.41 on) both hold MessagePack patched by the package msgpack_numpy. Integer map keys are legal
(the state of Adam has them), which msgpack's own strict default refuses: RLlib can't read these files.

Decoded here and not by the package msgpack, because nothing there bounds what 1-byte empty maps grow
into, and a nested array header makes it allocate the claimed length before one element was seen.

What can't be data stays inert: extension types, pickles inside object arrays and RLlib's marker for
what it could not serialise come back as `Opaque` records or as the very string that was stored.
"""

from __future__ import annotations

import struct
from typing import Any, NoReturn

import numpy as np

from ckptstore.codec import npbytes
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import UnsafeContent

MAX_NODES = 20_000_000  # values in one document; each costs some 60 bytes of memory at least
MAX_DEPTH = 200
NOT_SERIALIZABLE = "__not_serializable__"
"""What RLlib stores in place of functions and classes it can't express."""

_FIXED = {
    0xC0: None,
    0xC2: False,
    0xC3: True,
}
_NUMBERS = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXT = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}


def loads(data: bytes, max_nodes: int = MAX_NODES) -> object:
    """The one value in `data`; UnsafeContent if it is malformed, too deep, too large or goes on after it."""
    reader = _Reader(data, max_nodes)
    value = reader.value(0)
    if reader.at != len(data):
        reader.refuse(f"{len(data) - reader.at} bytes follow the value")
    return value


class _Reader:
    def __init__(self, data: bytes, max_nodes: int) -> None:
        self.data = data
        self.at = 0
        self.left = max_nodes

    def refuse(self, why: str) -> NoReturn:
        raise UnsafeContent("msgpack", f"{why} (at byte {self.at})")

    def take(self, length: int) -> bytes:
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            self.refuse(f"{length} bytes claimed where {len(self.data) - start} are left")
        return self.data[start : self.at]

    def length(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def value(self, depth: int) -> object:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            self.refuse("too many values or too deeply nested")
        code = self.take(1)[0]
        if code <= 0x7F:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code <= 0x8F:
            return self.map(code & 0x0F, depth)
        if code <= 0x9F:
            return self.list(code & 0x0F, depth)
        if code <= 0xBF:
            return self.text(code & 0x1F)
        if code in _FIXED:
            return _FIXED[code]
        if number := _NUMBERS.get(code):
            return number.unpack(self.take(number.size))[0]
        if width := _BYTES.get(code):
            return self.take(self.length(width))
        if width := _TEXT.get(code):
            return self.text(self.length(width))
        if width := _ARRAYS.get(code):
            return self.list(self.length(width), depth)
        if width := _MAPS.get(code):
            return self.map(self.length(width), depth)
        if code in _FIXED_EXTENSIONS:
            return self.extension(_FIXED_EXTENSIONS[code])
        if width := _EXTENSIONS.get(code):
            return self.extension(self.length(width))
        return self.refuse(f"the byte {code:#04x} starts no value")

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            self.refuse("a text is not UTF-8")

    def extension(self, length: int) -> Opaque:
        number = self.take(1)[0]
        return Opaque(f"msgpack.ext{number}", args=(self.take(length),))

    def list(self, length: int, depth: int) -> list[object]:
        # Grows with the elements that are really there, whatever length is claimed.
        return [self.value(depth + 1) for _ in range(length)]

    def map(self, length: int, depth: int) -> object:
        result: dict[Any, object] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, (str, bytes, int, float, type(None))):
                self.refuse(f"a {type(key).__name__} is used as a key")
            result[key] = self.value(depth + 1)
        return _numpy(result) if b"nd" in result or "nd" in result else _complex(result)


def _field(raw: dict[Any, object], name: str) -> object:
    """msgpack_numpy's field `name`: bytes keys, or str where an old packer made no difference."""
    return raw.get(name.encode(), raw.get(name))


def _numpy(raw: dict[Any, object]) -> object:
    """What msgpack_numpy meant by a map with an `nd` key; `raw` itself if it isn't one of its own."""
    is_array, data, spec = _field(raw, "nd"), _field(raw, "data"), _field(raw, "type")
    if not isinstance(is_array, bool) or not isinstance(data, bytes):
        return raw
    if not is_array:
        return npbytes.array(data, npbytes.dtype_of(spec), ())[()]
    kind = _field(raw, "kind")
    if kind in (b"O", "O"):  # the data are a pickle: kept, never loaded
        return Opaque("pickle.loads", args=(data,))
    if kind in (b"V", "V") and isinstance(spec, list):
        spec = [tuple(_as_text(part) for part in item) for item in spec if isinstance(item, list)]
    elif isinstance(spec, bytes):
        spec = spec.decode("latin-1")
    return npbytes.array(data, npbytes.dtype_of(spec), npbytes.shape_of(_field(raw, "shape")))


def _as_text(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _complex(raw: dict[Any, object]) -> object:
    """A complex number, which msgpack_numpy keeps as its text."""
    if len(raw) == 2 and _field(raw, "complex") is True:
        text = _field(raw, "data")
        try:
            return np.complex128(complex(str(_as_text(text))))
        except ValueError:
            return raw
    return raw
