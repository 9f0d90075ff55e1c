"""Name one save exactly: a directory may be given to another once it is deleted."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.format.names import CheckpointName

T = TypeVar("T")


class Target(NamedTuple):
    """A committed checkpoint: its directory's name and the id of the save that filled it."""

    name: CheckpointName
    id: str


def target_of(checkpoint: Checkpoint) -> Target:
    """The target that `checkpoint` is. InvalidRequest if it lies outside any store."""
    name = CheckpointName.parse(checkpoint.name)
    if name is None:
        raise InvalidRequest(
            checkpoint.url, "its name is not a checkpoint name", "Get the checkpoint from the store"
        )
    return Target(name, checkpoint.id)


def check_kind(value: object, kind: type[T]) -> T:
    """`value`, which must be a `kind`. InvalidRequest says how one is made of a URL."""
    if not isinstance(value, kind):
        remedy = "CheckpointStore(url)" if kind.__name__ == "CheckpointStore" else "Checkpoint.open(url)"
        raise InvalidRequest(repr(value)[:80], f"it is no {kind.__name__}", f"Pass {remedy}")
    return value
