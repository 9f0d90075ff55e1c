"""The public kit, run on the local disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore.backends.local import LocalBackend
from ckptstore.commit.directory import DirectoryCatalog
from ckptstore.testing import BackendTests, CatalogTests


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


class TestDirectoryCatalog(CatalogTests):
    @pytest.fixture
    def catalog(self, tmp_path: Path) -> DirectoryCatalog:
        return DirectoryCatalog(LocalBackend(tmp_path))
