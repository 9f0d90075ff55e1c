"""Keep the main thread free for signal handlers.

A handler runs in the main thread, between any two bytecodes of whatever that is doing, and what it interrupts
goes on when it returns: a lock held there stays held for as long as the handler waits for it. So the main
thread does nothing but wait: what it is asked for is done by another thread, which no signal interrupts. A
handler that saves has its save done by a third one, which waits for the second where it must.

An exception out of a handler, as Ctrl-C raises one, comes through when that thread has ended: early and
without result, or done where others may see it already.
"""

from __future__ import annotations

import _thread
import functools
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ckptstore.errors import SaveAborted, StoreUnavailable
from ckptstore.work.tasks import Task, current
from ckptstore.work.threads import threads

S = TypeVar("S")
C = TypeVar("C")

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_logger = logging.getLogger("ckptstore")
_waited_for: list[Task[Any]] = []
"""By the main thread: several where a handler called again."""
_inline: list[Task[Any]] = []
"""What the main thread does itself, as there is no thread for it."""


def run_off_main(call: Callable[[], S]) -> S:
    """``call()``, by another thread if this is the main one.

    Raises StoreUnavailable where a signal handler calls, no thread can be had for it, nor could for what it
    interrupted: that may hold what `call` would wait for, for ever.
    """
    if not _is_main() or sys.is_finalizing():  # threads stand still by then
        return call()
    for level in _LEVELS:  # so that no thread has to ask for it, which takes a lock
        _logger.isEnabledFor(level)
    task = Task(call)
    assert task.context is not None
    task.context.run(current.set, task)
    try:
        _waited_for.append(task)
        if not threads.run(task):
            _run_here(task)
        task.join(meanwhile=functools.partial(emit, task.records))
    except BaseException:
        task.interrupted = True
        if not task.cancel():
            task.outlast()
        raise
    finally:
        if task in _waited_for:
            _waited_for.remove(task)
        emit(task.records)
    try:
        return task.result()
    finally:
        del task  # the error's traceback leads here


def _run_here(task: Task[Any]) -> None:
    if _inline and not str(sys._getframe(3).f_globals.get("__name__")).startswith("ckptstore."):
        why = "no thread can be started, and a call that this one interrupts may have to end first"
        raise StoreUnavailable(
            "signal handler", why, "Set a flag in the handler, and save when it has returned"
        )
    _inline.append(task)
    try:
        task.run()
    finally:
        _inline.remove(task)


def _is_main() -> bool:
    return _thread.get_ident() == threading.main_thread().ident


def off_main(
    *others: str, at_once: Callable[[Any], bool] = lambda instance: False
) -> Callable[[type[C]], type[C]]:
    """Have the public methods of a class, and `others`, do their work off the main thread.

    Properties of an instance for which `at_once` is true have their answer at hand, and need no thread.
    """

    def decorate(cls: type[C]) -> type[C]:
        for name, value in list(vars(cls).items()):
            if name in others and isinstance(value, property):
                setattr(cls, name, property(_wrap(value.fget, at_once), doc=value.__doc__))
            elif name in others and isinstance(value, classmethod):
                setattr(cls, name, classmethod(_wrap(value.__func__)))
            elif callable(value) and not isinstance(value, type) and (name in others or name[0] != "_"):
                setattr(cls, name, _wrap(value))
        return cls

    return decorate


def _wrap(function: Any, at_once: Callable[[Any], bool] | None = None) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if at_once is not None and at_once(args[0]):
            return function(*args, **kwargs)
        return run_off_main(functools.partial(function, *args, **kwargs))

    return call


def emit(records: deque[logging.LogRecord]) -> None:
    """Log what a thread put off."""
    while records:
        _logger.handle(records[0])
        records.popleft()


def _put_off(record: logging.LogRecord) -> bool:
    """Whether this thread may log now.

    The main thread may have been interrupted while it logs something itself, and hold what this one would
    wait for: where that waits for this one, it does the logging.
    """
    task = current.get()
    if task is None or _is_main():
        return True
    task.records.append(record)
    return False


def _fail_in_child() -> None:
    """The threads that work for the main one stayed behind in the parent, of which this is a fork."""
    for task in _waited_for:
        why = "the process was forked while it was being worked on, which goes on in the parent"
        task.fail(SaveAborted("this call", why, "Call again"))


_logger.addFilter(_put_off)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fail_in_child)
