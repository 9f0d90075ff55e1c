"""The public conformance kit on every kind of place."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from ckptstore.backends.base import Backend, ObjectPlace
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.objects.gcs_obstore import ObstoreGcsClient
from ckptstore.backends.objects.s3_obstore import ObstoreS3Client
from ckptstore.backends.registry import open_backend
from ckptstore.commit.objects.single_writer import SingleWriter
from ckptstore.testing import BackendTests, SideDoor
from tests.servers import Server

SERVERS = ["moto", "seaweedfs", "fake-gcs"]


class TestMemory(BackendTests):
    @pytest.fixture
    def backend(self) -> Backend:
        return open_backend(f"memory://{uuid.uuid4().hex}/run")

    @pytest.fixture
    def side_door(self, backend: Backend) -> SideDoor:
        import fsspec

        def read(key: str) -> bytes | None:
            name = f"{backend.url.removeprefix('memory:/')}/{key}"
            file = fsspec.filesystem("memory").store.get(name)
            return None if file is None else bytes(file.getvalue())

        return read


class TestLocal(BackendTests):
    @pytest.fixture
    def backend(self, tmp_path: os.PathLike[str]) -> Backend:
        os.mkdir(os.path.join(tmp_path, "run"))
        return LocalBackend(os.path.join(tmp_path, "run"))

    @pytest.fixture
    def side_door(self, tmp_path: os.PathLike[str]) -> SideDoor:
        def read(key: str) -> bytes | None:
            try:
                with open(os.path.join(tmp_path, "run", key), "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return None

        return read


class TestServers(BackendTests):
    @pytest.fixture(params=SERVERS)
    def server(self, request: pytest.FixtureRequest, start_server: Callable[[str], Server]) -> Server:
        return start_server(request.param)

    @pytest.fixture
    def backend(self, server: Server) -> Iterator[Backend]:
        found = open_backend(server.new_url(), server.options)
        yield found
        found.close()  # type: ignore[attr-defined]

    @pytest.fixture
    def side_door(self, server: Server, backend: Backend) -> SideDoor:
        return lambda key: server.peek(f"{backend.url}/{key}")


@pytest.mark.usefixtures("fast")
class TestFast(TestServers):
    """With obstore carrying the contents."""

    def test_it_is_used(self, backend: Backend) -> None:
        assert isinstance(backend, ObjectBackend)
        assert isinstance(backend.client, (ObstoreS3Client, ObstoreGcsClient))
        data = os.urandom(2**19)
        with backend.write("file") as sink:
            sink.write(data)
        target = bytearray(len(data))
        backend.read_into("file", 0, memoryview(target))
        assert target == data
        assert backend.client.carrier is not None
        assert backend.client.carrier.refusals == 0
        assert "obstore" in backend.describe()["client"]


@pytest.mark.skipif("CKPTSTORE_TEST_URL" not in os.environ, reason="CKPTSTORE_TEST_URL names no bucket")
class TestYours(BackendTests):
    """On anybody's bucket: CKPTSTORE_TEST_URL=s3://bucket/prefix CKPTSTORE_TEST_OPTIONS='{"key": ...}'."""

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        url = f"{os.environ['CKPTSTORE_TEST_URL'].rstrip('/')}/{uuid.uuid4().hex}"
        found = open_backend(url, json.loads(os.environ.get("CKPTSTORE_TEST_OPTIONS", "{}")))
        yield found
        found.delete([entry.key for entry in found.list()])


@pytest.mark.parametrize("held", [b"", b"held"])
def test_a_single_writer_overwrites_nothing_that_it_sees(held: bytes) -> None:
    place = open_backend(f"memory://{uuid.uuid4().hex}/run")
    place.replace("taken", held)
    single = SingleWriter(cast("ObjectPlace", place))
    with pytest.raises(FileExistsError):
        single.publish("taken", b"other")
    single.publish("free", b"other")
    assert (single.read("taken", most=4), single.read("free", 1, 3)) == (held, b"th")
