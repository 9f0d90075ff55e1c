"""Files of safetensors: a header in JSON, then the bytes of the tensors and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ckptstore.codec import npy, torchfile
from ckptstore.codec.torchfile import ElementType
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat, UnsafeContent
from ckptstore.trainer_formats.containers import AS_DATA, Decode
from ckptstore.trainer_formats.source import AGAIN, MAX_JSON_BYTES, Source, parse_json

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


class Entry(NamedTuple):
    """One tensor of the header."""

    type: str
    """As torch calls it; empty for one that isn't known here."""
    spelled: str
    shape: tuple[int, ...]
    start: int
    stop: int
    """Bytes of the file."""


def begins_like(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` is one of safetensors, going by its header's."""
    length = int.from_bytes(head[:8], "little")
    return size >= 10 and 2 <= length <= min(MAX_JSON_BYTES, size - 8) and head[8:9] == b"{"


def is_cut_in_header(head: bytes, size: int) -> bool:
    """Whether a file that is called one of safetensors ends before its header does."""
    length = int.from_bytes(head[:8], "little")
    return size < 8 or (size - 8 < length <= MAX_JSON_BYTES and head[8:9] in (b"", b"{"))


class Safetensors:
    """One file."""

    name = "safetensors"

    def __init__(self, source: Source, path: str) -> None:
        self._source = source
        self._path = path
        self._entries: dict[str, Entry] | None = None

    def tree(self, decode: Decode = AS_DATA) -> dict[str, Any]:
        """See `Container`."""
        return {key: self._make(entry, decode) for key, entry in self.outline().items()}

    def outline(self) -> dict[str, Entry]:
        """See `Container`. Raises UnsafeContent where the header lies."""
        if self._entries is None:
            self._entries = self._read_header()
        return self._entries

    def element(self, leaf: Any) -> str:
        """See `Container`."""
        return leaf.type or leaf.spelled if isinstance(leaf, Entry) else ""

    def make(self, leaf: Entry) -> Any:
        """See `Container`."""
        return self._make(leaf, AS_DATA)

    def _make(self, entry: Entry, decode: Decode) -> Any:
        kind = torchfile.element_type(entry.type)
        if kind is None:
            raise UnreadableFormat(self._path, f"it holds tensors of the type {entry.spelled!r:.40}")
        data = self._source.read(self._path, entry.start, entry.stop)
        array = npy.array(data, kind.raw.newbyteorder("<"), entry.shape)
        return kind.finish(np.asarray(array, kind.raw), decode.tensor_maker())

    def _read_header(self) -> dict[str, Entry]:
        size = self._source.files[self._path]
        head = self._source.head(self._path, 8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or not 2 <= length <= min(MAX_JSON_BYTES, size - 8):
            raise UnsafeContent(self._path, f"its header claims {length} bytes")
        header = parse_json(self._path, self._source.read(self._path, 8, 8 + length))
        if not isinstance(header, dict):
            raise UnsafeContent(self._path, "its header is not an object")
        header.pop("__metadata__", None)
        begin = 8 + length
        found = {key: self._entry(key, value, begin) for key, value in header.items()}
        at = begin
        for key, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)):
            if entry.start != at:
                raise UnsafeContent(self._path, f"the tensor {key!r:.80} leaves a gap, or shares bytes")
            at = entry.stop
        if at > size:
            raise CheckpointCorrupt(self._path, f"it is cut short: {size} bytes of {at}", AGAIN)
        if at != size:
            raise UnsafeContent(self._path, f"its tensors end at byte {at}, the file at {size}")
        return found

    def _entry(self, key: str, value: Any, begin: int) -> Entry:
        try:
            spelled, shape, (start, stop) = (
                value["dtype"],
                npy.shape_of(value["shape"]),
                value["data_offsets"],
            )
        except (TypeError, KeyError, ValueError) as error:
            raise UnsafeContent(self._path, f"its header doesn't describe the tensor {key!r:.80}") from error
        if type(spelled) is not str or not all(type(at) is int and at >= 0 for at in (start, stop)):
            raise UnsafeContent(self._path, f"its header doesn't describe the tensor {key!r:.80}")
        name = _TYPES.get(spelled, "")
        kind: ElementType | None = torchfile.element_type(name)
        if kind is not None and npy.count_of(shape) * kind.raw.itemsize != stop - start:
            why = f"the tensor {key!r:.80} of shape {shape!r:.80} has {stop - start} bytes"
            raise UnsafeContent(self._path, why)
        if stop < start:
            raise UnsafeContent(self._path, f"the tensor {key!r:.80} ends before it begins")
        return Entry(name, spelled, shape, begin + start, begin + stop)
