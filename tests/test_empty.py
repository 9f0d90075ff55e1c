"""A store is empty only if that is proven: a listing that shows nothing proves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.base import Listed
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.objects.memory import MemoryOpener
from ckptstore.errors import StoreNotFound, StoreUnavailable


class Blind(ObjectBackend):
    """Answers listings with nothing, `times` times."""

    times = 0

    def _blinded(self) -> bool:
        self.times -= 1
        return self.times >= 0

    def children(self, prefix: str = "") -> list[str]:
        return [] if self._blinded() else super().children(prefix)

    def starting(self, prefix: str, until: str | None = None) -> list[Listed]:
        return [] if self._blinded() else super().starting(prefix, until)


def test_a_listing_that_shows_nothing_is_not_believed() -> None:
    backend = Blind(MemoryOpener("memory://blind"))
    store = CheckpointStore(backend)
    assert store.latest() is None
    assert store.checkpoints() == []
    saved = store.save(1)
    for look in (store.latest, store.checkpoints, lambda: store.get(1)):
        backend.times = 1_000_000
        with pytest.raises(StoreUnavailable, match="listing is empty"):
            look()
    for times in (1, 2):
        backend.times = times
        if times == 1:
            assert store.latest() == saved
        backend.times = 1
        assert store.checkpoints() == [saved]


def test_a_store_without_its_proof_is_not_empty(tmp_path: Path) -> None:
    store = CheckpointStore(LocalBackend(str(tmp_path / "s")))
    store.save(1)
    shutil.rmtree(tmp_path / "s" / "checkpoint_000001")
    assert store.latest() is None
    shutil.rmtree(tmp_path / "s" / "_ckptstore")
    with pytest.raises(StoreNotFound):
        store.latest()
    with pytest.raises(StoreNotFound):
        store.checkpoints()
