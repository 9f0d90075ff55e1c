"""What a checkpoint is given as: an object, a store, or the URL of either."""

from __future__ import annotations

import os

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointNotFound, UnreadableFormat
from ckptstore.rllib_formats.versions import NEW_STACK
from ckptstore.store import CheckpointStore

__all__ = ["NEW_STACK", "Source", "open_source"]

Source = Checkpoint | CheckpointStore | str | os.PathLike[str]


def open_source(source: Source) -> Checkpoint:
    """The checkpoint that `source` is, names, or as a store holds last.

    Raises CheckpointNotFound for a store that holds none, and what `Checkpoint.open` raises.
    """
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, CheckpointStore):
        try:
            return Checkpoint.open(source)
        except UnreadableFormat:
            source = CheckpointStore(source, create=False)
    newest = source.latest()
    if newest is None:
        raise CheckpointNotFound(source.url, "the store holds no checkpoint yet")
    return newest
