"""Ways to get concurrency wrong, each applied to the process that calls it; the races have to notice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ckptstore.backends.base import Listed
from ckptstore.backends.local.locks import try_lock
from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import Directory
from ckptstore.commit.local import attempt
from ckptstore.commit.local import sweep as local_sweep
from ckptstore.commit.local.root import LocalRoot, all_names
from ckptstore.commit.objects import catalog
from ckptstore.commit.objects.states import REGISTERS, State, sizes, state_of
from ckptstore.commit.objects.sweep import Sweep
from ckptstore.find.survey import Survey
from ckptstore.format.names import CheckpointName
from tests.mutants.install import install, replace


def _listing_trusted() -> None:
    """A listing is kept and believed as long as it is not empty, as fsspec's own cache does."""
    real = Survey.names
    kept: dict[int, list[Any]] = {}

    def names(self: Survey) -> list[CheckpointName]:
        held = kept.setdefault(id(self), [0, []])
        held[0] += 1
        if not held[1] or held[0] % 20 == 0:
            held[1] = real(self)
        return list(held[1])

    Survey.names = names  # type: ignore[method-assign]


class _SealsNothing(Sweep):
    """What has no manifest and is older than the grace loses its payload, but no seal is put first."""

    def _directory(self, name: CheckpointName, files: Mapping[str, Listed]) -> None:
        if state_of(sizes(files)) is State.CLAIMED and self._older(files, self._grace):
            self._register.remove_payload([entry for path, entry in files.items() if path not in REGISTERS])


class _WithoutGrace(Sweep):
    """Unfinished saves are given up at once, whoever works on them."""

    def _older(self, entries: Mapping[str, Listed], seconds: float) -> bool:
        return seconds == self._grace or super()._older(entries, seconds)


def _locks_ignored_by_gc() -> None:
    """On a local disk: gc takes what lies in the staging directory, locked or not."""
    replace(local_sweep, try_lock, lambda fd: True)


def _not_looked_up_under_the_lock() -> None:
    """On a local disk: the step is looked up before the lock is taken, and no more under it."""
    replace(attempt, all_names, lambda disk, root: [])


def _manifest_without_its_payload() -> None:
    """On a local disk: a file is unlinked where it lies before the checkpoint is unpublished."""
    real = LocalRoot.unpublish

    def unpublish(self: LocalRoot, root: Directory, names: list[CheckpointName]) -> list[str]:
        for name in names:
            with open_below(self.backend.disk, root, str(name), make=False) as directory:
                self.backend.disk.unlink(directory, "algorithm_state.pkl")
        time.sleep(0.05)  # a moment that a busy machine may well take
        return real(self, root, names)

    LocalRoot.unpublish = unpublish  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "listing trusted": _listing_trusted,
    "a sweep that doesn't seal": partial(install, catalog, _SealsNothing),
    "a sweep without grace": partial(install, catalog, _WithoutGrace),
    "gc ignores locks": _locks_ignored_by_gc,
    "the step is not looked up under the lock": _not_looked_up_under_the_lock,
    "payload removed before the name": _manifest_without_its_payload,
}
