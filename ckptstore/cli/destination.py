"""The store that a command copies to, and the options of its storage client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from ckptstore import CheckpointStore
from ckptstore.backends.base import Backend
from ckptstore.backends.registry import open_backend
from ckptstore.backends.translate import translate_errors
from ckptstore.cli.session import Session
from ckptstore.cli.text import parse_storage_options
from ckptstore.errors import InvalidRequest, StoreNotFound


def destination_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--to-storage-option``, for commands whose destination needs other options than the source."""
    return click.option(
        "--to-storage-option",
        metavar="KEY=VALUE",
        multiple=True,
        help="For the destination, instead of --storage-option. Repeatable.",
    )(function)


def parse_destination_options(session: Session, pairs: tuple[str, ...]) -> Mapping[str, Any]:
    """The destination's storage options: those in `pairs`, or the source's if there are none."""
    return parse_storage_options(pairs, "--to-storage-option") or session.options


def open_destination(session: Session, url: str, pairs: tuple[str, ...]) -> CheckpointStore:
    """The store at `url`, created if nothing is there.

    Anything else there is an InvalidRequest: a slip must not turn a home directory into a store.
    """
    there = Session(session.as_json, parse_destination_options(session, pairs), session.trusted)
    store = there.open_store(url)
    try:
        store.id  # noqa: B018  # reading it proves that there is a store
    except StoreNotFound as error:
        if _is_occupied(open_backend(url, there.options)):
            raise InvalidRequest(
                url,
                "it isn't a store, and it isn't empty",
                "Name a store or a new directory; `ckptstore get` copies a checkpoint into a plain directory",
            ) from error
        store = there.open_store(url, create=True)
    return store


def _is_occupied(backend: Backend) -> bool:
    with translate_errors(backend.url):
        try:
            return bool(backend.children(""))
        except FileNotFoundError:
            return False
