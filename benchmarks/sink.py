"""An S3 that holds its objects in memory and checks nothing, so that what a client costs stands out.

    python -m benchmarks.sink

prints its endpoint, and ends when its standard input does. It knows what the clients here ask for: objects
put (create-only, too), fetched by range, listed and deleted, and uploads in parts. A body is received with
one system call and sent with one; signatures and checksums are believed.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import itertools
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html import escape, unescape
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote

import numpy as np

from tests.servers import Server, s3_options

REUSED = {"MALLOC_MMAP_THRESHOLD_": str(2**40), "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
"""Has glibc use the memory of deleted objects again: new pages would cost more than receiving into them."""

MOST_COMPARED_BYTES = 64
CRC64NVME = 0x9A6C9329AC4BC9B5
"""The polynomial, reflected (NVM Express, NVM Command Set Specification, "64b CRC")."""


class Object(NamedTuple):
    """What was put under one key, in pieces, and when."""

    pieces: list[memoryview]
    modified: float
    etag: str
    headers: dict[str, str]

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def span(self, start: int, stop: int) -> list[memoryview]:
        """The bytes from `start` up to `stop`."""
        found = []
        for piece in self.pieces:
            if start < len(piece) and stop > 0:
                found.append(piece[max(start, 0) : max(stop, 0)])
            start, stop = start - len(piece), stop - len(piece)
        return found


class Reply(NamedTuple):
    """An answer; `size` counts where it isn't that of the body."""

    status: int = 200
    body: list[memoryview] = []  # noqa: RUF012 - never changed
    headers: dict[str, str] = {}  # noqa: RUF012
    size: int | None = None


