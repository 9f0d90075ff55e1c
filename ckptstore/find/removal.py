"""Unpublish and remove checkpoints that nothing protects."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Sequence

from ckptstore.backends.translate import translate_errors
from ckptstore.checkpoint import Skipped
from ckptstore.commit import refs
from ckptstore.commit.base import Catalog
from ckptstore.errors import CheckpointGone, CheckpointProtected, StoreDenied, UnreadableFormat
from ckptstore.find.holds import Hold, Holds
from ckptstore.find.survey import Survey
from ckptstore.find.tags import Tags
from ckptstore.find.targets import Target
from ckptstore.format.names import CheckpointName
from ckptstore.logs import logger


def refuse_newer(skipped: Iterable[Skipped], step: int, url: str) -> None:
    """UnreadableFormat if a checkpoint after `step` is of a later release: it is in use, whatever it says."""
    for skip in skipped:
        name = CheckpointName.parse(skip.name)
        if skip.newer and name is not None and name.step > step:
            raise UnreadableFormat(f"{url}/{name}", skip.reason, "Upgrade ckptstore, and roll back then")


class Removal:
    """Deletes checkpoints of one store. What a tag or pin points at raises CheckpointProtected."""

    def __init__(self, catalog: Catalog, survey: Survey, tags: Tags) -> None:
        self._catalog = catalog
        self._url = catalog.backend.url
        self._survey = survey
        self._tags = tags
        self.holds = Holds(catalog, tags)
        """What rollbacks hold."""

    def prune(self, targets: Iterable[Target]) -> list[Target]:
        """Delete those that nothing came to protect meanwhile, and that are still there; returns them.

        On a local disk what belongs to somebody else keeps nothing but itself: StoreDenied comes at the end.
        """
        removed, denied = [], list[StoreDenied]()
        for target in targets:
            try:
                self.delete(target, superseded=True)
            except (CheckpointGone, CheckpointProtected) as error:
                logger.info("not pruned: %s", error)
                continue
            except StoreDenied as error:
                if not self._catalog.in_place:
                    raise
                denied.append(error)
                continue
            removed.append(target)
        if denied:
            raise denied[0]
        return removed

    def delete(
        self, target: Target, superseded: bool = False, held: Hold | None = None, dry_run: bool = False
    ) -> None:
        """Delete it; if it must be `superseded`, only while a later step is committed.

        With `held`, only while that is there. With `dry_run` it only raises what a delete would raise now.
        """
        try:
            self._delete(target, superseded, held, dry_run)
        except CheckpointProtected:
            if dry_run or not self.holds.remove_dead():
                raise
            self._delete(target, superseded, held, dry_run)

    def _delete(self, target: Target, superseded: bool, held: Hold | None, dry_run: bool) -> None:
        name, backend = target.name, self._catalog.backend
        self._tags.prove_store()

        def check() -> None:
            if self._tags.check_same(target).step != name.step:
                self._survey.check_alone(name)
            protecting = self.holds.read_living(remove=False) if dry_run else refs.read_all(backend)
            if held is not None:
                held.check(protecting, f"{self._url}/{name}")
            for ref in protecting.values():
                other = CheckpointName.parse(ref.name)
                if other is not None and other.step == name.step and other <= name:
                    refs.check_none_points_at(protecting, backend, other)  # what it superseded goes too
            if superseded and not self._survey.any_after(name.step):
                raise CheckpointProtected(f"{self._url}/{name}", "it is the newest by now")

        with translate_errors(f"{self._url}/{name}"):
            check() if dry_run else self._catalog.delete(name, check)

    def roll_back(self, target: Target, later: Sequence[Target], dry_run: bool = False) -> list[str]:
        """Delete the checkpoints `later`, newest first, so that `target` is the latest; names removed."""
        self._tags.prove_store()
        protecting = self.holds.read_living(remove=not dry_run)
        for other in later:
            refs.check_none_points_at(protecting, self._catalog.backend, other.name)
        if dry_run:
            return [str(other.name) for other in reversed(later)]
        # Else a `prune` elsewhere, which still counts on what goes now, could remove this one as well.
        removed = []
        with self.holds.hold(target, uuid.uuid4().hex) as held:
            for other in reversed(later):
                held.keep_fresh()
                with contextlib.suppress(CheckpointGone):  # somebody else's prune or replacement was here
                    self.delete(other, held=held)
                    removed.append(str(other.name))
        return removed
