"""What Ray keeps where ckptstore has the checkpoint: one small file that tells where it is."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, UnreadableFormat
from ckptstore.format.names import CheckpointName
from ckptstore.integrations.rllib.sources import StoreHandle, StoreSource
from ckptstore.store import CheckpointStore

POINTER = "ckptstore.json"
"""The file, alone in a directory that Ray takes for the checkpoint."""

LONGEST = 64 * 1024


class Pointer(NamedTuple):
    """Which checkpoint of which store."""

    store: str
    """The store's URL."""
    name: str
    id: str
    trial: str = ""
    """Id of the Tune trial whose store it is."""

    @property
    def step(self) -> int:
        """The checkpoint's step."""
        name = CheckpointName.parse(self.name)
        assert name is not None  # `parse` has seen to it
        return name.step


def dump(pointer: Pointer) -> bytes:
    """The file's bytes."""
    return json.dumps(pointer._asdict(), indent=1).encode() + b"\n"


def parse(data: bytes, source: str) -> Pointer:
    """What `dump` was given. CheckpointCorrupt, naming `source`, for anything else."""
    try:
        pointer = Pointer(**json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointCorrupt(source, f"it is no pointer at a checkpoint: {error}") from error
    if not all(isinstance(value, str) for value in pointer) or CheckpointName.parse(pointer.name) is None:
        raise CheckpointCorrupt(source, f"it points nowhere: {pointer!r:.200}")
    return pointer


def open_reported(reported: Any, store: StoreSource | None = None) -> Checkpoint:
    """The checkpoint that a ``ray.train.Checkpoint`` or ``ray.tune.Checkpoint`` points at.

    Such as ``result.checkpoint``, where `checkpoint_upload_fn` or `StoredAlgorithm` made it. `store` opens
    it, if the store isn't any more where the pointer says, or needs options. Raises UnreadableFormat for
    a checkpoint of Ray's own; CheckpointNotFound if it isn't there any more; CheckpointCorrupt.
    """
    path = f"{reported.path}/{POINTER}"
    try:
        with reported.filesystem.open_input_stream(path) as stream:
            data = stream.read(LONGEST)
    except FileNotFoundError as error:
        raise UnreadableFormat(
            reported.path, "it points at no store", "Open it with Checkpoint.open, or with Ray"
        ) from error
    pointer = parse(data, path)
    place = CheckpointStore(pointer.store, create=False) if store is None else StoreHandle(store).open()
    found = place.get(pointer.name)
    if found.id != pointer.id:
        raise CheckpointNotFound(f"{place.url}/{pointer.name}", "another one was saved in its place")
    return found
