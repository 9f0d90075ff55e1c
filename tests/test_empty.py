"""A store is empty only if that is proven: a listing that shows nothing proves nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.objects.memory import MemoryOpener
from ckptstore.errors import StoreNotFound, StoreUnavailable
from tests.disks import LaggingBackend


def test_a_listing_that_shows_nothing_is_not_believed() -> None:
    backend = LaggingBackend(MemoryOpener("memory://blind"))
    store = CheckpointStore(backend)
    assert store.latest() is None
    assert store.checkpoints() == []
    saved = store.save(1)
    for look in (store.latest, store.checkpoints, lambda: store.get(1)):
        backend.lags = 1_000_000
        with pytest.raises(StoreUnavailable, match="listing is empty"):
            look()
    for times in (1, 2):
        backend.lags = times
        if times == 1:
            assert store.latest() == saved
        backend.lags = 1
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
