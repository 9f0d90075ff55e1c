"""A backend whose process dies at any change that you choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

from ckptstore.backends.base import Sink
from ckptstore.testing.disks import Crash


class CrashingBackend:
    """A backend of a process that dies: lets `after` changes through, then raises Crash for ever.

    With `landed`, the change it dies at still reaches the backend: the process is gone before the reply.
    Reads die as well once it is dead.
    """

    def __init__(self, backend: Any, after: int | None = None, landed: bool = False) -> None:
        self._backend = backend
        self.after = after
        self.landed = landed
        self.changes: list[tuple[str, str]] = []
        """Every change so far, verb and key; the one that died is the last."""
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        """Whatever else the backend can do: none of it changes anything."""
        if self.dead:
            raise Crash(name)
        return getattr(self._backend, name)

    def _change(self, verb: str, key: str, change: Callable[[], object]) -> None:
        if self.dead:
            raise Crash(f"{verb} {key}")
        self.changes.append((verb, key))
        self.dead = self.after is not None and len(self.changes) > self.after
        if not self.dead or self.landed:
            change()
        if self.dead:
            raise Crash(f"{verb} {key}")

    def publish(self, key: str, data: bytes) -> None:
        """Create `key`, or die."""
        self._change("publish", key, lambda: self._backend.publish(key, data))

    def replace(self, key: str, data: bytes) -> None:
        """Set `key`, or die."""
        self._change("replace", key, lambda: self._backend.replace(key, data))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove `keys` one after another, or die between two of them."""
        for key in keys:
            self._change("delete", key, partial(self._backend.delete, [key]))

    def write(self, key: str) -> Sink:
        """A new object, which appears when it is closed: that is where the process may die."""
        if self.dead:
            raise Crash(f"write {key}")
        return _CrashingSink(self, key, self._backend.write(key))


class _CrashingSink:
    def __init__(self, backend: CrashingBackend, key: str, sink: Sink) -> None:
        self._backend = backend
        self._key = key
        self._sink = sink

    def write(self, data: bytes | memoryview) -> None:
        if self._backend.dead:
            raise Crash(f"write {self._key}")
        self._sink.write(data)

    def __enter__(self) -> Sink:
        self._sink.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._sink.__exit__(kind, error, trace)
        else:
            self._backend._change("write", self._key, lambda: self._sink.__exit__(None, None, None))
