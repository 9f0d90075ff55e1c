"""Pointers: the small file that Ray keeps for a checkpoint that is in a store."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, UnreadableFormat
from ckptstore.format.names import CheckpointName
from ckptstore.integrations.rllib.sources import StoreHandle, StoreSource
from ckptstore.store import CheckpointStore

POINTER = "ckptstore.json"
"""The file's name; it is alone in a directory that Ray takes for the checkpoint."""

LONGEST = 64 * 1024


class Pointer(NamedTuple):
    """A checkpoint, and the store that it is in."""

    store: str
    """The store's URL."""
    name: str
    id: str
    trial: str = ""
    """Name of the Tune trial whose store it is."""

    @property
    def step(self) -> int:
        """The checkpoint's step."""
        name = CheckpointName.parse(self.name)
        assert name is not None  # `parse` has checked it
        return name.step


def dump(pointer: Pointer) -> bytes:
    """The file's bytes."""
    return json.dumps(pointer._asdict(), indent=1).encode() + b"\n"


def parse(data: bytes, source: str) -> Pointer:
    """The pointer that `dump` wrote. CheckpointCorrupt, naming `source`, for any other bytes."""
    try:
        pointer = Pointer(**json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointCorrupt(source, f"it isn't a pointer to a checkpoint: {error}") from error
    if not all(isinstance(value, str) for value in pointer) or CheckpointName.parse(pointer.name) is None:
        raise CheckpointCorrupt(source, f"it doesn't name a checkpoint: {pointer!r:.200}")
    return pointer


def open_reported(reported: Any, store: StoreSource | None = None) -> Checkpoint:
    """The checkpoint that a ``ray.train.Checkpoint`` or ``ray.tune.Checkpoint`` points to.

    `reported` is, for example, ``result.checkpoint`` where `checkpoint_upload_fn` or `StoredAlgorithm` made
    it. Pass `store` if the store has moved since, or needs options. Raises UnreadableFormat for a checkpoint
    that Ray itself wrote, CheckpointNotFound if it no longer exists, CheckpointCorrupt for a damaged pointer.
    """
    path = f"{reported.path}/{POINTER}"
    try:
        with reported.filesystem.open_input_stream(path) as stream:
            data = stream.read(LONGEST)
    except FileNotFoundError as error:
        raise UnreadableFormat(
            reported.path, f"there is no {POINTER} in it", "Open it with Checkpoint.open, or with Ray"
        ) from error
    pointer = parse(data, path)
    opened = CheckpointStore(pointer.store, create=False) if store is None else StoreHandle(store).open()
    found = opened.get(pointer.name)
    check_same(found, pointer)
    return found


def check_same(found: Checkpoint, pointer: Pointer) -> None:
    """Raise CheckpointNotFound unless `found` is the very checkpoint that `pointer` was written for."""
    if found.id != pointer.id:
        raise CheckpointNotFound(found.url, "another checkpoint has replaced the one that was reported")
