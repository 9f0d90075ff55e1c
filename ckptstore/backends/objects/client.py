"""What a bucket's client must do, one request at a time.

:class:`ckptstore.backends.objects.backend.ObjectBackend` builds the promises of a backend on top: retries,
deadlines, parallel ranges, streamed uploads. A client knows its library and its table of errors, and
nothing else: it tries each request once. Keys are full names inside the bucket. Every call takes the
seconds it may last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from ckptstore.backends.base import Listed
from ckptstore.backends.objects.http_status import Outcome

BytesLike = bytes | bytearray


class Corrupted(OSError):
    """What arrived is not what was sent."""


def check_key(key: str) -> str:
    """`key`, unless a server could take it for one outside of the root; then ValueError: callers checked."""
    if any(part in {".", ".."} for part in key.split("/")):
        raise ValueError(f"{key!r} is not a plain relative key")
    return key


class Page(NamedTuple):
    """One page of a listing; `token` asks for the next one."""

    objects: Sequence[Listed]
    prefixes: Sequence[str]
    token: str | None


class GetReply(NamedTuple):
    """The reply to a GET: how many bytes came (`size`), and how long the whole object is."""

    size: int
    total: int


class Unfinished(NamedTuple):
    """An upload that was begun and neither completed nor aborted."""

    key: str
    id: str
    started: float
    """Seconds since 1970, by the server's clock."""


class Upload(Protocol):
    """One large object on its way in, in parts; invisible until `complete` returned."""

    parallel: bool
    """Whether parts may be sent at the same time and in any order."""

    def part(self, number: int, offset: int, data: BytesLike, last: bool, seconds: float) -> None:
        """Send part `number` (from 1), which begins at `offset`. The same part may be sent again."""

    def complete(self, size: int, seconds: float) -> None:
        """Make the object of `size` bytes appear whole. May be called again after a lost reply."""

    def abort(self, seconds: float) -> None:
        """Leave nothing behind, as far as one request can."""


class BucketClient(Protocol):
    """One bucket of one store, in single requests."""

    url: str
    """The root, without credentials."""
    place: str
    """The URL and its endpoint: two endpoints may have buckets of the same name."""
    secrets: Sequence[str]
    """Texts that must not appear in any message."""
    root: str
    """What keys begin with: empty, or ending in a slash."""
    part_bytes: int
    """Objects up to this size go in one request, larger ones in parts of about this size."""
    remove_batch: int
    """How many keys `remove` takes at once."""

    def classify(self, error: BaseException) -> Outcome:
        """What `error`, raised by any call below, means."""

    def get(self, key: str, start: int, target: memoryview, seconds: float) -> GetReply:
        """Read from `start` on into `target`, at most its length."""

    def put(self, key: str, data: BytesLike, create: bool, seconds: float) -> None:
        """One PUT; with `create`, only if the key is free. Returns once the reply proves it arrived whole."""

    def put_contents(self, key: str, data: BytesLike, seconds: float) -> None:
        """One PUT to a key that nobody reads yet, so that the client may try things with it first."""

    def copy(self, source: str, key: str, size: int, seconds: float) -> None:
        """Have the server copy `source`, of `size` bytes. NotImplementedError where it can't."""

    def remove(self, keys: Sequence[str], seconds: float) -> Mapping[str, Exception]:
        """Remove up to `remove_batch` keys; those that are still there, each with its error."""

    def page(self, prefix: str, delimiter: str, token: str | None, seconds: float) -> Page:
        """One page of the keys that begin with `prefix`, in lexical order."""

    def upload(self, key: str, seconds: float) -> Upload:
        """Begin a large object."""

    def list_uploads(self, prefix: str, seconds: float) -> Sequence[Unfinished]:
        """Uploads of keys that begin with `prefix` that were never completed."""

    def discard(self, upload: Unfinished, seconds: float) -> None:
        """Abort an upload that `list_uploads` returned."""

    def describe(self) -> Mapping[str, str]:
        """What this store promises, in words, by subject."""

    def close(self) -> None:
        """Let go of connections."""


class Opener(Protocol):
    """Makes a bucket's client, one for each process. Pickles without secrets."""

    @property
    def url(self) -> str:
        """The root, known without a connection; no trailing slash, no credentials."""

    lost: bool
    """Whether it comes from a pickle that lacks options which it was made with."""

    def at(self, url: str) -> Opener:
        """What opens `url`, another directory of the same place, with the same options."""

    def __call__(self) -> BucketClient:
        """Make the client. BadOptions if it can't be set up with these options."""
