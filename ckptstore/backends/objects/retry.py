"""Try a request again, with growing pauses, until it works or the deadline passes.

One loop for every request to every object store, so that a deadline is one: the clients' own retries
are switched off below it (s3fs over botocore made 25 requests in 32 s of one call).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ckptstore.backends.objects.http_status import Outcome
from ckptstore.work import check_interrupted

T = TypeVar("T")

FIRST_PAUSE = 0.1  # seconds, doubled each time
LONGEST_PAUSE = 8.0
SLOWEST_BYTES_PER_SECOND = 128 * 1024
"""A connection slower than this counts as dead: a request may last as much longer than the timeout as
its bytes take at this speed."""


class RetriesExhausted(Exception):
    """No proper answer until the deadline; the last failure is the cause."""


class RetryPolicy:
    """How long and how often to try. Immutable, so threads may share one."""

    def __init__(
        self,
        timeout: float,
        retries: int | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Give up after `timeout` seconds, or after `retries` more tries if that comes first."""
        if not timeout > 0:
            raise ValueError(f"timeout must be positive seconds, not {timeout!r}")
        if retries is not None and retries < 0:
            raise ValueError(f"retries must not be negative: {retries!r}")
        self.timeout = timeout
        self.retries = retries
        self._clock = clock
        self._jitter = jitter

    def run(
        self,
        request: Callable[[float], T],
        classify: Callable[[BaseException], Outcome],
        *,
        size: int = 0,
        stop: threading.Event | None = None,
    ) -> T:
        """Return `request(seconds)`, given the seconds that this try may last.

        An error that `classify` does not call RETRY is raised as it is. Raises RetriesExhausted from the last
        error at the deadline, which is later for a request that moves `size` bytes, and once `stop` is set.
        """
        moving = size / SLOWEST_BYTES_PER_SECOND
        deadline = self._clock() + self.timeout + moving
        tries = 0
        while True:
            check_interrupted()
            left = deadline - self._clock()
            try:
                # A third each, so that one request that hangs leaves time for another.
                return request(max(min(left, self.timeout / 3 + moving), 0.001))
            except Exception as error:
                if classify(error) is not Outcome.RETRY:
                    raise
                tries += 1
                # Full jitter: writers that failed together must not come back together.
                pause = min(FIRST_PAUSE * 2 ** min(tries - 1, 10), LONGEST_PAUSE) * (
                    0.1 + 0.9 * self._jitter()
                )
                if tries == 1:
                    # A server that refuses at once moves no bytes, and gets no time for them.
                    deadline = min(deadline, self._clock() + self.timeout)
                left = deadline - self._clock() - pause
                spent = self.retries is not None and tries > self.retries
                if spent or left <= 0 or (stop is not None and stop.is_set()):
                    raise RetriesExhausted(f"no proper answer after {tries} tries") from error
                if stop is None:
                    time.sleep(pause)
                else:
                    stop.wait(pause)
