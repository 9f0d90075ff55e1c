"""Create-only writes whose outcome is certain, however many replies were lost."""

from __future__ import annotations

import time
from collections.abc import Callable

from ckptstore.backends.base import Backend, TooLarge
from ckptstore.errors import StoreUnavailable
from ckptstore.format import strictjson

FIRST_PAUSE = 0.05  # seconds
LONGEST_PAUSE = 5.0


def settle(
    backend: Backend,
    key: str,
    data: bytes,
    *,
    timeout: float,
    before_each: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bytes:
    """Create `key` holding `data`, and return what it holds for certain: `data` itself if we won.

    "It exists" is no proof of another writer: a first try whose reply was lost makes the second one
    fail on our own object (the AWS SDKs, Hudi and Delta all met this). So whatever fails is settled by
    reading back, and what is absent is tried again, until `timeout` seconds have passed. `data` must
    be unique to the caller wherever it matters who won. `before_each` may raise to forbid a try.

    Raises StoreUnavailable at the deadline: then the write may have happened or may still.
    """
    deadline = clock() + timeout
    pause = FIRST_PAUSE
    while True:
        before_each()
        failure: OSError | None = None
        try:
            backend.publish(key, data)
            return data
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise  # the bucket is not there: nothing was written, and nothing will be
        except OSError as error:  # refused, cut, timed out: any of them may follow a try that landed
            failure = error
        try:
            return backend.read(key, most=strictjson.MAX_BYTES)
        except FileNotFoundError:
            if isinstance(failure, PermissionError):
                raise failure from None
        except TooLarge:
            raise  # no attempt's, and waiting would not mend it
        except OSError as error:
            failure = failure or error
        if clock() + pause > deadline:
            raise StoreUnavailable(
                f"{backend.url}/{key}",
                f"no certain answer after {timeout:g} s: {failure or 'it comes and goes'}",
            ) from failure
        sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
