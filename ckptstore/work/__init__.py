"""Run calls in threads, keep the main thread free for signal handlers, and report progress."""

from __future__ import annotations

from collections.abc import Callable

from ckptstore.work.locks import Lock
from ckptstore.work.main_thread import emit, off_main, run_off_main
from ckptstore.work.tasks import Interrupted, Task, check_interrupted, current, finish_first
from ckptstore.work.threads import Pool, run_all, start

__all__ = [
    "Interrupted",
    "Lock",
    "Pool",
    "Progress",
    "Task",
    "check_interrupted",
    "current",
    "emit",
    "finish_first",
    "off_main",
    "run_all",
    "run_off_main",
    "start",
]

Progress = Callable[[int], object]
"""Is given the number of bytes just moved."""
