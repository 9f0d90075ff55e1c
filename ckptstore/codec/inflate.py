"""Decompress what a file may be wrapped in, with a limit on what comes out."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

_STEP = 1 << 20  # bytes asked of a decompressor at once
_MOST_STREAMS = 1000  # one behind the other; each copies the rest
_ZFILE = b"ZF"  # joblib before 0.10: zlib behind a size in 19 characters
_ZFILE_HEADER = 21


class Inflated(NamedTuple):
    """What came out, and why it isn't all, if so."""

    data: bytes
    problem: str
    whole: bool
    """Whether it ended where it should: what follows may still be a problem."""


def compression_of(data: bytes) -> str:
    """The name of the compression that `data` begins like; empty for none."""
    for name, magic in _MAGICS.items():
        if data.startswith(magic):
            return name
    if data.startswith(_ZFILE + b"0x"):
        return "zfile"
    return "zlib" if data[:1] == b"\x78" and len(data) > 2 and not (0x7800 + data[1]) % 31 else ""


def inflate(name: str, data: bytes, limit: int) -> Inflated:
    """Up to `limit` bytes of what `data` holds; of a damaged stream what comes before the damage."""
    try:
        make = _MAKERS[name]()
    except (ImportError, KeyError):
        return Inflated(b"", f"it is compressed with {name}, which can't be read here", False)
    source = data[_ZFILE_HEADER:] if name == "zfile" else data
    pieces: list[bytes] = []
    left, problem, whole = limit, "", False
    for _ in range(_MOST_STREAMS):
        try:
            stream = make()
            while not stream.eof and left >= 0:
                piece = stream.decompress(source, min(_STEP, left + 1))
                source = getattr(stream, "unconsumed_tail", b"")  # zlib's; the others keep it themselves
                left -= len(piece)
                pieces.append(piece)
                if not piece and not source and getattr(stream, "needs_input", True):
                    break
        except (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError) as error:
            problem = f"its {name} data are damaged ({str(error)[:80]})"
            break
        if left < 0:
            problem = f"it inflates to more than {limit} bytes"
        elif not stream.eof:
            problem = f"its {name} data are cut short"
        source = (getattr(stream, "unused_data", b"") or b"").lstrip(b"\0")
        whole = not problem
        if problem or not source:
            break
        if compression_of(source) != name:
            problem = f"{len(source)} bytes follow its {name} data"
            break
    else:
        problem = f"it has more than {_MOST_STREAMS} {name} streams"
    return Inflated(b"".join(pieces)[:limit], problem, whole)


def _lz4() -> Callable[[], Any]:
    import lz4.frame  # type: ignore[import-not-found, unused-ignore]

    decompressor: Callable[[], Any] = lz4.frame.LZ4FrameDecompressor
    return decompressor


_MAGICS = {
    "gzip": b"\x1f\x8b",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "lzma": b"\x5d\x00\x00",
    "lz4": b"\x04\x22\x4d\x18",
    "zstd": b"\x28\xb5\x2f\xfd",  # told apart, but not read
}
_MAKERS: dict[str, Callable[[], Callable[[], Any]]] = {
    "gzip": lambda: lambda: zlib.decompressobj(31),
    "bz2": lambda: bz2.BZ2Decompressor,
    "xz": lambda: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
    "lzma": lambda: lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE),
    "lz4": _lz4,
    "zlib": lambda: zlib.decompressobj,
    "zfile": lambda: zlib.decompressobj,
}
