"""What the tests of obstore share, whichever object store it carries for."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from ckptstore.backends.objects import obstore_carrier
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.registry import open_backend
from tests.faults import FaultProxy
from tests.servers import Server

DATA = os.urandom(2**19)
CHUNK_BYTES, MOST_REFUSALS = obstore_carrier._CHUNK_BYTES, obstore_carrier._MOST_REFUSALS


def opened(server: Server, proxy: FaultProxy, timeout: float = 6) -> ObjectBackend:
    """A new place on `server`, behind `proxy`."""
    options = {**server.options, "endpoint_url": proxy.endpoint}
    found = open_backend(server.new_url(), options, timeout=timeout)
    assert isinstance(found, ObjectBackend)
    return found


def fetch(backend: Any, key: str = "file", size: int = len(DATA)) -> bytes:
    """So many bytes, read in one piece."""
    target = bytearray(size)
    backend.read_into(key, 0, memoryview(target))
    return bytes(target)


class FirstFail:
    """A plan for a proxy: the first `left` requests meet `act`."""

    def __init__(self, act: Any, times: int) -> None:
        self._act = act
        self.left = times

    def __call__(self, index: int, seen: Any) -> Any:
        self.left -= 1
        return self._act if self.left >= 0 else None


def fetched_in_a_fork(backend: ObjectBackend) -> tuple[str, bool]:
    """What a forked child fetches with, and whether it is DATA."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_fetch_there, args=(backend, queue))
    child.start()
    found: tuple[str, bool] = queue.get(timeout=60)
    child.join()
    return found


def _fetch_there(backend: ObjectBackend, queue: Any) -> None:
    queue.put((type(backend.client).__name__, fetch(backend) == DATA))
