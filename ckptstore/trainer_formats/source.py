"""The files of one checkpoint, read by ranges."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from ckptstore.errors import CheckpointCorrupt, UnsafeContent

MAX_JSON_BYTES = 100_000_000
"""Of an index or a header: what the library of safetensors takes itself."""
AGAIN = "Download or copy it again"
"""The remedy for a file that is cut short."""
_WINDOW = 2**18  # bytes read at once, where fewer are asked for: a request costs more than they do
_Read = Callable[[str, int, int], bytes]


class Source:
    """`files` maps every path to its size in bytes; `read` returns bytes ``[start, stop)`` of one of them."""

    def __init__(self, files: Mapping[str, int], read: _Read) -> None:
        self.files = files
        self._read = read

    def read(self, path: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of `path`, all of them."""
        data = self._read(path, start, stop)
        if len(data) != stop - start:
            raise CheckpointCorrupt(path, f"{len(data)} bytes arrived where {stop - start} were asked for")
        return data

    def head(self, path: str, most: int) -> bytes:
        """The first bytes of `path`, at most `most`."""
        return self.read(path, 0, min(self.files[path], most))

    def data(self, path: str) -> bytes:
        """All of `path`."""
        return self.read(path, 0, self.files[path])

    def file(self, path: str) -> IO[bytes]:
        """`path` as a file that is read where it is needed."""
        return cast("IO[bytes]", _Ranges(self, path))

    def json(self, path: str) -> Any:
        """The JSON document in `path`."""
        if self.files[path] > MAX_JSON_BYTES:
            raise UnsafeContent(path, f"{self.files[path]} bytes of JSON, more than {MAX_JSON_BYTES}")
        return parse_json(path, self.data(path))


def parse_json(what: str, data: bytes) -> Any:
    """The document in `data`. UnsafeContent where it is none, or names something twice."""
    try:
        return json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UnsafeContent(what, f"not valid JSON ({str(error)[:100]})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


class _Ranges(io.BufferedIOBase):
    """A file whose bytes are fetched as they are asked for, some more with them."""

    def __init__(self, source: Source, path: str) -> None:
        self._source = source
        self._path = path
        self._size = source.files[path]
        self._at = 0
        self._start = 0
        self._held = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"byte {base + offset} lies before the file")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self._at, 0)
        count = left if size is None or size < 0 else min(size, left)
        if not count:
            return b""
        begin = self._at - self._start
        if begin < 0 or begin + count > len(self._held):
            # What lies near the end is read once: directories of zips are, in small steps.
            self._start = min(self._at, max(self._size - _WINDOW, 0)) if count < _WINDOW else self._at
            stop = min(max(self._at + count, self._start + _WINDOW), self._size)
            self._held = self._source.read(self._path, self._start, stop)
            begin = self._at - self._start
        self._at += count
        return self._held[begin : begin + count]
