"""``parts.json``: where every part of every file lies, and its digest.

A file is its parts one after another, without gap or overlap, and its digest is the digest of their
digests. So a range can be verified alone, and one file is hashed on several cores. In an indexed
pickle each large array is a part (or several) of its own; `arrays` says which ranges those are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ckptstore.errors import CheckpointCorrupt
from ckptstore.format import names, strictjson
from ckptstore.format.digest import digest_of_digests, is_digest

SCHEMA_VERSION = 1
PART_BYTES = 16 * 2**20
"""Longer data are split: the unit of hashing in parallel and the most a verified range reads extra."""


class Part(NamedTuple):
    """Bytes ``[offset, offset + length)`` of a file and their digest."""

    offset: int
    length: int
    digest: str


class Span(NamedTuple):
    """Bytes ``[offset, offset + length)`` of a file: one array's data."""

    offset: int
    length: int


class FileParts(NamedTuple):
    """One file as parts."""

    path: str
    parts: tuple[Part, ...]
    arrays: tuple[Span, ...] = ()

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.parts[-1].offset + self.parts[-1].length if self.parts else 0

    @property
    def digest(self) -> str:
        """Digest of the file."""
        return digest_of_digests(part.digest for part in self.parts)


def dump(files: Iterable[FileParts]) -> bytes:
    """The bytes of ``parts.json``; InvalidRequest for more than a reader takes."""
    table = {
        file.path: {
            "parts": [list(part) for part in file.parts],
            "arrays": [list(span) for span in file.arrays],
        }
        for file in files
    }
    data = (strictjson.dumps({"schema_version": SCHEMA_VERSION, "files": table}) + "\n").encode("ascii")
    return strictjson.readable(data, names.PARTS)


def load(data: bytes, source: str) -> dict[str, FileParts]:
    """Parse ``parts.json``; CheckpointCorrupt unless parts tile each file and arrays tile with parts."""
    fields = strictjson.load_fields(data, source, SCHEMA_VERSION)
    fields.take("schema_version", int, lambda value: value == SCHEMA_VERSION)
    files: Mapping[str, Any] = fields.take("files", dict)
    fields.finish()
    return {path: _file(names.relative_path(path, source), entry, source) for path, entry in files.items()}


def _file(path: str, entry: object, source: str) -> FileParts:
    where = f"{source} ({path})"
    if not isinstance(entry, dict):
        raise CheckpointCorrupt(where, "the entry is not an object")
    fields = strictjson.Fields(entry, where)
    rows, spans = fields.take("parts", list), fields.take("arrays", list)
    fields.finish()
    end = 0
    parts: list[Part] = []
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3 and all(map(strictjson.is_size, row[:2]))):
            raise CheckpointCorrupt(where, f"{str(row)[:80]} is not [offset, length, digest]")
        part = Part(*row)
        if part.offset != end or part.length == 0 or not is_digest(part.digest):
            raise CheckpointCorrupt(where, f"the part at {end} is wrong: {str(row)[:80]}")
        end += part.length
        parts.append(part)
    return FileParts(path, tuple(parts), tuple(_spans(spans, parts, where)))


def _spans(rows: list[object], parts: list[Part], where: str) -> Iterable[Span]:
    starts = {part.offset for part in parts} | {parts[-1].offset + parts[-1].length if parts else 0}
    end = 0
    for row in rows:
        if not (isinstance(row, list) and len(row) == 2 and all(map(strictjson.is_size, row))):
            raise CheckpointCorrupt(where, f"{str(row)[:80]} is not [offset, length]")
        span = Span(*row)
        stop = span.offset + span.length
        if span.offset < end or not span.length or span.offset not in starts or stop not in starts:
            raise CheckpointCorrupt(where, f"the array at {span.offset} does not lie on whole parts")
        end = stop
        yield span
