"""obstore carries the bytes, and nothing else is different: not an error, not a retry, not a promise."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import obstore
import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.base import PlaceMissing
from ckptstore.backends.objects import s3_obstore
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.objects.s3 import S3Client
from ckptstore.backends.objects.s3_obstore import ObstoreS3Client
from ckptstore.backends.registry import open_backend
from tests.backends.carried import (
    CHUNK_BYTES,
    DATA,
    MOST_REFUSALS,
    FirstFail,
    fetch,
    fetched_in_a_fork,
    opened,
)
from tests.faults import FaultProxy, fault_proxy
from tests.servers import Server
from tests.stores import assert_same, policies

pytestmark = pytest.mark.usefixtures("fast")


@pytest.fixture
def proxy(seaweedfs: Server) -> Iterator[FaultProxy]:
    with fault_proxy(seaweedfs.endpoint) as found:
        yield found


@pytest.fixture
def backend(seaweedfs: Server, proxy: FaultProxy) -> Iterator[ObjectBackend]:
    found = opened(seaweedfs, proxy)
    assert isinstance(found.client, ObstoreS3Client)
    yield found
    found.close()


def send(backend: ObjectBackend, key: str = "file") -> None:
    with backend.write(key) as sink:
        sink.write(DATA)


@pytest.mark.parametrize("act", ["503", "500", "429", "cut before", "cut after", "truncate"])
@pytest.mark.parametrize("times", [1, 3])
def test_faults_are_outlived(
    backend: ObjectBackend, proxy: FaultProxy, seaweedfs: Server, act: Any, times: int
) -> None:
    send(backend, "before")
    plan = FirstFail(act, times)
    proxy.reset(plan)
    send(backend)
    assert plan.left < 0 or act == "truncate"
    assert seaweedfs.peek(f"{backend.url}/file") == DATA
    plan.left = times
    assert fetch(backend) == DATA
    assert plan.left < 0


def test_what_hangs_ends_typed(seaweedfs: Server, proxy: FaultProxy) -> None:
    backend = opened(seaweedfs, proxy, timeout=1)
    proxy.reset(lambda index, seen: "hang")
    with pytest.raises(TimeoutError), backend.write("other") as sink:
        sink.write(b"a few bytes")
    with pytest.raises(TimeoutError):
        fetch(backend)


def test_absent_and_short(backend: ObjectBackend) -> None:
    with pytest.raises(FileNotFoundError):
        fetch(backend)
    with backend.write("short") as sink:
        sink.write(DATA[:-1])
    with pytest.raises(EOFError):
        fetch(backend, "short")


def test_what_comes_in_several_chunks(backend: ObjectBackend) -> None:
    data = os.urandom(3 * CHUNK_BYTES + 5)
    with backend.write("large") as sink:
        sink.write(data)
    assert fetch(backend, "large", len(data)) == data
    assert isinstance(backend.client, ObstoreS3Client)
    assert backend.client.carrier.refusals == 0  # else s3fs gave it


def test_wrong_secrets_and_places(seaweedfs: Server, moto: Server) -> None:
    url = seaweedfs.new_url()
    secret = "wJalrXUtnFEMI/K7MDENG"
    denied = open_backend(url, {**seaweedfs.options, "secret": secret}, timeout=5)
    assert isinstance(denied, ObjectBackend)
    with pytest.raises(PermissionError) as caught:
        send(denied)
    assert secret not in str(caught.value)
    assert secret.encode() not in pickle.dumps(denied)
    nowhere = open_backend("s3://no-such-bucket-here/run", moto.options, timeout=5)
    assert isinstance(nowhere, ObjectBackend)
    with pytest.raises(PlaceMissing):
        send(nowhere)


def test_credentials_of_the_environment(seaweedfs: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.options["secret"])
    found = open_backend(seaweedfs.new_url(), {"endpoint_url": seaweedfs.endpoint}, timeout=5)
    assert isinstance(found, ObjectBackend)
    send(found)
    assert fetch(found) == DATA
    assert isinstance(found.client, ObstoreS3Client)
    assert found.client.carrier.refusals == 0


@pytest.mark.parametrize(
    "more",
    [
        {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms"}},
        {"requester_pays": True},
        {"config_kwargs": {"proxies": {}}},
        {"client_kwargs": {"verify": False}},
    ],
)
def test_what_obstore_was_not_taught_goes_through_s3fs(seaweedfs: Server, more: dict[str, Any]) -> None:
    found = open_backend(seaweedfs.new_url(), {**seaweedfs.options, **more})
    assert isinstance(found, ObjectBackend)
    assert isinstance(found.client, S3Client)
    assert not isinstance(found.client, ObstoreS3Client)


def test_what_keeps_refusing_is_not_asked_for_ever(
    backend: ObjectBackend, seaweedfs: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def refuse(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        raise obstore.exceptions.GenericError("moved permanently")

    monkeypatch.setattr(obstore, "put_async", refuse)
    for index in range(MOST_REFUSALS + 3):
        send(backend, f"file{index}")
        assert seaweedfs.peek(f"{backend.url}/file{index}") == DATA
    assert calls == MOST_REFUSALS


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_without(backend: ObjectBackend) -> None:
    """The threads of obstore's runtime stay behind in the parent: a child that used it would hang."""
    send(backend)
    assert fetched_in_a_fork(backend) == ("S3Client", True)


