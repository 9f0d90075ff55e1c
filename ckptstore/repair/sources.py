"""Where the bytes of a damaged file may lie once more: files of the same digest, here and in mirrors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from ckptstore.backends.base import Backend
from ckptstore.errors import CheckpointCorrupt, UnreadableFormat
from ckptstore.format import parts, strictjson
from ckptstore.format.digest import digest
from ckptstore.format.manifest import File, Manifest
from ckptstore.format.names import PARTS
from ckptstore.format.parts import FileParts, Part
from ckptstore.read.manifests import key_of


class Source(NamedTuple):
    """A committed checkpoint whose files may be read. Nothing is believed before its digest is checked."""

    backend: Backend
    prefix: str
    manifest: Manifest
    url: str


class Copy(NamedTuple):
    """One file of a source."""

    source: Source
    path: str

    @property
    def key(self) -> str:
        """The backend's."""
        return key_of(self.source.prefix, self.path)


class Pieces(NamedTuple):
    """A file put together from good parts."""

    parts: tuple[tuple[Part, Copy], ...]

    @property
    def told(self) -> str:
        """Where they lie."""
        return ", ".join(dict.fromkeys(f"{copy.source.url}/{copy.path}" for _, copy in self.parts))

    def write(self, write: Callable[[bytes], object]) -> None:
        """Hand out the bytes, each part checked once more. CheckpointCorrupt if one has changed meanwhile."""
        for part, copy in self.parts:
            data = read_part(copy, part)
            if data is None:
                raise CheckpointCorrupt(f"{copy.source.url}/{copy.path}", "it changed while it was copied")
            write(data)


def find_pieces(file: FileParts, copies: Iterable[Copy]) -> Pieces | None:
    """`file` from the first copy of each part that is good; None if one part is good nowhere."""
    copies = list(copies)
    found: list[tuple[Part, Copy]] = []
    for part in file.parts:
        at = next((at for at, copy in enumerate(copies) if read_part(copy, part) is not None), None)
        if at is None:
            return None
        copies.insert(0, copies.pop(at))  # most likely the next one is good there too
        found.append((part, copies[0]))
    return Pieces(tuple(found))


def find_copies(file: File, sources: Iterable[Source]) -> Iterator[Copy]:
    """Every file that should have the bytes of `file`."""
    for source in sources:
        for other in source.manifest.files:
            if (other.digest, other.size) == (file.digest, file.size):
                yield Copy(source, other.path)


def read_part(copy: Copy, part: Part) -> bytes | None:
    """The bytes of `part`; None if they aren't there, or others."""
    data = read_bytes(copy.source.backend, copy.key, part.offset, part.offset + part.length)
    return data if data is not None and digest(data) == part.digest else None


def read_bytes(
    backend: Backend, key: str, start: int = 0, stop: int | None = None, most: int = strictjson.MAX_BYTES
) -> bytes | None:
    """What lies there; None for what is missing, cut short or can't be read. No answer is an error."""
    try:
        return backend.read(key, start, stop, most=most)
    except (TimeoutError, PermissionError):
        raise
    except (OSError, EOFError):
        return None


def read_table(source: Source) -> tuple[bytes, Mapping[str, FileParts]] | None:
    """``parts.json`` of a source, if it is what the manifest vouches for."""
    said = source.manifest.parts
    data = read_bytes(source.backend, key_of(source.prefix, PARTS))
    if data is None or (len(data), digest(data)) != (said.size, said.digest):
        return None
    return data, load_table(data, source)


def load_table(data: bytes, source: Source) -> Mapping[str, FileParts]:
    """The parts by path; CheckpointCorrupt if they are not the manifest's files."""
    table = parts.load(data, f"{source.url}/{PARTS}")
    if {(file.path, file.size, file.digest) for file in table.values()} != set(source.manifest.files):
        raise CheckpointCorrupt(f"{source.url}/{PARTS}", "it does not list the manifest's files")
    return table


def find_table(wanted: Source, sources: Iterable[Source]) -> tuple[bytes, str] | None:
    """The bytes of a lost ``parts.json`` and where they are from: a copy, or the tables of its files."""
    said = wanted.manifest.parts
    known: dict[str, FileParts] = {}
    needed = {file.digest for file in wanted.manifest.files}
    urls: list[str] = []
    for source in sources:
        same = source.manifest.parts.digest == said.digest
        if not same and needed.isdisjoint(file.digest for file in source.manifest.files):
            continue
        try:
            found = read_table(source)
        except (CheckpointCorrupt, UnreadableFormat):
            continue
        if found is None:
            continue
        if same:
            return found[0], f"{source.url}/{PARTS}"
        new = {file.digest: file for file in found[1].values() if file.digest in needed - known.keys()}
        if new:
            known |= new
            urls.append(f"{source.url}/{PARTS}")
    if needed <= known.keys():
        data = parts.dump(known[file.digest]._replace(path=file.path) for file in wanted.manifest.files)
        if (len(data), digest(data)) == (said.size, said.digest):
            return data, ", ".join(urls)
    return None
