"""The files of a checkpoint, whoever wrote them; those that no manifest covers are read as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from ckptstore.backends.base import Backend
from ckptstore.backends.translate import explain_memory_error, translate_errors
from ckptstore.format.droppings import content_of
from ckptstore.format.names import relative_path
from ckptstore.format.parts import PART_BYTES
from ckptstore.read.manifests import key_of


class Files(Protocol):
    """The payload of one checkpoint."""

    label: str
    """Where it lies, for messages."""

    def paths(self) -> Mapping[str, int]:
        """Every payload file and its size in bytes."""

    def read(self, path: str) -> bytes:
        """The bytes of the file `path`."""

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of it, all of them."""

    def stream(self, path: str) -> Iterator[bytes]:
        """The same, piece by piece."""


class UnverifiedFiles:
    """The files of a directory that no manifest vouches for, as they are now."""

    def __init__(self, backend: Backend, listing: Mapping[str, int], prefix: str = "") -> None:
        """`listing` is what the directory `prefix` holds: path in it to size in bytes."""
        self.label = f"{backend.url.rstrip('/')}/{prefix}" if prefix else backend.url
        self._backend = backend
        self._prefix = prefix
        self._listing = listing

    def paths(self) -> Mapping[str, int]:
        """Every file when the directory was opened, but for any of ours, and for what is nobody's."""
        return content_of(self._listing)

    def read(self, path: str) -> bytes:
        """The bytes of the file `path`. CheckpointCorrupt if that would leave the directory."""
        relative_path(path, self.label)
        with translate_errors(f"{self.label}/{path}"), explain_memory_error(f"{self.label}/{path}"):
            return self._backend.read(key_of(self._prefix, path))

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of it. CheckpointCorrupt if there are fewer."""
        relative_path(path, self.label)
        with translate_errors(f"{self.label}/{path}"), explain_memory_error(f"{self.label}/{path}"):
            return self._backend.read(key_of(self._prefix, path), start, stop)

    def stream(self, path: str) -> Iterator[bytes]:
        """The same, piece by piece."""
        relative_path(path, self.label)
        for start in range(0, self._listing[path], PART_BYTES):
            stop = min(start + PART_BYTES, self._listing[path])
            with translate_errors(f"{self.label}/{path}"):
                yield self._backend.read(key_of(self._prefix, path), start, stop)
