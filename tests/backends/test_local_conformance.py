"""The public kit, run on the local disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore.backends.local import posix
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.commit.local.catalog import DirectoryCatalog
from ckptstore.format.names import CheckpointName
from ckptstore.testing import BackendTests, CatalogTests
from tests.crash.world import catalog, leftovers, save, state


@pytest.fixture
def by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way Windows runs it: names joined to paths, since it can't open relative to a directory."""
    monkeypatch.setattr(posix, "_BY_PATH", True)


class TestLocalBackend(BackendTests):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> LocalBackend:
        return LocalBackend(tmp_path)

    @pytest.fixture
    def side_door(self, tmp_path: Path) -> Callable[[str], bytes | None]:
        def read(key: str) -> bytes | None:
            path = tmp_path / key
            return path.read_bytes() if path.exists() else None

        return read


@pytest.mark.usefixtures("by_path")
class TestLocalBackendByPath(TestLocalBackend):
    """All of it that way."""


class TestDirectoryCatalog(CatalogTests):
    @pytest.fixture
    def catalog(self, tmp_path: Path) -> DirectoryCatalog:
        return DirectoryCatalog(LocalBackend(tmp_path))


@pytest.mark.filterwarnings("ignore::ckptstore.backends.local.mounts.WeakStorageWarning")
@pytest.mark.usefixtures("by_path")
def test_commits_by_path(tmp_path: Path) -> None:
    store = catalog(str(tmp_path))
    assert save(store, 1) == CheckpointName(1)
    assert save(store, 1, "replace", "again") == CheckpointName(1, 1)
    os.makedirs(tmp_path / "checkpoint_000002")
    assert save(store, 2) == CheckpointName(2, 1)
    store.delete(CheckpointName(1, 1), lambda: None)
    os.makedirs(tmp_path / ".staging/dead")
    assert store.sweep(None).attempts == ["dead"]
    assert list(state(str(tmp_path))) == ["checkpoint_000002-r1"]
    assert leftovers(str(tmp_path)) == ["checkpoint_000002"]
