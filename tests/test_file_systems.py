"""File systems that lack calls: what a store does without, says once, or refuses by name."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local import mounts, posix
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.local.mounts import WeakStorageWarning
from ckptstore.backends.local.posix import Directory, Disk
from ckptstore.commit.doctor import diagnose
from ckptstore.errors import StoreUnavailable, StoreUnsuitable
from ckptstore.testing import Crash, CrashingDisk
from tests.mounts import OPERATIONS, mounted, try_all

REFUSALS = [errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM]


class PlainDisk(CrashingDisk):
    """Has neither hard links nor exclusive renames, and can die."""

    code = errno.EOPNOTSUPP

    def link(self, source_dir: Directory, source: str, target_dir: Directory, target: str) -> None:
        raise OSError(self.code, os.strerror(self.code))

    def try_rename_noreplace(
        self, source_dir: Directory, source: str, target_dir: Directory, target: str
    ) -> bool:
        return False


@pytest.fixture(autouse=True)
def forget_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_warned", set())


def open_store(root: Path, disk: Disk, single_writer: bool = True) -> CheckpointStore:
    return CheckpointStore(LocalBackend(root, disk), single_writer=single_writer)


# ---- Neither hard links nor exclusive renames


@pytest.mark.parametrize("code", REFUSALS)
def test_no_way_to_reserve_a_name_is_refused_with_the_mount_and_the_way_out(
    tmp_path: Path, code: int
) -> None:
    disk = PlainDisk()
    disk.code = code
    with pytest.raises(StoreUnsuitable) as caught:
        open_store(tmp_path / "run", disk, single_writer=False).save(1, {"i": 1})
    for word in ("mounted at", "hard links", "single_writer=True"):
        assert word in str(caught.value)
    left = [path for path in (tmp_path / "run").rglob("*") if not path.is_dir()]
    assert left == []
    assert open_store(tmp_path / "run", disk).latest() is None


@pytest.mark.parametrize("code", REFUSALS)
def test_a_single_writer_does_everything_there(tmp_path: Path, code: int) -> None:
    disk = PlainDisk()
    disk.code = code
    for name, operation in OPERATIONS.items():
        operation(open_store(tmp_path, disk))
        assert not list(tmp_path.rglob("unpublished.json")), name
        assert not list(tmp_path.rglob(".ckptstore-*")), name


def test_a_name_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_000001").mkdir()
    (tmp_path / "checkpoint_000001-r1").write_text("somebody's")
    store = open_store(tmp_path, PlainDisk())
    assert store.save(1, {"i": 1}).state == {"i": 1}
    assert (tmp_path / "checkpoint_000001-r1").read_text() == "somebody's"
    assert os.listdir(tmp_path / "checkpoint_000001") == []


@pytest.mark.parametrize(
    "moves", [pytest.param(True, id="whole", marks=pytest.mark.slow), pytest.param(False, id="by file")]
)
def test_a_crash_at_any_moment_leaves_the_old_state_or_the_new_one(
    tmp_path: Path, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a first save, of one that replaces, and of a delete. What is left is swept."""
    monkeypatch.setattr("ckptstore.commit.local.root.moves_whole", lambda path: moves)
    died = 0
    for after in itertools.count():
        root = tmp_path / str(after)
        open_store(root, PlainDisk()).save(1, {"i": 1})
        disk = PlainDisk(after)
        finished = False
        try:
            store = open_store(root, disk)
            store.save(2, {"i": 2})
            store.save(1, {"i": 11}, if_exists="replace")
            store.delete(2)
            finished = True
        except Crash:
            disk.drop()
            died += 1
        again = open_store(root, PlainDisk())
        state = {found.step: found.load().state["i"] for found in again.checkpoints()}
        assert state in ({1: 1}, {1: 1, 2: 2}, {1: 11, 2: 2}, {1: 11}), (after, state)
        assert all(report.ok for report in again.verify())
        again.save(3, {"i": 3})
        again.gc(grace=0)
        assert not list(root.rglob("unpublished.json"))
        assert {found.step: found.load().state["i"] for found in again.checkpoints()} == {**state, 3: 3}
        if finished:
            break
    assert died > 30


