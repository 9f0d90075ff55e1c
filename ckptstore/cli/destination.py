"""The store that a command writes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from ckptstore import CheckpointStore
from ckptstore.backends import open_backend
from ckptstore.backends.base import Backend
from ckptstore.backends.translate import translate_errors
from ckptstore.cli.session import Session
from ckptstore.cli.text import storage_options
from ckptstore.errors import InvalidRequest, StoreNotFound


def destination_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--to-storage-option``, for commands that write to a store elsewhere."""
    return click.option(
        "--to-storage-option",
        metavar="KEY=VALUE",
        multiple=True,
        help="For the destination, instead of --storage-option. Repeatable.",
    )(function)


def destination_options(session: Session, options: tuple[str, ...]) -> Mapping[str, Any]:
    """What the client of the destination is given."""
    return storage_options(options, "--to-storage-option") or session.options


def destination_store(session: Session, url: str, options: tuple[str, ...]) -> CheckpointStore:
    """The store at `url`, made if nothing at all lies there.

    A name slipped in by mistake must not turn a home directory into a store.
    """
    there = Session(session.as_json, destination_options(session, options), session.trusted_keys)
    store = there.store(url)
    try:
        store.id  # noqa: B018  # reading it proves that there is a store
    except StoreNotFound as error:
        if _is_occupied(open_backend(url, there.options)):
            raise InvalidRequest(
                url,
                "it is no store, and it isn't empty",
                "Name a store or a new place; `ckptstore get` copies a checkpoint into a plain directory",
            ) from error
        store = there.store(url, create=True)
    return store


def _is_occupied(place: Backend) -> bool:
    with translate_errors(place.url):
        try:
            return bool(place.children(""))
        except FileNotFoundError:
            return False
