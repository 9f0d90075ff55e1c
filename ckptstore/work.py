"""Run calls in threads, and report progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

Progress = Callable[[int], object]
"""Is given the number of bytes just moved."""

T = TypeVar("T")
S = TypeVar("S")


@contextmanager
def hash_pool() -> Iterator[Executor]:
    """Threads that hash: as many as there are cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1, "ckptstore-hash") as pool:
        yield pool


def run_all(call: Callable[[T], S], arguments: Sequence[T], concurrency: int) -> list[S]:
    """``[call(a) for a in arguments]``, `concurrency` at a time; the first failure cancels the rest."""
    if concurrency == 1 or len(arguments) < 2:
        return [call(argument) for argument in arguments]
    pool = ThreadPoolExecutor(min(concurrency, len(arguments)), "ckptstore")
    try:
        futures: list[Future[S]] = [pool.submit(call, argument) for argument in arguments]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and not future.cancelled() and (error := future.exception()):
                raise error
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
