"""What rests on time: fences, grace, and forgetting. The place's clock is the test's."""

from __future__ import annotations

from typing import Any

import pytest

from ckptstore.backends.base import Listed
from ckptstore.commit.objects.catalog import RegisterCatalog
from ckptstore.commit.objects.register import HORIZON
from ckptstore.commit.objects.states import SEAL, TOMBSTONE
from ckptstore.errors import (
    CheckpointGone,
    CheckpointProtected,
    InvalidRequest,
    SaveAborted,
    StoreUnavailable,
)
from ckptstore.format.names import CLAIM, DELETING, MANIFEST, RETIRED, CheckpointName
from ckptstore.testing import manifest_bytes
from tests.model.world import Place, Request, apply

DAY = 86400.0
NAME = CheckpointName(5)


class World:
    """Objects with the time each was written, and a clock that moves when told to."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.written: dict[str, float] = {}
        self.now = 1e9
        self.requests: list[Request] = []

    def ask(self, request: Request) -> Any:
        self.requests.append(request)
        answer = apply(self.objects, request)
        if request.verb == "list":
            return [Listed(key, size, self.written[key]) for key, size, _ in answer]
        if request.changes and not isinstance(answer, Exception):
            self.written[request.key] = self.now
        return answer

    def catalog(self) -> RegisterCatalog:
        catalog = RegisterCatalog(Place(self.ask), clock=lambda: self.now, sleep=lambda seconds: None)
        catalog.probe = lambda: None  # type: ignore[method-assign]
        return catalog


@pytest.fixture
def world() -> World:
    return World()


def start(catalog: RegisterCatalog, attempt_id: str = "a", if_exists: Any = "error") -> Any:
    attempt = catalog.begin(5, if_exists, attempt_id)
    with attempt.create("p1") as sink:
        sink.write(attempt_id.encode())
    return attempt


def test_a_commit_is_not_sent_late(world: World) -> None:
    attempt = start(world.catalog())
    world.now += HORIZON / 4 - 1
    attempt.check_fence()
    world.now += 2
    sent = len(world.requests)
    with pytest.raises(SaveAborted):
        attempt.commit(manifest_bytes("a"))
    assert len(world.requests) == sent


def test_payload_is_not_sent_late(world: World) -> None:
    attempt = start(world.catalog())
    sink = attempt.create("p2")
    sink.write(b"early")
    world.now += HORIZON
    with pytest.raises(SaveAborted), sink:
        pass
    assert f"{NAME}/p2" not in world.objects


def forget(world: World, name: CheckpointName) -> None:
    """As sweeps do, two horizons later."""
    world.now += 3 * HORIZON
    for key in [key for key in world.objects if key.startswith(f"{name}/")]:
        del world.objects[key]


def test_who_slept_for_long_touches_no_later_life_of_its_directory(world: World) -> None:
    """A writer that gives up, one that finds its manifest changed, and a deleter that wakes up."""
    catalog = world.catalog()
    late = start(catalog, "late")
    forget(world, NAME)
    living = start(catalog, "b")
    late.abandon()
    assert living.commit(manifest_bytes("b")) == NAME

    real = catalog.backend.replace

    def slow(key: str, data: bytes) -> None:
        real(key, data)
        catalog.backend.replace = real  # type: ignore[method-assign]
        forget(world, NAME)
        assert start(world.catalog(), "c").commit(manifest_bytes("c")) == NAME

    catalog.backend.replace = slow  # type: ignore[method-assign]
    catalog.delete(NAME, lambda: None)
    assert world.objects[f"{NAME}/p1"] == b"c"
    assert world.objects[f"{NAME}/{MANIFEST}"] == manifest_bytes("c")


def test_a_replacement_that_slept_leaves_what_it_replaces(world: World) -> None:
    catalog = world.catalog()
    start(catalog).commit(manifest_bytes("a"))
    attempt = start(catalog, "b", "replace")
    real = catalog.create

    def slow(key: str, data: bytes, before_each: Any = lambda: None) -> bytes:
        held = real(key, data, before_each)
        if key.endswith(MANIFEST):
            world.now += HORIZON
        return held

    catalog.create = slow  # type: ignore[method-assign]
    assert attempt.commit(manifest_bytes("b")) == CheckpointName(5, 1)
    assert world.objects[f"{NAME}/{MANIFEST}"] == manifest_bytes("a")


def test_a_tombstone_is_not_sent_late(world: World) -> None:
    catalog = world.catalog()
    start(catalog).commit(manifest_bytes("a"))

    def wait() -> None:
        world.now += HORIZON / 2

    with pytest.raises(StoreUnavailable):
        catalog.delete(NAME, wait)
    assert world.objects[f"{NAME}/{MANIFEST}"] == manifest_bytes("a")


def test_grace_is_counted_from_the_youngest_file(world: World) -> None:
    catalog = world.catalog()
    attempt = start(catalog)
    world.now += 0.9 * DAY
    with attempt.create("p2") as sink:
        sink.write(b"a")
    world.now += 0.9 * DAY
    catalog.sweep(None)
    assert f"{NAME}/p1" in world.objects
    world.now += 0.2 * DAY
    assert catalog.sweep(None).attempts == [str(NAME)]
    assert sorted(world.objects) == [f"{NAME}/{CLAIM}", f"{NAME}/{MANIFEST}"]
    with pytest.raises(SaveAborted):
        attempt.commit(manifest_bytes("a"))


def test_our_own_clock_decides_nothing(world: World) -> None:
    start(world.catalog())
    place = Place(world.ask)
    catalog = RegisterCatalog(place, clock=lambda: world.now + 1e6, sleep=lambda seconds: None)
    catalog.sweep(None)
    assert f"{NAME}/p1" in world.objects


def test_registers_are_forgotten_in_two_steps_a_horizon_apart(world: World) -> None:
    catalog = world.catalog()
    start(catalog).commit(manifest_bytes("a"))
    catalog.delete(NAME, lambda: None)
    world.now += HORIZON - 60
    catalog.sweep(None)
    assert world.objects[f"{NAME}/{MANIFEST}"] == TOMBSTONE
    world.now += 120
    catalog.sweep(None)
    assert sorted(world.objects) == [f"{NAME}/{RETIRED}"]
    # Its name is not used again before the mark is gone: a late DELETE may still be on its way.
    assert start(catalog, "b").commit(manifest_bytes("b")) == CheckpointName(5, 1)
    catalog.delete(CheckpointName(5, 1), lambda: None)
    world.now += HORIZON - 60
    catalog.sweep(None)
    assert f"{NAME}/{RETIRED}" in world.objects
    world.now += 120
    catalog.sweep(None)
    assert sorted(world.objects) == [f"checkpoint_000005-r1/{RETIRED}"]
    # And not while a higher number is there: the highest counts.
    assert start(catalog, "c").commit(manifest_bytes("c")) == CheckpointName(5, 2)
    catalog.delete(CheckpointName(5, 2), lambda: None)
    for _ in range(3):
        world.now += HORIZON + 60
        catalog.sweep(None)
    assert world.objects == {}
    assert start(catalog, "d").commit(manifest_bytes("d")) == NAME


def test_a_small_manifest_that_says_nothing_is_left_alone(world: World) -> None:
    world.ask(Request("replace", f"{NAME}/{MANIFEST}", b"{}"))
    world.ask(Request("replace", f"{NAME}/p1", b"whose?"))
    world.now += HORIZON
    assert world.catalog().sweep(0).attempts == []
    assert world.objects[f"{NAME}/p1"] == b"whose?"


def test_a_stale_sweep_removes_nothing(world: World) -> None:
    catalog = world.catalog()
    start(catalog)
    world.now += 2 * DAY
    sweeping = World()
    sweeping.__dict__ = world.__dict__
    late = sweeping.catalog()
    real = late.seal

    def stopped(name: CheckpointName) -> Any:
        world.now += HORIZON
        return real(name)

    late.seal = stopped  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        late.sweep(None)
    assert f"{NAME}/p1" in world.objects
    assert world.objects[f"{NAME}/{MANIFEST}"] == SEAL


def test_an_interrupted_delete_blocks_tags_until_it_is_forgotten(world: World) -> None:
    catalog = world.catalog()
    start(catalog).commit(manifest_bytes("a"))
    catalog.create(f"{DELETING}/{NAME}/dead.json", b"{}")
    with pytest.raises(CheckpointGone), catalog.guard(NAME):
        pass
    catalog.sweep(None)
    with pytest.raises(CheckpointGone), catalog.guard(NAME):
        pass
    world.now += HORIZON + 1
    catalog.sweep(None)
    with catalog.guard(NAME):
        pass


def test_one_empty_listing_hides_no_delete(world: World) -> None:
    catalog = world.catalog()
    start(catalog).commit(manifest_bytes("a"))
    catalog.create(f"{DELETING}/{NAME}/running.json", b"{}")
    honest = catalog.backend.list
    lies: list[list[Listed]] = [[]]

    def list_once_empty(prefix: str = "") -> list[Listed]:
        return lies.pop() if lies and prefix.startswith(DELETING) else honest(prefix)

    catalog.backend.list = list_once_empty  # type: ignore[method-assign]
    with pytest.raises(CheckpointGone), catalog.guard(NAME):
        pass
    assert not lies


def test_a_protected_checkpoint_outlives_its_replacement(world: World) -> None:
    catalog = world.catalog()
    start(catalog).commit(manifest_bytes("a"))
    protected = False

    def check(name: CheckpointName) -> None:
        if protected:
            raise CheckpointProtected(str(name), "it is tagged")

    attempt = catalog.begin(5, "replace", "b", check)
    protected = True
    assert attempt.commit(manifest_bytes("b")) == CheckpointName(5, 1)
    assert world.objects[f"{NAME}/{MANIFEST}"] == manifest_bytes("a")
    assert not [key for key in world.objects if key.startswith(DELETING)]


def test_only_whole_files_are_committed(world: World) -> None:
    attempt = start(world.catalog())
    sink = attempt.create("p2")
    sink.write(b"half")
    sink.__exit__(RuntimeError, RuntimeError(), None)
    with pytest.raises(InvalidRequest):
        attempt.commit(manifest_bytes("a"))
    with pytest.raises(InvalidRequest):
        attempt.create("p1")
    with pytest.raises(InvalidRequest):
        start(world.catalog(), "b").commit(b"{}")
