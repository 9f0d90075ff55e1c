"""A backend over any object store: retries, deadlines, parallel ranges and streamed uploads.

Requests go through a `BucketClient`; this module knows no client library. A file is one PUT up to one
part's size and an upload in parallel parts beyond it, so memory stays below (`concurrency` + open files)
parts whatever the size, and nothing is visible before it is whole.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, TypeVar

from ckptstore.backends.base import (
    BadOptions,
    BucketMissing,
    CredentialsLost,
    Listed,
    Misfit,
    Refused,
    Sink,
    too_large,
)
from ckptstore.backends.objects.client import BucketClient, BytesLike, Opener, Page, Upload, check_key
from ckptstore.backends.objects.fsspec_loop import MISTAKES, hide_secrets
from ckptstore.backends.objects.http_status import Outcome
from ckptstore.backends.objects.listing import ListingBound
from ckptstore.backends.objects.retry import RetriesExhausted, RetryPolicy
from ckptstore.printable import clean
from ckptstore.work import Lock, Pool, Task

T = TypeVar("T")

DEFAULT_TIMEOUT = 60.0
DEFAULT_CONCURRENCY = 8
_PATIENCE = 5.0  # seconds after which a thread that should send a part may have died
FIRST_READ_BYTES = 2**18
"""What a read of unknown length asks for at first: manifests and JSON files are whole in one request."""


class ObjectBackend:
    """The five verbs on one bucket and prefix. Safe from several threads and after a fork.

    A pickle of it holds no credentials: the copy finds its own in the environment.
    """

    def __init__(
        self,
        opener: Opener,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> None:
        """`opener` makes the client, on first use in each process; it must pickle without secrets."""
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency!r}")
        self._opener = opener
        self._retry_policy = RetryPolicy(timeout, retries)
        self.concurrency = concurrency
        self._reset()

    def _reset(self) -> None:
        self._lock = Lock()
        self._pid = os.getpid()
        self._client: BucketClient | None = None
        self._pool: Pool | None = None
        self.slots = threading.BoundedSemaphore(self.concurrency)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "opener": self._opener,
            "timeout": self._retry_policy.timeout,
            "retries": self._retry_policy.retries,
            "concurrency": self.concurrency,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def timeout(self) -> float:
        """Seconds after which a request that keeps failing is given up."""
        return self._retry_policy.timeout

    def below(self, name: str) -> ObjectBackend:
        """The directory `name` below, by the same options."""
        return self._at(f"{self.url}/{name}")

    def above(self, levels: int) -> ObjectBackend:
        """The same bucket, so many directories up."""
        return self._at(self.url.rsplit("/", levels)[0])

    def _at(self, url: str) -> ObjectBackend:
        return ObjectBackend(**{**self.__getstate__(), "opener": self._opener.at(url)})

    @property
    def client(self) -> BucketClient:
        """This process's client: one inherited through fork would hang or refuse to work."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            if self._client is None:
                try:
                    self._client = self._opener()
                except (BadOptions, PermissionError) as error:
                    if self._opener.lost:
                        raise CredentialsLost(f"{self.url}: {error}") from error
                    raise
            return self._client

    @property
    def pool(self) -> Pool:
        """Threads that move parts and ranges; no task there waits for another."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            if self._pool is None:
                self._pool = Pool(self.concurrency)
            return self._pool

    @property
    def url(self) -> str:
        return self._opener.url

    @property
    def place(self) -> str:
        """The URL and its endpoint: two endpoints may have buckets of the same name."""
        return self.client.place

    def describe(self) -> dict[str, str]:
        """What this backend promises, in words, by subject."""
        return dict(self.client.describe())

    # ---- Reading

    def read(self, key: str, start: int = 0, stop: int | None = None, most: int | None = None) -> bytes:
        if stop is not None:
            target = bytearray(max(stop - start, 0))
            self.read_into(key, start, memoryview(target))
            return bytes(target)
        first = bytearray(FIRST_READ_BYTES)
        try:
            count, total = self._get(key, start, memoryview(first))
        except EOFError:
            return b""  # a range that begins at the end of the object, or in an empty one
        if most is not None and total - start > most:
            raise too_large(self._name(key), total - start, most)
        if start + count >= total:
            return bytes(memoryview(first)[:count])
        whole = bytearray(total - start)
        whole[:count] = memoryview(first)[:count]
        self.read_into(key, start + count, memoryview(whole)[count:])
        return bytes(whole)

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        target = target.cast("B")
        size = self.client.part_bytes
        pieces = [(at, target[at : at + size]) for at in range(0, len(target), size)]
        if len(pieces) <= 1:
            for at, piece in pieces:
                self._fill(key, start + at, piece, None)
            return
        stop = threading.Event()
        tasks = [self.pool.submit(self._fill, key, start + at, piece, stop) for at, piece in pieces]
        _wait_for_all(tasks, stop)

    def _fill(self, key: str, start: int, target: memoryview, stop: threading.Event | None) -> None:
        count, total = self._get(key, start, target, stop)
        if count < len(target):
            end = start + len(target)
            raise EOFError(f"{self._name(key)} gave {count} of its bytes {start} to {end}; it has {total}")

    def _get(
        self, key: str, start: int, target: memoryview, stop: threading.Event | None = None
    ) -> tuple[int, int]:
        client = self.client
        name = client.root + check_key(key)
        reply = self.attempt(key, lambda seconds: client.get(name, start, target, seconds), len(target), stop)
        return reply.size, reply.total

    # ---- Writing

    def write(self, key: str) -> Sink:
        return _ObjectSink(self, key)

    def publish(self, key: str, data: bytes) -> None:
        self._put(key, data, create=True)

    def replace(self, key: str, data: bytes) -> None:
        self._put(key, data, create=False)

    def _put(self, key: str, data: bytes, create: bool) -> None:
        client = self.client
        request = partial(client.put, client.root + check_key(key), data, create)
        # A PUT needs no object to be there already, so a 404 is about the bucket.
        self.attempt(key, request, len(data), absent_means_no_bucket=True)

    def copy(self, source: str, key: str, size: int) -> None:
        client = self.client
        request = partial(client.copy, client.root + check_key(source), client.root + check_key(key), size)
        self.attempt(source, request, size)

    def delete(self, keys: Sequence[str]) -> None:
        client = self.client
        batches = [keys[at : at + client.remove_batch] for at in range(0, len(keys), client.remove_batch)]
        if len(batches) == 1:
            self._remove(batches[0], None)
        elif batches:
            stop = threading.Event()
            _wait_for_all([self.pool.submit(self._remove, batch, stop) for batch in batches], stop)

    def _remove(self, keys: Sequence[str], stop: threading.Event | None) -> None:
        client = self.client
        left = [client.root + check_key(key) for key in keys]

        def once(seconds: float) -> None:
            nonlocal left
            failed = client.remove(left, seconds)
            left = [key for key, error in failed.items() if client.classify(error) is not Outcome.ABSENT]
            for key in left:
                raise failed[key]

        self.attempt(keys[0], once, stop=stop)

    # ---- Listing

    def children(self, prefix: str = "") -> list[str]:
        root = self.client.root + (prefix.rstrip("/") + "/" if prefix else "")
        found: set[str] = set()
        for page in self._pages(root, "/", None):
            found.update(entry.key[len(root) :] for entry in page.objects)
            found.update(name[len(root) :].rstrip("/") for name in page.prefixes)
        return sorted(found - {""})

    def starting(self, prefix: str, until: str | None = None) -> list[Listed]:
        """Every key whose text begins with `prefix`; those from `until` on may be left out."""
        client = self.client
        end = None if until is None else client.root + until
        return [
            entry._replace(key=entry.key[len(client.root) :])
            for page in self._pages(client.root + prefix, "", end)
            for entry in page.objects
            # Tools that show folders mark them with empty objects whose keys end in a slash: not files.
            if not entry.key.endswith("/")
        ]

    def size_of(self, key: str) -> int:
        """The bytes of `key`: by a listing, which all places have."""
        found = [item.size for item in self.starting(key, until=f"{key}\0") if item.key == key]
        if not found:
            raise FileNotFoundError(key)
        return found[0]

    def _pages(self, prefix: str, delimiter: str, until: str | None) -> Iterable[Page]:
        client = self.client
        token: str | None = None
        bound = ListingBound(self.timeout)
        while True:
            request = partial(client.page, prefix, delimiter, token)
            page = self.attempt("", request, absent_means_no_bucket=True)
            try:
                bound.check(chain((entry.key for entry in page.objects), page.prefixes), page.token)
            except OSError as error:
                raise type(error)(f"{self.url}: {error}") from None
            yield page
            token = page.token
            if token is None or (until is not None and page.objects and page.objects[-1].key >= until):
                return

    def abort_uploads(self, started: Callable[[str, float], bool]) -> int:
        """Abort unfinished uploads below the root for which `started(key, seconds since 1970)` is true."""
        client = self.client
        found = self.attempt(
            "", lambda seconds: client.list_uploads(client.root, seconds), absent_means_no_bucket=True
        )
        count = 0
        for upload in found:
            key = upload.key[len(client.root) :]
            if started(key, upload.started):
                self.attempt(key, partial(client.discard, upload))
                count += 1
        return count

    def list(self, prefix: str = "") -> list[Listed]:
        return self.starting(prefix.rstrip("/") + "/" if prefix else "")

    def close(self) -> None:
        """Let go of threads and connections; the next call opens new ones."""
        with self._lock:
            self._pool, client, self._client = None, self._client, None
        if client is not None:
            client.close()

    # ---- One request, with everything that can go wrong

    def attempt(
        self,
        key: str,
        request: Callable[[float], T],
        size: int = 0,
        stop: threading.Event | None = None,
        absent_means_no_bucket: bool = False,
    ) -> T:
        """Return `request(seconds)`, retried as the policy allows.

        Raises the builtins that :mod:`ckptstore.backends.base` promises. With `absent_means_no_bucket`,
        a 404 is about the bucket, not about `key`.
        """
        client = self.client
        try:
            return self._retry_policy.run(request, client.classify, size=size, stop=stop)
        except RetriesExhausted as error:
            cause = error.__cause__
            raised: Exception = TimeoutError(f"{self._name(key)}: {error}: {self._summary(cause)}")
        except Exception as error:  # noqa: BLE001 - the client's `classify` decides, whatever the class
            cause, outcome = error, client.classify(error)
            if outcome is Outcome.ABSENT and absent_means_no_bucket:
                # A LIST that answers 404 must never look like an empty store.
                outcome = Outcome.BUCKET_MISSING
            raised = self._builtin(outcome, key, error)
        raise raised from self._safe_cause(cause, key)  # not above, which would give it the context

    def _builtin(self, outcome: Outcome, key: str, error: Exception) -> Exception:
        """The table from outcomes to what :mod:`ckptstore.backends.base` promises to raise."""
        name, brief = self._name(key), self._summary(error)
        if outcome is Outcome.ABSENT:
            return FileNotFoundError(f"{name} is not there")
        if outcome is Outcome.BUCKET_MISSING:
            return BucketMissing(f"the bucket is not there ({brief})")
        if outcome is Outcome.EXISTS:
            return FileExistsError(f"{name} is already there")
        if outcome is Outcome.DENIED:
            return (CredentialsLost if self._opener.lost else PermissionError)(f"{name}: {brief}")
        if outcome is Outcome.SHORT:
            return EOFError(f"{name}: {brief}")
        if outcome is Outcome.FULL:
            return OSError(errno.ENOSPC, f"{name}: {brief}")
        if isinstance(error, (NotImplementedError, BadOptions)):
            return error  # raised by our client on purpose
        if outcome is Outcome.REFUSED:
            return Refused(f"{name}: {brief}")
        if outcome is Outcome.UNABLE:
            return OSError(errno.ENOSYS, f"{name}: {brief}")
        if isinstance(error, MISTAKES):
            return Misfit(f"{name}: {type(error).__name__}: {brief}")
        if isinstance(error, OSError) and error.errno is not None:
            return OSError(error.errno, f"{name}: {brief}")
        return OSError(f"{name}: {brief}")

    def _name(self, key: str) -> str:
        return clean(f"{self.url}/{key}" if key else self.url)

    def _summary(self, error: BaseException | None) -> str:
        """The client's own words, on one line, with no secret in them."""
        return "" if error is None else hide_secrets(error, self.client.secrets)[:300]

    def _safe_cause(self, error: BaseException | None, key: str) -> BaseException | None:
        """`error` as a cause, unless a traceback of it would print a secret, or a `key` that forges lines."""
        hidden = any(secret in str(error) for secret in self.client.secrets)
        return None if hidden or not key.isprintable() else error


