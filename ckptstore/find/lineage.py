"""Which checkpoint this process goes on from."""

from __future__ import annotations

from ckptstore import logs
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointError
from ckptstore.format.layout import Base
from ckptstore.format.manifest import Parent


class Lineage:
    """The checkpoint that this process loaded or saved last: the parent of the next one.

    `prune` leaves it alone, and the one loaded last: that isn't the newest where a run went back.
    """

    def __init__(self) -> None:
        self.last: Checkpoint | None = None
        self.resumed_from: str | None = None
        """Id of the one loaded last."""

    def note_load(self, checkpoint: Checkpoint) -> None:
        """Go on from `checkpoint`, which was loaded."""
        self.last = checkpoint
        self.resumed_from = checkpoint.id

    def note_save(self, checkpoint: Checkpoint) -> None:
        """Go on from `checkpoint`, which was saved."""
        self.last = checkpoint

    @property
    def in_use(self) -> set[str]:
        """Ids of the checkpoints that this process may still need."""
        ids = (self.resumed_from, self.last.id if self.last is not None else None)
        return {checkpoint_id for checkpoint_id in ids if checkpoint_id is not None}

    @property
    def parent(self) -> Parent | None:
        """What the next manifest says of its origin."""
        return Parent(self.last.id, "resume") if self.last is not None else None

    def base(self) -> Base | None:
        """What the next save may take unchanged files over from; None if there is nothing usable."""
        try:
            return self.last.base() if self.last is not None else None
        except CheckpointError as error:
            logs.logger.info("nothing is taken over from %s: %s", self.last, error)
            return None
