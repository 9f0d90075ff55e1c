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
from ckptstore.backends.urls import parse_url
from ckptstore.errors import InvalidRequest

_OPENERS = {
    "s3": "objects.opener.S3Opener",
    "s3a": "objects.opener.S3Opener",
    "s3n": "objects.opener.S3Opener",
    "gs": "objects.opener.GcsOpener",
    "gcs": "objects.opener.GcsOpener",
    "memory": "objects.memory.MemoryOpener",
}

_PACKAGES = {
    **dict.fromkeys(("s3", "s3a", "s3n"), "ckptstore[s3]"),
    **dict.fromkeys(("gs", "gcs"), "ckptstore[gcs]"),
    **dict.fromkeys(("az", "abfs", "abfss", "wasb", "wasbs", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    **dict.fromkeys(("hdfs", "arrow_hdfs"), "pyarrow"),
    **dict.fromkeys(("tos", "tosfs"), "tosfs"),
    **dict.fromkeys(("oci", "ocilake"), "ocifs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("webhdfs", "dbfs", "github", "gist", "jupyter", "jlab"), "requests"),
    "hf": "huggingface_hub",
    "smb": "smbprotocol",
    "oss": "ossfs",
    "webdav": "webdav4[fsspec]",
    "git": "pygit2",
    "gdrive": "gdrive_fsspec",
    "lakefs": "lakefs-spec",
    "dropbox": "dropboxdrivefs",
    "box": "boxfs",
    "dvc": "dvc",
    "wandb": "wandbfs",
    "root": "fsspec-xrootd",
}
"""What to install where the client of a scheme isn't there."""


def backend_of(url: str | os.PathLike[str] | Backend, *rest: Any, **options: Any) -> Backend:
    """`url` itself if it is a backend; else like `open_backend`."""
    return open_backend(url, *rest, **options) if not hasattr(url, "publish") else cast(Backend, url)


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

    scheme, text = parse_url(url)
    options = dict(storage_options or {})
    if not scheme:
        from ckptstore.backends.local.backend import LocalBackend

        return LocalBackend(text)
    timeout = DEFAULT_TIMEOUT if timeout is None else timeout
    concurrency = DEFAULT_CONCURRENCY if concurrency is None else concurrency
    try:
        opener = _opener_for(scheme, text, options, timeout, concurrency)
        return ObjectBackend(opener, timeout=timeout, retries=retries, concurrency=concurrency)
    except ImportError as error:
        name = _PACKAGES.get(scheme, "")
        remedy = f"Install it: pip install '{name}'" if name else "Install what it asks for"
        raise InvalidRequest(text, str(error), remedy) from error
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
    opener_class = getattr(importlib.import_module(f"ckptstore.backends.{module}"), name)
    return opener_class(url, options, timeout, concurrency)
