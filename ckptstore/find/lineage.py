"""Which checkpoint this process goes on from."""

from __future__ import annotations

import datetime

from ckptstore import logs
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointError
from ckptstore.format.layout import Base
from ckptstore.format.manifest import Manifest, Parent
from ckptstore.format.names import CheckpointName
from ckptstore.retention import read_moment


class Lineage:
    """The checkpoint that this process loaded or saved last: the parent of the next one.

    `prune` leaves it alone, and the one loaded last: that isn't the newest where a run went back.
    """

    def __init__(self) -> None:
        self.last: Checkpoint | None = None
        self.resumed_from: str | None = None
        """Id of the one loaded last."""
        self._began = datetime.datetime.now(datetime.UTC)

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

    def describe_other_line(self, step: int, newest: tuple[CheckpointName, Manifest] | None) -> str | None:
        """What to warn of before `step` is saved, where `newest` is the newest of later steps: None if fine.

        It is fine if this process loaded or saved it, or if it was saved since this process began: by
        another writer at work in the same store, and no earlier run.
        """
        if newest is None or newest[1].id in self.in_use:
            return None
        created = read_moment(newest[1].created)
        if created is not None and self._began <= created <= datetime.datetime.now(datetime.UTC):
            return None
        back = step if self.last is None else self.last.step
        when = "after this save" if self.last is None else "before going on from there"
        return (
            f"step {step} is saved where step {newest[0].step} of another run is the newest ({newest[0]}): "
            f"after a crash latest() returns that. Call store.rollback({back}) {when}, which deletes every "
            f"checkpoint later than step {back}, or use another store"
        )

    def base(self) -> Base | None:
        """What the next save may take unchanged files over from; None if there is nothing usable."""
        try:
            return self.last.base() if self.last is not None else None
        except CheckpointError as error:
            logs.logger.info("nothing is taken over from %s: %s", self.last, error)
            return None
