"""Saves that go on while training does: a snapshot now, the writing on a thread of its own."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from ckptstore.errors import SaveAborted
from ckptstore.format.layout import Item, Write
from ckptstore.logs import logger
from ckptstore.work import Lock, Task, check_interrupted, current, emit, start

T = TypeVar("T")

_POLL = 0.2  # seconds between looks for an interrupt
_PATIENCE = 1.0  # seconds that a log may take


class SaveFuture(Future[T], Generic[T]):
    """A future that knows whether anybody looked at its failure.

    It asks the save itself, and not what `Future` keeps under a lock: a signal handler may ask in the midst
    of another question, and wait for what would have to answer that one first.
    """

    looked_at = False

    def __init__(self, save: Task[T], logs: Task[None], first: Task[None]) -> None:
        """What `save` returns, which is made by `first`; `logs` says what there is to log of it."""
        super().__init__()
        self._save = save
        self._logs = logs
        self._first = first

    def result(self, timeout: float | None = None) -> T:
        """The checkpoint, once durable; raises what the save raised."""
        self.looked_at = True
        self._wait(timeout)
        return self._save.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the save raised, or None."""
        self.looked_at = True
        self._wait(timeout)
        return self._save.error

    def _wait(self, timeout: float | None) -> None:
        if not self._save.join(timeout, first=self._first):
            raise TimeoutError
        if self._save.cancelled:
            raise CancelledError
        _finish_logs(self._logs)

    def done(self) -> bool:
        """Whether the save has ended, or never begins."""
        return self._save.finished

    def running(self) -> bool:
        """Whether it is being saved."""
        return self._save.begun and not self._save.finished

    def cancelled(self) -> bool:
        """Whether `cancel` came in time."""
        return self._save.cancelled

    def cancel(self) -> bool:
        """Call the save off; False if it has begun."""
        if not self._save.cancel():
            return self._save.cancelled
        super().cancel()
        self.set_running_or_notify_cancel()
        return True

    def tell(self) -> None:
        """Wake up those who wait for it as for any future."""
        while not super().done():
            try:
                if self._save.error is None:
                    self.set_result(self._save.result())
                else:
                    self.set_exception(self._save.error)
            except MemoryError:  # nobody else would tell them
                time.sleep(_POLL)


def _finish_logs(logs: Task[None]) -> None:
    """Have logged what there is: here, or by another thread, which may have to wait for this one."""
    logs.run()
    logs.wait(_PATIENCE)


