"""A rollback that fails, or whose process is killed, at any call: nothing of it protects for ever."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.registry import open_backend
from ckptstore.commit import refs
from ckptstore.errors import CheckpointError, CheckpointProtected
from ckptstore.find import holds
from ckptstore.find.holds import Hold
from ckptstore.format.names import HOLD, PIN
from ckptstore.testing import Crash, CrashingBackend, CrashingDisk
from tests.disks import FailingCallsDisk
from tests.figures import Figures
from tests.servers import Server

STEPS = 3


def fill(store: CheckpointStore) -> None:
    for step in range(STEPS):
        store.save(step)


def held(store: CheckpointStore) -> list[str]:
    """The refs that protect something now, by what lies there."""
    return [ref for ref in refs.read_all(open_backend(store.url)) if ref.startswith(PIN)]


def delete_by_itself(store: CheckpointStore) -> None:
    store.delete(1)


def prune(store: CheckpointStore) -> None:
    store.save(9)
    assert "checkpoint_000001" in store.prune(1)


def gc(store: CheckpointStore) -> None:
    store.gc()
    assert held(store) == []
    store.delete(1)


def roll_back_again(store: CheckpointStore) -> None:
    store.rollback(0)
    assert [ckpt.step for ckpt in store.checkpoints()] == [0]


def unpin(store: CheckpointStore) -> None:
    store.unpin(1)
    assert held(store) == []
    store.delete(1)


WAYS: dict[str, Callable[[CheckpointStore], None]] = {
    way.__name__: way for way in (delete_by_itself, prune, gc, roll_back_again, unpin)
}


def check_freed(store: CheckpointStore, way: Callable[[CheckpointStore], None]) -> None:
    """Whatever the rollback to step 1 came to, `way` finds nothing that protects it."""
    way(store)
    assert held(store) == []


SLOW = [pytest.param(code, marks=pytest.mark.slow) for code in (errno.ENOSPC, errno.EACCES)]


@pytest.mark.parametrize("code", [errno.EIO, *SLOW])
def test_any_call_fails_on_a_disk(tmp_path: Path, figures: Figures, code: int) -> None:
    origin = tmp_path / "origin"
    fill(CheckpointStore(origin))
    for at in itertools.count():
        root = tmp_path / "failing"
        shutil.copytree(origin, root)
        disk = FailingCallsDisk(code=code, at=at)
        store = CheckpointStore(LocalBackend(str(root), disk=disk))
        with contextlib.suppress(CheckpointError):
            store.rollback(1)
        if not disk.failed:
            break
        assert held(CheckpointStore(root)) == [], f"{disk.failed} left it"  # it removed it by itself
        check_freed(store, delete_by_itself)
        shutil.rmtree(root)
    figures.add("calls of a rollback failed, one at a time", at)
    assert at > 50


@pytest.mark.parametrize("way", WAYS)
def test_a_death_at_any_change_on_a_disk(tmp_path: Path, figures: Figures, way: str) -> None:
    origin = tmp_path / "origin"
    fill(CheckpointStore(origin))
    left = 0
    for after in itertools.count():
        root = tmp_path / "crashed"
        shutil.copytree(origin, root)
        disk = CrashingDisk(after)
        try:
            CheckpointStore(LocalBackend(str(root), disk=disk)).rollback(1)
            break
        except Crash:
            disk.drop()
        store = CheckpointStore(root)
        left += bool(held(store))
        check_freed(store, WAYS[way])
        store.gc()
        assert list((root / ".staging").iterdir()) == []
        assert [path.name for path in root.glob(f"_ckptstore/refs/{HOLD}*")] == []
        shutil.rmtree(root)
    figures.add("rollbacks killed, at every change", after)
    assert left > 3


HOLDER = """
import sys, time
from ckptstore import CheckpointStore
store = CheckpointStore(sys.argv[1])
with store._removal.holds.hold(store._identify(1), "a-living-one"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("way", ["delete_by_itself", "gc", "prune"])
def test_what_a_living_process_holds_stays(tmp_path: Path, way: str) -> None:
    fill(CheckpointStore(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        store = CheckpointStore(tmp_path)
        store.gc()
        assert "checkpoint_000001" not in store.prune(1)
        with pytest.raises(CheckpointProtected):
            store.delete(1)
    finally:
        holder.kill()
        holder.communicate()
    check_freed(store, WAYS[way])


def test_a_hold_of_an_earlier_release_has_no_owner(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    fill(store)
    store._tags.point(HOLD + store.get(1).id, store._identify(1))
    store.delete(1)


class FailingBackend:
    """Fails call number `at`, whether or not it is done before; no call is taken twice."""

    def __init__(self, backend: Any, at: int, landed: bool) -> None:
        self._backend = backend
        self._left = at
        self._landed = landed
        self.failed = ""

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._backend, name)
        if name not in {"read", "publish", "replace", "delete", "children", "list", "starting"}:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left != -1:
                return real(*arguments, **named)
            self.failed = f"{name} {arguments[:1]}"
            if self._landed:
                real(*arguments, **named)
            raise OSError(errno.EIO, "it failed")

        return call


@pytest.mark.parametrize("landed", [False, True], ids=["undone", "done"])
def test_any_call_fails_on_an_object_store(figures: Figures, landed: bool) -> None:
    for at in itertools.count():
        url = f"memory://{uuid.uuid4().hex}"
        fill(CheckpointStore(url))
        backend: Any = FailingBackend(open_backend(url), at, landed)
        store = CheckpointStore(backend)
        with contextlib.suppress(CheckpointError):
            store.rollback(1)
        if not backend.failed:
            break
        check_freed(store, delete_by_itself)  # its own process need not wait
        assert held(CheckpointStore(url)) == [], f"{backend.failed} left it"
    figures.add("calls of a rollback failed, one at a time", at)
    assert at > 20


@pytest.mark.parametrize("kind", ["memory", pytest.param("moto", marks=pytest.mark.slow)])
def test_a_death_at_any_request(
    kind: str, figures: Figures, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    left = 0
    for after in itertools.count():
        options: dict[str, Any] = {}
        if kind == "moto":
            server: Server = request.getfixturevalue("moto")
            url, options = server.new_url(), server.options
        else:
            url = f"memory://{uuid.uuid4().hex}"
        safe = CheckpointStore(url, storage_options=options)
        fill(safe)
        dying: Any = CrashingBackend(open_backend(url, options), after, landed=True)
        try:
            CheckpointStore(dying).rollback(1)
            break
        except Crash:
            pass
        if any(ref.startswith(HOLD) for ref in safe._tags.read()):
            left += 1
            assert any(ref.startswith(HOLD) for ref in safe._removal.holds.read_living()), "it may be alive"
            with pytest.raises(CheckpointProtected):
                safe.delete(1)
            with monkeypatch.context() as later:
                later.setattr(holds, "BOUND", -3600.0)  # an hour passes by the place's clock
                safe.delete(1)
        else:
            safe.delete(1)
        assert [ref for ref in safe._tags.read() if ref.startswith(PIN)] == []
    figures.add("rollbacks killed, at every change", after)
    assert left > 3


def test_a_rollback_that_lost_its_hold_removes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It slept for longer than anybody waits; what it counts on may be gone."""
    url = f"memory://{uuid.uuid4().hex}"
    store = CheckpointStore(url)
    fill(store)
    monkeypatch.setattr(Hold, "keep_fresh", lambda _: CheckpointStore(url).unpin(1))
    with pytest.raises(CheckpointProtected, match="lost the pin"):
        store.rollback(1)
    assert [ckpt.step for ckpt in store.checkpoints()] == [0, 1, 2]


def test_a_long_rollback_renews_its_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    fill(store)
    written: list[str] = []
    write = refs.write

    def note(backend: Any, ref: str, target: Any) -> int:
        written.append(ref)
        return write(backend, ref, target)

    monkeypatch.setattr(refs, "write", note)
    monkeypatch.setattr(holds, "BOUND", 0.0)
    assert len(store.rollback(0)) == 2
    assert len(written) == 3
    assert held(store) == []


def test_a_dry_run_removes_no_hold(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    fill(store)
    store._tags.point(HOLD + "dead", store._identify(1))
    assert "checkpoint_000001" in store.prune(1, dry_run=True)
    assert held(store) == [HOLD + "dead"]


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_dry_run_leaves_the_hold_of_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(holds, "BOUND", -1.0)  # where no lock tells: dead at once
    url = str(tmp_path) if where == "local" else f"memory://{uuid.uuid4().hex}"
    store = CheckpointStore(url)
    fill(store)
    target = refs.Target("checkpoint_000000", store.get(0).id)
    refs.write(open_backend(url), f"{HOLD}dead", target)
    for _ in range(2):
        store.gc(dry_run=True)
        store.prune(1, dry_run=True)
        store.delete(1, dry_run=True)
        assert held(store) == [f"{HOLD}dead"]
