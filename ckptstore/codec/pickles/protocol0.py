"""The text forms of protocol 0, and Python 2's str."""

from __future__ import annotations

import re
from typing import Any

from ckptstore.errors import UnsafeContent

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def int_line(text: bytes) -> Any:
    """The number of an INT line, or the bool that ``00`` and ``01`` mean there."""
    return {b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text, 0)


def long_line(text: bytes) -> int:
    """The number of a LONG line, with or without its final L."""
    return int(text.removesuffix(b"L"), 0)


def old_text(content: bytes) -> Any:
    """Python 2's str: text where it is ASCII, else the bytes that it was."""
    return content.decode("ascii") if content.isascii() else content


def parse_quoted(text: bytes) -> Any:
    """The str of a STRING line, written like a literal. Raises UnsafeContent where its quotes don't match."""
    text = text.strip()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise UnsafeContent("pickle", "a string without its quotes")
    # Not codecs.escape_decode: it warns about escapes that it doesn't know.
    return old_text(_ESCAPE.sub(_unescape, text[1:-1]))


def _unescape(match: re.Match[bytes]) -> bytes:
    in_hex, octal, other = match.groups()
    if in_hex is not None:
        return bytes([int(in_hex, 16)])
    if octal is not None:
        return bytes([int(octal, 8) & 255])
    return _ESCAPED.get(other, other if other in b"\\'\"" else match.group())
