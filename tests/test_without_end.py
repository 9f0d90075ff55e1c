"""Bounds on what a listing, a name or a number may cost, and on what an old listing may make us say."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.base import Listed
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.objects.client import Page
from ckptstore.backends.objects.listing import ListingBound
from ckptstore.commit import refs
from ckptstore.errors import CheckpointCorrupt, InvalidRequest, StoreUnavailable
from ckptstore.format import names
from ckptstore.format.names import CheckpointName
from tests.disks import LaggingBackend
from tests.inside import backend_of

Pages = Callable[[int], Page]


def page(number: int, keys: list[str], token: str | None) -> Page:
    return Page([Listed(key, 1, 0.0) for key in keys], [], token)


ENDLESS: dict[str, Pages] = {
    "one token": lambda number: page(number, [f"k{number:09}"], "again"),
    "two tokens in turn": lambda number: page(number, [f"k{number:09}"], f"t{number % 2}"),
    "new tokens, one page": lambda number: page(number, ["a", "b"], f"t{number}"),
    "new tokens, names that fall": lambda number: page(number, [f"k{10**9 - number:09}"], f"t{number}"),
    "new tokens, no names": lambda number: page(number, [], f"t{number}"),
    "new tokens, one new name each": lambda number: page(number, [f"k{number:09}"], f"t{number}"),
    "folders only": lambda number: Page([], [f"k{number:09}/"], f"t{number}"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("verb", ["list", "children"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_pages_that_never_end(monkeypatch: pytest.MonkeyPatch, kind: str, verb: str) -> None:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}", timeout=5)
    store.save(1)
    backend: Any = backend_of(store)
    numbers = itertools.count()
    root = backend.client.root

    def answer(prefix: str, *_: object) -> Page:
        given = ENDLESS[kind](next(numbers))
        objects = [entry._replace(key=root + entry.key) for entry in given.objects]
        return given._replace(objects=objects, prefixes=[root + name for name in given.prefixes])

    monkeypatch.setattr(backend.client, "page", answer)
    with pytest.raises(OSError, match="listing"):
        getattr(backend, verb)()
    with pytest.raises(StoreUnavailable, match="listing"):
        store.latest()
    assert next(numbers) < 5000


def test_a_slow_server_whose_pages_never_end() -> None:
    """Time is in proportion to what came, whatever the pages hold."""
    clock = iter(range(10**9))
    bound = ListingBound(5, clock=lambda: next(clock))
    for number in range(10):
        bound.check([f"k{number:09}"], number)
    with pytest.raises(TimeoutError):
        bound.check(["l"], 10)


def test_a_large_store_is_listed_however_long_it_takes() -> None:
    now = 0.0
    bound = ListingBound(5, clock=lambda: now)
    for number in range(2000):
        now += 4.0  # seconds for a page: two million names in two hours
        bound.check([f"k{number:06}{index:04}" for index in range(1000)], number)
    bound.check(["z"], None)


def test_more_names_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptstore.backends.objects.listing.MOST_NAMES", 5000)
    bound = ListingBound(5)
    for number in range(5):
        bound.check([f"k{number:06}{index:04}" for index in range(1000)], number)
    with pytest.raises(OSError, match="more than"):
        bound.check(["l"], 5)


def test_uploads_that_never_end(moto: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(moto.new_url(), storage_options=moto.options, timeout=5)
    store.save(1)
    backend: Any = backend_of(store)
    client = backend.client
    real = client._call

    def answer(seconds: float, verb: str, **about: Any) -> Any:
        if verb != "list_multipart_uploads":
            return real(seconds, verb, **about)
        return {"Uploads": [], "IsTruncated": True, "NextKeyMarker": "k", "NextUploadIdMarker": "u"}

    monkeypatch.setattr(client, "_call", answer)
    with pytest.raises(StoreUnavailable, match="go round"):
        store.gc()


# Names and numbers


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run" if request.param == "disk" else f"memory://{uuid.uuid4().hex}")


def plant(store: CheckpointStore, name: str) -> None:
    """A committed copy of step 1 under another name."""
    backend = backend_of(store)
    for entry in backend.list("checkpoint_000001"):
        key = entry.key.replace("checkpoint_000001", name, 1)
        backend.publish(key, backend.read(entry.key))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [1_000_000, 999_999_999, 10**12])
def test_a_number_that_no_save_has_reached(store: CheckpointStore, number: int) -> None:
    """Such a directory isn't ours: nothing walks up to it, and the step goes on as if it weren't there."""
    store.save(1, "one")
    plant(store, f"checkpoint_000001-r{number}")
    store.save(2, "two")
    assert [ckpt.name for ckpt in store.checkpoints()] == ["checkpoint_000001", "checkpoint_000002"]
    assert store.save(1, "anew", if_exists="replace").name == "checkpoint_000001-r1"
    assert store.prune(1) == [] or store.prune(1) == []
    store.delete(1)
    store.gc()
    assert [ckpt.step for ckpt in store.checkpoints()] == [2]


@pytest.mark.timeout(60)
def test_the_highest_number_costs_no_time(store: CheckpointStore) -> None:
    store.save(1, "one")
    plant(store, f"checkpoint_000001-r{names.MAX_ATTEMPT}")
    store.save(2, "two")
    with pytest.raises(InvalidRequest, match="highest"):
        store.save(1, "anew", if_exists="replace")
    assert store.prune(1) == [f"checkpoint_000001-r{names.MAX_ATTEMPT}"]


def test_names_of_numbers_beyond_are_no_names() -> None:
    assert CheckpointName.parse(f"checkpoint_000001-r{names.MAX_ATTEMPT}") is not None
    for text in ("-r1000000", "-r999999999", "-r" + "9" * 200):
        assert CheckpointName.parse(f"checkpoint_000001{text}") is None
    assert CheckpointName.parse("checkpoint_" + "9" * 100_000) is None


@pytest.mark.parametrize("number", ["999999999999", "1000000000", "1000000000000", "9" * 200])
def test_a_tag_number_that_no_move_has_reached(store: CheckpointStore, number: str) -> None:
    """`tag` has an effect whatever else lies there."""
    store.tag("champion", store.save(1))
    two = store.save(2)
    body = refs._encode(refs.Target("checkpoint_000001", store.get(1).id))
    backend_of(store).publish(f"{names.REFS}/champion/{number}.json", body)
    store.tag("champion", two)
    assert store.tags() == {"champion": two.name}
    store.untag("champion")
    assert store.tags() == {}


def test_a_tag_that_can_move_no_more_says_so(store: CheckpointStore) -> None:
    one = store.save(1)
    store.tag("champion", one)
    body = refs._encode(refs.Target(one.name, one.id))
    backend_of(store).publish(f"{names.REFS}/champion/{names.MAX_MOVE:012}.json", body)
    with pytest.raises(InvalidRequest, match="moved"):
        store.tag("champion", one)
    assert store.tags() == {"champion": one.name}


@pytest.mark.timeout(120)
def test_a_listing_with_a_million_strays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no name of ours costs its place in the listing, and nothing else."""
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    store.save(1)
    backend: Any = backend_of(store)
    root, real = backend.client.root, backend.client.page

    def answer(prefix: str, delimiter: str, token: str | None, seconds: float) -> Page:
        number = int(token or 0)
        if prefix != root or number == 1000:
            return real(prefix, delimiter, None, seconds)  # type: ignore[no-any-return]
        strays = [f"{root}Checkpoint_{number:04}{index:03}/" for index in range(1000)]
        return Page([], strays, str(number + 1))

    monkeypatch.setattr(backend.client, "page", answer)
    found = store.latest()
    assert found is not None
    assert found.step == 1


