"""Hold the target of a rollback, and remove the holds of rollbacks that died.

A hold is a pin of a name of its own. Its owner removes it whatever happens; where it couldn't, or was
killed, the next rollback, delete, prune or gc does, and `unpin` at any time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from ckptstore.backends.translate import translate_errors
from ckptstore.commit import refs
from ckptstore.commit.base import Catalog
from ckptstore.errors import CheckpointError, CheckpointProtected
from ckptstore.find.tags import Tags
from ckptstore.find.targets import Target
from ckptstore.format.names import HOLD
from ckptstore.logs import logger

BOUND = 3600.0
"""Seconds after which a hold that wasn't renewed is a dead one's, where no lock tells."""


class Hold:
    """The hold of one rollback that runs."""

    def __init__(self, ref: str, put: Callable[[], int], is_there: Callable[[int], bool]) -> None:
        self._ref = ref
        self._put = put
        self._is_there = is_there
        self.renew()

    def renew(self) -> None:
        """Write it anew, so that nobody takes its owner for dead."""
        self._written = time.monotonic()
        self._number = self._put()

    def keep_fresh(self) -> None:
        """Renew it when a quarter of the bound has passed."""
        if time.monotonic() - self._written > BOUND / 4:
            self.renew()

    def check(self, protecting: Mapping[str, refs.Target], where: str) -> None:
        """CheckpointProtected if it isn't among the refs `protecting` any more: who slept must not go on."""
        if self._ref not in protecting and not self._is_there(self._number):
            why = "the rollback that removes it has lost the pin on its target"
            raise CheckpointProtected(where, why, "Roll back again")


class Holds:
    """The holds of one store."""

    def __init__(self, catalog: Catalog, tags: Tags) -> None:
        self._catalog = catalog
        self._backend = catalog.backend
        self._tags = tags
        self._ended: set[str] = set()

    @contextlib.contextmanager
    def hold(self, target: Target, owner: str) -> Iterator[Hold]:
        """Keep `target` from being deleted while the block runs, as `owner`, a new name."""
        ref = HOLD + owner
        with translate_errors(self._backend.url), self._catalog.show_life(owner):
            try:
                yield Hold(
                    ref,
                    lambda: self._tags.point(ref, target),
                    lambda number: refs.is_there(self._backend, ref, number),
                )
            finally:
                self._ended.add(ref)
                self._release(ref)

    def _release(self, ref: str) -> None:
        try:
            try:
                self._remove(ref)
            except CheckpointError:
                self._remove(ref)
        except CheckpointError as error:
            logger.warning(
                "%s: a pin is left for the next rollback, prune or gc: %s", self._backend.url, error
            )

    def _remove(self, ref: str) -> None:
        refs.remove(self._backend, ref)
        self._ended.discard(ref)

    def read_living(self, *, remove: bool = True) -> dict[str, refs.Target]:
        """Every ref but the holds of dead rollbacks, which are removed; or with ``remove=False`` ignored."""
        found = self._tags.read()
        for ref in [ref for ref in found if ref.startswith(HOLD)]:
            if self._is_dead(ref):
                del found[ref]
                if remove:
                    self._remove(ref)
        return found

    def remove_dead(self) -> bool:
        """Remove the holds of dead rollbacks; whether there was one."""
        dead = [ref for ref in self._tags.read() if ref.startswith(HOLD) and self._is_dead(ref)]
        for ref in dead:
            self._remove(ref)
        return bool(dead)

    def unpin(self, pins: Sequence[str]) -> None:
        """Take `pins` away, holds too, whoever may live: somebody asks for it by name."""
        for ref in pins:
            if ref.startswith(HOLD):
                self._remove(ref)
            else:
                self._tags.clear(ref)

    def _is_dead(self, ref: str) -> bool:
        if ref in self._ended:
            return True
        with translate_errors(self._backend.url):
            return self._catalog.is_dead(ref.removeprefix(HOLD), refs.prefix_of(ref), BOUND)
