"""The local commit: what it does in which order, whom it lets win, and what it never touches."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.local.mounts import WeakStorageWarning
from ckptstore.backends.local.posix import Directory, Disk, Identity, identity
from ckptstore.commit.base import IfExists
from ckptstore.commit.local.catalog import DirectoryCatalog
from ckptstore.errors import (
    CheckpointExists,
    CheckpointGone,
    CheckpointProtected,
    InvalidRequest,
    SaveAborted,
)
from ckptstore.format.names import CheckpointName
from tests.crash.world import catalog, leftovers, manifest, payload, save, state, tree
from tests.disks import FailingDisk, InterruptedDisk, WatchedDisk
from tests.inside import drain

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and permissions of POSIX")

ONE = CheckpointName(1)


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o022)
    yield 0o022
    os.umask(before)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def id_of(path: str | Path) -> Identity:
    return identity(os.lstat(path))


# ---- Order


def test_everything_is_synced_after_its_last_write_and_before_the_rename(root: str, umask: int) -> None:
    save(catalog(root), 1)
    disk = WatchedDisk()
    store = catalog(root, disk)
    attempt = store.begin(2, "error", "a")
    assert attempt.directory is not None
    for path, data in payload(2).items():
        with attempt.create(path) as sink:
            sink.write(data)
    os.makedirs(f"{attempt.directory}/by/others")
    Path(attempt.directory, "by/others/file").write_bytes(b"theirs")
    source = f"{ONE}/policies/p0/policy_state.pkl"
    assert attempt.reuse("policies/old/policy_state.pkl", source, os.path.getsize(f"{root}/{source}"))
    late = Path(attempt.directory, "policies/p1/policy_state.pkl")
    drain(attempt)
    late.chmod(0o600)
    late.write_bytes(b"changed by others after it was synced")
    before = disk.last("fsync", id_of(late))
    name = attempt.commit(manifest({}))

    renamed = disk.last("rename_noreplace")
    count = 0
    for folder, _, files in os.walk(os.path.join(root, str(name))):
        assert -1 < disk.last("fsync_dir", id_of(folder)) < renamed
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o777 & ~umask
        for file in files:
            this = id_of(os.path.join(folder, file))
            assert disk.last("write", this) < disk.last("fsync", this) < disk.last("fsync_dir", id_of(folder))
            assert disk.last("fsync", this) > -1
            assert stat.S_IMODE(os.stat(os.path.join(folder, file)).st_mode) == 0o444 & ~umask
            count += 1
    assert count == len(payload(2)) + 3
    assert disk.last("fsync", id_of(os.path.join(root, str(name), "policies/p1/policy_state.pkl"))) > before
    assert disk.last("fsync_dir", id_of(f"{root}/.staging")) > renamed
    assert disk.last("fsync_dir", id_of(root)) > renamed
    last_written = max(n for n, event in enumerate(disk.events) if event.operation == "write")
    assert disk.events[last_written].file == id_of(f"{root}/{name}/_ckptstore/manifest.json")


def test_what_was_synced_is_not_synced_again(root: str) -> None:
    disk = WatchedDisk()
    save(catalog(root, disk), 1)
    files = [event.file for event in disk.events if event.operation == "fsync"]
    assert len(files) == len(set(files)) == len(payload(1)) + 1


@pytest.mark.parametrize("operation", ["fsync", "fsync_dir", "write", "rename_noreplace", "chmod"])
def test_a_failed_change_is_not_acknowledged_and_not_tried_again(root: str, operation: str) -> None:
    save(catalog(root), 1)
    old = state(root)
    disk = FailingDisk(operation, where="" if operation != "fsync_dir" else ".staging/")
    with pytest.raises(OSError, match="Input/output"):
        save(catalog(root, disk), 2)
    assert state(root) == old
    assert leftovers(root) == []
    if operation not in {"fsync", "chmod", "fsync_dir"}:  # several threads may have begun one each
        assert len(disk.failed) == 1
    if operation == "fsync_dir":
        assert len(disk.failed) == len(set(disk.failed))
        assert not any("/./" in path for _, path in disk.failed)
    save(catalog(root), 2)


def test_a_failed_sync_of_the_root_keeps_what_may_exist(root: str) -> None:
    save(catalog(root), 1)

    with pytest.raises(OSError, match="Input/output"):
        save(catalog(root, FailingDisk("fsync_dir", after="rename_noreplace")), 2)
    assert len(state(root)) == 2  # it is there and whole, though nobody may count on it
    assert leftovers(root) == []


def test_the_first_failure_stops_the_next_file(root: str) -> None:
    store = catalog(root, FailingDisk("fsync", errno.ENOSPC))
    attempt = store.begin(1, "error", "a")
    with attempt.create("a") as sink:
        sink.write(b"x")
    with contextlib.suppress(OSError):
        drain(attempt)
    with pytest.raises(OSError, match="No space"):
        attempt.create("b")
    with pytest.raises(OSError, match="No space"):
        attempt.commit(manifest({}))
    assert leftovers(root) == []


def test_a_file_whose_writer_raised_is_never_committed(root: str) -> None:
    attempt = catalog(root).begin(1, "error", "a")
    sink = attempt.create("half")
    sink.write(b"x")
    sink.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    with pytest.raises(ZeroDivisionError):
        attempt.commit(manifest({}))
    assert state(root) == {}
    assert leftovers(root) == []


def test_syncs_go_on_when_the_interpreter_takes_no_threads(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", refuse)
    disk = WatchedDisk()
    save(catalog(root, disk), 1)
    assert sum(event.operation == "fsync" for event in disk.events) == len(payload(1)) + 1


# ---- Who wins


def test_a_step_is_refused_at_the_beginning_and_at_the_end(root: str) -> None:
    store = catalog(root)
    late = store.begin(1, "error", "late")
    save(store, 1)
    choices: tuple[IfExists, ...] = ("error", "return")
    for if_exists in choices:
        with pytest.raises(CheckpointExists) as caught:
            store.begin(1, if_exists, "other")
        assert caught.value.what == f"{store.backend.url}/{ONE}"
    with pytest.raises(CheckpointExists):
        late.commit(manifest({}))
    assert state(root) == {str(ONE): {**payload(1), "_ckptstore/manifest.json": manifest(payload(1))}}
    assert leftovers(root) == []


def _race(root: str, kind: type[DirectoryCatalog]) -> list[CheckpointName]:
    """Two saves of step 1, the second between the check and the rename of the first."""
    won: list[CheckpointName] = []

    def second() -> None:
        with contextlib.suppress(TimeoutError):
            won.append(save(kind(LocalBackend(root), timeout=0.05), 1, text="second"))

    won.append(save(kind(LocalBackend(root, InterruptedDisk(second, "rename_noreplace")), timeout=0.05), 1))
    return won


def test_nobody_gets_between_the_check_and_the_rename(root: str) -> None:
    assert _race(root, DirectoryCatalog) == [ONE]
    assert list(state(root)) == [str(ONE)]


def test_without_the_root_lock_two_would_win(root: str) -> None:
    class Unlocked(DirectoryCatalog):
        @contextlib.contextmanager
        def hold_lock(self):  # type: ignore[no-untyped-def]
            with self.backend.open_root() as directory:
                yield directory

    assert len(_race(root, Unlocked)) == 2


def test_a_foreign_directory_is_passed_over_even_if_empty(root: str) -> None:
    os.makedirs(f"{root}/{ONE}")
    os.makedirs(f"{root}/{ONE}-r1/_ckptstore")
    Path(root, f"{ONE}-r1/_ckptstore/manifest.json").write_bytes(b'{"state": "deleted"}')
    Path(root, f"{ONE}-r2").write_bytes(b"a file")
    os.symlink("elsewhere", f"{root}/{ONE}-r3")
    assert save(catalog(root), 1) == CheckpointName(1, 4)
    assert os.listdir(f"{root}/{ONE}") == []


def test_a_plain_rename_would_take_the_empty_directory(root: str) -> None:
    class Plain(Disk):
        def rename_noreplace(
            self, source_dir: Directory, source: str, target_dir: Directory, target: str
        ) -> None:
            os.makedirs(f"{root}/{ONE}")  # by somebody else, since the names were listed
            super().rename(source_dir, source, target_dir, target)

    assert save(catalog(root, Plain()), 1) == ONE


def test_replace_takes_all_lower_ones_away(root: str) -> None:
    store = catalog(root)
    save(store, 1)
    shutil.copytree(f"{root}/{ONE}", f"{root}/{ONE}-r1")  # as a crashed replacement leaves it
    os.mkdir(f"{root}/{ONE}-r2")
    assert save(store, 1, "replace", "new") == CheckpointName(1, 3)
    assert list(state(root)) == [f"{ONE}-r3"]
    assert leftovers(root) == [f"{ONE}-r2"]


def test_what_can_not_be_removed_does_not_unmake_a_commit(
    root: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(catalog(root), 1)
    caplog.set_level(logging.WARNING)
    name = save(catalog(root, FailingDisk("unlink", where=".trash")), 1, "replace", "new")
    assert list(state(root)) == [str(name)]
    assert "next sweep" in caplog.text
    newer = save(catalog(root, FailingDisk("rename", where=".trash")), 1, "replace", "newer")
    assert newer == CheckpointName(1, 2)
    assert list(state(root)) == [str(name), f"{ONE}-r2"]  # the higher one counts
    catalog(root).sweep(None)
    catalog(root).delete(CheckpointName(1, 2), lambda: None)
    assert state(root) == {}
    assert leftovers(root) == []


# ---- Writers that are stopped, stolen from, or forked


def test_a_swept_writer_is_told(root: str) -> None:
    for moment in ("create", "commit"):
        attempt = catalog(root).begin(1, "error", "slow")
        with attempt.create("a") as sink:
            sink.write(b"x")
        if moment == "create":
            shutil.rmtree(f"{root}/.staging/slow")
            with pytest.raises(SaveAborted):
                attempt.create("b")
        else:
            os.rename(f"{root}/.staging/slow", f"{root}/.staging/moved")
            os.mkdir(f"{root}/.staging/slow")  # another's, under the same name
        with pytest.raises(SaveAborted):
            attempt.commit(manifest({}))
        assert state(root) == {}
        shutil.rmtree(f"{root}/.staging")


_STOPS = """
import os, signal, sys
from ckptstore.errors import SaveAborted
from tests.crash.world import catalog, manifest
attempt = catalog(sys.argv[1]).begin(1, "error", "stopped")
with attempt.create("a") as sink:
    sink.write(b"x")
