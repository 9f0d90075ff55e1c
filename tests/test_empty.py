"""A store is empty only if that is proven: a listing that shows nothing proves nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.objects.memory import MemoryOpener
from ckptstore.errors import InvalidRequest, StoreNotFound, StoreUnavailable
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


@pytest.mark.parametrize(
    "url", [None, "", "  ", b"runs", 5, "file://", "s3://", "a\0b", Path("a\0b"), ["runs"]]
)
def test_no_place_is_refused_and_is_not_this_directory(
    url: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an environment variable that isn't set gives it."""
    monkeypatch.chdir(tmp_path)
    for use in (CheckpointStore, Checkpoint.open, bulk.find, bulk.Mirror):
        with pytest.raises(InvalidRequest, match="Pass"):
            use(url)
    assert os.listdir(tmp_path) == []


def test_a_save_of_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    assert store.save(0).state == {}
    assert store.save_async(1).result().state == {}
    assert caplog.text.count("nothing in it") == 2
    caplog.clear()
    store.save(2, None)
    store.save(3, metrics={"reward": 1.0})
    store.save(4, policies={"a": 1})
    store.save(5, components={"a": 1})
    store.save(6, policy=None)
    assert "nothing in it" not in caplog.text
