"""Run requests on fsspec's event loop; keep secrets out of messages and pickles."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ckptstore.backends.base import BadOptions
from ckptstore.backends.urls import list_hidden, show_url
from ckptstore.work import check_interrupted

T = TypeVar("T")

_POLL = 0.2  # seconds
_SECRET_WORDS = ("key", "secret", "token", "password", "credential", "sas")


def run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run `work` on the client's own loop, in its own thread, and return its result; cancel after `seconds`.

    Unlike fsspec's own `sync`, an interrupt here cancels the request instead of leaving it to finish
    behind the caller's back.
    """
    future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), loop)
    try:
        while not wait([future], _POLL).done:
            check_interrupted()
        return future.result()
    except BaseException:
        future.cancel()
        raise


def run_each(
    loop: asyncio.AbstractEventLoop,
    request: Callable[[str], Awaitable[object]],
    keys: Sequence[str],
    seconds: float,
) -> dict[str, Exception]:
    """Run `request(key)` for all `keys` at once; return the errors of those that failed, by key."""

    async def run_one(key: str) -> Exception | None:
        try:
            await request(key)
        except Exception as error:  # noqa: BLE001 - classified by the caller, key by key
            return error
        return None

    async def run_all() -> list[Exception | None]:
        return await asyncio.gather(*map(run_one, keys))

    errors = run(loop, run_all(), seconds)
    return {key: error for key, error in zip(keys, errors, strict=True) if error is not None}


OWN_KEYWORDS: Mapping[str, Any] = {
    "asynchronous": False,
    "loop": None,
    "skip_instance_cache": True,  # a shared instance has somebody else's settings and listings
    "use_listings_cache": False,
}
"""What fsspec's own constructor is given, whatever `storage_options` say of it."""

_FILE_KEYWORDS = frozenset(
    {
        *OWN_KEYWORDS,
        "listings_expiry_time",
        "max_paths",
        "default_block_size",
        "default_cache_type",
        "default_fill_cache",
    }
)


def without_file_keywords(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` without those of fsspec's file layer and caches, which nothing here goes through."""
    return {name: value for name, value in options.items() if name not in _FILE_KEYWORDS}


MISTAKES = (TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""Exceptions that mean wrong options where a client is made, and a misunderstanding where it is asked."""


@contextmanager
def explain_bad_options(options: Mapping[str, Any]) -> Iterator[None]:
    """Raise BadOptions if a client can't be set up with `options`, without showing any secret of theirs."""
    try:
        yield
        return
    except MISTAKES as error:
        text = f"{type(error).__name__}: {hide_secrets(error, secrets_in(options))}"
    raise BadOptions(text)  # not above: the client's own traceback may show them


def hide_secrets(error: BaseException, secrets: Sequence[str]) -> str:
    """What `error` says, on one line, without any of the `secrets`."""
    text = " ".join(str(error).split()) or type(error).__name__
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key prefix of `url`; the prefix is empty or ends in a slash.

    ValueError for a URL that carries more than these: credentials there would end up in messages.
    """
    parts = urlsplit(url.replace("#", "%23"))
    if parts.username or parts.password or parts.query:
        raise ValueError("credentials and settings go into storage_options, not into the URL")
    prefix = parts.path.strip("/").replace("%23", "#")
    if not parts.netloc:
        raise ValueError("the URL names no bucket")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise ValueError("the URL's path has an empty or dot component")
    return parts.netloc, prefix + "/" if prefix else ""


def display_url(scheme: str, url: str) -> str:
    """`url` for people and messages: bucket and prefix under `scheme`, whichever one it was written with."""
    return f"{scheme}://{'/'.join(split_url(url))}".rstrip("/")


def without_secrets(options: Mapping[str, Any], keep: frozenset[str]) -> dict[str, Any]:
    """The settings of `options` that may go into a pickle: those named in `keep`, without secrets inside."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                key: clean(item)
                for key, item in value.items()
                if not _is_secret(str(key)) and not _is_url_with_secrets(item)
            }
        return value

    return {
        key: clean(value)
        for key, value in options.items()
        if key in keep
        and isinstance(value, (str, int, float, bool, Mapping, type(None)))
        and not _is_url_with_secrets(value)
    }


def secrets_in(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Every text in `options` that must not be shown, longest first."""

    def walk(value: Any, secret: bool) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from walk(item, secret or _is_secret(str(key)))
        elif isinstance(value, str) and len(value) > 3:
            if secret:
                yield value
            elif "://" in value:
                yield from list_hidden(value)

    return tuple(sorted(set(walk(options, False)), key=len, reverse=True))


def _is_url_with_secrets(value: object) -> bool:
    return isinstance(value, str) and "://" in value and show_url(value) != value


def _is_secret(name: str) -> bool:
    # The id of a KMS key is not a secret, and pickled backends must go on encrypting with it.
    return any(word in name.lower() for word in _SECRET_WORDS) and not name.lower().endswith("kmskeyid")