print("stopping", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
try:
    print("committed", attempt.commit(manifest({})))
except SaveAborted:
    print("aborted")
"""


@pytest.mark.parametrize("stolen", [False, True])
def test_a_stopped_writer_is_alive_unless_locks_do_not_reach(root: str, stolen: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", _STOPS, root], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "stopping\n"
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WNOWAIT)
        assert catalog(root).sweep(0).attempts == []
        if stolen:
            os.makedirs(f"{root}/.trash", exist_ok=True)
            os.rename(f"{root}/.staging/stopped", f"{root}/.trash/stopped.1")
        writer.send_signal(signal.SIGCONT)
        assert writer.stdout.read().split()[0] == ("aborted" if stolen else "committed")
    assert os.path.exists(f"{root}/{ONE}") is not stolen


_FORKS = """
import os, sys, time
from tests.crash.world import catalog
store = catalog(sys.argv[1])
attempt = store.begin(1, "error", "forked")
with store.hold_lock():
    if not os.fork():
        print(os.getpid(), flush=True)
        time.sleep(60)
    time.sleep(0.1)
    os._exit(0)
"""


def test_a_forked_child_keeps_no_lock_of_its_dead_parent(root: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _FORKS, root], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            parent.wait()
            os.kill(child, 0)
            assert catalog(root).sweep(0).attempts == ["forked"]
        finally:
            os.kill(child, signal.SIGKILL)
    assert leftovers(root) == []


def test_a_forked_child_can_not_end_its_parents_save(root: str) -> None:
    attempt = catalog(root).begin(1, "error", "parents")
    with attempt.create("a") as sink:
        sink.write(b"x")
    drain(attempt)
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(SaveAborted):
            attempt.abandon()
            attempt.commit(manifest({}))
            code = 2
        os._exit(code - 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert catalog(root).sweep(0).attempts == []  # the child's end took no lock with it
    assert attempt.commit(manifest({})) == ONE


def test_a_lock_that_is_never_let_go_ends_in_an_error(root: str) -> None:
    store = catalog(root)
    save(store, 1)
    with store.guard(ONE), pytest.raises(TimeoutError):
        DirectoryCatalog(LocalBackend(root), timeout=0.05).delete(ONE, lambda: None)
    assert len(state(root)) == 1


def _no_locks(monkeypatch: pytest.MonkeyPatch, refused: Callable[[int], bool], code: int) -> None:
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and refused(os.fstat(fd).st_mode):
            raise OSError(code, os.strerror(code))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_where_directories_have_no_locks_a_file_has(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_locks(monkeypatch, stat.S_ISDIR, errno.EBADF)  # as NFS answers
    assert _race(root, DirectoryCatalog) == [ONE]
    assert os.path.exists(f"{root}/.lock")
    living = catalog(root).begin(2, "error", "living")
    os.makedirs(f"{root}/.staging/dead")
    Path(f"{root}/.staging/dead.lock").touch()
    assert catalog(root).sweep(None).attempts == ["dead"]
    living.commit(manifest({}))


def test_where_nothing_has_locks_that_is_said_and_nothing_is_swept(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_locks(monkeypatch, lambda mode: True, errno.ENOLCK)
    with pytest.warns(WeakStorageWarning, match="only one process"):
        save(catalog(root), 1)
    living = catalog(root).begin(2, "error", "living")
    assert catalog(root).sweep(None).attempts == []
    living.commit(manifest({}))
    assert len(state(root)) == 2


# ---- Deleting, guarding, sweeping


def test_delete_asks_under_the_lock_and_then_removes(root: str) -> None:
    store = catalog(root)
    save(store, 1)

    def refuse() -> None:
        with pytest.raises(TimeoutError), DirectoryCatalog(store.backend, timeout=0.05).guard(ONE):
            pass
        raise CheckpointProtected(str(ONE))

    with pytest.raises(CheckpointProtected):
        store.delete(ONE, refuse)
    assert len(state(root)) == 1
    store.delete(ONE, lambda: None)
    assert state(root) == {}
    assert leftovers(root) == []
    with pytest.raises(CheckpointGone):
        store.delete(ONE, lambda: None)
    with pytest.raises(CheckpointGone), store.guard(ONE):
        pass


def test_deleting_never_brings_a_lower_attempt_back(root: str) -> None:
    store = catalog(root)
    save(store, 1, text="old")
    shutil.copytree(f"{root}/{ONE}", f"{root}/{ONE}-r1")
    shutil.copytree(f"{root}/{ONE}", f"{root}/{ONE}-r2")
    store.delete(CheckpointName(1, 1), lambda: None)
    assert list(state(root)) == [f"{ONE}-r2"]


def test_linked_bytes_survive_the_checkpoint_they_came_from(root: str) -> None:
    store = catalog(root)
    save(store, 1)
    attempt = store.begin(2, "error", "a")
    source = f"{ONE}/policies/p0/policy_state.pkl"
    size = os.path.getsize(f"{root}/{source}")
    assert attempt.reuse("policies/p0/policy_state.pkl", source, size)
    with pytest.raises(InvalidRequest):
        attempt.reuse("policies/p0/policy_state.pkl", source, size)
    name = attempt.commit(manifest({}))
    linked = f"{root}/{name}/policies/p0/policy_state.pkl"
    assert id_of(linked) == id_of(f"{root}/{source}")
    store.delete(ONE, lambda: None)
    assert Path(linked).read_bytes() == payload(1)["policies/p0/policy_state.pkl"]


def test_what_can_not_be_linked_is_left_to_the_caller(root: str) -> None:
    save(catalog(root), 1)
    source = f"{ONE}/policies/p0/policy_state.pkl"
    size = os.path.getsize(f"{root}/{source}")
    for code in (errno.EMLINK, errno.EXDEV, errno.EPERM):
        attempt = catalog(root, FailingDisk("link", code)).begin(2, "error", "a")
        assert not attempt.reuse("x", source, size)
        attempt.abandon()
    attempt = catalog(root).begin(2, "error", "a")
    assert not attempt.reuse("x", source, size + 1)  # not the file that it is taken for
    os.chmod(f"{root}/{source}", 0o600)  # somebody may yet write to it
    os.symlink("policies", f"{root}/{ONE}/linked")
    for key in (source, f"{ONE}/absent", f"{ONE}/linked/p1/policy_state.pkl", f"{ONE}/linked", str(ONE)):
        assert not attempt.reuse("x", key, size)
    attempt.abandon()


def test_sweep_takes_the_dead_and_counts_bytes(root: str) -> None:
    store = catalog(root)
    save(store, 1)
    living = store.begin(2, "error", "living")  # before there are dead ones, which it would remove
    old = tree(f"{root}/{ONE}")
    for name in ("dead", "young"):
        os.makedirs(f"{root}/.staging/{name}")
        Path(root, f".staging/{name}/half").write_bytes(bytes(1000))
        Path(root, f".staging/{name}.lock").touch()
    os.utime(f"{root}/.staging/dead", (0, 0))
    Path(root, ".staging/only.lock").touch()
    os.makedirs(f"{root}/.trash/{ONE}.0011223344556677")
    Path(root, f".trash/{ONE}.0011223344556677/x").write_bytes(bytes(10))
    for folder in ("_ckptstore/refs/a", f"{ONE}/_ckptstore"):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
        for number, age in enumerate((0.0, 4000.0)):
            stray = Path(root, folder, f".ckptstore-000000000000000{number}.tmp")
            stray.write_bytes(bytes(100))
            os.utime(stray, (time.time() - age,) * 2)

    swept = store.sweep(3600)
    assert swept.attempts == [str(ONE), "dead"]
    assert swept.bytes == 1000 + 10 + 2 * 100
    assert sorted(os.listdir(f"{root}/.staging")) == ["living", "living.lock", "young", "young.lock"]
    assert os.listdir(f"{root}/.trash") == []
    assert os.listdir(f"{root}/_ckptstore/refs/a") == [".ckptstore-0000000000000000.tmp"]
    os.unlink(f"{root}/{ONE}/_ckptstore/.ckptstore-0000000000000000.tmp")
    assert tree(f"{root}/{ONE}") == old

    assert store.sweep(None).attempts == ["young"]
    living.abandon()
    assert os.listdir(f"{root}/.staging") == []


@pytest.mark.parametrize(
    "key", ["_ckptstore/store.json", "_ckptstore/refs/best/000000000001.json", f"{ONE}/_ckptstore/x"]
)
@pytest.mark.parametrize("how", ["write", "replace"])
def test_a_clock_that_jumps_makes_no_writer_dead(root: str, key: str, how: str) -> None:
    """Of a temporary file its lock decides, as of a staged directory; a dead writer's goes."""
    store = catalog(root)
    save(store, 1)
    backend = store.backend
    folder = Path(root, key).parent
    with backend._sink(key, replace=how == "replace") as sink:
        (temporary,) = (path for path in folder.iterdir() if path.name.endswith(".tmp"))
        os.utime(temporary, (0, 0))
        store.sweep(None)
        sink.write(b"whole")
    assert Path(root, key).read_bytes() == b"whole"
    left = folder / ".ckptstore-0000000000000009.tmp"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    store.sweep(None)
    assert not left.exists()


def test_many_may_sweep_and_delete_at_once(root: str) -> None:
    store = catalog(root)
    for step in range(8):
        save(store, step)
    for number in range(8):
        os.makedirs(f"{root}/.staging/dead{number}/deep")
        Path(root, f".staging/dead{number}/deep/half").write_bytes(bytes(100))
    swept: list[int] = []
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = catalog(root)
            for step in range(number, 8, 4):
                swept.append(mine.sweep(None).bytes)
                if step < 6:
                    mine.delete(CheckpointName(step), lambda: None)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    store.sweep(None)
    assert leftovers(root) == []
    assert list(state(root)) == ["checkpoint_000006", "checkpoint_000007"]
    assert sum(swept) >= 800


def test_what_others_staged_read_only_can_be_removed(root: str) -> None:
    attempt = catalog(root).begin(1, "error", "a")
    assert attempt.directory is not None
    os.makedirs(f"{attempt.directory}/locked")
    Path(attempt.directory, "locked/file").write_bytes(b"x")
    os.chmod(f"{attempt.directory}/locked", 0o500)
    attempt.abandon()
    assert leftovers(root) == []


# ---- What is refused


@pytest.mark.parametrize("attempt_id", ["", "../x", "a/b", ".hidden", "x.lock", "a" * 200])
def test_odd_attempt_ids_are_refused(root: str, attempt_id: str) -> None:
    with pytest.raises(InvalidRequest):
        catalog(root).begin(1, "error", attempt_id)


def test_an_attempt_id_is_used_once_at_a_time(root: str) -> None:
    first = catalog(root).begin(1, "error", "a")
    with pytest.raises(InvalidRequest):
        catalog(root).begin(2, "error", "a")
    assert first.commit(manifest({})) == ONE


def test_a_file_is_created_once(root: str) -> None:
    attempt = catalog(root).begin(1, "error", "a")
    with attempt.create("x/y") as sink:
        sink.write(b"1")
    for path in ("x/y", "x/y/z", "x"):
        with pytest.raises(InvalidRequest):
            attempt.create(path)
    attempt.abandon()


@pytest.mark.parametrize("make", [lambda path: os.symlink("/etc/passwd", path), os.mkfifo])
def test_only_plain_files_are_committed(root: str, make: Callable[[str], None]) -> None:
    attempt = catalog(root).begin(1, "error", "a")
    make(f"{attempt.directory}/odd")
    with pytest.raises(InvalidRequest):
        attempt.commit(manifest({}))
    assert leftovers(root) == []


def test_a_manifest_that_looks_like_a_tombstone_is_refused(root: str) -> None:
    with pytest.raises(InvalidRequest):
        catalog(root).begin(1, "error", "a").commit(b"{}")
    assert leftovers(root) == []


def test_after_the_end_nothing_is_done_any_more(root: str) -> None:
    store = catalog(root)
    attempt = store.begin(1, "error", "a")
    attempt.commit(manifest({}))
    attempt.abandon()
    for call in (lambda: attempt.commit(manifest({})), lambda: attempt.create("x")):
        with pytest.raises(SaveAborted):
            call()
    assert list(state(root)) == [str(ONE)]
    given_up = store.begin(2, "error", "b")
    given_up.abandon()
    given_up.abandon()
    with pytest.raises(SaveAborted):
        given_up.commit(manifest({}))


def test_names_are_directories_spelled_exactly(root: str) -> None:
    for name in ("checkpoint_000010", "checkpoint_1000000", "checkpoint_10", "checkpoint_000010-r0", "x"):
        os.makedirs(f"{root}/{name}")
    Path(root, "checkpoint_000011").write_bytes(b"")
    os.symlink("checkpoint_000010", f"{root}/checkpoint_000012")  # one that was moved, and linked back
    os.mkfifo(f"{root}/checkpoint_000013")
    there = [CheckpointName(step) for step in (10, 12, 1000000)]
    assert catalog(root).names() == there
    assert catalog(root).scan() == {name: {} for name in there}


def test_no_descriptor_is_left_open(root: str) -> None:
    store = catalog(root)
    save(store, 0)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for step in range(1, 4):
        save(store, step)
        save(store, step, "replace")
        store.begin(9, "error", "a").abandon()
        with contextlib.suppress(OSError):
            save(catalog(root, FailingDisk("write")), 8)
        with contextlib.suppress(CheckpointExists):
            save(store, step)
        store.delete(store.names()[-1], lambda: None)
        store.sweep(None)
        store.scan()
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before
