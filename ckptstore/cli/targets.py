"""What the STORE and CHECKPOINT of a command line mean."""

from __future__ import annotations

import re
from typing import NamedTuple

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.session import Session
from ckptstore.commit.place import IsCheckpoint
from ckptstore.errors import CheckpointNotFound, InvalidRequest, StoreDenied, StoreNotFound
from ckptstore.format.names import CheckpointName

_SELECTED = re.compile(r"(?P<store>.+)@(?P<which>latest|\d+|tag:[^/@]+|checkpoint_[^/@]+)\Z", re.DOTALL)


class Target(NamedTuple):
    """A store, a checkpoint in a store, or a checkpoint by itself."""

    store: CheckpointStore | None
    checkpoint: Checkpoint | None


def find(session: Session, text: str) -> Target:
    """The store or checkpoint that `text` names.

    ``STORE@WHICH`` is always a checkpoint; a directory that really has such a name is written with a
    slash at its end.
    """
    if selected := _SELECTED.match(text):
        store = session.open_store(selected["store"])
        return Target(store, pick(store, selected["which"]))
    parent, _, last = text.rstrip("/").rpartition("/")
    if CheckpointName.parse(last):
        store = session.open_store(parent or ("/" if text.startswith("/") else "."))
        try:
            return Target(store, store.get(last))
        except (CheckpointNotFound, StoreNotFound, StoreDenied, IsCheckpoint):
            # It was copied out of its store, RLlib left it there, or these credentials may read nothing else.
            return Target(None, _open(session, text))
    store = session.open_store(text)
    try:
        store.id  # noqa: B018  # reading it proves that there is a store
    except (StoreNotFound, IsCheckpoint):
        return Target(None, _open(session, text))
    return Target(store, None)


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
    try:
        return Checkpoint.open(text, storage_options=session.options, **session.trusted)
    except CheckpointNotFound as error:
        raise CheckpointNotFound(
            text, "there is neither a store nor a checkpoint here", error.remedy
        ) from error
