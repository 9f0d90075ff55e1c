"""Locks that a forked child doesn't inherit as they were."""

from __future__ import annotations

import os
import threading
import weakref


class Lock:
    """A re-entrant lock. In a forked child it is free: whoever held it stayed behind in the parent."""

    def __init__(self) -> None:
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()

    def acquire(self, timeout: float = -1) -> bool:
        """Take it; False if that took more than `timeout` seconds."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Give it up."""
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


_all: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forget_holders() -> None:
    for lock in list(_all):
        lock._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_holders)