def test_a_store(seaweedfs: Server, proxy: FaultProxy) -> None:
    """Every payload byte and no request more than without it."""
    options = {**seaweedfs.options, "endpoint_url": proxy.endpoint}
    store = CheckpointStore(seaweedfs.new_url(), storage_options=options)
    store.save(0, {"i": 0}, policies(1))
    proxy.reset()
    given = policies(6, seed=5, rows=300)
    ckpt = store.save(1, {"i": 1}, given)
    assert len(proxy.seen) <= 2 * 6 + 11  # one asks whether wrong sums are refused
    proxy.reset()
    assert_same(ckpt.load().policies, given)
    assert len(proxy.seen) <= 6 + 3
    assert ckpt.verify().ok


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of what obstore sends, as it does."""
    keys: list[str] = []
    send_with_obstore = obstore.put_async

    async def put(store: Any, key: str, *arguments: Any, **settings: Any) -> Any:
        keys.append(key)
        return await send_with_obstore(store, key, *arguments, **settings)

    monkeypatch.setattr(obstore, "put_async", put)
    return keys


@pytest.mark.parametrize(("name", "compares"), [("moto", False), ("rclone", False), ("seaweedfs", True)])
@pytest.mark.parametrize("act", ["flip", "half", "cut short"])
def test_what_changes_on_its_way_is_sent_again(
    start_server: Callable[[str], Server], carried: list[str], name: str, compares: bool, act: Any
) -> None:
    """Every PUT in turn, the question itself among them; by obstore only where the server compares."""
    server = start_server(name)
    with fault_proxy(server.endpoint) as proxy:
        for at in range(4):
            s3_obstore.forget()
            carried.clear()
            backend = opened(server, proxy)
            proxy.reset(lambda index, seen, at=at: act if index == at else None)  # type: ignore[misc]
            for key in ("first", "second"):
                send(backend, key)
                assert server.peek(f"{backend.url}/{key}") == DATA
            assert bool(carried) == compares
            backend.close()


def test_a_place_is_asked_once(seaweedfs: Server, proxy: FaultProxy) -> None:
    """Not by each client of it, and not by each thread."""
    backend = opened(seaweedfs, proxy)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: send(backend, f"file{number}"), range(4)))
    assert len(proxy.seen) == 5
    for number in range(4):
        assert seaweedfs.peek(f"{backend.url}/file{number}") == DATA
    again = open_backend(backend.url, {**seaweedfs.options, "endpoint_url": proxy.endpoint})
    assert isinstance(again, ObjectBackend)
    proxy.reset()
    send(again)
    assert [seen.size for seen in proxy.seen] == [len(DATA)]


@pytest.mark.parametrize("act", ["503", "cut before", "cut after"])
def test_an_answer_that_says_nothing_is_asked_for_again(
    seaweedfs: Server, proxy: FaultProxy, carried: list[str], act: Any
) -> None:
    backend = opened(seaweedfs, proxy)
    proxy.reset(FirstFail(act, 1))
    send(backend)
    assert seaweedfs.peek(f"{backend.url}/file") == DATA
    assert carried == [f"{backend.client.root}file"]


def test_what_others_may_read_is_not_tried_with(moto: Server) -> None:
    """A question that the server takes for an answer would be seen in place of what was there."""
    with fault_proxy(moto.endpoint) as proxy:
        backend = opened(moto, proxy)
        backend.publish("file", b"one")
        backend.replace("file", b"another")
        assert [seen.size for seen in proxy.seen] == [3, 7]
