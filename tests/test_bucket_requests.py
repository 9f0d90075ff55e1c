"""How many requests things cost on a bucket, counted by a proxy in front of the server; cold clients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.commit.objects import probe
from ckptstore.format.names import MANIFEST
from tests.faults import FaultProxy, fault_proxy
from tests.servers import Server


@pytest.fixture(scope="module", params=["moto", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest, start_server: Callable[[str], Server]) -> Server:
    return start_server(request.param)


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.endpoint) as found:
        yield found


@pytest.fixture
def cold(server: Server, proxy: FaultProxy) -> Callable[[], CheckpointStore]:
    """Opens one store again and again, each time as a new process does: nothing probed, nothing known."""
    url = server.new_url()

    def open_store() -> CheckpointStore:
        probe.forget()
        proxy.reset()
        return CheckpointStore(url, storage_options={**server.options, "endpoint_url": proxy.endpoint})

    return open_store


def counted(proxy: FaultProxy) -> str:
    kinds = Counter(seen.method for seen in proxy.seen)
    return f"{len(proxy.seen)} requests: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def policies(count: int) -> dict[str, Any]:
    return {f"pol{index:03}": {"weights": {"w": np.full(1000, index)}} for index in range(count)}


@pytest.mark.parametrize("count", [1, 5, 100])
def test_a_save(cold: Callable[[], CheckpointStore], proxy: FaultProxy, count: int) -> None:
    cold().save(1, {"i": 1}, policies(count))
    print(f"first save of {count} policies: {counted(proxy)}")
    assert len(proxy.seen) <= 2 * count + 14  # one, once in a store's life: is this a checkpoint?
    store = cold()
    store.save(2, {"i": 2}, policies(count))
    print(f"save of {count} policies, cold: {counted(proxy)}")
    # One, once in a process: is there a later step of another run?
    assert len(proxy.seen) <= 2 * count + 14
    proxy.reset()
    store.save(3, {"i": 3}, policies(count))
    print(f"save of {count} policies, warm: {counted(proxy)}")
    assert len(proxy.seen) <= 2 * count + 11


def test_a_load_of_two_of_a_hundred(cold: Callable[[], CheckpointStore], proxy: FaultProxy) -> None:
    cold().save(1, {"i": 1}, policies(100))
    ckpt = cold().latest()
    assert ckpt is not None
    print(f"latest, cold: {counted(proxy)}")
    loaded = ckpt.load(policy_ids=["pol003", "pol097"])
    assert loaded.policies["pol097"]["weights"]["w"][0] == 97
    print(f"latest and 2 of 100 policies, cold: {counted(proxy)}")
    assert len(proxy.seen) <= 10
    ckpt = cold().get(1)
    ckpt.weights("pol003")
    print(f"one policy's weights by step, cold: {counted(proxy)}")
    assert len(proxy.seen) <= 10


def test_latest_among_many(cold: Callable[[], CheckpointStore], proxy: FaultProxy, server: Server) -> None:
    """Copies of one manifest stand in for many checkpoints: what is listed are names."""
    many = 1000
    store = cold()
    store.save(0, {"i": 0}, policies(2))
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    client = server.client()
    source = f"{prefix}/checkpoint_000000/{MANIFEST}"
    for step in range(1, many):
        target = source.replace("checkpoint_000000", f"checkpoint_{step:06}")
        client.copy_object(Bucket=bucket, Key=target, CopySource={"Bucket": bucket, "Key": source})
    store = cold()
    store.save(many, {"i": many})
    store = cold()
    ckpt = store.latest()
    assert ckpt is not None
    assert ckpt.step == many
    print(f"latest of {many + 1}, cold: {counted(proxy)}")
    pages = -(-many // 1000) + 1
    assert len(proxy.seen) <= pages + 4
