"""One fault at every request of every operation in turn, on real servers, and the budget of requests."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ckptstore.backends.base import TooLarge
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.registry import open_backend
from ckptstore.commit import open_catalog
from ckptstore.commit.base import Catalog
from ckptstore.commit.objects.settle import settle
from ckptstore.errors import CheckpointGone, StoreUnavailable
from ckptstore.format import strictjson
from ckptstore.format.names import MANIFEST, SMALL_STATE_BYTES, CheckpointName
from ckptstore.testing import manifest_bytes
from tests.faults import Act, FaultProxy, fault_proxy
from tests.servers import Server

FILES = ("algorithm_state.pkl", "policies/pol0/policy_state.pkl")
ACTS: list[Act] = ["503", "500", "409", "429", "cut before", "cut after", "truncate"]


@pytest.fixture(scope="module", params=["moto", "fake-gcs"])
def server(request: pytest.FixtureRequest, start_server: Callable[[str], Server]) -> Server:
    return start_server(request.param)


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[FaultProxy]:
    with fault_proxy(server.endpoint) as found:
        yield found


class Place:
    """One store, once through the proxy and once past it."""

    def __init__(self, server: Server, proxy: FaultProxy, **settings: Any) -> None:
        self.server = server
        self.url = server.new_url()
        self._options = {**server.options, "endpoint_url": proxy.endpoint}
        self._settings = {"timeout": 6.0, **settings}
        self.backends: list[ObjectBackend] = []
        self._direct: Catalog | None = None

    def catalog(self, direct: bool = False, **settings: Any) -> Catalog:
        """A cold catalog, as a new process has it."""
        options = self.server.options if direct else self._options
        backend = open_backend(self.url, options, **{**self._settings, **settings})
        assert isinstance(backend, ObjectBackend)
        self.backends.append(backend)
        return open_catalog(backend)

    def close(self) -> None:
        for backend in self.backends:
            backend.close()

    def committed(self) -> dict[CheckpointName, str]:
        """What is committed, seen past the proxy; whole, or this fails."""
        if self._direct is None:
            self._direct = self.catalog(direct=True)
        catalog = self._direct
        found = {}
        for name, files in catalog.scan().items():
            if files.get(MANIFEST, 0) > SMALL_STATE_BYTES:
                ids = {self.server.peek(f"{self.url}/{name}/{path}") for path in FILES}
                assert len(ids) == 1, f"{name} is mixed: {ids}"
                (attempt_id,) = ids
                assert attempt_id is not None
                assert self.server.peek(f"{self.url}/{name}/{MANIFEST}") == manifest_bytes(
                    attempt_id.decode()
                )
                found[name] = attempt_id.decode()
        return found


def save(catalog: Catalog, step: int, if_exists: Any = "error") -> str:
    attempt = catalog.begin(step, if_exists, uuid.uuid4().hex)
    for path in FILES:
        with attempt.create(path) as sink:
            sink.write(attempt.id.encode())
    attempt.commit(manifest_bytes(attempt.id))
    return attempt.id


def load(catalog: Catalog, step: int) -> bytes:
    return catalog.backend.read(f"{CheckpointName(step)}/{FILES[0]}")


@pytest.fixture
def place(server: Server, proxy: FaultProxy) -> Iterator[Place]:
    proxy.reset()
    found = Place(server, proxy)
    yield found
    proxy.reset()
    found.close()


def requests_of(proxy: FaultProxy, operation: Callable[[], object]) -> int:
    proxy.reset()
    operation()
    return len(proxy.seen)


@pytest.mark.parametrize("act", ACTS)
def test_a_fault_at_any_request_of_a_save(place: Place, proxy: FaultProxy, act: Act) -> None:
    count = requests_of(proxy, lambda: save(place.catalog(), 0))
    expected = {}
    catalog = place.catalog()
    for at in range(count + 1):
        proxy.reset(lambda index, seen, at=at: act if index == at else None)  # type: ignore[misc]
        expected[CheckpointName(at + 1)] = save(catalog, at + 1)
    proxy.reset()
    first = CheckpointName(0)
    assert {name: found for name, found in place.committed().items() if name != first} == expected


@pytest.mark.parametrize(
    "act", ["cut after", *(pytest.param(act, marks=pytest.mark.slow) for act in ACTS if act != "cut after")]
)
def test_a_fault_at_any_request_of_the_rest(place: Place, proxy: FaultProxy, act: Act) -> None:
    catalog = place.catalog()
    kept = save(catalog, 1)
    for at in range(18):
        save(catalog, 5, "replace")
        doomed = max(name for name in place.committed() if name.step == 5)
        proxy.reset(lambda index, seen, at=at: act if index == at else None)  # type: ignore[misc]
        assert catalog.names()[0] == CheckpointName(1)
        assert load(catalog, 1) == kept.encode()
        with catalog.guard(CheckpointName(1)):
            pass
        try:
            catalog.delete(doomed, lambda: None)
        except CheckpointGone:
            pytest.fail("its own tombstone was taken for another's")
        catalog.sweep(0)
        proxy.reset()
        assert place.committed() == {CheckpointName(1): kept}


def test_an_outage_ends_by_the_deadline(server: Server, proxy: FaultProxy) -> None:
    import time

    place = Place(server, proxy, timeout=30.0)
    proxy.reset()
    save(place.catalog(), 1)
    catalog = place.catalog(timeout=1.0)
    operations: list[Callable[[], object]] = [
        lambda: save(catalog, 2),
        catalog.names,
        catalog.scan,
        lambda: catalog.sweep(None),
        lambda: catalog.delete(CheckpointName(1), lambda: None),
    ]
    outages: list[Act] = ["503", "cut before", "hang"]
    for act in outages:
        proxy.reset(lambda index, seen, act=act: act)  # type: ignore[misc]
        for operation in operations:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                operation()
            assert time.monotonic() - began < 45  # it ends, on a busy machine too; a hang alone is 60
    proxy.reset()
    assert list(place.committed()) == [CheckpointName(1)]
    place.close()


def test_a_commit_in_an_outage_is_never_cleaned_up(place: Place, proxy: FaultProxy, server: Server) -> None:
    place = Place(server, proxy, timeout=30.0)
    catalog = place.catalog(timeout=5.0)
    attempt = catalog.begin(3, "error", uuid.uuid4().hex)
    for path in FILES:
        with attempt.create(path) as sink:
            sink.write(attempt.id.encode())
    # The first try, after a listing, lands; its reply and everything after it is lost.
    proxy.reset(lambda index, seen: None if index == 0 else "cut after" if index == 1 else "cut before")
    with pytest.raises(StoreUnavailable):
        attempt.commit(manifest_bytes(attempt.id))
    proxy.reset()
    attempt.abandon()
    assert proxy.seen == []
    assert place.committed() == {CheckpointName(3): attempt.id}
    place.close()


def test_the_protocol_costs_few_requests(place: Place, proxy: FaultProxy) -> None:
    """A save of n files: n + 7 on a store never seen before, n + 4 from then on."""
    count = requests_of(proxy, lambda: save(place.catalog(), 1))
    kinds = [seen.method for seen in proxy.seen]
    assert count <= len(FILES) + 7, proxy.seen
    assert "HEAD" not in kinds
    catalog = place.catalog()
    assert requests_of(proxy, lambda: save(catalog, 2)) == len(FILES) + 4
    assert requests_of(proxy, catalog.names) == 1
    assert requests_of(proxy, catalog.scan) == 1
    assert requests_of(proxy, lambda: load(catalog, 1)) == 1


def test_a_register_that_nobody_could_have_written_is_told_at_once(
    server: Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content is not fetched, and waiting would not mend it."""
    proxy.reset()
    place = Place(server, proxy)
    backend = place.catalog(direct=True).backend
    key = f"checkpoint_000001/{MANIFEST}"
    with backend.write(key) as sink:
        sink.write(bytes(3 * 2**20))
    waited: list[float] = []
    monkeypatch.setattr(strictjson, "MAX_BYTES", 2**20)
    with pytest.raises(TooLarge) as caught:
        settle(backend, key, b"ours", timeout=5, sleep=waited.append)
    assert not waited
    assert MANIFEST in caught.value.filename
    place.close()
