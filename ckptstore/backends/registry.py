"""Open the backend that a URL means: one line for each scheme.

What such a line names is an opener, which makes a `BucketClient` (``objects/client.py``); the shortest of
both is ``objects/memory.py``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any, cast

from ckptstore.backends.base import Backend
from ckptstore.backends.urls import refuse_secrets
from ckptstore.errors import InvalidRequest

_OPENERS = {
    "s3": "objects.opener.S3Opener",
    "s3a": "objects.opener.S3Opener",
    "gs": "objects.opener.GcsOpener",
    "gcs": "objects.opener.GcsOpener",
    "memory": "objects.memory.MemoryOpener",
}


def backend_of(url: str | os.PathLike[str] | Backend, *rest: Any, **options: Any) -> Backend:
    """`url` itself if it is a backend; else like `open_backend`."""
    return open_backend(url, *rest, **options) if not hasattr(url, "publish") else cast(Backend, url)


def check_url(url: object) -> str:
    """`url` as text. InvalidRequest for what names no place: what is unset must not mean this directory."""
    if not isinstance(url, (str, os.PathLike)) or not isinstance(text := os.fspath(url), str):
        why = f"it is of type {type(url).__name__}, not a path or URL"
        raise InvalidRequest(f"url {url!r:.80}", why, "Pass for example 'runs/ppo'. Is a variable unset?")
    if not text.strip() or text.endswith("://") or "\0" in text:
        why = "it holds a NUL" if "\0" in text else "it names no place"
        raise InvalidRequest(
            f"url {text!r:.80}", why, "Pass for example 'runs/ppo', or '.' for this directory"
        )
    return text


def open_backend(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
    retries: int | None = None,
    concurrency: int | None = None,
) -> Backend:
    """The backend at `url`: a path, ``file://``, ``s3://``, ``gs://``, ``memory://`` or any fsspec URL.

    `timeout` is for how many seconds a request that keeps failing is tried, `retries` how often it is
    repeated at most (unbounded within the timeout by default), `concurrency` how many requests are sent
    at once. Makes no request. InvalidRequest if the URL can't be understood, holds credentials, or its
    client library is not installed.
    """
    from ckptstore.backends.objects.backend import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT, ObjectBackend

    text = check_url(url)
    scheme, separator, rest = text.partition("://")
    options = dict(storage_options or {})
    if separator:
        refuse_secrets(text)
    if not separator or scheme == "file":
        from ckptstore.backends.local.backend import LocalBackend

        return LocalBackend(rest if separator else text)
    timeout = DEFAULT_TIMEOUT if timeout is None else timeout
    concurrency = DEFAULT_CONCURRENCY if concurrency is None else concurrency
    try:
        opener = _opener_for(scheme, text, options, timeout, concurrency)
        return ObjectBackend(opener, timeout=timeout, retries=retries, concurrency=concurrency)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(text, str(error)) from error


def open_below(backend: Backend, name: str) -> Backend:
    """The backend of the directory `name` below that of `backend`, opened with the same options.

    InvalidRequest for a backend that isn't one of ckptstore's own.
    """
    below = getattr(backend, "below", None)
    if below is None:
        raise InvalidRequest(
            backend.url, f"a {type(backend).__name__} has no directories to open", "Pass a function instead"
        )
    made: Backend = below(name)
    return made


def _opener_for(scheme: str, url: str, options: dict[str, Any], timeout: float, concurrency: int) -> Any:
    """What makes the client of `url`; each kind is imported only when asked for."""
    module, _, name = _OPENERS.get(scheme, "objects.any_fsspec.FsspecOpener").rpartition(".")
    try:
        opener_class = getattr(importlib.import_module(f"ckptstore.backends.{module}"), name)
        return opener_class(url, options, timeout, concurrency)
    except ImportError as error:
        extra = {"S3Opener": "s3", "GcsOpener": "gcs"}.get(name)
        raise ValueError(f"{error}: pip install 'ckptstore[{extra}]'" if extra else str(error)) from error
