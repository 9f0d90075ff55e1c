"""Google Cloud Storage, in single requests through gcsfs's session and credentials.

gcsfs's own calls retry below us and hide the status of a reply in the text of an exception, so requests
are sent here and classified by their status. Small objects are one simple upload, whose reply carries the
server's CRC32C; large ones a resumable upload, checked by the same sum once it is complete.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import gcsfs
import google.auth.exceptions
import google_crc32c
import requests.exceptions
from gcsfs.core import GCSFileSystem  # the plain class: the other one asks for each bucket's kind first

from ckptstore.backends.base import Listed
from ckptstore.backends.objects.client import BytesLike, Corrupted, GetReply, Page, Unfinished, Upload
from ckptstore.backends.objects.fsspec_loop import (
    OWN_KEYWORDS,
    display_url,
    explain_bad_options,
    run,
    run_each,
    secrets_in,
    split_url,
    without_secrets,
)
from ckptstore.backends.objects.http_status import BY_STATUS, Outcome, by_status
from ckptstore.backends.urls import show_url

PART_BYTES = 16 * 2**20  # a multiple of 256 KiB, as chunks of resumable uploads must be

_PICKLED = frozenset(
    {"project", "endpoint_url", "requester_pays", "access", "default_location", "kms_key_name"}
)
_NAMED_TOKENS = frozenset({"anon", "cloud", "google_default", "cache", "browser"})

# The table. GCS says everything by status; only a missing bucket looks like a missing object, 404.
_BY_STATUS = {**BY_STATUS, 308: Outcome.RETRY}
_TRANSIENT = (
    aiohttp.ClientError,
    asyncio.TimeoutError,
    TimeoutError,
    ConnectionError,
    asyncio.IncompleteReadError,
    google.auth.exceptions.TransportError,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
)


class Replied(Exception):
    """A reply whose status is none of those expected; `status` says which."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"HTTP {status}: {text}")


