"""The files of one checkpoint, decoded on demand: the only module of this package that touches bytes.

All others work on paths and plain data. Reading goes through a `read` function that is passed in, so a
bucket, a directory or a dict of bytes will do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ckptstore.codec import encodings, known
from ckptstore.errors import CheckpointCorrupt, UnsafeContent

MAX_JSON_BYTES = 16 * 2**20  # the metadata of a hundred large modules is a tenth of it


class Source:
    """`files` maps every path to its size in bytes; `read` returns the whole content of a file."""

    def __init__(self, files: Mapping[str, int], read: Callable[[str], bytes]) -> None:
        self.files = files
        self._read = read

    def data(self, path: str) -> bytes:
        """The bytes of `path`. CheckpointCorrupt if it is missing, empty, or of another size."""
        size = self.files.get(path)
        if size is None:
            raise CheckpointCorrupt(path, "the file is missing")
        data = self._read(path)
        if len(data) != size:
            raise CheckpointCorrupt(path, f"{len(data)} bytes arrived where the listing says {size}")
        if not data:
            raise CheckpointCorrupt(path, "the file is empty: its writer died, or a copy was cut short")
        return data

    def json(self, path: str) -> dict[str, Any]:
        """The JSON object in `path`."""
        if self.files.get(path, 0) > MAX_JSON_BYTES:
            raise UnsafeContent(path, f"{self.files[path]} bytes of JSON are more than RLlib ever writes")
        try:
            value = json.loads(self.data(path))
        except (ValueError, RecursionError) as error:
            raise CheckpointCorrupt(path, f"not valid JSON ({str(error)[:100]})") from error
        if not isinstance(value, dict):
            raise CheckpointCorrupt(path, "the JSON is not an object")
        return value

    def value(self, path: str) -> Any:
        """What `path` holds, as plain data."""
        return self._decode(path, self.data(path))

    def decode_nested(self, path: str, field: str, data: bytes) -> Any:
        """What the pickle `data`, the value of `field` in `path`, holds."""
        return self._decode(f"{path}[{field!r}]", data)

    def _decode(self, path: str, data: bytes) -> Any:
        try:
            return known.plain(encodings.loads(path, data), len(data))
        except UnsafeContent as error:
            why = ": ".join(part for part in (error.what, error.why) if part)
            raise UnsafeContent(path, why, error.remedy or _REMEDY) from error

    def read_mapping(self, path: str) -> dict[Any, Any]:
        """What `path` holds, which must be a dict."""
        value = self.value(path)
        if not isinstance(value, dict):
            raise UnsafeContent(path, f"its content is of type {type(value).__name__}, not dict", _REMEDY)
        return value


_REMEDY = "The file is damaged or was not written by RLlib: copy it again, or use an older checkpoint"
