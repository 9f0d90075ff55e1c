"""A proxy between a client and a real store that breaks one request in the way you ask for."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import email.utils
import io
import random
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal, NamedTuple

import aiohttp
from aiohttp import web
from yarl import URL

Act = Literal[
    "503", "500", "409", "429", "hang", "cut before", "cut after",
    "501",  # says that it can't do this at all
    "cut short",  # the body of the request ends early, and with it the connection
    "half",  # half of the body of the request is passed on as if it were all
    "flip",  # a byte in the middle of the body of the request is another one
    "truncate",  # the reply ends early, and with it the connection
    "short",  # half of the reply is passed on as if it were all
    "corrupt",  # a byte in the middle of the reply is another one
    "404", "empty",  # a listing that finds nothing
]  # fmt: skip
"""What may happen to a request. All but the last eight may happen to any."""

Trouble = Literal[
    "again late",  # delivered, and once more some seconds later
    "lost and late",  # the client sees a cut connection; what it sent arrives some seconds later
    "slow",  # the reply begins after a while, and comes in drips
    "ahead", "behind",  # every time in the reply is that of a clock which is 20 minutes off
]  # fmt: skip
"""What may happen to requests for as long as a bad day lasts."""
LATE = (1.0, 4.0)
"""Seconds after which what is late arrives."""
_SKEW = {"ahead": 1200.0, "behind": -1200.0}

_CODES = {
    "503": "SlowDown",
    "500": "InternalError",
    "501": "NotImplemented",
    "409": "ConditionalRequestConflict",
    "429": "TooManyRequests",
    "404": "NoSuchKey",
}


class Seen(NamedTuple):
    """One request as it arrived, in order."""

    method: str
    path: str
    size: int

    @property
    def lists(self) -> bool:
        """Whether it asks for a listing of objects, in the way of S3 or of GCS."""
        return self.method == "GET" and ("list-type=2" in self.path or "/o?" in self.path)

    def suffers(self, act: Act) -> bool:
        """Whether `act` can happen to such a request."""
        if act in ("404", "empty"):
            return self.lists
        if act in ("cut short", "half", "flip"):
            return self.size > 0
        if act == "corrupt":  # lines are encrypted: what an object holds may rot, what is said of it not
            return self.method == "GET" and not self.lists and "?uploads" not in self.path
        if act in ("truncate", "short"):
            return self.method == "GET"
        return True


class FaultProxy:
    """Forwards to `upstream`, and keeps a list of every request that arrived."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.seen: list[Seen] = []
        self.sent = 0
        """Bytes of content in all replies so far, listings included."""
        self._plan: Callable[[int, Seen], Act | Trouble | None] = lambda index, seen: None
        self._started = 0
        self.endpoint = ""
        self._late: set[asyncio.Task[None]] = set()

    def settle(self) -> None:
        """Wait until everything that is late has arrived."""

        async def arrived() -> None:
            await asyncio.gather(*self._late)

        asyncio.run_coroutine_threadsafe(arrived(), self._loop).result(120)

    async def _deliver_late(self, request: web.Request, headers: dict[str, str], body: bytes) -> None:
        await asyncio.sleep(random.uniform(*LATE))
        url = URL(self._upstream + request.raw_path, encoded=True)
        with contextlib.suppress(aiohttp.ClientError):
            async with self._session.request(request.method, url, headers=headers, data=body) as reply:
                await reply.read()

    def reset(self, plan: Callable[[int, Seen], Act | Trouble | None] | None = None) -> None:
        """Forget what was seen; from now on `plan(number of the request, request)` says what breaks."""
        self.seen.clear()
        self.sent = 0
        self._plan = plan or (lambda index, seen: None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        seen = Seen(request.method, request.path_qs, len(body))
        index = len(self.seen)
        self.seen.append(seen)
        act = self._plan(index, seen)
        if act in _CODES:
            return _error(request, int(act), _CODES[act])
        if act == "empty":
            return _nothing(request)
        if act == "hang":
            await asyncio.sleep(60)
        if act == "cut before":
            return _cut(request)
        if act == "half":
            body = body[: len(body) // 2]
        if act == "flip":
            body = _flipped(body)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("transfer-encoding", "content-length")
        }
        url = self._upstream + request.raw_path
        if act in ("again late", "lost and late"):
            task = asyncio.get_running_loop().create_task(self._deliver_late(request, headers, body))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            if act == "lost and late":
                return _cut(request)
        if act == "slow":
            await asyncio.sleep(random.uniform(0.05, 0.5))
        if act == "cut short":
            headers["Content-Length"] = str(len(body))
            with contextlib.suppress(aiohttp.ClientError, _EndsHere):
                await self._session.request(
                    request.method, URL(url, encoded=True), headers=headers, data=_ending_early(body)
                )
            return _cut(request)
        async with self._session.request(
            request.method,
            URL(url, encoded=True),
            headers=headers,
            data=io.BytesIO(body),
            allow_redirects=False,
        ) as reply:
            data = await reply.read()
            self.sent += len(data)
            if act == "cut after":
                return _cut(request)
            kept = {
                name: value
                for name, value in reply.headers.items()
                if name.lower() not in ("transfer-encoding", "connection")
            }
            if act == "corrupt" and data:
                data = _flipped(data)
            if act == "short":
                data = data[: len(data) // 2]
            if act in _SKEW:
                data, kept = _skewed(data, kept, _SKEW[act])
            if act == "slow" and data and request.method != "HEAD":
                response = web.StreamResponse(status=reply.status, headers=kept)
                await response.prepare(request)
                for at in range(0, len(data), max(1, len(data) // 5)):
                    await response.write(data[at : at + max(1, len(data) // 5)])
                    await asyncio.sleep(0.05)
                await response.write_eof()
                return response
            if act == "truncate" and data:
                response = web.StreamResponse(status=reply.status, headers=kept)
                await response.prepare(request)
                await response.write(data[: len(data) // 2])
                return _cut(request)
            if request.method != "HEAD":
                kept.pop("Content-Length", None)
            return web.Response(status=reply.status, headers=kept, body=data)

    async def serve(self, ready: threading.Event) -> None:
        """Forward until `close`; sets `ready` once it has an `endpoint`."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as self._session:
            app = web.Application(client_max_size=2**32)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            listener = socket.create_server(("127.0.0.1", 0))
            await web.SockSite(runner, listener).start()
            self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self._over = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            ready.set()
            await self._over.wait()
            await runner.cleanup()

    def close(self) -> None:
        """End `serve`, from another thread."""
        self._loop.call_soon_threadsafe(self._over.set)


def _flipped(data: bytes) -> bytes:
    """With another byte in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 1 for byte in data[middle : middle + 1]) + data[middle + 1 :]


def _skewed(data: bytes, headers: dict[str, str], seconds: float) -> tuple[bytes, dict[str, str]]:
    """A reply as a server sends it whose clock is wrong."""

    def stamp(match: re.Match[bytes]) -> bytes:
        moved = datetime.datetime.fromisoformat(match[2].decode().replace("Z", "+00:00")) + shift
        return match[1] + moved.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3].encode() + b"Z"

    shift = datetime.timedelta(seconds=seconds)
    data = _TIMES.sub(stamp, data)
    headers = dict(headers)
    for name in ("Date", "Last-Modified"):
        if name in headers:
            moved = email.utils.parsedate_to_datetime(headers[name]) + shift
            headers[name] = email.utils.format_datetime(moved, usegmt=True)
    if "Content-Length" in headers:
        headers["Content-Length"] = str(len(data))
    return data, headers


_TIMES = re.compile(
    rb'(<(?:LastModified|Initiated)>|"(?:updated|timeCreated)": ?")'
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?)\d*Z"
)


class _EndsHere(Exception):
    """In the middle of a request's body."""


async def _ending_early(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    raise _EndsHere


def _is_gcs(request: web.Request) -> bool:
    return "/storage/v1/" in request.path


def _error(request: web.Request, status: int, code: str) -> web.Response:
    if _is_gcs(request):
        return web.json_response({"error": {"code": status, "message": code}}, status=status)
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    return web.Response(status=status, body=text.encode(), content_type="application/xml")


def _nothing(request: web.Request) -> web.Response:
    """A listing of nothing at all."""
    if _is_gcs(request):
        return web.json_response({"kind": "storage#objects"})
    text = (
        "<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
        "<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
    )
    return web.Response(body=text.encode(), content_type="application/xml")


def _cut(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy in front of `upstream`, in a thread of its own."""
    proxy = FaultProxy(upstream)
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(ready)), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(10)
