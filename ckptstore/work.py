"""Run calls in threads, and report progress.

The threads are kept for life and are everybody's: a save needs none that isn't there yet once one has run
before. That counts when the interpreter is going down, for it starts no new ones then (Python 3.12.1 not
even for those that it still waits for), and what no thread can be had for is done by the caller.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

Progress = Callable[[int], object]
"""Is given the number of bytes just moved."""

T = TypeVar("T")
S = TypeVar("S")


class _Threads:
    """Threads that wait for something to do, as many as were ever busy at once."""

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)  # they stay behind in the parent

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle = 0
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def run(self, call: Callable[[], object]) -> bool:
        """Have a thread run `call`, which raises nothing; False where there is none and none can start."""
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._calls.put(call)
                return True
        try:
            threading.Thread(target=self._live, args=(call,), name="ckptstore", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _live(self, call: Callable[[], object]) -> None:
        while True:
            call()
            del call  # what it holds must not stay until the next one comes
            with self._lock:
                self._idle += 1
            call = self._calls.get()


_threads = _Threads()


def run_in_thread(call: Callable[[], object]) -> None:
    """Run `call`, which raises nothing, in a thread; in this one where none can be had."""
    if not _threads.run(call):
        call()


class Pool:
    """Runs calls in up to `size` threads at once, in their order. Calls must not wait for later ones."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._busy = 0

    def submit(self, call: Callable[..., S], *args: Any) -> Future[S]:
        """The future of ``call(*args)``."""
        future: Future[S] = Future()
        self._waiting.put((future, call, args))
        with self._lock:
            if self._busy >= self._size:
                return future
            self._busy += 1
        run_in_thread(self._work)
        return future

    def _work(self) -> None:
        while True:
            try:
                future, call, args = self._waiting.get_nowait()
            except Empty:
                with self._lock:
                    if self._waiting.empty():
                        self._busy -= 1
                        return
                continue
            if future.set_running_or_notify_cancel():
                _settle(future, call, args)
            del future, call, args


def _settle(future: Future[Any], call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = call(*args)
    except BaseException as error:  # noqa: BLE001 - it is for whoever asks the future
        future.set_exception(error)
    else:
        future.set_result(result)


def run_all(call: Callable[[T], S], arguments: Sequence[T], concurrency: int) -> list[S]:
    """``[call(a) for a in arguments]``, `concurrency` at a time; the first failure cancels the rest."""
    if concurrency == 1 or len(arguments) < 2:
        return [call(argument) for argument in arguments]
    pool = Pool(min(concurrency, len(arguments)))
    futures = [pool.submit(call, argument) for argument in arguments]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and not future.cancelled() and (error := future.exception()):
                raise error
        return [future.result() for future in futures]
    finally:
        running = [future for future in futures if not future.cancel()]
        wait(running)
