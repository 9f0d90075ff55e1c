"""One file as a directory that holds nothing else: what a checkpoint in a single file lies in."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckptstore.backends.base import Backend, Listed, NotPlain, Sink, place_of


def size_of(directory: Backend, name: str) -> int:
    """The bytes of the file `name`, as little asked for it as the backend allows."""
    ask: Callable[[str], int] | None = getattr(directory, "size_of", None)
    if ask is not None:
        return ask(name)
    return next((item.size for item in directory.list() if item.key == name), -1)


@dataclass(frozen=True)
class OneFile:
    """The file `name` of `directory`, of `size` bytes. It is read and never written."""

    directory: Backend
    name: str
    size: int

    @property
    def url(self) -> str:
        """The file's own."""
        return f"{self.directory.url.rstrip('/')}/{self.name}"

    @property
    def place(self) -> str:
        """See `place_of`."""
        return f"{place_of(self.directory)}/{self.name}"

    @property
    def concurrency(self) -> int:
        """See `Backend`."""
        return self.directory.concurrency

    def read(self, key: str, start: int = 0, stop: int | None = None, most: int | None = None) -> bytes:
        """See `Backend`."""
        return self.directory.read(self._own(key), start, stop, most)

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        """See `Backend`."""
        self.directory.read_into(self._own(key), start, target)

    def children(self, prefix: str = "") -> list[str]:
        """See `Backend`."""
        return [] if prefix else [self.name]

    def list(self, prefix: str = "") -> list[Listed]:
        """See `Backend`: the file as it was when it was opened."""
        return [] if prefix else [Listed(self.name, self.size)]

    def write(self, key: str) -> Sink:
        """NotPlain, as from all that would write."""
        raise NotPlain(errno.ENOTDIR, "it is a file", self.url)

    def publish(self, key: str, data: bytes) -> None:
        """NotPlain."""
        self.write(key)

    def replace(self, key: str, data: bytes) -> None:
        """NotPlain."""
        self.write(key)

    def delete(self, keys: Sequence[str]) -> None:
        """NotPlain."""
        self.write(self.name)

    def _own(self, key: str) -> str:
        if key != self.name:
            raise FileNotFoundError(f"{self.url} is a file")
        return key
