"""A call that some thread makes, and what came of it.

Made for moments at which nothing can be relied on: the main thread may be interrupted between any two
bytecodes by a signal handler that calls the same code again, threads may not start, memory may run out.
So no lock is ever shared by those who wait, nothing is allocated once the call is made, and whoever waits
in vain for a thread makes the call itself.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

S = TypeVar("S")

_POLL = 0.1  # seconds between looks at what may have changed without a word
_PATIENCE = 5.0  # seconds after which a thread that was to make the call counts as dead


class Interrupted(BaseException):
    """The main thread, for which this thread works, was interrupted: clean up and end."""


class Task(Generic[S]):
    """One call. Whoever claims it first makes it; any number may wait for it."""

    __slots__ = (
        "_call",
        "_claim",
        "_error",
        "_result",
        "_succeeded",
        "_waiting",
        "cancelled",
        "context",
        "finished",
        "interrupted",
        "must_finish",
        "records",
    )

    def __init__(self, call: Callable[[], S]) -> None:
        self.context: contextvars.Context | None = contextvars.copy_context()
        self._call: Callable[[], S] | None = call
        self._claim = deque((True,))
        self._waiting: deque[Any] = deque()  # a lock of its own for each
        self._succeeded = False
        self._result: S | None = None
        self._error: BaseException | None = MemoryError("no memory to say what happened")
        self.finished = False
        self.cancelled = False
        self.interrupted = False
        """Whether it should end without result: told by `check_interrupted`."""
        self.must_finish = False
        """Whether it is in what shouldn't be left half done."""
        self.records: deque[logging.LogRecord] = deque()
        """What it would have logged."""

    @property
    def begun(self) -> bool:
        """Whether somebody has made the call, or is at it."""
        return not self._claim

    def run(self) -> None:
        """Make the call, unless somebody else has claimed it. Raises nothing but MemoryError."""
        if not self._take():
            return
        try:
            assert self._call is not None
            assert self.context is not None
            self._result = self.context.run(self._call)
            self._succeeded = True
        except BaseException as error:  # noqa: BLE001 - it is for whoever asks for the result
            self._error = error
        finally:
            self._call = self.context = None  # which may know this task
            self.finished = True
            while self._waiting:
                self._waiting.pop().release()

    def cancel(self) -> bool:
        """See to it that nobody makes the call; False if somebody has begun."""
        if not self._take():
            return False
        self.cancelled = True
        self.fail(Interrupted("it was cancelled"))
        return True

    def fail(self, error: BaseException) -> None:
        """Have everybody who waits get `error`: nobody is left to make the call."""
        self._claim.clear()
        self._call = self.context = None
        self._error = error
        self.finished = True
        while self._waiting:
            self._waiting.pop().release()

    def _take(self) -> bool:
        try:
            self._claim.pop()
        except (IndexError, MemoryError):
            return False
        return True

    def wait(self, timeout: float = -1) -> bool:
        """Whether the call has been made, after at most `timeout` seconds; -1 is for ever.

        Without memory for a lock that is asked after a moment's sleep.
        """
        if not self.finished:
            try:
                mine = _thread.allocate_lock()
            except (RuntimeError, MemoryError):
                time.sleep(_POLL)
                return self.finished
            mine.acquire()
            self._waiting.append(mine)
            if not self.finished:  # set before anybody is looked for
                mine.acquire(True, timeout)
        return self.finished

    def join(
        self,
        timeout: float | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        first: Task[Any] | None = None,
    ) -> bool:
        """Wait until the call is made; if nobody begins it in good time, make it here.

        Calls `meanwhile` again and again. Where another task makes the call, `first` is that one. False if
        it took more than `timeout` seconds.
        """
        began, first = time.monotonic(), first or self
        while not self.finished:
            left = _POLL if timeout is None else min(timeout - (time.monotonic() - began), _POLL)
            if left < 0:
                return False
            self.wait(left)
            meanwhile()
            if not first.begun and time.monotonic() - began > _PATIENCE:
                first.run()
        return True

    def outlast(self) -> None:
        """Wait until nobody is at it any more, even without memory."""
        while not self.finished:
            try:
                self.join()
            except MemoryError:
                time.sleep(_POLL)

    def result(self) -> S:
        """What the call returned, once it is made. Raises what it raised."""
        self.join()
        if self._succeeded:
            return self._result  # type: ignore[return-value]
        error = self._error
        assert error is not None
        try:
            raise error
        finally:
            del self, error  # its traceback leads here

    @property
    def error(self) -> BaseException | None:
        """What the call raised, once it is made."""
        return None if self._succeeded else self._error


current: contextvars.ContextVar[Task[Any] | None] = contextvars.ContextVar("ckptstore_task", default=None)
"""On whose behalf this thread works: it hears of interrupts, and takes what is logged."""


def check_interrupted() -> None:
    """Raise Interrupted, once, if the main thread no longer wants what this thread is doing."""
    task = current.get()
    if task is not None and task.interrupted and not task.must_finish:
        task.interrupted = False
        raise Interrupted


@contextlib.contextmanager
def finish_first() -> Iterator[None]:
    """What the block does isn't interrupted: it has begun to be seen by others."""
    task = current.get()
    before = task is not None and task.must_finish
    if task is not None:
        task.must_finish = True
    try:
        yield
    finally:
        if task is not None:
            task.must_finish = before
