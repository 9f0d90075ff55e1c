"""A name, a tag or a listing that changes hands between two looks: nobody else's checkpoint is touched."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.objects.memory import MemoryOpener
from ckptstore.commit import open_catalog, refs
from ckptstore.errors import CheckpointGone, CheckpointNotFound
from ckptstore.find.tags import Tags
from ckptstore.format.names import CheckpointName
from tests.disks import LaggingBackend
from tests.inside import backend_of


def anew(store: CheckpointStore) -> None:
    """Delete step 1 and save it again: on a disk, under the same name."""
    store.delete(1)
    assert store.save(1, "new").name == "checkpoint_000001"


@pytest.mark.parametrize("operation", ["delete", "tag", "pin"])
def test_what_was_saved_anew_is_not_what_was_meant(tmp_path: Path, operation: str) -> None:
    store = CheckpointStore(tmp_path)
    old = store.save(1, "old")
    anew(CheckpointStore(tmp_path))
    with pytest.raises(CheckpointGone):
        {"delete": store.delete, "tag": lambda which: store.tag("t", which), "pin": store.pin}[operation](old)
    assert store.get(1).state == "new"
    assert store.tags() == {}
    store.delete(1)


@pytest.mark.parametrize("known", [False, True], ids=["cold", "parts known"])
@pytest.mark.parametrize("read", [Checkpoint.load, lambda ckpt: ckpt.state], ids=["load", "state"])
def test_a_reader_is_told_that_its_checkpoint_is_gone(
    tmp_path: Path, read: Callable[[Checkpoint], object], known: bool
) -> None:
    """Not that it is damaged, which would send people looking for what broke their disk."""
    store = CheckpointStore(tmp_path)
    store.save(1, "old", {"p": {"weights": {"w": np.zeros(10)}}})
    old = store.get(1)
    if known:
        assert old.verify().ok
    anew(CheckpointStore(tmp_path))
    with pytest.raises(CheckpointGone):
        read(old)
    assert store.get(1).state == "new"


def test_prune_takes_nothing_that_was_saved_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save(step, "old")
    real = Tags.read

    def meanwhile(self: Tags) -> dict[str, refs.Target]:
        monkeypatch.setattr(Tags, "read", real)
        anew(CheckpointStore(tmp_path))
        return real(self)

    monkeypatch.setattr(Tags, "read", meanwhile)
    assert store.prune(1) == []
    assert store.get(1).state == "new"


def test_a_step_that_is_replaced_is_in_every_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = CheckpointStore(tmp_path), CheckpointStore(tmp_path)
    for step in (1, 2, 3):
        store.save(step, "old")
    real = LocalBackend.list
    left = [1, 2, 3]

    def meanwhile(self: LocalBackend, prefix: str = "") -> Any:
        """Each step is replaced after its name was listed and before its files are."""
        if left and prefix == f"checkpoint_{left[0]:06}":
            other.save(left.pop(0), "new", if_exists="replace")
        return real(self, prefix)

    monkeypatch.setattr(LocalBackend, "list", meanwhile)
    assert [(ckpt.step, ckpt.state) for ckpt in store.checkpoints()] == [(1, "new"), (2, "new"), (3, "new")]
    assert left == []


def test_rollback_tells_only_what_it_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, other = CheckpointStore(tmp_path), CheckpointStore(tmp_path)
    for step in (1, 2, 3, 4):
        store.save(step, "old")
    real = Tags.point

    def meanwhile(self: Tags, *arguments: Any) -> int:
        monkeypatch.setattr(Tags, "point", real)
        other.save(3, "new", if_exists="replace")
        return real(self, *arguments)

    monkeypatch.setattr(Tags, "point", meanwhile)
    assert store.rollback(1) == ["checkpoint_000004", "checkpoint_000002"]
    assert [(ckpt.step, ckpt.state) for ckpt in other.checkpoints()] == [(1, "old"), (3, "new")]


@pytest.fixture
def bucket() -> tuple[CheckpointStore, CheckpointStore]:
    """Two who look at one store of objects."""
    url = f"memory://{uuid.uuid4().hex}"
    store = CheckpointStore(url)
    for step in (1, 2, 3):
        store.save(step, step)
    return store, CheckpointStore(url)


def after_the_write(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """`happens` between the next write of a tag and the look at what it points at."""
    real = refs.write

    def write(*arguments: Any) -> int:
        number = real(*arguments)
        monkeypatch.setattr(refs, "write", real)
        happens()
        return number

    monkeypatch.setattr(refs, "write", write)


def test_a_tag_that_somebody_moved_on_stays_where_it_is(
    bucket: tuple[CheckpointStore, CheckpointStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = bucket
    store.tag("t", 1)

    def happens() -> None:
        other.tag("t", 3)
        other.delete(2)

    after_the_write(monkeypatch, happens)
    with pytest.raises(CheckpointGone):
        store.tag("t", 2)
    assert store.tags() == {"t": "checkpoint_000003"}


@pytest.mark.parametrize("gone", [False, True])
def test_a_tag_goes_back_only_to_what_is_there(
    bucket: tuple[CheckpointStore, CheckpointStore], monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    store, other = bucket
    store.tag("t", 1)

    def happens() -> None:
        # A delete that had looked at the tags before.
        open_catalog(backend_of(other)).delete(CheckpointName(2), lambda: None)
        if gone:
            other.delete(1)

    after_the_write(monkeypatch, happens)
    with pytest.raises(CheckpointGone):
        store.tag("t", 2)
    assert store.tags() == ({} if gone else {"t": "checkpoint_000001"})
    if gone:
        with pytest.raises(CheckpointNotFound):
            store.get("tag:t")


def test_a_step_replaced_during_a_listing_is_in_it() -> None:
    """What is replaced is deleted after its successor is there. A listing takes time, and goes by names:
    ``checkpoint_000001-r1/`` comes before ``checkpoint_000001/``.
    """
    place = LaggingBackend(MemoryOpener(f"memory://{uuid.uuid4().hex}"))
    store = CheckpointStore(place)
    for step in (1, 2, 3):
        store.save(step, "old")
    newer = store.save(1, "new", if_exists="replace")
    assert newer.name == "checkpoint_000001-r1"
    place.lags, place.hidden = 1, f"{newer.name}/"
    assert [each.state for each in store.checkpoints()] == ["new", "old", "old"]


def test_a_step_that_was_deleted_costs_no_second_look_for_ever() -> None:
    """Others begin and end saves all the time: only a name at that step is news."""
    place = LaggingBackend(MemoryOpener(f"memory://{uuid.uuid4().hex}"))
    store = CheckpointStore(place)
    for step in (1, 2, 3):
        store.save(step, "old")
    store.delete(2)
    place.lags, place.hidden = 1, "checkpoint_000003/"
    assert [each.step for each in store.checkpoints()] == [1]  # as it was when that was saved
    assert [each.step for each in store.checkpoints()] == [1, 3]


class KeepsDirectories(LaggingBackend):
    """Lists directories for ever, as SeaweedFS does, also when nothing is left in them."""

    kept: frozenset[str] = frozenset()

    def children(self, prefix: str = "") -> list[str]:
        if prefix:
            return super().children(prefix)
        self.kept = self.kept | frozenset(super().children())
        return sorted(self.kept)


@pytest.mark.parametrize("others", [0, 2])
def test_directories_in_which_nothing_is_left_are_no_news(others: int) -> None:
    place = KeepsDirectories(MemoryOpener(f"memory://{uuid.uuid4().hex}"))
    store = CheckpointStore(place)
    for step in range(others):
        store.save(step, step)
    store.save(7, "old")
    gone = store.save(7, "new", if_exists="replace").name
    assert store.latest() is not None  # lists them
    store.delete(7)
    place.delete([entry.key for entry in place.list(gone)])  # as gc does, two horizons later
    if not others:
        place.delete([entry.key for entry in place.list("checkpoint_000007")])
    assert [ckpt.step for ckpt in store.checkpoints()] == list(range(others))
    assert (store.latest() is None) == (others == 0)
