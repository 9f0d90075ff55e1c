"""Disks and backends for tests: they count, watch, fail, interrupt or delay what is done through them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ckptstore.backends.base import Listed
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.local.posix import Directory, Disk, Entry, Identity, identity
from ckptstore.backends.objects.backend import ObjectBackend


class CountingDisk(Disk):
    """Counts the bytes written."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        self.written += memoryview(data).nbytes
        super().write(fd, data)


class Event(NamedTuple):
    """One change. `file` tells which file or directory it was of, if that was written or synced."""

    operation: str
    path: str
    file: Identity | None = None


class WatchedDisk(Disk):
    """Notes every change in `events`: writes and syncs once they are done, all others before they begin."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._mutex = threading.Lock()

    @property
    def steps(self) -> list[tuple[str, str]]:
        """The operation of each change, and the last part of the path it was on."""
        return [(event.operation, os.path.basename(event.path)) for event in self.events]

    def last(self, operation: str, file: Identity | None = None) -> int:
        """Index of the last such event, -1 if there is none."""
        found = [n for n, event in enumerate(self.events) if event[::2] == (operation, file)]
        return found[-1] if found else -1

    def step(self, operation: str, path: str) -> None:
        if operation not in {"write", "fsync", "fsync_dir"}:
            self._note(Event(operation, path))

    def _note(self, event: Event) -> None:
        with self._mutex:
            self.events.append(event)

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        super().write(fd, data)
        self._note(Event("write", f"fd {fd}", identity(os.fstat(fd))))

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        self._note(Event("fsync", f"fd {fd}", identity(os.fstat(fd))))

    def fsync_dir(self, directory: Directory) -> None:
        super().fsync_dir(directory)
        self._note(Event("fsync_dir", directory.path, identity(os.fstat(directory.fd))))


class FailingDisk(Disk):
    """Fails changes with `code`, and notes them in `failed`.

    Only those of kind `operation`, if it is given, on paths that contain `where`, once there was one of
    kind `after`; and of these only the one number `at`, unless its kind is among those to `spare`.
    """

    def __init__(
        self,
        operation: str = "",
        code: int = errno.EIO,
        *,
        where: str = "",
        after: str = "",
        at: int | None = None,
        spare: tuple[str, ...] = (),
    ) -> None:
        self.code = code
        self.failed: list[tuple[str, str]] = []
        """Operation and path of each change that failed."""
        self.reached = False
        """Whether number `at` has come."""
        self._operation, self._where, self._after, self._spare = operation, where, after, spare
        self._left = at
        self._mutex = threading.Lock()

    def step(self, operation: str, path: str) -> None:
        with self._mutex:
            failing = self._should_fail(operation, path)
            if failing:
                self.failed.append((operation, path))
        if failing:
            raise OSError(self.code, os.strerror(self.code), path)

    def _should_fail(self, operation: str, path: str) -> bool:
        if operation == self._after:
            self._after = ""
        if self._after or self._operation not in ("", operation) or self._where not in path:
            return False
        if self._left is not None:
            self._left -= 1
            if self._left != -1:
                return False
            self.reached = True
        return operation not in self._spare


class FailingCallsDisk(FailingDisk):
    """Fails looks as well, each of which counts like a change."""

    def open_root(self, path: str) -> Directory:
        self.step("open_root", path)
        return super().open_root(path)

    def open_dir(self, parent: Directory, name: str) -> Directory:
        self.step("open_dir", name)
        return super().open_dir(parent, name)

    def open_file(self, parent: Directory, name: str) -> int:
        self.step("open_file", name)
        return super().open_file(parent, name)

    def open_lock(self, parent: Directory, name: str) -> int:
        self.step("open_lock", name)
        return super().open_lock(parent, name)

    def entries(self, directory: Directory) -> Iterator[Entry]:
        self.step("entries", directory.path)
        return super().entries(directory)

    def status(self, parent: Directory, name: str) -> os.stat_result:
        self.step("status", name)
        return super().status(parent, name)

    def close(self, fd: int) -> None:
        # NFS reports only here what it could not write, and the descriptor is gone all the same.
        super().close(fd)
        self.step("close", f"fd {fd}")


class InterruptedDisk(Disk):
    """Calls `interrupt` once, before change number `at`, of kind `operation` if that is given.

    It does what another process might do at that moment, or fate. Other threads can't change anything
    before it returns. As long as it is None, changes aren't counted.
    """

    def __init__(
        self, interrupt: Callable[[], object] | None = None, operation: str = "", *, at: int = 0
    ) -> None:
        self.interrupt = interrupt
        self.reached = False
        self._operation, self._left = operation, at
        self._mutex = threading.Lock()

    def step(self, operation: str, path: str) -> None:
        if self.interrupt is None or self._operation not in ("", operation):
            return
        with self._mutex:
            self._left -= 1
            if self._left == -1:
                self.reached = True
                self.interrupt()


class DelayedDisk(Disk):
    """Makes no change of kind `operation` before `gate` is set; then fails those on names in `failing`."""

    def __init__(self, operation: str) -> None:
        self.gate = threading.Event()
        self.failing: set[str] = set()
        self._operation = operation

    def step(self, operation: str, path: str) -> None:
        if operation == self._operation:
            assert self.gate.wait(60)
            if os.path.basename(path) in self.failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


class WatchedBackend(LocalBackend):
    """Notes which keys are read, and counts the bytes that are read into memory of the caller's."""

    def __init__(self, root: str | os.PathLike[str], disk: Disk | None = None) -> None:
        super().__init__(root, disk)
        self.read_keys: list[str] = []
        self.fetched = 0

    def read(self, key: str, start: int = 0, stop: int | None = None, most: int | None = None) -> bytes:
        self.read_keys.append(key)
        return super().read(key, start, stop, most)

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        self.read_keys.append(key)
        self.fetched += len(target)
        super().read_into(key, start, target)


class LaggingBackend(ObjectBackend):
    """Its next `lags` listings don't show what begins with `hidden`, as if read before that came."""

    lags = 0
    hidden = ""

    def children(self, prefix: str = "") -> list[str]:
        hides = self._hides()
        return [name for name in super().children(prefix) if not hides(f"{prefix}/{name}/".lstrip("/"))]

    def starting(self, prefix: str, until: str | None = None) -> list[Listed]:
        hides = self._hides()
        return [entry for entry in super().starting(prefix, until) if not hides(entry.key)]

    def _hides(self) -> Callable[[str], bool]:
        """What the listing that begins now hides."""
        self.lags -= 1
        lags = self.lags >= 0
        return lambda key: lags and key.startswith(self.hidden)
