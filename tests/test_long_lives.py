"""Stores that live for months: replaced, pruned, swept, copied by other tools and opened again and again.

After each operation a dict says what `get`, `latest` and `checkpoints` must show. Time is the test's own.
"""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.base import Listed
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.commit.objects.register import HORIZON, Register
from ckptstore.errors import CheckpointNotFound, CheckpointProtected, InvalidRequest
from tests.figures import Figures
from tests.inside import backend_of
from tests.servers import Server

STEPS = 4
LIVES, OPERATIONS = "lives of stores, months long", "operations in long lives, each followed by a look"


class Months:
    """A clock for our side and the place's: what was written before time passed is that much older."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._written: dict[str, float] = {}
        real_init, real_place_time = Register.__init__, Register.place_time
        months = self

        def init(register: Register, *arguments: Any, **named: Any) -> None:
            real_init(register, *arguments, **{**named, "clock": lambda: months.now})

        def place_time(register: Register) -> float | None:
            now = real_place_time(register)
            return None if now is None else now + months.now

        real_starting = ObjectBackend.starting

        def starting(backend: ObjectBackend, prefix: str, until: str | None = None) -> list[Listed]:
            listed = real_starting(backend, prefix, until)
            return [item._replace(modified=months._time_of(backend, item)) for item in listed]

        monkeypatch.setattr(Register, "__init__", init)
        monkeypatch.setattr(Register, "place_time", place_time)
        monkeypatch.setattr(ObjectBackend, "starting", starting)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds

    def _time_of(self, backend: ObjectBackend, item: Listed) -> float | None:
        """When it was first listed in this state; every operation lists."""
        if item.modified is None or "/probe/" in item.key:
            return item.modified
        key = f"{backend.url}/{item.key} {item.size} {item.modified}"
        return item.modified + self._written.setdefault(key, self.now)


class Life:
    """One store, what it must show, and everything that can happen to it."""

    def __init__(self, seed: int, open_store: Callable[[], CheckpointStore], months: Months | None) -> None:
        self.random = random.Random(seed)
        self.open_store = open_store
        self.months = months
        self.store = open_store()
        self.expected: dict[int, int] = {}
        self.operations: list[str] = []

    def live(self, count: int) -> None:
        for number in range(count):
            verb = self.random.choice(
                [self.save, self.replace, self.replace, self.delete, self.prune, self.wait]
            )
            told = verb(number)
            self.operations.append(told)
            if self.random.random() < 0.4:
                self.store = self.open_store()
            self.look(self.store)
        self.look(self.open_store())

    def save(self, number: int) -> str:
        step = self.random.randrange(STEPS)
        if step in self.expected:
            ckpt = self.store.save(step, number, if_exists="return")
            assert ckpt.state == self.expected[step], self.operations
        else:
            self.store.save(step, number)
            self.expected[step] = number
        return f"save {step}"

    def replace(self, number: int) -> str:
        step = self.random.randrange(STEPS)
        ckpt = self.store.save(step, number, if_exists="replace")
        self.expected[step] = number
        return f"replace {step}: {ckpt.name}"

    def delete(self, number: int) -> str:
        if not self.expected:
            return "nothing to delete"
        step = self.random.choice(sorted(self.expected))
        self.store.delete(step)
        del self.expected[step]
        return f"delete {step}"

    def prune(self, number: int) -> str:
        self.store.prune(2)
        in_use = {step for step in self.expected if step in {ckpt.step for ckpt in self.store.checkpoints()}}
        assert set(sorted(self.expected)[-2:]) <= in_use, self.operations
        self.expected = {step: value for step, value in self.expected.items() if step in in_use}
        return "prune"

    def wait(self, number: int) -> str:
        for _ in range(self.random.choice([1, 3, 3])):
            if self.months is not None:
                self.look(self.store)  # notes what was written till now
                self.months.pass_by(HORIZON + 60)
            self.store.gc()
        return "wait"

    def look(self, store: CheckpointStore) -> None:
        """Get, list and open it all, and compare with what was said to be there."""
        told = f"{self.operations} must show {self.expected}"
        assert {ckpt.step: ckpt.state for ckpt in store.checkpoints()} == self.expected, told
        newest = store.latest()
        assert (newest and newest.state) == (self.expected[max(self.expected)] if self.expected else None), (
            told
        )
        for step in range(STEPS):
            if step in self.expected:
                assert store.get(step).state == self.expected[step], told
            else:
                with pytest.raises(CheckpointNotFound):
                    store.get(step)


@pytest.fixture
def months(monkeypatch: pytest.MonkeyPatch) -> Months:
    return Months(monkeypatch)


@pytest.fixture(
    params=[
        "memory",
        "moto",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("seaweedfs", "fake-gcs")),
    ]
)
def bucket(
    request: pytest.FixtureRequest, start_server: Callable[[str], Server]
) -> tuple[str, dict[str, Any]]:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}", {}
    server = start_server(request.param)
    return server.new_url(), server.options


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_in_a_bucket(bucket: tuple[str, dict[str, Any]], months: Months, figures: Figures, seed: int) -> None:
    url, options = bucket
    life = Life(seed, lambda: CheckpointStore(url, storage_options=options), months)
    life.live(25)
    figures.add(LIVES, 1)
    figures.add(OPERATIONS, len(life.operations))


@pytest.mark.parametrize("seed", range(10))
def test_on_a_disk(tmp_path: Path, figures: Figures, seed: int) -> None:
    """With a copy by another tool every now and then, which the life goes on in."""
    places = [tmp_path / "0"]
    life = Life(seed, lambda: CheckpointStore(places[-1]), None)
    for _ in range(6):
        life.live(10)
        places.append(tmp_path / str(len(places)))
        shutil.copytree(places[-2], places[-1])
        life.store = life.open_store()
    figures.add(LIVES, 1)
    figures.add(OPERATIONS, len(life.operations))


def copy_by_another_tool(source: Path, target: CheckpointStore) -> None:
    """Each file as an object, as any sync does it; what is dot and lock stays behind."""
    backend = backend_of(target)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        key = str(path.relative_to(source))
        if not key.startswith("."):
            backend.replace(key, path.read_bytes())


@pytest.fixture
def disk_and_bucket(tmp_path: Path, bucket: tuple[str, dict[str, Any]]) -> Any:
    """A store on a disk whose steps were replaced a few times, and its copy in a bucket."""
    source = CheckpointStore(tmp_path)
    for number in range(3):
        for step in range(STEPS):
            source.save(step, number, if_exists="replace")
    url, options = bucket
    copy_by_another_tool(tmp_path, CheckpointStore(url, storage_options=options))
    return lambda: CheckpointStore(url, storage_options=options)


def test_in_a_bucket_synced_from_a_disk(disk_and_bucket: Any, months: Months, figures: Figures) -> None:
    life = Life(7, disk_and_bucket, months)
    life.expected = dict.fromkeys(range(STEPS), 2)
    life.look(life.store)
    life.live(20)
    figures.add(LIVES, 1)
    figures.add(OPERATIONS, len(life.operations))


def test_a_replacement_is_seen_where_lower_numbers_are_free(disk_and_bucket: Any) -> None:
    store = disk_and_bucket()
    assert store.get(1).name == "checkpoint_000001-r2"
    assert store.save(1, "new", if_exists="replace").name == "checkpoint_000001-r3"
    assert disk_and_bucket().get(1).state == "new"
    assert store.save(1, "not", if_exists="return").state == "new"
    store.delete(1)
    assert store.save(1, "again").name == "checkpoint_000001-r4"
    assert disk_and_bucket().get(1).state == "again"


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_directories_of_others_count_too(tmp_path: Path, where: str) -> None:
    """One that lost its manifest may get it back, and would then hide a lower number for ever."""
    store = CheckpointStore(tmp_path if where == "disk" else f"memory://{uuid.uuid4().hex}")
    store.save(1, "old")
    backend_of(store).publish("checkpoint_000001-r7/algorithm_state.pkl", b"another's")
    assert store.save(1, "new", if_exists="replace").name == "checkpoint_000001-r8"
    assert store.get(1).state == "new"


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_no_number_is_higher_than_a_name_has_room_for(tmp_path: Path, where: str) -> None:
    store = CheckpointStore(tmp_path if where == "disk" else f"memory://{uuid.uuid4().hex}")
    highest = "checkpoint_000001-r999999"
    backend_of(store).publish(f"{highest}/algorithm_state.pkl", b"another's")
    store.save(2, "two")
    with pytest.raises(InvalidRequest, match=highest):
        store.save(1, "one", if_exists="replace")
    assert [ckpt.step for ckpt in store.checkpoints()] == [2]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_a_high_number_costs_no_time(tmp_path: Path, where: str) -> None:
    """Nobody walks up to it: a delete asks whether something points at the numbers below."""
    store = CheckpointStore(tmp_path if where == "disk" else f"memory://{uuid.uuid4().hex}")
    ckpt = store.save(1, "one")
    backend = backend_of(store)
    for entry in backend.list(ckpt.name):
        backend.publish(entry.key.replace(ckpt.name, f"{ckpt.name}-r999999"), backend.read(entry.key))
    store.tag("old", ckpt)
    with pytest.raises(CheckpointProtected):
        store.delete(1)
    store.untag("old")
    store.delete(1)
    assert store.checkpoints() == []