class GcsClient:
    """One bucket and prefix."""

    scheme = "gs"
    part_bytes = PART_BYTES
    remove_batch = 100

    @staticmethod
    def settings(options: Mapping[str, Any]) -> dict[str, Any]:
        """The `options` that may go into a pickle: no secrets."""
        kept = without_secrets(options, _PICKLED)
        # Named ways to find a token are settings; the token itself is a secret.
        if _is_named(options.get("token")):
            kept["token"] = options["token"]
        return kept

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float, concurrency: int) -> None:
        self.bucket, self.root = split_url(url)
        self.url = display_url(self.scheme, url)
        self.secrets = () if _is_named(options.get("token")) else secrets_in(options)
        endpoint = options.get("endpoint_url")
        self.place = f"{self.url} at {show_url(endpoint) if endpoint else 'Google'}"
        self._kms = options.get("kms_key_name")
        self._idle = aiohttp.ClientTimeout(
            sock_connect=min(5.0, timeout / 3), sock_read=min(30.0, timeout / 3)
        )
        self._concurrency = concurrency
        options = {key: value for key, value in options.items() if key != "kms_key_name"}
        self._options = options
        self._fs = GCSFileSystem(**{**options, **OWN_KEYWORDS})

    # ---- Requests

    async def _send(
        self,
        method: str,
        path: str,
        *,
        data: BytesLike | None = None,
        headers: Mapping[str, str] | None = None,
        target: memoryview | None = None,
        accept: Sequence[int] = (200, 204),
        params: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request, tried once. With `target`, the body goes straight there."""
        with explain_bad_options(self._options):
            await self._fs._set_session()
        url = path if "://" in path else f"{self._fs._location}{path}"
        async with self._fs.session.request(
            method,
            url,
            params=None if "?" in path else self._fs._get_params(params or {}),
            headers=self._fs._get_headers(dict(headers or {})),
            data=None if data is None else io.BytesIO(data),  # sent piece by piece, so others get a turn
            timeout=self._idle,
            allow_redirects=False,  # 308 means "go on" here
        ) as reply:
            if reply.status not in accept:
                raise Replied(reply.status, (await reply.text(errors="replace"))[:2000])
            if target is None:
                return reply.status, reply.headers, await reply.read()
            done = 0
            async for chunk in reply.content.iter_any():
                chunk = chunk[: len(target) - done]
                target[done : done + len(chunk)] = chunk
                done += len(chunk)
            if done < min(int(reply.headers["Content-Length"]), len(target)):
                raise asyncio.IncompleteReadError(b"", len(target))
            return reply.status, reply.headers, b""

    def _call(self, seconds: float, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of a reply."""
        _, _, body = run(self._fs.loop, self._send(method, path, **arguments), seconds)
        return _parse_reply(body) if body else {}

    def _object(self, key: str) -> str:
        return f"/storage/v1/b/{self.bucket}/o/{quote(key, safe='')}"

    def get(self, key: str, start: int, target: memoryview, seconds: float) -> GetReply:
        span = {"Range": f"bytes={start}-{start + len(target) - 1}"}
        status, headers, _ = run(
            self._fs.loop,
            self._send(
                "GET",
                self._object(key),
                headers=span,
                target=target,
                accept=(200, 206),
                params={"alt": "media"},
            ),
            seconds,
        )
        length = int(headers["Content-Length"])
        if status == 206:
            return GetReply(length, int(headers["Content-Range"].rpartition("/")[2]))
        if start:
            raise OSError(errno.ENOTSUP, "the server ignores byte ranges")
        return GetReply(min(length, len(target)), length)

    def put(self, key: str, data: BytesLike, create: bool, seconds: float) -> None:
        sum32 = crc32c(data)
        # The server compares the sum before the object appears; the boundary can't occur in the data. No sum
        # covers the name, so it isn't in the body, where a byte that changes would store another object.
        about = json.dumps({"crc32c": sum32})
        mark = uuid.uuid4().hex
        head = (
            f"--{mark}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n"
            f"--{mark}\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        condition = {"ifGenerationMatch": "0"} if create else {}
        reply = self._call(
            seconds,
            "POST",
            f"/upload/storage/v1/b/{self.bucket}/o",
            data=b"".join((head.encode(), data, f"\r\n--{mark}--\r\n".encode())),
            headers={"Content-Type": f'multipart/related; boundary="{mark}"'},
            params={"uploadType": "multipart", "name": key, **condition, **self._encryption()},
        )
        check_stored(reply, len(data), sum32)

    def put_contents(self, key: str, data: BytesLike, seconds: float) -> None:
        self.put(key, data, False, seconds)

    def copy(self, source: str, key: str, size: int, seconds: float) -> None:
        # Most take one call; where the server needs more, its token says where to go on.
        token: dict[str, str] = {}
        path = f"{self._object(source)}/rewriteTo/b/{self.bucket}/o/{quote(key, safe='')}"
        encryption = {"destinationKmsKeyName": self._kms} if self._kms else {}
        deadline = time.monotonic() + seconds
        while True:
            left = max(deadline - time.monotonic(), 0.001)
            try:
                reply = self._call(left, "POST", path, params={**token, **encryption})
            except Replied as error:
                if error.status in (405, 501):
                    raise NotImplementedError("the server can't copy objects") from error
                raise
            if reply["done"]:
                return
            if time.monotonic() > deadline:
                raise TimeoutError("the copy did not end")
            token = {"rewriteToken": reply["rewriteToken"]}

    def _encryption(self) -> dict[str, str]:
        return {"kmsKeyName": self._kms} if self._kms else {}

    def remove(self, keys: Sequence[str], seconds: float) -> Mapping[str, Exception]:
        slots = asyncio.Semaphore(self._concurrency)

        async def delete(key: str) -> None:
            async with slots:
                await self._send("DELETE", self._object(key))

        return run_each(self._fs.loop, delete, keys, seconds)

    def page(self, prefix: str, delimiter: str, token: str | None, seconds: float) -> Page:
        fields = "items(name,size,updated),prefixes,nextPageToken"
        params = {"prefix": prefix, "maxResults": "1000", "fields": fields}
        if delimiter:
            params["delimiter"] = delimiter
        if token:
            params["pageToken"] = token
        reply = self._call(seconds, "GET", f"/storage/v1/b/{self.bucket}/o", params=params)
        objects = [
            Listed(item["name"], int(item["size"]), _seconds(item["updated"]))
            for item in reply.get("items", ())
        ]
        return Page(objects, reply.get("prefixes", ()), reply.get("nextPageToken"))

    def upload(self, key: str, seconds: float) -> Upload:
        _, headers, _ = run(
            self._fs.loop,
            self._send(
                "POST",
                f"/upload/storage/v1/b/{self.bucket}/o",
                data=json.dumps({"name": key}).encode(),
                headers={"Content-Type": "application/json"},
                accept=(200, 201),
                params={"uploadType": "resumable", "name": key, **self._encryption()},
            ),
            seconds,
        )
        return _GcsUpload(self, key, headers["Location"])

    def list_uploads(self, prefix: str, seconds: float) -> Sequence[Unfinished]:
        return ()  # resumable uploads can't be listed; Google drops them after a week

    def discard(self, upload: Unfinished, seconds: float) -> None:
        raise AssertionError("there are no uploads to discard")

    def describe(self) -> Mapping[str, str]:
        return {
            "place": self.place,
            "client": f"gcsfs {gcsfs.__version__}",
            "durability": "an object is stored when its upload is answered",
            "create-only writes": "ifGenerationMatch=0 on simple uploads; asked for before the first commit",
            "listings": "taken to show every finished write, as Google promises",
            "transfers": "CRC32C sent with each upload and compared with the reply",
        }

    def close(self) -> None:
        session, self._fs._session = self._fs._session, None
        if session is not None:
            GCSFileSystem.close_session(self._fs.loop, session)

    def classify(self, error: BaseException) -> Outcome:
        if isinstance(error, Replied):
            if error.status == 404 and "bucket does not exist" in str(error):
                return Outcome.BUCKET_MISSING
            if error.status == 400 and "match calculated" in str(error):
                return Outcome.RETRY  # "Provided CRC32C ... doesn't match calculated ...": damaged on its way
            return by_status(error.status, _BY_STATUS)
        if isinstance(error, (Corrupted, *_TRANSIENT)):
            return Outcome.RETRY
        if isinstance(error, google.auth.exceptions.GoogleAuthError):
            return Outcome.DENIED
        return Outcome.FATAL


class _GcsUpload:
    """A resumable upload: one stream of chunks, in order; the last one makes the object appear."""

    parallel = False

    def __init__(self, client: GcsClient, key: str, session: str) -> None:
        self._client = client
        self._key = key
        self._session = session
        self._crc = 0
        self._unsure = False
        self._stored: Mapping[str, Any] | None = None

    def part(self, number: int, offset: int, data: BytesLike, last: bool, seconds: float) -> None:
        begin = self._count_stored(seconds) if self._unsure else offset
        self._unsure = True
        end = offset + len(data)
        if self._stored is None and begin < end:
            span = f"bytes {begin}-{end - 1}/{end if last else '*'}"
            self._put(bytes(memoryview(data)[begin - offset :]), span, seconds)
            if last and self._stored is None:
                raise Replied(308, "the server asks for more than there is")
        self._unsure = False
        self._crc = google_crc32c.extend(self._crc, bytes(data))

    def _count_stored(self, seconds: float) -> int:
        """How many bytes the server has, after a try whose reply was lost."""
        headers = self._put(b"", "bytes */*", seconds)
        span = headers.get("Range")
        return int(span.rpartition("-")[2]) + 1 if span else 0

    def _put(self, data: bytes, span: str, seconds: float) -> Mapping[str, str]:
        status, headers, body = run(
            self._client._fs.loop,
            self._client._send(
                "PUT",
                self._session,
                data=data,
                headers={"Content-Range": span},
                accept=(200, 201, 308),
            ),
            seconds,
        )
        if status != 308:
            self._stored = _parse_reply(body)
        return headers

    def complete(self, size: int, seconds: float) -> None:
        assert self._stored is not None
        total = base64.b64encode(self._crc.to_bytes(4, "big")).decode("ascii")
        try:
            check_stored(self._stored, size, total)
        except Corrupted as error:
            # The damaged object is there already, under its real name: remove it, then fail.
            self._client._call(seconds, "DELETE", self._client._object(self._key))
            raise Replied(400, str(error)) from error

    def abort(self, seconds: float) -> None:
        run(
            self._client._fs.loop,
            self._client._send("DELETE", self._session, accept=(200, 204, 404, 410, 499)),
            seconds,
        )


def _parse_reply(body: bytes) -> Any:
    """The JSON of a reply; Corrupted if it was cut on its way, which is worth another try."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise Corrupted(f"the reply is not JSON ({error})") from error


def check_stored(reply: Mapping[str, Any], size: int, sum32: str) -> None:
    """Raise Corrupted unless the server says that it stored `size` bytes with this CRC32C."""
    if int(reply.get("size", -1)) != size or reply.get("crc32c", sum32) != sum32:
        stored = f"{reply.get('size')} bytes, CRC32C {reply.get('crc32c')}"
        raise Corrupted(f"the server stored {stored}, not {size} bytes, {sum32}")


def crc32c(data: BytesLike) -> str:
    """CRC32C as GCS writes it: big-endian, base64."""
    return base64.b64encode(google_crc32c.value(bytes(data)).to_bytes(4, "big")).decode("ascii")


def _is_named(token: object) -> bool:
    return isinstance(token, str) and token in _NAMED_TOKENS


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
