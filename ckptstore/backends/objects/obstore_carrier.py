"""Move file contents through obstore's Rust core, where it is installed (``ckptstore[fast]``).

obstore is only ever asked first. Whatever it refuses is asked again of the client that it helps, so
errors, retries and the promises of the commit are the same with it as without.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
import obstore
import obstore.store

from ckptstore.backends.objects.client import BytesLike, GetReply
from ckptstore.backends.objects.fsspec_loop import run

_LEAST_GET_BYTES = 2**18 + 1
"""Smaller reads may ask for what is not there, and the client knows best what such an answer means."""
_CHUNK_BYTES = 2**20
_MOST_REFUSALS = 8
"""After so many in a row obstore is not asked any more: it doesn't work with this endpoint."""

ONE_TRY: Any = {"max_retries": 0, "retry_timeout": datetime.timedelta(seconds=1)}
"""Retrying is the business of :mod:`ckptstore.backends.objects.retry`."""

_first_user: int | None = None
T = TypeVar("T")


def is_inherited() -> bool:
    """Whether this process was forked from one that used obstore.

    Its threads stayed behind in the parent: a request here would wait for ever.
    """
    return _first_user not in (None, os.getpid())


def client_options(timeout: float) -> Any:
    """How obstore connects, for a backend whose timeout is `timeout` seconds."""
    return {
        "allow_http": True,
        "connect_timeout": datetime.timedelta(seconds=min(5.0, timeout / 3)),
        "timeout": datetime.timedelta(days=1),  # each request has its own, and is cancelled
    }


class Carrier:
    """One obstore client, and whether it is still worth asking."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, open_store: Callable[[], Awaitable[obstore.store.ObjectStore]]
    ) -> None:
        self._loop = loop
        self._open_store = open_store
        self.refusals = 0
        """How many in a row, up to now."""

    def get(self, key: str, start: int, target: memoryview, seconds: float) -> GetReply | None:
        """Like :meth:`ckptstore.backends.objects.client.BucketClient.get`; None means: ask the client."""

        async def fetch() -> GetReply:
            span = (start, start + len(target))
            reply = await obstore.get_async(await self._open_store(), key, options={"range": span})
            array, done = np.frombuffer(target, np.uint8), 0
            # A whole reply would come in new memory each time, which costs as much as the copy.
            async for chunk in reply.stream(min_chunk_size=_CHUNK_BYTES):
                data = np.frombuffer(chunk, np.uint8)
                # Unlike an assignment to a slice, this lets other threads run; ValueError if it is too long.
                np.copyto(array[done : done + data.size], data)
                done += data.size
            total = reply.meta["size"]
            if done != min(len(target), total - start):
                raise EOFError(f"{key}: {done} bytes came")
            return GetReply(done, total)

        return None if len(target) < _LEAST_GET_BYTES else self._ask(fetch, seconds)

    def put(self, key: str, data: BytesLike, seconds: float) -> bool:
        """Store `data` under `key`; False means: ask the client."""

        async def send() -> bool:
            await obstore.put_async(await self._open_store(), key, data, use_multipart=False)
            return True

        return self._ask(send, seconds) is True

    def _ask(self, work: Callable[[], Coroutine[Any, Any, T]], seconds: float) -> T | None:
        global _first_user
        if self.refusals >= _MOST_REFUSALS:
            return None
        _first_user = os.getpid()
        try:
            reply = run(self._loop, work(), seconds)
        except TimeoutError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the client's answer is the one that counts
            self.refusals += 1
            return None
        self.refusals = 0
        return reply