class _Job:
    """One save in flight."""

    def __init__(self, call: Callable[[], Any], memory: _Memory, before: _Job | None) -> None:
        self.memory = memory
        self.save = save = Task(call)
        assert save.context is not None
        save.context.run(current.set, save)
        self.logs = Task(partial(emit, save.records))
        """Logs what the save put off, on nobody's behalf: it would be put off again."""
        assert self.logs.context is not None
        self.logs.context.run(current.set, None)
        self.run = Task(self._run)
        self.future: SaveFuture[Any] = SaveFuture(save, self.logs, self.run)
        self._before = before

    def _run(self) -> None:
        """Save when the one before is done, and tell everybody: nobody else has to wait for what they do."""
        if (before := self._before) is not None:
            before.join()  # what came of it is told there
            self._before = before = None
        self.save.run()
        self.logs.run()
        if not self.save.cancelled:
            callbacks = copy_context()
            callbacks.run(current.set, None)  # nobody waits for them: what they log isn't put off
            callbacks.run(self.future.tell)

    def join(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until it is saved."""
        self.save.join(meanwhile=meanwhile, first=self.run)


class Background(Generic[T]):
    """Runs jobs one after the other; a failure nobody looked at comes up at the next call."""

    def __init__(self, max_pending: int = 1) -> None:
        """`max_pending` jobs may be in flight, each with the memory of a snapshot of its own."""
        self._max_pending = max_pending
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._pending: deque[_Job] = deque()
        self._free: list[_Memory] = []
        self._lock = Lock()

    def submit(self, items: Sequence[Item], job: Callable[[list[Item]], T]) -> SaveFuture[T]:
        """Start `job` on a snapshot of `items`, to run after those in flight; waits while they are too many.

        Whoever owns the arrays may go on writing them when this returns. Raises the unseen failure of
        a job before, first.
        """
        with self._hold():
            self._drain(self._max_pending - 1)
            # Memory that was used before, by a job that has only now done with it.
            memory = self._free.pop() if self._free else _Memory()
            try:
                started = self._start(memory, partial(job, memory.snapshot(items)))
            except BaseException:
                self._free.append(memory)
                raise
            return started.future

    def _start(self, memory: _Memory, call: Callable[[], T]) -> _Job:
        job = _Job(call, memory, self._pending[-1] if self._pending else None)
        waited_for = _drain_at_exit(self)
        self._pending.append(job)
        if waited_for:
            start(job.run)
        else:
            job.run.run()  # the interpreter is ending, and would end under a thread
        return job

    @contextmanager
    def _hold(self) -> Iterator[None]:
        while not self._lock.acquire(_POLL):
            check_interrupted()
        try:
            yield
        finally:
            self._lock.release()

    def wait(self) -> None:
        """Return when nothing is in flight. Raises the failure nobody looked at, once."""
        with self._hold():
            self._drain(0)

    def close(self) -> None:
        """The same, and give the memory of snapshots back."""
        self.wait()
        self._free.clear()

    def _drain(self, left: int) -> None:
        """Wait until no more than `left` jobs are in flight. Of several failures the first is raised."""
        failure: BaseException | None = None
        while self._pending and (len(self._pending) > left or self._pending[0].save.finished):
            job = self._pending[0]
            job.join(check_interrupted)
            _finish_logs(job.logs)
            self._pending.popleft()
            self._free.append(job.memory)
            if job.save.cancelled or job.save.error is None or job.future.looked_at:
                continue
            if failure is None:
                failure = job.save.error
            else:
                logger.error("one more save in the background failed", exc_info=job.save.error)
        if not self._pending:
            _in_flight.discard(self)
        if failure is not None:
            raise failure

    def forget(self) -> None:
        """In a forked child: what is in flight goes on in the parent."""
        for job in self._pending:
            why = "the process was forked meanwhile, and the save goes on in the parent"
            job.save.fail(SaveAborted("save", why, "Look which checkpoint is the newest"))
        self._reset()


def _forget_after_fork() -> None:
    """What is in flight goes on in the parent; the threads that would end it aren't here."""
    _in_flight.clear()
    for background in list(_all):
        background.forget()


_all: weakref.WeakSet[Background[Any]] = weakref.WeakSet()
_in_flight: set[Background[Any]] = set()
_registered = False
_ended = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def _drain_at_exit(background: Background[Any]) -> bool:
    """See to it that the interpreter doesn't end under a save; False where it is too late for that.

    `atexit` would be too late: by then concurrent.futures, on which saving and the clients of object
    stores rely, refuses new work. Its own way to be called in time is the only one there is.
    """
    global _registered
    if not _registered:
        try:
            threading._register_atexit(_drain_all)  # type: ignore[attr-defined]  # see above
        except RuntimeError:  # it is ending already
            return False
        _registered = True
    _in_flight.add(background)
    return not _ended


def _drain_all() -> None:
    global _ended
    _ended = True
    for background in list(_in_flight):
        try:
            try:
                background.wait()
            except KeyboardInterrupt:  # the first one is heard: the save would be lost, and exit code 0
                logger.warning("a save is being finished; interrupt once more to leave without it")
                background.wait()
        except Exception:  # noqa: BLE001  # nobody is left to raise it to: said in the log, in full
            logger.exception("a save in the background failed while the program ended")


class _Memory:
    """Holds one snapshot, and keeps its pages for the next: fresh ones take longer than the copying."""

    SLAB_BYTES = 64 * 2**20

    def __init__(self) -> None:
        self._slabs: list[memoryview] = []
        self._slab = 0
        self._used = 0

    def snapshot(self, items: Sequence[Item]) -> list[Item]:
        """`items` serialised into this memory; the snapshot before is gone."""
        self._slab = self._used = 0
        frozen = [self._frozen(item) for item in items]
        del self._slabs[self._slab + 1 :]  # what is not needed now is not kept for a day that it is
        return frozen

    def _frozen(self, item: Item) -> Item:
        if item.stored is not None:
            return item  # committed files don't change
        chunks: list[bytes | memoryview] = []

        def keep(data: bytes | memoryview) -> None:
            chunks.append(self._copy(data) if isinstance(data, memoryview) else bytes(data))

        arrays = item.emit(keep)

        def emit(write: Write) -> Sequence[tuple[int, int]]:
            for chunk in chunks:
                write(chunk)
            return arrays

        return Item(item.path, emit)

    def _copy(self, data: memoryview) -> memoryview:
        flat = data.cast("B")
        target = self._room(len(flat))
        if target:
            np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(flat, np.uint8))
        return target

    def _room(self, size: int) -> memoryview:
        """Some of the memory that nothing else in this snapshot has."""
        while True:
            if self._slab == len(self._slabs):
                self._slabs.append(np.empty(max(size, self.SLAB_BYTES), np.uint8).data)
            slab = self._slabs[self._slab]
            if self._used + size <= len(slab):
                start, self._used = self._used, self._used + size
                return slab[start : start + size]
            if not self._used:
                self._slabs[self._slab] = np.empty(max(size, self.SLAB_BYTES), np.uint8).data
            else:
                self._slab, self._used = self._slab + 1, 0