class MovingByFile(PlainDisk):
    """Moves a directory by making it anew and moving each file, the manifest first or last."""

    manifest_first = True

    def rename(self, source_dir: Directory, source: str, target_dir: Directory, target: str) -> None:
        old, new = os.path.join(source_dir.path, source), os.path.join(target_dir.path, target)
        if not os.path.isdir(old):
            super().rename(source_dir, source, target_dir, target)
            return
        files = [Path(folder, name) for folder, _, names in os.walk(old) for name in names]
        for file in sorted(
            files, key=lambda file: ((file.name != "manifest.json") == self.manifest_first, file)
        ):
            self.step("rename one", str(file))
            to = Path(new, file.relative_to(old))
            to.parent.mkdir(parents=True, exist_ok=True)
            file.rename(to)
        for folder, _, _ in os.walk(old, topdown=False):
            os.rmdir(folder)


@pytest.mark.parametrize("manifest_first", [True, False])
def test_a_crash_in_the_middle_of_a_move_by_file_shows_no_half_checkpoint(
    tmp_path: Path, manifest_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptstore.commit.local.root.moves_whole", lambda path: False)
    halves = 0
    for after in itertools.count():
        root = tmp_path / str(after)
        open_store(root, PlainDisk()).save(1, {"i": 1})
        disk = MovingByFile(after)
        disk.manifest_first = manifest_first
        finished = False
        try:
            store = open_store(root, disk)
            store.save(2, {"i": 2})
            store.delete(1)
            finished = True
        except Crash:
            disk.drop()
        halves += disk.changes[-1][0] == "rename one"
        again = open_store(root, PlainDisk())
        assert [found.step for found in again.checkpoints()] in ([1], [1, 2], [2])
        assert all(report.ok for report in again.verify())
        if finished:
            break
    assert halves > 3


class LosingDisk(PlainDisk):
    """Loses one file of a directory that moves."""

    def rename(self, source_dir: Directory, source: str, target_dir: Directory, target: str) -> None:
        super().rename(source_dir, source, target_dir, target)
        if target.startswith("checkpoint_"):
            os.unlink(os.path.join(target_dir.path, target, "algorithm_state.pkl"))


def test_a_file_lost_on_the_way_is_never_acknowledged(tmp_path: Path) -> None:
    with pytest.raises(StoreUnsuitable, match="lost a file"):
        open_store(tmp_path, LosingDisk()).save(1, {"i": 1})
    assert open_store(tmp_path, PlainDisk()).latest() is None


# ---- Permissions, directory syncs, locks


@pytest.mark.parametrize("code", [*REFUSALS, errno.EINVAL])
def test_refused_permissions_are_said_once(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fchmod", refuse)
    mounts._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in (1, 2):
            CheckpointStore(tmp_path / "run").save(step, {"i": 1})
        with CheckpointStore(tmp_path / "other").stage(1) as path:
            Path(path, "closed").mkdir(mode=0o500)
            Path(path, "model.bin").write_bytes(b"weights")
    said = [str(one.message) for one in caught if one.category is WeakStorageWarning]
    assert len([text for text in said if "permissions" in text]) == 1
    assert set(try_all(tmp_path / "all").values()) == {"ok"}


def test_refused_directory_syncs_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def refuse(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.warns(WeakStorageWarning, match="a power cut may undo a save") as said:
        CheckpointStore(tmp_path / "run").save(1, {"i": 1})
    assert len(said) == 1
    assert set(try_all(tmp_path / "other").values()) == {"ok"}
    assert diagnose(LocalBackend(tmp_path / "run")).promises["directory sync"].startswith("no: a power cut")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_refused_sync_of_a_file_is_refused_with_the_mount(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Durability is the promise itself: nothing is acknowledged."""

    real = posix._sync

    def refuse(fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(posix, "_sync", refuse)
    for save in (lambda store: store.save(1, {"i": 1}), OPERATIONS["stage"]):
        with pytest.raises(StoreUnsuitable, match=r"mounted at .* can't sync files"):
            save(CheckpointStore(tmp_path / "run"))
    monkeypatch.undo()
    assert CheckpointStore(tmp_path / "run").latest() is None


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_refused_locks_are_said_once(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(WeakStorageWarning, match="only one process may save"):
        CheckpointStore(tmp_path / "run").save(1, {"i": 1})
    assert set(try_all(tmp_path / "other").values()) == {"ok"}
    assert diagnose(LocalBackend(tmp_path / "run")).promises["locks"].startswith("no: one process")


# ---- What is in use, or stale


class BusyDisk(Disk):
    """Refuses to remove one file, as NFS and Windows do with what is in use."""

    def __init__(self, code: int) -> None:
        self.code = code

    def unlink(self, parent: Directory, name: str) -> None:
        if name == "algorithm_state.pkl":
            raise OSError(self.code, os.strerror(self.code), name)
        super().unlink(parent, name)


@pytest.mark.parametrize("code", [errno.EBUSY, errno.ESTALE, errno.ENOTEMPTY])
def test_what_is_in_use_is_removed_later_and_keeps_nothing_else(tmp_path: Path, code: int) -> None:
    store = CheckpointStore(LocalBackend(tmp_path, BusyDisk(code)))
    for step in (1, 2, 3):
        store.save(step, {"i": step}, {"p": {"weights": {"w": [1.0]}}})
    store.delete(1)
    store.delete(2)
    assert [found.step for found in CheckpointStore(tmp_path).checkpoints()] == [3]
    with pytest.raises(StoreUnavailable):
        store.gc(grace=0)
    left = [path.name for path in (tmp_path / ".trash").rglob("*") if not path.is_dir()]
    assert left == ["algorithm_state.pkl"] * 2
    CheckpointStore(tmp_path).gc(grace=0)
    assert os.listdir(tmp_path / ".trash") == []


def test_a_silly_rename_is_removed_later(tmp_path: Path) -> None:
    """NFS keeps what is open under another name, so that its directory isn't empty."""

    class SillyDisk(Disk):
        def unlink(self, parent: Directory, name: str) -> None:
            if name == "algorithm_state.pkl":
                os.rename(os.path.join(parent.path, name), os.path.join(parent.path, ".nfs000001"))
            else:
                super().unlink(parent, name)

    store = CheckpointStore(LocalBackend(tmp_path, SillyDisk()))
    store.save(1, {"i": 1})
    store.delete(1)
    assert [path.name for path in (tmp_path / ".trash").rglob(".nfs*")] == [".nfs000001"]
    CheckpointStore(tmp_path).gc(grace=0)
    assert os.listdir(tmp_path / ".trash") == []


# ---- Doctor, and real mounts


def test_doctor_says_what_a_local_path_lacks(tmp_path: Path) -> None:
    found = diagnose(LocalBackend(tmp_path / "new"))
    calls = ("hard links", "exclusive rename", "permissions", "directory sync", "file sync", "locks", "moves")
    assert found.problem is None
    assert [found.promises[call] for call in calls] == ["yes"] * len(calls)
    assert not (tmp_path / "new").exists()
    plain = diagnose(LocalBackend(tmp_path / "new", PlainDisk()))
    assert isinstance(plain.problem, StoreUnsuitable)
    alone = diagnose(LocalBackend(tmp_path / "new", PlainDisk()), single_writer=True)
    assert alone.problem is None
    assert alone.promises["hard links"] == "no: files that didn't change are copied"
    assert "single_writer" in alone.promises["exclusive rename"]
    assert "one writer" in alone.promises["create-only writes"]


@pytest.fixture(params=["tmpfs", "overlay", pytest.param("ext4", marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest) -> Iterator[Path]:
    with mounted(request.param) as point:
        yield point


def test_everything_works_on_a_file_system_that_has_every_call(whole: Path) -> None:
    assert set(try_all(whole / "run").values()) == {"ok"}


@pytest.mark.parametrize(
    "mode", ["minimal", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("writes", "full"))]
)
def test_a_bucket_mounted_by_rclone(mode: str) -> None:
    with mounted(f"rclone {mode}") as point:
        assert try_all(point / "plain")["save"] == "StoreUnsuitable"
        assert set(try_all(point / "run", single_writer=True).values()) == {"ok"}
        with pytest.raises(StoreUnsuitable, match=r"fuse\.rclone mounted at"):
            CheckpointStore(point / "run").save(10, {"i": 1})


def test_a_mount_that_loses_files_is_refused() -> None:
    with mounted("rclone off") as point:
        outcomes = try_all(point / "run", single_writer=True)
        assert outcomes["save"] == outcomes["stage"] == "StoreUnsuitable"
        assert CheckpointStore(point / "run", create=False).checkpoints() == []
