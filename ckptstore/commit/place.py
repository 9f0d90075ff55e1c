"""What lies at a place that has no ``store.json``: nothing, checkpoints that lost it, or something else."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NamedTuple

from ckptstore.backends.base import Backend, PlaceMissing
from ckptstore.errors import InvalidRequest, StoreNotFound, UnreadableFormat
from ckptstore.format.droppings import is_dropping
from ckptstore.format.marks import is_mark
from ckptstore.format.names import MANIFEST, META, PROBE, SMALL_STATE_BYTES, CheckpointName


class IsCheckpoint(UnreadableFormat):
    """What was opened as a store is a checkpoint."""


class Place(NamedTuple):
    """What lies there."""

    committed: str
    """Name of a committed checkpoint; empty if there is none."""
    others: tuple[str, ...]
    """Everything that lies there, but for what belongs to nobody."""


def look_around(backend: Backend) -> Place:
    """What lies where a read has just shown that there is no ``store.json``. Writes nothing.

    Raises IsCheckpoint for a checkpoint, ours or RLlib's own, and the backend's builtin errors.
    """
    try:
        children = backend.children()
    except PlaceMissing:
        raise
    except FileNotFoundError:
        children = []
    named = sorted(filter(None, map(CheckpointName.parse, children)), reverse=True)
    committed = next((str(name) for name in named if _holds_manifest(backend, f"{name}/")), "")
    if not committed:
        refuse_checkpoint(backend, children)
    return Place(committed, tuple(name for name in children if not _is_nothing(backend, name)))


def refuse_checkpoint(backend: Backend, children: Collection[str]) -> None:
    """Raise IsCheckpoint for a directory that holds `children` if it is a checkpoint, or inside of one."""
    above, _, last = backend.url.rstrip("/").rpartition("/")
    if last == META:
        why = "it is a part of a store or checkpoint"
        raise IsCheckpoint(backend.url, why, f"Open what it lies in: {above}")
    marks = [name for name in children if is_mark(name)]
    if (META in children and _holds_file(backend, MANIFEST)) or any(
        _holds_file(backend, name) for name in marks
    ):
        remedy = f"Open the store: {above}; or the checkpoint by itself, with Checkpoint.open()"
        raise IsCheckpoint(backend.url, "it is a checkpoint, not a store", remedy)


def refuse_to_begin(backend: Backend) -> None:
    """Raise where no store may be made: in a checkpoint, or under the name that a store gives to one."""
    url = backend.url.rstrip("/")
    above, _, last = url.rpartition("/")
    root = getattr(backend, "root", None)
    folder = os.path.dirname(root) if isinstance(root, str) else ""  # of a bucket only the root can be read
    while folder and folder != os.path.dirname(folder):
        if os.path.isfile(os.path.join(folder, *MANIFEST.split("/"))):
            why = f"it lies in the checkpoint {folder}"
            raise IsCheckpoint(url, why, f"Open the store: {os.path.dirname(folder)}")
        folder = os.path.dirname(folder)
    if CheckpointName.parse(last) is not None:
        raise InvalidRequest(url, "its name is that of a checkpoint", f"Open the store: {above}")


def no_store(url: str, place: Place, create: bool) -> StoreNotFound:
    """The error for a place where a store was expected; `create` says whether a save may make one."""
    if place.committed:
        remedy = (
            f"Bring it back. Or write a new one: `ckptstore adopt {url.rstrip('/')}/{place.committed}`, "
            "and so does the next save"
        )
        return StoreNotFound(url, "it holds checkpoints, but its store.json is missing", remedy)
    if place.others:
        remedy = (
            "Check the URL. To begin a store beside them all the same, save to it first; better give it a "
            "directory of its own"
        )
        why = f"there is no store here, but other files: {', '.join(map(repr, place.others[:3]))}"
        return StoreNotFound(url, f"{why}, ..." if len(place.others) > 3 else why, remedy)
    remedy = "Check the URL; the first save makes one" if create else "Check the URL, or pass create=True"
    return StoreNotFound(url, "there is no store here", remedy)


def _is_nothing(backend: Backend, name: str) -> bool:
    """Whether it says nothing of a store: a dropping, or what a probe or a save that was killed left."""
    if name == META:
        return all(entry.key.startswith(f"{PROBE}/") for entry in backend.list(META))
    return is_dropping(name)


def _holds_file(backend: Backend, path: str) -> bool:
    """Whether it holds a file, not a directory, of that path."""
    try:
        backend.read(path, 0, 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except EOFError:
        pass  # an empty one
    return True


def _holds_manifest(backend: Backend, directory: str) -> bool:
    """Whether `directory`, which ends in a slash, holds a manifest that is no seal or tombstone."""
    try:
        backend.read(directory + MANIFEST, 0, SMALL_STATE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, EOFError):
        return False
    return True
