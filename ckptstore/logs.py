"""One line in the log for every save and load: what, bytes, seconds. Every record is safe to print."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptstore.printable import clean

logger = logging.getLogger("ckptstore")
"""All of the package log through this one."""


class _Clean(logging.Filter):
    """Cleans what a record was given: names in it are as whoever wrote the files wanted them."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(arg if isinstance(arg, (int, float)) else clean(arg) for arg in record.args)
        return True


logger.addFilter(_Clean())


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
