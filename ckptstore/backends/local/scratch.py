"""Directories of one process, which the next one removes if that process died.

Each is locked for its owner's life: by a flock on the directory itself, which leaves no other file beside it.
One whose lock is free is a dead one's. Where there are no locks, none is taken for dead.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator

from ckptstore.backends.local.locks import Lock, try_lock
from ckptstore.backends.local.posix import Disk, identity

TEMPORARY = "ckptstore-tmp-"
"""What the names of directories for temporary copies begin with, wherever those lie."""
_MOST_LOOKED_AT = 10_000
_MOST_REMOVED = 32
_TRIES = 100
_OPEN = os.O_RDONLY
for _flag in ("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"):
    _OPEN |= getattr(os, _flag, 0)


class Scratch:
    """A new directory `path` in `parent`, which is the system's own for temporary files by default.

    What dead processes of this user left there is removed first: a bounded number, so that it takes no time
    worth mention. Its name begins with `prefix`.
    """

    def __init__(self, parent: str | None = None, prefix: str = TEMPORARY) -> None:
        parent = tempfile.gettempdir() if parent is None else parent
        self._parent, self._prefix = parent, prefix
        self._lock: Lock | None = None
        self.path = os.path.join(parent, prefix + secrets.token_hex(8))

    def make(self) -> str:
        """Make it; its path. Nothing is there before, so that who is interrupted here calls `remove`."""
        remove_dead(self._parent, self._prefix)
        for _ in range(_TRIES):
            os.mkdir(self.path, 0o700)
            if self._take_lock():
                return self.path
            self.path = os.path.join(self._parent, self._prefix + secrets.token_hex(8))
        raise FileExistsError(f"no directory could be made and locked in {self._parent}")

    def _take_lock(self) -> bool:
        """False if somebody who found it before it was locked took it for a dead one's."""
        if os.name == "nt":
            return True  # directories can't be opened there, and so aren't swept
        try:
            self._lock = Lock(Disk(), os.open(self.path, _OPEN))
            taken = try_lock(self._lock.fd) is not False
            if taken and identity(os.stat(self.path)) == identity(os.fstat(self._lock.fd)):
                return True
        except FileNotFoundError:
            pass
        self.release()
        return False

    def release(self) -> None:
        """Let go of the directory, which stays, under whatever name it has by now."""
        if self._lock is not None:
            self._lock.release()

    def remove(self) -> None:
        """Remove it with all that is in it. What can't be removed, the next process may."""
        owner = self._lock is None or self._lock.is_held  # a forked child is none
        if owner:
            shutil.rmtree(self.path, ignore_errors=True)
        self.release()


@contextlib.contextmanager
def temporary_directory(parent: str | None = None) -> Iterator[str]:
    """The path of a `Scratch` that is removed at the end of the block."""
    scratch = Scratch(parent)
    try:
        yield scratch.make()
        scratch.remove()
    except BaseException:  # also of an interrupt in there
        scratch.remove()
        raise


def remove_dead(parent: str, prefix: str = TEMPORARY) -> int:
    """Remove the directories `prefix...` in `parent` whose owner died; how many that were."""
    if os.name == "nt":
        return 0
    ours = re.compile(re.escape(prefix) + r"[0-9a-f]{16}\Z")
    removed = 0
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in itertools.islice(entries, _MOST_LOOKED_AT):
            if ours.match(entry.name) and removed < _MOST_REMOVED:
                removed += _remove_if_dead(entry.path)
    return removed


def _remove_if_dead(path: str) -> bool:
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return False
        lock = Lock(Disk(), os.open(path, _OPEN))
    except OSError:
        return False  # it went meanwhile, or isn't ours to look into
    try:
        if try_lock(lock.fd) is not True or identity(os.fstat(lock.fd)) != identity(os.lstat(path)):
            return False
        shutil.rmtree(path, ignore_errors=True)
        return True
    except OSError:
        return False
    finally:
        lock.release()
