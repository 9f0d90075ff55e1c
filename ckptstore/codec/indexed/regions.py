"""Where the data of arrays lie in an indexed pickle: what its writer notes and its reader checks."""

from __future__ import annotations

from typing import NamedTuple

BYTEARRAY8 = 0x96


class Region(NamedTuple):
    """Where the data of one array lie in the file, both in bytes."""

    offset: int
    length: int


def length_opcode(before: bytes | memoryview, length: int) -> int:
    """Size of the opcode at the end of `before` that announces `length` bytes, or 0 if there is none.

    A match can't be an accident of a length that looks like an opcode: for both forms to fit, the upper
    half of the length would have to equal the whole.
    """
    if before[-9:-8] in (b"\x96", b"\x8e") and int.from_bytes(before[-8:], "little") == length:
        return 9
    if before[-5:-4] == b"B" and int.from_bytes(before[-4:], "little") == length:
        return 5
    return 0
