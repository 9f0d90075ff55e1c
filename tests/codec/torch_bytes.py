"""Torch files put together by hand, so that they can lie about everything torch would not lie about."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
SYSTEM = b"\x80\x02}(X\x10\x00\x00\x00protocol_versionM\xe9\x03X\r\x00\x00\x00little_endian%su."


def code(value: Any) -> bytes:
    """Pickle opcodes for plain values, global names and persistent ids."""
    match value:
        case Global(name=name):
            module, _, short = name.rpartition(".")
            return f"c{module}\n{short}\n".encode()
        case Call(function=function, args=args):
            return code(function) + code(args) + b"R"
        case Persistent(pid=pid):
            return code(pid) + b"Q"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return f"L{value}L\n".encode()
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case None:
            return b"N"
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case list():
            return b"(" + b"".join(map(code, value)) + b"l"
        case dict():
            return b"(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"d"
    raise TypeError(value)


class Global:
    """A name to import."""

    __match_args__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Call:
    """A call of `function`."""

    def __init__(self, function: Global, *args: Any) -> None:
        self.function, self.args = function, args


class Persistent:
    """A persistent id."""

    def __init__(self, pid: Any) -> None:
        self.pid = pid


def storage(key: str, count: int, kind: str = "Float", **legacy: Any) -> Persistent:
    """The persistent id of a storage; `legacy` adds the view metadata of the old stream."""
    pid: tuple[Any, ...] = ("storage", Global(f"torch.{kind}Storage"), key, "cpu", count)
    return Persistent((*pid, legacy["view"]) if legacy else pid)


def tensor(where: Any, shape: Any, strides: Any, offset: Any = 0) -> Call:
    """A tensor over a storage."""
    rebuild = Global("torch._utils._rebuild_tensor_v2")
    return Call(rebuild, where, offset, shape, strides, False, Call(Global("collections.OrderedDict")))


def archive(
    value: Any,
    records: dict[str, bytes],
    *,
    top: str = "x",
    compress: bool = False,
    byteorder: str | None = None,
) -> bytes:
    """A zip of torch.save."""
    buffer = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how) as out:
        out.writestr(f"{top}/data.pkl", b"\x80\x02" + code(value) + b".")
        if byteorder:
            out.writestr(f"{top}/byteorder", byteorder)
        for key, data in records.items():
            out.writestr(f"{top}/data/{key}", data)
    return buffer.getvalue()


def stream(value: Any, keys: list[Any], tail: bytes, *, little: bool = True) -> bytes:
    """A legacy stream; `tail` holds the storages: count of elements as 8 bytes, then the elements."""
    return (
        LEGACY_MAGIC
        + b"\x80\x02M\xe9\x03."
        + SYSTEM % (b"\x88" if little else b"\x89")
        + b"\x80\x02"
        + code(value)
        + b".\x80\x02"
        + code(keys)
        + b"."
        + tail
    )
