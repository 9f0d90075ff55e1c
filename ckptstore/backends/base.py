"""What every backend promises, in five verbs, and how it fails.

A backend moves bytes between keys and memory and knows nothing of checkpoints. Keys are relative,
``/``-separated, already validated names below the backend's root; ``""`` is the root itself.

Failures are builtins, so that a backend needs nothing of ours to say what happened:

====================  ==========================================================
FileNotFoundError     the key is not there (never used for "can't tell")
PlaceMissing          a FileNotFoundError: not the key but the bucket is not there
NotPlain              a link, pipe or device, or a directory in a file's place, or the other way round
FileExistsError       a create-only write met an existing key
PermissionError       wrong or expired credentials, missing rights, read-only
OSError(ENOSPC, ...)  no space or quota left
TimeoutError          no proper answer until the deadline
EOFError              fewer bytes than asked for
TooLarge              more bytes than the caller takes
BadOptions            an OSError: the client can't be set up like that
Refused               an OSError: the server says no to the request itself, and always will
Misfit                an OSError: the client library doesn't do what we ask of it
NotCreateOnly         an OSError: the file system has no call that never overwrites
NotDurable            an OSError: the file system refuses to sync a file
CredentialsLost       a PermissionError: they were given to a store that was pickled since
OSError               anything else the system or the server says
====================  ==========================================================
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol


class Listed(NamedTuple):
    """One key and its size in bytes, as the backend reports it now."""

    key: str
    size: int
    modified: float | None = None
    """When it was written, in seconds since 1970 by the *server's* clock; None if the backend can't tell."""


class PlaceMissing(FileNotFoundError):
    """The bucket itself is not there, or a directory that was: a typo in the URL, not an empty store."""


class BucketMissing(PlaceMissing):
    """The same, where it was never seen: it has to be created first."""


class BadOptions(OSError):
    """The backend's client takes no such options, or can't make sense of one."""


class Refused(OSError):
    """The server refuses the request itself, and will however often it is asked."""


class Misfit(OSError):
    """The client library, of this release, doesn't do what we ask of it. No setting is to blame."""


class NotCreateOnly(OSError):
    """The file system has neither hard links nor exclusive renames: nothing there never overwrites."""


class NotDurable(OSError):
    """The file system refuses to make a file durable, without which nothing may be acknowledged."""


class CredentialsLost(PermissionError):
    """What asks has no credentials: those given were left behind when it was pickled."""


class NotPlain(NotADirectoryError):
    """What lies there is neither the plain file nor the plain directory that a store puts there.

    Its `filename` says where. Never followed, never read, and nothing that waiting would mend.
    """


class TooLarge(OSError):
    """A file of more bytes than its reader takes, which was not read. Its `filename` says which."""


def too_large(name: str, size: int, most: int) -> TooLarge:
    """What to raise for `name`."""
    return TooLarge(errno.EFBIG, f"it has {size} bytes, where {most} are the most there may be", name)


class Sink(Protocol):
    """One new object on its way in; a context manager.

    A clean exit makes the object complete (and, for a directory tree that is published by rename,
    leaves durability to the publication). An exception leaves nothing visible under the key where
    the backend allows that, and never a truncated object that looks whole.
    """

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. The caller may reuse the memory as soon as this returns."""

    def __enter__(self) -> Sink: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Backend(Protocol):
    """One root that keeps bytes. Safe to use from several threads; never pickled with credentials."""

    @property
    def url(self) -> str:
        """Where this is, for people and messages: no credentials, no query string."""

    @property
    def concurrency(self) -> int:
        """How many files it is best to move at once."""

    def read(self, key: str, start: int = 0, stop: int | None = None, most: int | None = None) -> bytes:
        """The bytes ``[start, stop)`` of `key`; all from `start` on if `stop` is None.

        Raises EOFError rather than return fewer bytes than a given `stop` asks for. Without a `stop`,
        TooLarge rather than take up more memory than `most` bytes: a file may be as long as anybody likes.
        """

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        """Fill `target` with the bytes of `key` from `start` on: one copy where the backend allows it."""

    def write(self, key: str) -> Sink:
        """A new object under `key`, streamed. Nobody else writes that key: its name is unique."""

    def publish(self, key: str, data: bytes) -> None:
        """Create `key` holding `data`: all or nothing, durable, one winner ever.

        FileExistsError if the key is there: perhaps by this very call, when the reply to an earlier
        try was lost. After TimeoutError it may or may not have happened. Either way, read it back and
        compare (:func:`ckptstore.commit.objects.settle.settle` does).
        """

    def replace(self, key: str, data: bytes) -> None:
        """Set `key` to `data`, old or new and never between, durable. For tombstones."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove `keys`; those already absent are fine. Raises if one may still be there."""

    def children(self, prefix: str = "") -> list[str]:
        """Names (files and directories) directly below the directory `prefix`, sorted."""

    def list(self, prefix: str = "") -> list[Listed]:
        """Every file below the directory `prefix`, recursively, as it is now and never from a cache.

        An absent directory gives an empty list: prove the store itself by reading its ``store.json``.
        """


def place_of(backend: Backend) -> str:
    """What all backends of one URL and endpoint have in common, however often they are opened here."""
    place: str = getattr(backend, "place", backend.url)
    return place


class ObjectPlace(Backend, Protocol):
    """What the commit protocol of object stores needs beyond the five verbs."""

    @property
    def place(self) -> str:
        """The URL and its endpoint: two endpoints may have buckets of the same name."""

    @property
    def timeout(self) -> float:
        """Seconds after which a request that keeps failing is given up."""

    def copy(self, source: str, key: str, size: int) -> None:
        """Have the server itself copy `source`, of `size` bytes, to `key`, which nobody else writes.

        NotImplementedError where it can't.
        """

    def starting(self, prefix: str, until: str | None = None) -> list[Listed]:
        """Every key whose *text* begins with `prefix` (not only a directory), in lexical order.

        With `until`, keys that sort at or after it may be left out, which spares pages.
        """

    def abort_uploads(self, started: Callable[[str, float], bool]) -> int:
        """Give up unfinished uploads of keys below the root, and return how many.

        Only those that `started(key, seconds since 1970 by the server's clock)` says True to.
        """
