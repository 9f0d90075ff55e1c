"""Opcodes by hand: what the tests build hostile pickles of."""

from __future__ import annotations

import struct
from typing import Any


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(raw)) + raw


def blob(value: bytes, opcode: bytes = b"B") -> bytes:
    return opcode + struct.pack("<I" if opcode == b"B" else "<Q", len(value)) + value


def plain(value: Any) -> bytes:
    """The opcodes of a plain value, without protocol, memo-free enough to be put in anywhere."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(plain, value)) + b"t"
    if isinstance(value, bytes):
        return blob(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        return number(value)
    if isinstance(value, Raw):
        return value.data
    raise TypeError(value)


class Raw:
    """Opcodes that push one value."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def called(module: str, attribute: str, *args: Any) -> Raw:
    return Raw(name(module, attribute) + plain(args) + b"R")


def built(value: Raw, state: Any) -> Raw:
    return Raw(value.data + plain(state) + b"b")


def file(value: Any) -> bytes:
    return b"\x80\x04" + plain(value) + b"."