class Place:
    """Buckets and what is in them."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {}
        self.uploads: dict[str, dict[int, Object]] = {}
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)

    def made(self, pieces: list[memoryview], headers: dict[str, str]) -> Object:
        """An object; the CRC32 that came with it is told as that of what was stored, as S3 tells its own."""
        sums = {name: value for name, value in headers.items() if name == "x-amz-checksum-crc32"}
        return Object(pieces, time.time(), f'"{next(self.numbers)}-sink"', sums)

    def answer(self, method: str, target: str, headers: dict[str, str], body: memoryview) -> Reply:
        """What S3 would say."""
        path, _, asked = target.partition("?")
        query = {name: values[0] for name, values in parse_qs(asked, keep_blank_values=True).items()}
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        if not key:
            return self._bucket(method, bucket, query, body)
        objects = self.objects.get(bucket)
        if objects is None:
            return error(404, "NoSuchBucket")
        if "x-amz-copy-source" in headers:
            return error(501, "NotImplemented")
        if "uploads" in query or "uploadId" in query:
            return self._upload(method, bucket, key, query, headers, body)
        if method == "PUT":
            said = headers.get("x-amz-checksum-crc64nvme")
            if said is not None and len(body) <= MOST_COMPARED_BYTES and said != crc64nvme(body):
                return error(400, "BadDigest")
            made = self._sent(headers, body)
            with self.lock:
                if "if-none-match" in headers and key in objects:
                    return error(412, "PreconditionFailed", "<Condition>If-None-Match</Condition>")
                objects[key] = made
            return Reply(headers={"ETag": made.etag, **made.headers})
        if method == "DELETE":
            objects.pop(key, None)
            return Reply(204)
        found = objects.get(key)
        if found is None:
            return error(404, "NoSuchKey")
        return fetched(found, headers.get("range"), method == "HEAD")

    def _sent(self, headers: dict[str, str], body: memoryview) -> Object:
        """What a PUT brings along."""
        chunked = headers.get("x-amz-content-sha256", "").startswith("STREAMING")
        return self.made(unframed(body) if chunked else [body], headers)

    def _upload(
        self,
        method: str,
        bucket: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: memoryview,
    ) -> Reply:
        """Uploads in parts."""
        if "uploads" in query and method == "POST":
            number = str(next(self.numbers))
            self.uploads[number] = {}
            named = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
            return xml("InitiateMultipartUploadResult", f"{named}<UploadId>{number}</UploadId>")
        parts = self.uploads.get(query.get("uploadId", ""))
        if parts is None:
            return error(404, "NoSuchUpload")
        if method == "PUT":
            part = parts[int(query["partNumber"])] = self._sent(headers, body)
            return Reply(headers={"ETag": part.etag, **part.headers})
        del self.uploads[query["uploadId"]]
        if method == "DELETE":
            return Reply(204)
        whole = self.made([piece for number in sorted(parts) for piece in parts[number].pieces], {})
        self.objects[bucket][key] = whole
        return xml("CompleteMultipartUploadResult", f"<ETag>{whole.etag}</ETag>")

    def _bucket(self, method: str, bucket: str, query: dict[str, str], body: memoryview) -> Reply:
        """Buckets, listings, and deletions of many."""
        if method == "PUT":
            self.objects[bucket] = {}
            return Reply()
        if bucket not in self.objects:
            return error(404, "NoSuchBucket")
        objects = self.objects[bucket]
        if method == "POST" and "delete" in query:
            keys = re.findall("<Key>(.*?)</Key>", str(body, "utf-8"))
            for key in keys:
                objects.pop(unescape(key), None)
            return xml("DeleteResult", "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys))
        if method == "DELETE":
            del self.objects[bucket]
            return Reply(204)
        if method == "HEAD" or "location" in query:
            return xml("LocationConstraint", "")
        return listing(objects, query) if query.get("list-type") == "2" else error(501, "NotImplemented")


def crc64nvme(data: memoryview) -> str:
    """The checksum as S3 writes it, bit by bit: for a few bytes only."""
    ones = 2**64 - 1
    sum64 = ones
    for byte in data:
        sum64 ^= byte
        for _ in range(8):
            sum64 = sum64 >> 1 ^ (CRC64NVME if sum64 & 1 else 0)
    return base64.b64encode((sum64 ^ ones).to_bytes(8, "big")).decode("ascii")


def listing(objects: dict[str, Object], query: dict[str, str]) -> Reply:
    """One page."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token") or query.get("start-after", "")
    most = int(query.get("max-keys", 1000))
    encode = quote if query.get("encoding-type") == "url" else escape
    shown: dict[str, str] = {}  # by key or common prefix, in order
    for key in sorted(key for key in list(objects) if key.startswith(prefix)):
        folder, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
        name = prefix + folder + delimiter if found else key
        if name <= after or name in shown:
            continue
        if len(shown) == most:
            token = escape(next(reversed(shown)))  # opaque to clients, which don't decode it
            more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
            break
        item = objects[key]
        shown[name] = (
            f"<CommonPrefixes><Prefix>{encode(name)}</Prefix></CommonPrefixes>"
            if found
            else f"<Contents><Key>{encode(key)}</Key><LastModified>{iso(item)}</LastModified>"
            f"<ETag>{escape(item.etag)}</ETag><Size>{item.size}</Size></Contents>"
        )
    else:
        more = "<IsTruncated>false</IsTruncated>"
    kind = "<EncodingType>url</EncodingType>" if encode is quote else ""
    counted = f"<KeyCount>{len(shown)}</KeyCount><MaxKeys>{most}</MaxKeys>"
    return xml(
        "ListBucketResult", f"<Prefix>{encode(prefix)}</Prefix>{kind}{counted}{more}{''.join(shown.values())}"
    )