# Listings that are older than the files


@pytest.fixture
def lagging() -> tuple[CheckpointStore, LaggingBackend]:
    url = f"memory://{uuid.uuid4().hex}"
    store = CheckpointStore(url)
    store.save(1, "one", {"p": {"weights": {}}})
    store.save(2, "two", {"p": {"weights": {}}})
    opened: Any = backend_of(store)
    backend = LaggingBackend.__new__(LaggingBackend)
    backend.__dict__.update(opened.__dict__)
    return CheckpointStore(backend), backend


HIDDEN = ["policies", "algorithm_state.pkl", "_ckptstore/parts.json"]


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("look", ["latest", "checkpoints"])
def test_an_old_listing_is_no_damage(
    lagging: tuple[CheckpointStore, LaggingBackend], hidden: str, look: str
) -> None:
    store, backend = lagging
    backend.hidden, backend.lags = f"checkpoint_000002/{hidden}", 10**6
    with pytest.raises(StoreUnavailable, match="disagree") as caught:
        getattr(store, look)()
    assert "remove the damaged" not in str(caught.value)
    backend.lags = 0
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 2]


@pytest.mark.parametrize("lags", [1, 2])
def test_a_listing_that_comes_to_know_is_read_again(
    lagging: tuple[CheckpointStore, LaggingBackend], lags: int
) -> None:
    store, backend = lagging
    backend.hidden, backend.lags = "checkpoint_000002/policies", lags
    found = store.latest()
    assert found is not None
    assert found.step == 2
    assert found.skipped == ()


def test_what_is_missing_indeed_is_said_to_be(lagging: tuple[CheckpointStore, LaggingBackend]) -> None:
    store, backend = lagging
    for step in (1, 2):
        backend.delete([f"checkpoint_{step:06}/algorithm_state.pkl"])
    with pytest.raises(CheckpointCorrupt, match="is missing"):
        store.latest()


def test_a_manifest_that_only_the_listing_lacks(
    lagging: tuple[CheckpointStore, LaggingBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, backend = lagging
    store.tag("two", 2)
    backend.hidden, backend.lags = f"checkpoint_000002/{names.MANIFEST}", 10**6
    with pytest.raises(StoreUnavailable, match="disagree"):
        store.checkpoints()


def test_a_listing_of_what_was_removed_long_ago(
    lagging: tuple[CheckpointStore, LaggingBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, backend = lagging
    old = [entry._replace(modified=0.0) for entry in backend.list("checkpoint_000002")]
    gone = [entry for entry in old if not entry.key.endswith(names.MANIFEST)]
    backend.delete([entry.key for entry in old])
    starting = ObjectBackend.starting

    def stale(self: ObjectBackend, prefix: str, until: str | None = None) -> list[Listed]:
        shown = [entry for entry in gone if entry.key.startswith(prefix)]
        return sorted([*starting(self, prefix, until), *shown])

    monkeypatch.setattr(ObjectBackend, "starting", stale)
    found = store.latest()
    assert found is not None
    assert found.skipped == ()
    assert [ckpt.step for ckpt in store.checkpoints()] == [1]
