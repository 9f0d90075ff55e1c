"""Exclusive locks that die with their process, and do not live on in its children."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import weakref

from ckptstore.backends.local.posix import Directory, Disk

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# NFS locks only what is open for writing (EBADF), which a directory never is, and may lock nothing.
_NO_LOCKS = frozenset(
    {errno.EBADF, errno.ENOLCK, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
)


class Lock:
    """An exclusive flock on an open descriptor. The kernel drops it when the process dies.

    A child made by fork shares the lock, and would keep a dead parent's alive for as long as it
    lives: it gives its copy up at birth, which leaves the parent's untouched. Because of children that
    Python did not see being made, `release` unlocks and does not only close.
    """

    fd = -1

    def __init__(self, disk: Disk, fd: int) -> None:
        self._disk = disk
        self.fd = fd
        _locks.add(self)

    def __del__(self) -> None:
        # An interrupt right after it was taken: nobody else would let go before the process ends.
        with contextlib.suppress(OSError):
            self.release()

    @property
    def is_held(self) -> bool:
        """Whether this process still has it: False after `release`, and in a forked child."""
        return self.fd >= 0

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        if self.fd >= 0 and sys.platform != "win32":
            with contextlib.suppress(OSError):  # closed under us, which released it
                fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.forget()

    def forget(self) -> None:
        """Close the descriptor without unlocking what a parent process shares."""
        fd, self.fd = self.fd, -1
        _locks.discard(self)
        if fd >= 0:
            self._disk.close(fd)


def is_free(disk: Disk, directory: Directory, name: str) -> bool | None:
    """Whether nobody holds the lock file `name`, or it isn't there; None where nothing can be locked."""
    try:
        lock = Lock(disk, disk.open_lock(directory, name))
    except FileNotFoundError:
        return True
    try:
        return try_lock(lock.fd)
    finally:
        lock.release()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forget_locks() -> None:
    for lock in list(_locks):
        lock.forget()


def forget_locks_of(disk: Disk) -> None:
    """What was opened through `disk` is closed by now: its numbers may be other files'."""
    for lock in list(_locks):
        if lock._disk is disk:
            lock.fd = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def try_lock(fd: int) -> bool | None:
    """Take an exclusive lock on `fd` at once; False if another has it, None where there are no locks."""
    if sys.platform == "win32":
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def lock_within(fd: int, seconds: float) -> bool:
    """Take an exclusive lock on `fd`; False where there are no locks.

    TimeoutError if its holder keeps it for `seconds`. Polled for rather than waited for: a holder that
    was stopped must lead to an error, not to a second process that hangs.
    """
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while (taken := try_lock(fd)) is False:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"another process kept the lock for {seconds:g} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
    return bool(taken)
