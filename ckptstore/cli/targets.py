"""What the STORE and CHECKPOINT of a command line mean."""

from __future__ import annotations

import re
from typing import NamedTuple

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.session import SELECTED, Session
from ckptstore.commit.place import IsCheckpoint
from ckptstore.errors import (
    CheckpointError,
    CheckpointNotFound,
    InvalidRequest,
    StoreDenied,
    StoreNotFound,
)
from ckptstore.format.names import CheckpointName


class Target(NamedTuple):
    """A store, a checkpoint in a store, or a checkpoint by itself."""

    store: CheckpointStore | None
    checkpoint: Checkpoint | None


def split(text: str) -> tuple[str, str | None]:
    """The store that `text` names and which of its checkpoints, if it names one. Reads nothing."""
    if selected := SELECTED.match(text):
        return selected["store"], selected["which"]
    parent, _, last = text.rstrip("/").rpartition("/")
    if CheckpointName.parse(last):
        return f"{parent}/" if parent or text.startswith("/") else "./", last
    return text, None


def find(session: Session, text: str) -> Target:
    """The store or checkpoint that `text` names.

    ``STORE@WHICH`` is always a checkpoint; a directory that really has such a name is written with a
    slash at its end.
    """
    if selected := SELECTED.match(text):
        store = session.open_store(selected["store"])
        return Target(store, pick(store, selected["which"]))
    parent, last = split(text)
    if last is not None:
        store = session.open_store(parent)
        try:
            return Target(store, store.get(last))
        except (CheckpointNotFound, StoreNotFound, StoreDenied, IsCheckpoint):
            # It was copied out of its store, RLlib left it there, or these credentials may read nothing else.
            return Target(None, _open(session, text))
    store = session.open_store(text)
    try:
        identify(store)
    except (StoreNotFound, IsCheckpoint):
        return Target(None, _open(session, text))
    except InvalidRequest as error:
        if not isinstance(error.__cause__, NotADirectoryError):
            raise
        return Target(None, _open(session, text))  # a file, which may be a checkpoint by itself
    return Target(store, None)


def identify(store: CheckpointStore) -> str | None:
    """The store's id; None where only its ``store.json`` is lost. StoreNotFound if there is no store."""
    try:
        return store.id
    except StoreNotFound:
        store.tags()  # this only looks, and so is content with checkpoints
        return None


def require_in_store(session: Session, text: str) -> tuple[CheckpointStore, Checkpoint]:
    """The checkpoint that `text` names and the store it is in. InvalidRequest for anything else."""
    url, which = split(text)
    if which is None:
        raise InvalidRequest(
            text, "it doesn't name a checkpoint in a store", f"Say which one, for example {text}@100"
        )
    store = session.open_store(url)
    return store, pick(store, which)


def find_checkpoint(session: Session, text: str) -> Checkpoint:
    """The checkpoint that `text` names. InvalidRequest if it names a store."""
    return require_checkpoint(find(session, text), text)


def require_checkpoint(target: Target, text: str) -> Checkpoint:
    """The checkpoint of `target`, which `text` named. InvalidRequest if it is a store."""
    if target.checkpoint is None:
        raise InvalidRequest(
            text, "it is a store, not a checkpoint", f"Say which one, for example {text}@latest"
        )
    return target.checkpoint


def pick(store: CheckpointStore, which: str) -> Checkpoint:
    """One checkpoint of `store`: ``latest``, a step, ``tag:NAME`` or a name."""
    if which == "latest":
        newest = store.latest()
        if newest is None:
            raise CheckpointNotFound(store.url, "the store holds no checkpoint")
        return newest
    return store.get(int(which) if re.fullmatch(r"[0-9]+", which) else which)


def _open(session: Session, text: str) -> Checkpoint:
    _refuse_near_miss(session, text)
    try:
        return Checkpoint.open(text, storage_options=session.options, **session.trusted)
    except CheckpointNotFound as error:
        raise CheckpointNotFound(
            text, "there is neither a store nor a checkpoint here", error.remedy
        ) from error


_NEAR = re.compile(r"(?P<store>.+)[@:](?P<which>[^/@:]+)\Z", re.DOTALL)


def _refuse_near_miss(session: Session, text: str) -> None:
    """InvalidRequest if `text` is a store's URL and a word that doesn't say which checkpoint."""
    match = _NEAR.match(text)
    if match is None:
        return
    url, word = match["store"], match["which"]
    store = session.open_store(url)
    try:
        tags = store.tags()
    except CheckpointError:
        return
    if word in tags:
        remedy = f"Write {url}@tag:{word}"
    elif word.lower() in ("last", "newest", "latest"):
        remedy = f"Write {url}@latest"
    elif word.isdecimal() or CheckpointName.parse(word):
        remedy = f"Write {url}@{word}"
    else:
        remedy = f"Write {url}@STEP, {url}@latest or {url}@tag:NAME"
    raise InvalidRequest(text, f"{word!r} is neither a step nor `latest`", remedy)
