"""Processes that all do the same at the same moment, round after round."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError

CONTEXT = multiprocessing.get_context("spawn")
_barrier: Barrier

Try = Callable[[int, int], str | None]
"""Called with a round and the number of the process; gives what it won, or None."""


def contest(attempt: Try, processes: int, rounds: int) -> list[dict[int, str]]:
    """What each process won, by round. The first exception of any ends the contest, and is raised here."""
    with ProcessPoolExecutor(processes, CONTEXT, _begin, (CONTEXT.Barrier(processes),)) as pool:
        told = [pool.submit(_contend, attempt, who, rounds) for who in range(processes)]
    errors = [error for done in told if (error := done.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
        raise error
    won = [done.result() for done in told]
    return [
        {who: name for who, names in enumerate(won) if (name := names[number]) is not None}
        for number in range(rounds)
    ]


def _begin(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _contend(attempt: Try, who: int, rounds: int) -> list[str | None]:
    try:
        return [attempt(number, who) for number in range(rounds) if _barrier.wait(300) >= 0]
    except BaseException:
        _barrier.abort()
        raise
