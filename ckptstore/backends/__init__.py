"""Places that keep bytes, and which one a URL means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ckptstore.backends.base import Backend
from ckptstore.errors import InvalidRequest


def open_backend(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    retries: int | None = None,
    concurrency: int | None = None,
) -> Backend:
    """The backend at `url`: a path, ``file://``, ``s3://``, ``gs://``, ``memory://`` or any fsspec URL.

    `timeout` is how many seconds a request that keeps failing is tried, `retries` how many more tries
    at most (unbounded within the timeout by default), `concurrency` how many requests at once. Makes
    no request. InvalidRequest if the URL can't be understood or its client library is not installed.
    """
    from ckptstore.backends.objects import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT, ObjectBackend

    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    options = dict(storage_options or {})
    if not separator or scheme == "file":
        from ckptstore.backends.local import LocalBackend

        return LocalBackend(rest if separator else text)
    try:
        wire = _wire(scheme, text, options, DEFAULT_TIMEOUT if timeout is None else timeout)
        return ObjectBackend(
            wire,
            timeout=DEFAULT_TIMEOUT if timeout is None else timeout,
            retries=retries,
            concurrency=DEFAULT_CONCURRENCY if concurrency is None else concurrency,
        )
    except (TypeError, ValueError) as error:
        raise InvalidRequest(text.split("?")[0].rpartition("@")[2], str(error)) from error


def _wire(scheme: str, url: str, options: dict[str, Any], timeout: float) -> Any:
    """How to open the connection; each kind is imported only when asked for."""
    if scheme == "memory":
        from ckptstore.backends.memory import MemoryOpener

        return MemoryOpener(url)
    raise ValueError(f"the scheme {scheme}:// is not known")
