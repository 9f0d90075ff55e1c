"""A lock file is found by a sweep between the moment it is made and the moment it is locked."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore.backends.local.posix import Directory, Disk
from ckptstore.commit.local.catalog import DirectoryCatalog
from ckptstore.commit.local.life import is_dead, show_life
from ckptstore.commit.local.root import LOCK
from tests.crash.world import catalog, leftovers, save

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks there")


class SweptDisk(Disk):
    """Each new lock file is locked by a sweep, `times` in all, that goes on when its writer has looked once.

    A sweep that takes it for a dead writer's `removes` it first.
    """

    def __init__(self, times: int, removes: bool) -> None:
        super().__init__()
        self.times = times
        self._removes = removes
        self._held = -1

    def create(self, directory: Directory, name: str) -> int:
        fd = super().create(directory, name)
        if name.endswith(LOCK) and self.times:
            self.times -= 1
            self._held = super().open_lock(directory, name)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd

    def status(self, directory: Directory, name: str) -> os.stat_result:
        found = super().status(directory, name)
        if name.endswith(LOCK) and self._held >= 0:
            if self._removes:
                self.unlink(directory, name)
            os.close(self._held)
            self._held = -1
        return found


def _save(store: DirectoryCatalog) -> None:
    assert str(save(store, 1)) == "checkpoint_000001"


def _live(store: DirectoryCatalog) -> None:
    with show_life(store, "somebody"):
        assert not is_dead(catalog(store.backend.root), "somebody", "x", 0)


@pytest.mark.parametrize("what", [_save, _live])
@pytest.mark.parametrize("removes", [False, True])
@pytest.mark.parametrize("times", [1, 3])
def test_who_made_it_has_it_in_the_end(
    tmp_path: Path, what: Callable[[DirectoryCatalog], None], removes: bool, times: int
) -> None:
    disk = SweptDisk(times if removes else 1, removes)
    what(catalog(str(tmp_path), disk))
    assert disk.times == 0
    assert leftovers(str(tmp_path)) == []


def test_who_keeps_it_is_not_waited_for_without_end(tmp_path: Path) -> None:
    class Kept(SweptDisk):
        def status(self, directory: Directory, name: str) -> os.stat_result:
            return Disk.status(self, directory, name)

    with pytest.raises(TimeoutError, match="no lock on"):
        save(catalog(str(tmp_path), Kept(1, removes=False), timeout=0.05), 1)
