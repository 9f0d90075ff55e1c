"""Local disks that crash, or lose what was not synced."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import tempfile
import threading
from collections.abc import Callable
from typing import NamedTuple

from ckptstore.backends.local.locks import forget_locks_of
from ckptstore.backends.local.posix import Directory, Disk, Identity, identity


class Crash(BaseException):
    """The process died here. No Exception, because nothing catches a SIGKILL."""


class CrashingDisk(Disk):
    """Lets `after` changes through and then plays dead: that change and all later ones raise Crash.

    That includes clean-up, which a dead process does not do either. A write that is hit leaves half
    of its bytes. When Crash came out, call :meth:`drop`: it closes what the process had open, as the
    kernel would, and so releases its locks. With ``after=None`` it never dies and only counts.

        for after in itertools.count():
            disk = CrashingDisk(after)
            try:
                save(LocalBackend(root, disk=disk))
                break                        # it lived: every moment has been tried
            except Crash:
                disk.drop()
            check_with_plain_os(root)
    """

    def __init__(self, after: int | None = None) -> None:
        self.after = after
        self.changes: list[tuple[str, str]] = []
        """Every change so far, operation and path; the one that died is the last."""
        self.dead = False
        self._open: set[int] = set()

    def step(self, operation: str, path: str) -> None:
        """Count, or die."""
        if not self.dead:
            self.changes.append((operation, path))
            self.dead = self.after is not None and len(self.changes) > self.after
        if self.dead:
            raise Crash(f"{operation} {path}")

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`, or half of it at the moment of death."""
        alive = not self.dead
        try:
            super().write(fd, data)
        except Crash:
            if alive:
                view = memoryview(data).cast("B")
                os.write(fd, view[: len(view) // 2])
            raise

    def on_open(self, fd: int) -> int:
        """Remember `fd`."""
        self._open.add(fd)
        return fd

    def close(self, fd: int) -> None:
        """Close `fd`, unless `drop` did: its number may mean another file by now."""
        if fd in self._open:
            self._open.discard(fd)
            super().close(fd)

    def drop(self) -> None:
        """Close every descriptor, as the kernel does for the dead."""
        self.dead = True
        for fd in list(self._open):
            self.close(fd)
        forget_locks_of(self)

    def restart(self, after: int | None = None) -> None:
        """After `drop`: another process goes on with this disk, for `after` more changes."""
        self.after = None if after is None else len(self.changes) + after
        self.dead = False


class _Change(NamedTuple):
    """How to take one change of a name back, until each of its directories was synced."""

    unsynced: set[Identity]
    directories: tuple[Directory, ...]
    undo: Callable[[], object]

    def close(self) -> None:
        for directory in self.directories:
            directory.close()


class PowerCutDisk(CrashingDisk):
    """A crashing disk that also forgets: :meth:`cut` takes back what no fsync made durable.

    File bytes are durable once their file was synced after them. A created, linked or removed name
    is once its directory was synced, a renamed one once both were. Only changes made through this
    object are known to it. `scratch`, on the same file system, keeps what may have to come back.
    """

    def __init__(self, after: int | None = None, scratch: str | None = None) -> None:
        super().__init__(after)
        self._scratch = tempfile.mkdtemp(dir=scratch)
        self._names: list[_Change] = []
        self._mutex = threading.Lock()  # directories are synced by several threads
        self._sizes: dict[Identity, tuple[int, int]] = {}  # own descriptor, durable bytes

    def cut(self, lose: Callable[[], bool] | random.Random | None = None) -> None:
        """Turn the power off after `drop`.

        All unsynced bytes are lost, and of the unsynced names those for which `lose` says so: all by
        default. A ``random.Random`` tosses a coin for each.
        """
        if isinstance(lose, random.Random):
            coin = lose
            lose = lambda: coin.random() < 0.5  # noqa: E731  shorter than a nested def
        for fd, size in self._sizes.values():
            if os.fstat(fd).st_size > size:
                os.ftruncate(fd, size)
            os.close(fd)
        for change in reversed(self._names):
            if lose is None or lose():
                with contextlib.suppress(OSError):  # what it was in, or made room for, is gone as well
                    change.undo()
            change.close()
        shutil.rmtree(self._scratch)

    def _note_change(self, undo: Callable[..., object], *directories: Directory) -> None:
        """Note a change. `undo` is given the directories, which stay open whatever they are called."""
        # Opened anew: a duplicate would share, and so keep, the lock of a process that died.
        reopened = tuple(
            Directory(Disk(), os.open(".", os.O_RDONLY, dir_fd=each.fd), each.path) for each in directories
        )
        unsynced = {identity(os.fstat(each.fd)) for each in directories}
        with self._mutex:
            self._names.append(_Change(unsynced, reopened, lambda: undo(*reopened)))

    def _keep(self, directory: Directory, name: str) -> str | None:
        """A second link to a file that is about to lose its name."""
        kept = os.path.join(self._scratch, f"f{len(self.changes)}")
        try:
            os.link(name, kept, src_dir_fd=directory.fd, follow_symlinks=False)
        except OSError:
            return None
        return kept

    def mkdir(self, parent: Directory, name: str) -> None:
        """Make a directory that is lost until `parent` is synced."""
        super().mkdir(parent, name)
        self._note_change(lambda origin: Disk().remove_tree(origin, name), parent)

    def create(self, parent: Directory, name: str) -> int:
        """Create a file whose name is lost until `parent` is synced, and whose bytes until it is."""
        fd = super().create(parent, name)
        own = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=parent.fd)
        self._sizes[identity(os.fstat(fd))] = (own, 0)
        self._note_change(lambda origin: os.unlink(name, dir_fd=origin.fd), parent)
        return fd

    def fsync(self, fd: int) -> None:
        """Make bytes durable."""
        super().fsync(fd)
        status = os.fstat(fd)
        if known := self._sizes.get(identity(status)):
            self._sizes[identity(status)] = (known[0], status.st_size)

    def fsync_dir(self, directory: Directory) -> None:
        """Make names durable."""
        super().fsync_dir(directory)
        this = identity(os.fstat(directory.fd))
        with self._mutex:
            for change in self._names:
                change.unsynced.discard(this)
                if not change.unsynced:
                    change.close()
            self._names = [change for change in self._names if change.unsynced]

    def rename(self, source_dir: Directory, source: str, target_dir: Directory, target: str) -> None:
        """Move a name, which is taken back until both directories are synced."""
        kept = self._keep(target_dir, target)
        super().rename(source_dir, source, target_dir, target)
        self._note_move(source_dir, source, target_dir, target, kept)

    def rename_noreplace(
        self, source_dir: Directory, source: str, target_dir: Directory, target: str
    ) -> None:
        """Move a name, which is taken back until both directories are synced."""
        super().rename_noreplace(source_dir, source, target_dir, target)
        self._note_move(source_dir, source, target_dir, target, None)

    def _note_move(
        self, source_dir: Directory, source: str, target_dir: Directory, target: str, kept: str | None
    ) -> None:
        def undo(origin: Directory, destination: Directory) -> None:
            os.rename(target, source, src_dir_fd=destination.fd, dst_dir_fd=origin.fd)
            if kept:
                os.rename(kept, target, dst_dir_fd=destination.fd)

        self._note_change(undo, source_dir, target_dir)

    def link(self, source_dir: Directory, source: str, target_dir: Directory, target: str) -> None:
        """Add a name that is lost until its directory is synced."""
        super().link(source_dir, source, target_dir, target)
        self._note_change(lambda origin: os.unlink(target, dir_fd=origin.fd), target_dir)

    def unlink(self, parent: Directory, name: str) -> None:
        """Remove a name that comes back until `parent` is synced."""
        kept = self._keep(parent, name)
        super().unlink(parent, name)
        if kept:
            self._note_change(lambda origin: os.rename(kept, name, dst_dir_fd=origin.fd), parent)

    def rmdir(self, parent: Directory, name: str) -> None:
        """Remove a directory that comes back until `parent` is synced.

        It is put aside and not removed: what comes back has to be the same one, so that what was in
        it can come back as well.
        """
        self.step("rmdir", os.path.join(parent.path, name))
        if os.listdir(os.path.join(parent.path, name)):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
        kept = os.path.join(self._scratch, f"d{len(self.changes)}")
        os.rename(name, kept, src_dir_fd=parent.fd)
        self._note_change(lambda origin: os.rename(kept, name, dst_dir_fd=origin.fd), parent)
