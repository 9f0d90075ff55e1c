"""What both protocols say when a save, an adoption or a delete can't go on: one text for each failure.

Each names the checkpoint by its full URL: with a store for each trial, a bare name says too little.
"""

from __future__ import annotations

from ckptstore.backends.base import Backend
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointExists,
    CheckpointGone,
    CheckpointNotFound,
    InvalidRequest,
    SaveAborted,
    StoreUnsuitable,
)
from ckptstore.format.names import MIN_MANIFEST_BYTES, CheckpointName

OVERWRITES = "it ignores create-only writes, so two writers could both win one step"


def url_of(backend: Backend, name: CheckpointName, path: str = "") -> str:
    """The URL of a checkpoint, or of the file `path` in it."""
    return "/".join(filter(None, (backend.url.rstrip("/"), str(name), path)))


def already_committed(backend: Backend, name: CheckpointName) -> CheckpointExists:
    """The step is taken."""
    return CheckpointExists(url_of(backend, name), f"step {name.step} is already committed")


def not_the_highest(backend: Backend, name: CheckpointName, other: CheckpointName) -> CheckpointExists:
    """A higher attempt is committed, which the listing that the save began on did not show."""
    why = f"it holds step {name.step}, and {name}, begun without seeing it, would stay hidden below it"
    remedy = "Save again with if_exists='replace' to supersede it"
    return CheckpointExists(url_of(backend, other), why, remedy)


def was_deleted(backend: Backend, name: CheckpointName) -> CheckpointGone:
    """There is nothing left to tag or pin."""
    return CheckpointGone(url_of(backend, name), "it was deleted")


def already_deleted(backend: Backend, name: CheckpointName) -> CheckpointGone:
    """There is nothing left to delete."""
    return CheckpointGone(url_of(backend, name), "it was already deleted", "There is nothing left to do")


def not_committed(backend: Backend, name: CheckpointName) -> CheckpointNotFound:
    """The name is not a checkpoint's, or not yet."""
    why = "there is no committed checkpoint of that name"
    return CheckpointNotFound(url_of(backend, name), why, "See `ckptstore ls`")


def is_of_another_step(url: str, name: CheckpointName, step: int) -> CheckpointCorrupt:
    """The directory `name` at `url` holds a copy of what was committed as `step`."""
    again = f"If it was renamed, call it {CheckpointName(step)} again"
    remedy = f"{again}. If it is a copy, move it out of the store, or delete it as {str(name)!r}"
    return CheckpointCorrupt(url, f"its manifest is that of step {step}", remedy)


def already_written(backend: Backend, name: CheckpointName, path: str) -> InvalidRequest:
    """A save writes each of its files once."""
    why = "this save has already written it"
    return InvalidRequest(url_of(backend, name, path), why, "Write each file once, under a name of its own")


def save_too_old(backend: Backend, name: CheckpointName, seconds: float) -> SaveAborted:
    """Others may soon forget that this attempt was ever there, and use its directory again."""
    why = f"it took longer than {seconds:g} s, after which other writers may reuse its directory"
    return SaveAborted(url_of(backend, name), why, "Try again")


def ignores_create_only(backend: Backend) -> StoreUnsuitable:
    """A place where two writers would both be told that they won."""
    remedy = (
        "Use a store with conditional writes, or pass single_writer=True if nobody else ever writes here "
        "while a save, delete or gc runs"
    )
    return StoreUnsuitable(backend.url, OVERWRITES, remedy)


def check_manifest_length(manifest: bytes) -> None:
    """InvalidRequest for one so short that a listing takes it for a tombstone or seal."""
    if len(manifest) < MIN_MANIFEST_BYTES:
        why = f"it has {len(manifest)} bytes, fewer than {MIN_MANIFEST_BYTES}"
        raise InvalidRequest("manifest", why, "Pad it with spaces")
