"""A proxy between a client and a real store that breaks one request in the way you ask for."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

Act = Literal["503", "501", "500", "409", "429", "cut before", "cut after", "truncate", "hang"]


_CODES = {
    "503": "SlowDown",
    "500": "InternalError",
    "501": "NotImplemented",
    "409": "ConditionalRequestConflict",
    "429": "TooManyRequests",
}


class Seen(NamedTuple):
    """One request as it arrived, in order."""

    method: str
    path: str
    size: int


class FaultProxy:
    """Forwards to `upstream`, and keeps a list of every request that arrived."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.seen: list[Seen] = []
        self._plan: Callable[[int, Seen], Act | None] = lambda index, seen: None
        self._started = 0
        self.endpoint = ""

    def reset(self, plan: Callable[[int, Seen], Act | None] | None = None) -> None:
        """Forget what was seen; from now on `plan(number of the request, request)` says what breaks."""
        self.seen.clear()
        self._plan = plan or (lambda index, seen: None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        seen = Seen(request.method, request.path_qs, len(body))
        index = len(self.seen)
        self.seen.append(seen)
        act = self._plan(index, seen)
        if act in ("503", "501", "500", "409", "429"):
            text = f"<?xml version='1.0'?><Error><Code>{_CODES[act]}</Code></Error>"
            return web.Response(status=int(act), body=text.encode(), content_type="application/xml")
        if act == "hang":
            await asyncio.sleep(60)
        if act == "cut before":
            return _cut(request)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("transfer-encoding", "content-length")
        }
        url = self._upstream + request.raw_path
        async with self._session.request(
            request.method,
            URL(url, encoded=True),
            headers=headers,
            data=io.BytesIO(body),
            allow_redirects=False,
        ) as reply:
            data = await reply.read()
            if act == "cut after":
                return _cut(request)
            kept = {
                name: value
                for name, value in reply.headers.items()
                if name.lower() not in ("transfer-encoding", "connection")
            }
            if act == "truncate" and data:
                response = web.StreamResponse(status=reply.status, headers=kept)
                await response.prepare(request)
                await response.write(data[: len(data) // 2])
                return _cut(request)
            if request.method != "HEAD":
                kept.pop("Content-Length", None)
            return web.Response(status=reply.status, headers=kept, body=data)

    async def _serve(self, ready: threading.Event) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as self._session:
            app = web.Application(client_max_size=2**32)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            server: Any = site._server
            self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._over = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            ready.set()
            await self._over.wait()
            await runner.cleanup()

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy in front of `upstream`, in a thread of its own."""
    proxy = FaultProxy(upstream)
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy._serve(ready)), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        proxy._close()
        thread.join(10)
