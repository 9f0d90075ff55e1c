"""The same promises from every way to commit, on every kind of place."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest

from ckptstore.backends.registry import open_backend
from ckptstore.commit import open_catalog
from ckptstore.commit.base import Catalog
from ckptstore.testing import CatalogTests
from tests.servers import Server


class TestMemory(CatalogTests):
    @pytest.fixture
    def catalog(self) -> Catalog:
        return open_catalog(open_backend(f"memory://{uuid.uuid4().hex}"))


class TestLocal(CatalogTests):
    @pytest.fixture
    def catalog(self, tmp_path: os.PathLike[str]) -> Catalog:
        return open_catalog(open_backend(os.path.join(tmp_path, "run")))


class TestServers(CatalogTests):
    @pytest.fixture(params=["moto", "seaweedfs", "fake-gcs"])
    def catalog(
        self, request: pytest.FixtureRequest, start_server: Callable[[str], Server]
    ) -> Iterator[Catalog]:
        server = start_server(request.param)
        backend = open_backend(server.new_url(), server.options)
        yield open_catalog(backend)
        backend.close()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("fast")
class TestFast(TestServers):
    """With obstore carrying the contents."""
