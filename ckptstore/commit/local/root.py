"""A local store's root: its lock, its trash, what is committed.

::

    <root>/.staging/<attempt id>/       the files, while they are being written
    <root>/.staging/<attempt id>.lock   flocked for the writer's life: a dead one's can be taken
    <root>/.trash/<name>.<random>/      unpublished, on its way out
    <root>/.lock                        only where a directory can't be locked (NFS, Windows)

Whatever decides or changes which checkpoints exist happens under one short exclusive flock on the root
directory, so what was checked still holds when it is acted upon.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator

from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.local.locks import Lock, lock_within, try_lock
from ckptstore.backends.local.mounts import moves_whole, warn_once
from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import Directory, Disk, identity
from ckptstore.commit.local import in_place
from ckptstore.errors import InvalidRequest
from ckptstore.format.names import MANIFEST, META, SMALL_STATE_BYTES, TRASH, CheckpointName
from ckptstore.logs import logger

LOCK = ".lock"


class LocalRoot:
    """One local root: its lock, what is committed there, and how that goes to the trash.

    `timeout` is how many seconds a call waits for another process to let go of the root's lock,
    which is held for milliseconds, before it raises TimeoutError.
    """

    def __init__(self, backend: LocalBackend, timeout: float = 60.0) -> None:
        self.backend = backend
        self.timeout = timeout
        self.durable: dict[tuple[int, int], tuple[int, int]] = {}
        """Files of the checkpoint committed last, by identity, with size and time of last change: another
        one that links them need not sync them again."""

    @contextlib.contextmanager
    def hold_lock(self) -> Iterator[Directory]:
        """The root, open and under its exclusive lock. Not re-entrant."""
        with self.backend.open_root() as root:
            lock: Lock | None = None
            try:
                lock = self._lock(root)
                yield root
            finally:
                if lock:
                    lock.release()

    def _lock(self, root: Directory) -> Lock | None:
        """The root's lock: on the directory itself, which is there anyway, or on a file in it (NFS)."""
        disk = self.backend.disk
        if root.fd >= 0:
            # A descriptor of its own: a child forked meanwhile closes this one and may yet use the root.
            lock = Lock(disk, disk.open_dir(root, ".").fd)
            if self._take(lock):
                return lock
        with contextlib.suppress(FileExistsError):
            disk.close(disk.create(root, LOCK))
        lock = Lock(disk, disk.open_lock(root, LOCK))
        if self._take(lock):
            return lock
        warn_once(root.path, "files can't be locked here: only one process may save or delete at a time")
        return None

    def _take(self, lock: Lock) -> bool:
        try:
            if lock_within(lock.fd, self.timeout):
                return True
        except BaseException:
            lock.release()
            raise
        lock.release()
        return False

    def unpublish(self, root: Directory, names: list[CheckpointName]) -> list[str]:
        """Under the lock: move `names` to the trash, each durably before the next. Names in the trash."""
        disk, trashed = self.backend.disk, list[str]()
        if not names:
            return trashed
        with open_below(disk, root, TRASH, make=True) as trash:
            whole = moves_whole(self.backend.root)
            for name in sorted(names):
                if not whole:
                    in_place.hide(disk, root, name)
                trashed.append(f"{name}.{secrets.token_hex(8)}")
                disk.rename(root, str(name), trash, trashed[-1])
                disk.fsync_dir(trash)
                disk.fsync_dir(root)
        return trashed

    def remove(self, trashed: list[str]) -> int:
        """Remove these from the trash; the bytes that freed. Somebody else may be at it too.

        What is in use, or somebody else's, stays for the next sweep; its error comes after the others went.
        """
        disk, freed, kept = self.backend.disk, 0, list[OSError]()
        if trashed:
            with self.backend.open_root() as root, disk.open_dir(root, TRASH) as trash:
                for name in trashed:
                    try:
                        freed += disk.remove_tree(trash, name)
                    except OSError as error:
                        kept.append(error)
        if kept:
            raise kept[0]
        return freed

    def remove_quietly(self, trashed: list[str]) -> None:
        """Like `remove`, but only log failures: the checkpoint is already unpublished."""
        try:
            self.remove(trashed)
        except OSError as error:
            logger.warning("left in %s/%s for the next sweep: %s", self.backend.root, TRASH, error)


def all_names(disk: Disk, root: Directory) -> list[CheckpointName]:
    """Every directory named like a checkpoint, and every link, ascending: reading tells what it is worth."""
    found = []
    for entry in disk.entries(root):
        if entry.is_dir or entry.size < 0:
            name = CheckpointName.parse(entry.name)
            if name is not None and (entry.is_dir or disk.is_link(root, entry.name)):
                found.append(name)
    return sorted(found)


def is_committed(disk: Disk, root: Directory, name: CheckpointName) -> bool:
    """Whether the directory `name` has a manifest, which no crash leaves without the rest.

    A smaller one is a tombstone or seal, copied here from an object store.
    """
    try:
        with disk.open_top(root, str(name)) as directory, disk.open_dir(directory, META) as meta:
            status = disk.status(meta, MANIFEST.rpartition("/")[2])
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > SMALL_STATE_BYTES


def list_committed(disk: Disk, root: Directory, step: int) -> list[CheckpointName]:
    """The committed attempts at `step`, ascending: the last one is the step's checkpoint."""
    return [name for name in all_names(disk, root) if name.step == step and is_committed(disk, root, name)]


def drop_lock(disk: Disk, staging: Directory, attempt: str, lock: Lock) -> None:
    """Remove an attempt's lock file and let go, so that nobody takes a lock about to lose its name."""
    if sys.platform == "win32":
        lock.release()  # what is open can't be removed there
    try:
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(staging, attempt + LOCK)
    finally:
        lock.release()


def leads_to(disk: Disk, parent: Directory, name: str, fd: int) -> bool:
    try:
        return identity(disk.status(parent, name)) == identity(os.fstat(fd))
    except FileNotFoundError:
        return False


def new_lock(disk: Disk, staging: Directory, attempt: str, timeout: float) -> Lock:
    """Create and take the lock file of a new attempt.

    A sweep that finds the file before it is locked may hold it for a moment, to see whether its writer
    lives, or take it for a dead writer's and remove it. So the lock is waited for, and counts only if the
    name still leads to the file that was locked.
    """
    name, deadline = attempt + LOCK, time.monotonic() + timeout
    while True:
        try:
            lock = Lock(disk, disk.create(staging, name))
        except FileExistsError:
            raise InvalidRequest(f"attempt id {attempt!r}", "it is in use", "Save again") from None
        while True:
            taken = (
                try_lock(lock.fd) is not False
            )  # also where there are no locks: the root's warning says so
            if not leads_to(disk, staging, name, lock.fd):
                break
            if taken:
                return lock
            if time.monotonic() > deadline:
                lock.release()
                raise TimeoutError(f"no lock on {name} within {timeout:g} s")
            time.sleep(0.001)
        lock.release()