def _wait_for_all(tasks: Sequence[Task[None]], stop: threading.Event) -> None:
    """Wait for `tasks`; at the first failure or interrupt, cancel the others and raise it."""
    try:
        for task in tasks:
            task.result()
    except BaseException:
        stop.set()
        # Running tasks still write into the caller's memory, which must outlive them. Cancelled ones are
        # not waited for: they count as done only once a thread gets to them.
        for task in tasks:
            if not task.cancel():
                task.outlast()
        raise


class _ObjectSink:
    """Bytes on their way into one object: one PUT if they stay small, an upload in parts if not."""

    def __init__(self, backend: ObjectBackend, key: str) -> None:
        self._backend = backend
        self._client = backend.client
        self._key = check_key(key)
        self._buffer = bytearray()
        self._upload: Upload | None = None
        self._parts: list[Task[None]] = []
        self._sent = 0
        self._stop = threading.Event()
        self._closed = False

    def write(self, data: bytes | memoryview) -> None:
        if self._closed:
            raise ValueError(f"{self._key}: written after it was closed")
        view = memoryview(data).cast("B")
        limit = self._part_size()
        while len(view):
            if len(self._buffer) == limit:
                self._send()
                limit = self._part_size()
            count = min(limit - len(self._buffer), len(view))
            self._buffer += view[:count]
            view = view[count:]

    def _part_size(self) -> int:
        # Stores take at most 10,000 parts: growing the parts in steps carries one object to 5 TB.
        return self._client.part_bytes << (len(self._parts) // 2000)

    def _send(self) -> None:
        """Hand the full buffer to a thread of the pool, waiting while all slots are taken."""
        client, key = self._client, self._client.root + self._key
        if self._upload is None:
            self._upload = self._backend.attempt(
                self._key, partial(client.upload, key), absent_means_no_bucket=True
            )
        data, self._buffer = self._buffer, bytearray()
        if not self._upload.parallel and self._parts:
            self._parts[-1].result()
        for part in self._parts:
            if part.finished:
                part.result()  # fail here if a part has failed, not after the last byte
        self._take_slot()
        try:
            part = self._backend.pool.submit(self._part, len(self._parts) + 1, self._sent, data, False)
        except BaseException:
            self._backend.slots.release()
            raise
        self._sent += len(data)
        self._parts.append(part)

    def _take_slot(self) -> None:
        while not self._backend.slots.acquire(timeout=_PATIENCE):
            for part in self._parts:
                part.run()  # unless a thread is at it

    def _part(self, number: int, offset: int, data: BytesLike, last: bool) -> None:
        upload = self._upload
        assert upload is not None
        try:
            if not self._stop.is_set():
                self._backend.attempt(
                    self._key,
                    lambda seconds: upload.part(number, offset, data, last, seconds),
                    len(data),
                    self._stop,
                )
        finally:
            self._backend.slots.release()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if kind is not None:
            self._abort()
            return
        try:
            self._finish()
        except BaseException:
            self._abort()
            raise

    def _finish(self) -> None:
        client, key, data = self._client, self._client.root + self._key, self._buffer
        if self._upload is None:
            request = partial(client.put_contents, key, data)
            self._backend.attempt(self._key, request, len(data), absent_means_no_bucket=True)
            return
        for part in self._parts:
            part.result()
        upload, size = self._upload, self._sent + len(data)
        self._take_slot()
        self._part(len(self._parts) + 1, self._sent, data, True)
        self._backend.attempt(self._key, lambda seconds: upload.complete(size, seconds))

    def _abort(self) -> None:
        """Abort the upload. If the endpoint does not answer, a later sweep aborts it."""
        self._stop.set()
        upload, self._upload, self._buffer = self._upload, None, bytearray()
        if upload is None:
            return
        running = []
        for part in self._parts:
            if part.cancel():
                self._backend.slots.release()
            else:
                running.append(part)
        # A part that lands after the abort would be kept, and paid for, for ever.
        for part in running:
            part.outlast()
        with suppress(OSError, EOFError):  # the error that brought us here is the one to raise
            self._backend.attempt(self._key, upload.abort)
