"""One line in the log for every save and load: what, bytes, seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger("ckptstore")


@contextmanager
def log_time(verb: str, what: str) -> Iterator[Callable[[int], None]]:
    """Logs ``<verb> <what>: <bytes> in <seconds>`` at the end; the body calls the value with the bytes."""
    started = time.monotonic()
    size = 0

    def done(count: int) -> None:
        nonlocal size
        size = count

    yield done
    logger.info("%s %s: %d bytes in %.3f s", verb, what, size, time.monotonic() - started)
