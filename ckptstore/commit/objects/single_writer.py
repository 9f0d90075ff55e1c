"""The one writer of a place that can't refuse to overwrite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ckptstore.backends.base import Listed, ObjectPlace, Sink, TooLarge


class SingleWriter:
    """`backend` with create-only writes emulated by looking first.

    Right as long as one process writes at a time. With two, both may be told that they won one step;
    a reader still never sees a mixed or torn checkpoint as whole, because digests are checked.
    """

    def __init__(self, backend: ObjectPlace) -> None:
        self._backend = backend

    def __repr__(self) -> str:
        return f"SingleWriter({self._backend!r})"

    @property
    def url(self) -> str:
        return self._backend.url

    @property
    def place(self) -> str:
        return self._backend.place

    @property
    def concurrency(self) -> int:
        return self._backend.concurrency

    @property
    def timeout(self) -> float:
        return self._backend.timeout

    def publish(self, key: str, data: bytes) -> None:
        """Create `key`, unless a look shows that it is there."""
        try:
            self._backend.read(key, most=0)
        except FileNotFoundError:
            self._backend.publish(key, data)
            return
        except TooLarge:
            pass  # whatever it holds
        raise FileExistsError(f"{self.url}/{key} is already there")

    def read(self, key: str, start: int = 0, stop: int | None = None, most: int | None = None) -> bytes:
        return self._backend.read(key, start, stop, most)

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        self._backend.read_into(key, start, target)

    def write(self, key: str) -> Sink:
        return self._backend.write(key)

    def copy(self, source: str, key: str, size: int) -> None:
        self._backend.copy(source, key, size)

    def replace(self, key: str, data: bytes) -> None:
        self._backend.replace(key, data)

    def delete(self, keys: Sequence[str]) -> None:
        self._backend.delete(keys)

    def children(self, prefix: str = "") -> list[str]:
        return self._backend.children(prefix)

    def starting(self, prefix: str, until: str | None = None) -> list[Listed]:
        return self._backend.starting(prefix, until)

    def abort_uploads(self, started: Callable[[str, float], bool]) -> int:
        return self._backend.abort_uploads(started)

    def list(self, prefix: str = "") -> list[Listed]:
        return self._backend.list(prefix)
