"""Any other fsspec file system: it keeps bytes, but promises nothing about two writers.

fsspec's ``mode="create"`` is a look before a write nearly everywhere, which a probe can't tell from the
real thing, so it is not used: creation here overwrites, the probe finds that out, and such a file system
serves one writer only.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import posixpath
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from ckptstore.backends.base import Listed
from ckptstore.backends.objects.client import BytesLike, GetReply, Page, Unfinished, Upload
from ckptstore.backends.objects.fsspec_loop import (
    MISTAKES,
    OWN_KEYWORDS,
    explain_bad_options,
    hide_secrets,
    secrets_in,
)
from ckptstore.backends.objects.http_status import Outcome, by_status
from ckptstore.backends.urls import refuse_secrets

_TRANSIENT = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EPIPE,
}
_LEADS_OUT = re.compile(r"(?:\A|[/\\])\.\.?(?:\Z|[/\\])|\0")
_FULL = {errno.ENOSPC, errno.EDQUOT}


class FsspecOpener:
    """Makes a :class:`FsspecClient`. A pickle of it keeps the URL and none of the options."""

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float, concurrency: int) -> None:
        refuse_secrets(url)
        fsspec.get_filesystem_class(url.split("://")[0])  # ValueError or ImportError, now and not later
        self._url = url
        self._options = {
            name: value for name, value in options.items() if name not in ("asynchronous", "loop")
        }
        self.lost = False

    @property
    def url(self) -> str:
        """The root, without credentials."""
        return self._url.rstrip("/")

    def at(self, url: str) -> FsspecOpener:
        """What opens `url`, another directory of the same file system, with the same options."""
        made = FsspecOpener(url, self._options, 0, 0)
        made.lost = self.lost
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {"_url": self._url, "_options": {}, "lost": self.lost or bool(self._options)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"lost": False, **state})

    def __call__(self) -> FsspecClient:
        with explain_bad_options(self._options):
            try:
                return FsspecClient(self._url, self._options)
            except (OSError, *MISTAKES):
                raise
            except Exception as error:  # noqa: BLE001 - some log in at once, and fail in ways of their own
                raise OSError(hide_secrets(error, secrets_in(self._options))) from None


class FsspecClient:
    """One directory of one fsspec file system."""

    part_bytes = 16 * 2**20
    remove_batch = 100

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = self.place = url.rstrip("/")
        self.secrets = secrets_in(options)
        own = {name: OWN_KEYWORDS[name] for name in ("skip_instance_cache", "use_listings_cache")}
        self._fs, path = fsspec.core.url_to_fs(url, **{**options, **own})
        if isinstance(self._fs, AsyncFileSystem) and hasattr(self._fs, "set_session"):
            sync(self._fs.loop, self._fs.set_session)  # a wrong option is noticed now, if it is one
        self.root = path.rstrip("/") + "/"

    def get(self, key: str, start: int, target: memoryview, seconds: float) -> GetReply:
        data = self._fs.cat_file(key, start=start, end=start + len(target))
        target[: len(data)] = data
        ended = len(data) < len(target)
        return GetReply(len(data), start + len(data) if ended else int(self._fs.info(key)["size"]))

    def put(self, key: str, data: BytesLike, create: bool, seconds: float) -> None:
        self._fs.makedirs(posixpath.dirname(key), exist_ok=True)
        self._fs.pipe_file(key, bytes(data))

    def put_contents(self, key: str, data: BytesLike, seconds: float) -> None:
        self.put(key, data, False, seconds)

    def copy(self, source: str, key: str, size: int, seconds: float) -> None:
        self._fs.makedirs(posixpath.dirname(key), exist_ok=True)
        self._fs.cp_file(source, key)

    def put_file(self, local: str, key: str) -> None:
        """Send a local file."""
        self._fs.makedirs(posixpath.dirname(key), exist_ok=True)
        self._fs.put_file(local, key)

    def remove(self, keys: Sequence[str], seconds: float) -> Mapping[str, Exception]:
        failed: dict[str, Exception] = {}
        for key in keys:
            try:
                self._fs.rm_file(key)
            except Exception as error:  # noqa: BLE001 - classified by the caller, key by key
                failed[key] = error
        return failed

    def page(self, prefix: str, delimiter: str, token: str | None, seconds: float) -> Page:
        directory = prefix.rpartition("/")[0]
        self._fs.invalidate_cache()
        objects, prefixes = [], []
        try:
            if delimiter:
                found = {item["name"]: item for item in self._fs.ls(directory, detail=True)}
            else:
                found = self._fs.find(directory, detail=True)
        except FileNotFoundError:
            found = {}
        for name, item in sorted(found.items()):
            path = name if name.startswith("/") or not prefix.startswith("/") else f"/{name}"
            # No file system holds such a name: a server that lies, or an archive that somebody made so.
            if path.startswith(prefix) and not _LEADS_OUT.search(path[len(self.root) :]):
                if item["type"] == "directory":
                    prefixes.append(path.rstrip("/") + "/")
                else:
                    objects.append(Listed(path, int(item["size"]), _modification_time(item)))
        return Page(objects, prefixes, None)

    def upload(self, key: str, seconds: float) -> Upload:
        return _FsspecUpload(self, key)

    def list_uploads(self, prefix: str, seconds: float) -> Sequence[Unfinished]:
        return ()

    def discard(self, upload: Unfinished, seconds: float) -> None:
        raise AssertionError("there are no uploads to discard")

    def describe(self) -> Mapping[str, str]:
        return {
            "place": self.place,
            "client": f"fsspec {fsspec.__version__}, {type(self._fs).__name__}",
            "durability": "whatever that file system does",
            "create-only writes": "none: for one writer at a time",
            "listings": "not known",
            "transfers": "not checked on arrival; digests are checked on reading",
        }

    def close(self) -> None:
        pass

    def classify(self, error: BaseException) -> Outcome:
        if isinstance(error, FileNotFoundError):
            return Outcome.ABSENT
        if isinstance(error, FileExistsError):
            return Outcome.EXISTS
        if isinstance(error, PermissionError):
            return Outcome.DENIED
        if isinstance(error, EOFError):
            return Outcome.SHORT
        if isinstance(error, (TimeoutError, asyncio.TimeoutError, ConnectionError)):
            return Outcome.RETRY
        if isinstance(error, OSError):
            if error.errno in _FULL:
                return Outcome.FULL
            return Outcome.RETRY if error.errno in _TRANSIENT else Outcome.FATAL
        return by_status(getattr(error, "status", None) or getattr(error, "status_code", None))


class _FsspecUpload:
    """Gathers parts in a temporary file: most file systems would show a half-sent one as if it were whole."""

    parallel = False

    def __init__(self, client: FsspecClient, key: str) -> None:
        self._client = client
        self._key = key
        self._file = tempfile.NamedTemporaryFile(prefix="ckptstore-")  # noqa: SIM115 - closed below

    def part(self, number: int, offset: int, data: BytesLike, last: bool, seconds: float) -> None:
        self._file.seek(offset)
        self._file.write(data)

    def complete(self, size: int, seconds: float) -> None:
        self._file.flush()
        self._client.put_file(self._file.name, self._key)
        self._file.close()

    def abort(self, seconds: float) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _modification_time(item: Mapping[str, Any]) -> float | None:
    for field in ("mtime", "modified", "last_modified", "LastModified", "updated", "created"):
        value = item.get(field)
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
    return None