def fetched(found: Object, asked: str | None, head: bool) -> Reply:
    """A GET or a HEAD of it or of a range."""
    told = {"ETag": found.etag, "Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream"}
    told["Last-Modified"] = email.utils.formatdate(found.modified, usegmt=True)
    start, stop, status = 0, found.size, 200
    if asked:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, stop - int(last))
        stop = min(stop, int(last) + 1) if first and last else stop
        if start >= found.size:
            return error(416, "InvalidRange")
        status = 206
        told["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    return Reply(status, [] if head else found.span(start, stop), told, stop - start)


def unframed(body: memoryview) -> list[memoryview]:
    """The content of a body that carries the size of each of its pieces, as some clients send it."""
    pieces: list[memoryview] = []
    at = 0
    while True:
        size, _, _ = bytes(body[at : at + 256]).partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if not length:
            return pieces
        at += len(size) + 2
        pieces.append(body[at : at + length])
        at += length + 2


def iso(item: Object) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(item.modified))


def xml(name: str, inner: str, status: int = 200) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{inner}</{name}>'
    return Reply(status, [memoryview(text.encode())], {"Content-Type": "application/xml"})


def error(status: int, code: str, more: str = "") -> Reply:
    return xml("Error", f"<Code>{code}</Code><Message>{code}</Message>{more}", status)


class Connection(socketserver.BaseRequestHandler):
    """One client's, for as long as it lasts."""

    place = Place()

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            self.rest = b""
            while head := self._head():
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ")
                named = (line.partition(":") for line in lines)
                headers = {name.strip().lower(): value.strip() for name, _, value in named}
                if headers.get("expect", "").lower() == "100-continue":
                    self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                if "transfer-encoding" in headers:
                    body = self._chunks(int(headers["x-amz-decoded-content-length"]))
                else:
                    body = self._body(np.empty(int(headers.get("content-length", 0)), np.uint8).data)
                self._send(method, self.place.answer(method, target, headers, body))

    def _head(self) -> bytes:
        """The next request's lines; nothing where the client has gone."""
        while b"\r\n\r\n" not in self.rest:
            more = self.request.recv(65536)
            if not more:
                return b""
            self.rest += more
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    def _body(self, body: memoryview) -> memoryview:
        """Fills it."""
        length = len(body)
        done = min(length, len(self.rest))
        body[:done], self.rest = self.rest[:done], self.rest[done:]
        while done < length:
            got = self.request.recv_into(body[done:], length - done, socket.MSG_WAITALL)
            if not got:
                raise ConnectionResetError("the body ended early")
            done += got
        return body

    def _chunks(self, decoded: int) -> memoryview:
        """A body of unknown length: that of its content and of the sums and sizes within."""
        body, size = bytearray(decoded + decoded // 64 + 4096), 0
        while True:
            while b"\r\n" not in self.rest:
                self.rest += self.request.recv(64)
            line, _, self.rest = self.rest.partition(b"\r\n")
            length = int(line, 16)
            self._body(memoryview(body)[size : size + length])
            self._body(memoryview(bytearray(2)))
            size += length
            if not length:
                return memoryview(body)[:size]

    def _send(self, method: str, reply: Reply) -> None:
        size = sum(map(len, reply.body)) if reply.size is None else reply.size
        lines = [f"HTTP/1.1 {reply.status} -", *(f"{name}: {value}" for name, value in reply.headers.items())]
        if reply.status != 204:
            lines.append(f"Content-Length: {size}")
        self.request.sendall("\r\n".join([*lines, "", ""]).encode())
        for piece in reply.body if method != "HEAD" else ():
            self.request.sendall(piece)


class Listener(socketserver.ThreadingTCPServer):
    """Threads that don't outlive it."""

    daemon_threads = True
    request_queue_size = 128


@contextlib.contextmanager
def sink() -> Iterator[Server]:
    """A running one, in a process of its own that ends with this one."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **REUSED},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        try:
            yield Server("loopback sink", "s3", endpoint, s3_options(endpoint), process.pid)
        finally:
            process.stdin.close()


def main() -> None:
    with Listener(("127.0.0.1", 0), Connection) as listener:
        print(f"http://127.0.0.1:{listener.server_address[1]}", flush=True)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        sys.stdin.read()


if __name__ == "__main__":
    main()
