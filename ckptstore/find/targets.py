"""Name one save exactly: a directory may be given to another once it is deleted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, SupportsIndex, TypeVar

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointNotFound, InvalidRequest
from ckptstore.format.names import CheckpointName, step_number

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


def refuse_word(word: str, tags: Collection[str]) -> InvalidRequest:
    """The error for a str that is neither a checkpoint's name nor a tag with its prefix."""
    if word in tags:
        return InvalidRequest(repr(word), "it is a tag", f"Use 'tag:{word}'")
    if re.fullmatch(r"[0-9]{1,18}", word):
        return InvalidRequest(repr(word), "it is a str, not a step", f"Use get({int(word)})")
    remedies = {
        "latest": "Use latest()",
        "last": "Use latest()",
        "newest": "Use latest()",
        "best": "Use best(metric), with the metric that counts",
    }
    usual = "Use a step, 'checkpoint_000100' or 'tag:<name>'"
    return InvalidRequest(repr(word), "it is not a checkpoint name", remedies.get(word.lower(), usual))


def directories_of(
    which: Iterable[Checkpoint | SupportsIndex | str],
    listed: Sequence[CheckpointName],
    identify: Callable[[Checkpoint | SupportsIndex | str], Target],
) -> list[CheckpointName]:
    """The directories, of those `listed`, that each of `which` means; their manifests may be damaged.

    `identify` finds what is neither a step nor a name.
    """
    chosen: list[CheckpointName] = []
    for item in which:
        name = CheckpointName.parse(item) if isinstance(item, str) else None
        if name is not None:
            found = [name] if name in listed else []
        elif isinstance(item, (str, Checkpoint)):
            found = [identify(item).name]
        else:
            step = step_number(item)
            found = [each for each in listed if each.step == step]
        if not found:
            raise CheckpointNotFound(
                str(item), "there is no directory of that name or step", "See `ckptstore ls`"
            )
        chosen += found
    return chosen
