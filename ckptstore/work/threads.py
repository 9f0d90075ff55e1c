"""Threads for calls.

They are kept for life and are everybody's: a save needs none that isn't there yet once one has run before.
That counts when the interpreter is going down, for it starts no new ones then (Python 3.12.1 not even for
those that it still waits for), and what no thread can be had for is done by the caller.

Nothing here takes a lock, so a signal handler may call it in the midst of itself, and a process forked
meanwhile finds nothing locked. That is why threads are started by hand: `threading.Thread.start` and every
executor hold locks that the new thread, or a handler, would wait for.
"""

from __future__ import annotations

import _thread
import itertools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from ckptstore.work.tasks import Task, check_interrupted

T = TypeVar("T")
S = TypeVar("S")


class _Threads:
    """Threads that wait for something to do, as many as were ever busy at once."""

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)  # they stay behind in the parent

    def _reset(self) -> None:
        self._idle: deque[bool] = deque()  # one for each thread that waits
        self._tasks: SimpleQueue[Task[Any]] = SimpleQueue()

    def run(self, task: Task[Any]) -> bool:
        """Have a thread run `task`; False where there is none and none can start."""
        try:
            self._idle.pop()
        except IndexError:
            try:
                _thread.start_new_thread(_live, (task, self._tasks, self._idle))
            except (RuntimeError, MemoryError):
                return False
            return True
        self._tasks.put(task)
        return True


def _live(task: Task[Any] | None, tasks: SimpleQueue[Task[Any]], idle: deque[bool]) -> None:
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)  # a debugger's, or a coverage tool's
    while True:
        try:
            while task is None:
                task = tasks.get()
            task.run()
            task = None  # what it holds must not stay until the next one comes
            idle.append(True)
        except MemoryError:
            if task is None:
                return  # nobody knows of this thread: another one will start
            task = None if task.begun else task
            if task is None:
                return


threads = _Threads()


def start(task: Task[Any]) -> None:
    """Have a thread run `task`; this one where none can be had."""
    if not threads.run(task):
        task.run()


class Pool:
    """Runs calls in up to `size` threads at once, in their order. Calls must not wait for later ones."""

    def __init__(self, size: int) -> None:
        self._free = deque((True,) * size)
        self._waiting: SimpleQueue[Task[Any]] = SimpleQueue()

    def submit(self, call: Callable[..., S], *args: Any) -> Task[S]:
        """The task of ``call(*args)``."""
        task: Task[S] = Task(partial(call, *args))
        self._waiting.put(task)
        if self._take():
            start(Task(self._work))
        return task

    def _take(self) -> bool:
        try:
            return self._free.pop()
        except IndexError:
            return False

    def _work(self) -> None:
        while True:
            try:
                while True:
                    self._waiting.get_nowait().run()
            except Empty:
                self._free.append(True)
            if self._waiting.empty() or not self._take():  # one may have come just before
                return


class _Share(Generic[T, S]):
    """Calls that several threads take from one after the other."""

    def __init__(self, call: Callable[[T], S], arguments: Sequence[T]) -> None:
        self._call = call
        self._arguments = arguments
        self._next = itertools.count()
        self.results: dict[int, S] = {}
        self.errors: dict[int, BaseException] = {}
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            index = next(self._next)
            if index >= len(self._arguments):
                return
            try:
                check_interrupted()
                self.results[index] = self._call(self._arguments[index])
            except BaseException as error:  # noqa: BLE001 - raised by `run_all`
                self.stopped = True
                self.errors[index] = error


def run_all(call: Callable[[T], S], arguments: Sequence[T], concurrency: int) -> list[S]:
    """``[call(a) for a in arguments]``, `concurrency` at a time; the first failure cancels the rest.

    The caller does its part, so threads that don't start cost time and nothing else.
    """
    share = _Share(call, arguments)
    helpers: list[Task[None]] = []
    try:
        for _ in range(min(concurrency, len(arguments)) - 1):
            helper = Task(share.run)
            if not threads.run(helper):
                break
            helpers.append(helper)
        share.run()
    finally:
        share.stopped = True
        for helper in helpers:
            if not helper.cancel():
                helper.outlast()  # it may use the caller's memory
    if share.errors:
        raise share.errors[min(share.errors)]
    for helper in helpers:
        if helper.error is not None and not helper.cancelled:
            raise helper.error
    return [share.results[index] for index in range(len(arguments))]
