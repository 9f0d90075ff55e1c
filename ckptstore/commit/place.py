"""What lies at a place that has no ``store.json``: nothing, checkpoints that lost it, or something else."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import NamedTuple

from ckptstore.backends.base import Backend, PlaceMissing
from ckptstore.errors import InvalidRequest, StoreNotFound, UnreadableFormat
from ckptstore.format.droppings import is_dropping
from ckptstore.format.marks import is_mark
from ckptstore.format.names import (
    COMPONENTS,
    MANIFEST,
    META,
    POLICIES,
    PROBE,
    RLLIB_JSON,
    SMALL_STATE_BYTES,
    STAGING,
    STORE,
    TRASH,
    CheckpointName,
)


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
    """Raise where no store may be made: in a checkpoint, in what is another store's own, or under the name
    that a store gives to a checkpoint.

    Of a bucket those directories above are asked whose names raise the question: mostly none.
    """
    url = backend.url.rstrip("/")
    checkpoint = ""
    for above, path in _above(backend):
        own = path.split("/")[0]
        where = above.url.rstrip("/")
        if _may_hold(above, MANIFEST):
            checkpoint = where
            break
        if _may_hold(above, RLLIB_JSON):  # a policy in a checkpoint has one as well
            checkpoint = where
        if own == META or (own in (STAGING, TRASH) and _may_hold(above, STORE)):
            raise InvalidRequest(url, f"it lies in {own}/ of the store {where}", f"Open the store: {where}")
    if checkpoint:
        remedy = f"Open the store: {checkpoint.rpartition('/')[0]}"
        raise IsCheckpoint(url, f"it lies in the checkpoint {checkpoint}", remedy)
    store, _, last = url.rpartition("/")
    if CheckpointName.parse(last) is not None:
        raise InvalidRequest(url, "its name is that of a checkpoint", f"Open the store: {store}")


def refuse_a_copy(backend: Backend) -> None:
    """Raise where the files of a checkpoint may not be put by hand: in another, or as one of a store's."""
    store, _, last = backend.url.rstrip("/").rpartition("/")
    for above, path in _above(backend):
        if _may_hold(above, MANIFEST):
            why = f"it lies in the checkpoint {above.url.rstrip('/')}"
            raise InvalidRequest(backend.url, why, "Name a directory outside")
        if path == last and CheckpointName.parse(last) is not None and _may_hold(above, STORE):
            remedy = "Name another directory, or copy into the store with copy_to() or `ckptstore cp`"
            raise InvalidRequest(
                backend.url, f"the store {store} keeps a checkpoint of its own there", remedy
            )


def _above(backend: Backend) -> Iterator[tuple[Backend, str]]:
    """The directories above that may be a store or a checkpoint, and the path from there to `backend`."""
    from ckptstore.backends.local.backend import LocalBackend

    if isinstance(backend, LocalBackend):
        folder = os.path.realpath(backend.root)
        parts: list[str] = []
        while os.path.dirname(folder) != folder:
            folder, name = os.path.split(folder)
            parts.insert(0, name)
            yield LocalBackend(folder), "/".join(parts)
    elif (climb := getattr(backend, "above", None)) is not None:
        parts = backend.url.partition("://")[2].strip("/").split("/")
        for levels in range(1, len(parts)):
            name, child = parts[-levels - 1], parts[-levels]
            if CheckpointName.parse(name) or child in (STAGING, TRASH, META, POLICIES, COMPONENTS):
                yield climb(levels), "/".join(parts[-levels:])


def no_store(url: str, place: Place, create: bool) -> StoreNotFound:
    """The error for a place where a store was expected; `create` says whether a save may make one."""
    if place.committed:
        remedy = (
            f"Bring it back. Or write a new one: `ckptstore adopt {url.rstrip('/')}/{place.committed}`, "
            "and so does the next save"
        )
        return StoreNotFound(url, "it holds checkpoints, but its store.json is missing", remedy)
    above = _store_above(url)
    if above:
        why, remedy = "there is no checkpoint here, and no store", f"Open the store: {above}"
        return StoreNotFound(url, why, remedy)
    if place.others:
        remedy = (
            "Check the URL. To begin a store beside them all the same, save to it first; better give it a "
            "directory of its own"
        )
        why = f"there is no store here, but other files: {', '.join(map(repr, place.others[:3]))}"
        return StoreNotFound(url, f"{why}, ..." if len(place.others) > 3 else why, remedy)
    remedy = "Check the URL; the first save makes one" if create else "Check the URL, or pass create=True"
    return StoreNotFound(url, "there is no store here", remedy)


def _store_above(url: str) -> str:
    """The store that `url` would lie in, by its words alone; empty if they name no part of one."""
    parts = url.rstrip("/").split("/")
    for index, part in enumerate(parts):
        if index and (CheckpointName.parse(part) is not None or part in (META, STAGING, TRASH)):
            return "/".join(parts[:index])
    return ""


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


def _may_hold(backend: Backend, path: str) -> bool:
    """Like `_holds_file`; False where nobody here may look."""
    try:
        return _holds_file(backend, path)
    except PermissionError:
        return False


def _holds_manifest(backend: Backend, directory: str) -> bool:
    """Whether `directory`, which ends in a slash, holds a manifest that is no seal or tombstone."""
    try:
        backend.read(directory + MANIFEST, 0, SMALL_STATE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, EOFError):
        return False
    return True
