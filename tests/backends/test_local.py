"""The local backend, checked with plain ``os``: what it wrote is read by others and the other way round."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import warnings
from pathlib import Path

import pytest

from ckptstore.backends.base import PlaceMissing
from ckptstore.backends.local import mounts, posix
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.local.mounts import WeakStorageWarning
from ckptstore.backends.local.posix import Directory, Disk
from tests.disks import FailingDisk, WatchedDisk

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="permissions, links and fifos of POSIX")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "root"


@pytest.fixture
def backend(root: Path) -> LocalBackend:
    return LocalBackend(root)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


# ---- The root


@posix_only
@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_the_first_write_makes_the_root_for_whom_the_umask_says(
    backend: LocalBackend, root: Path, umask: int
) -> None:
    with pytest.raises(FileNotFoundError):
        backend.list()
    before = os.umask(umask)
    try:
        backend.publish("a/b", b"x")
    finally:
        os.umask(before)
    for path in (root.parent, root, root / "a"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("first", ["read", "write"])
def test_a_vanished_root_is_not_made_anew(backend: LocalBackend, root: Path, first: str) -> None:
    root.mkdir(parents=True)
    if first == "read":
        backend.list()
    else:
        backend.publish("a", b"x")
    root.rename(root.with_name("unmounted"))
    for call in (backend.list, backend.children, lambda: backend.read("a")):
        with pytest.raises(PlaceMissing):
            call()
    with pytest.raises(FileNotFoundError):
        backend.publish("b", b"x")
    with pytest.raises(FileNotFoundError):
        backend.delete(["d/a"])
    assert not root.exists()


def test_a_file_in_the_place_of_the_root_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        LocalBackend(tmp_path / "file").publish("a", b"x")
    with pytest.raises(OSError, match="Not a directory"):
        LocalBackend(tmp_path / "file" / "below").publish("a", b"x")


def test_the_url_is_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = LocalBackend("ключ 100%#")
    assert backend.url == f"file://{tmp_path}/ключ 100%#"
    monkeypatch.chdir("/")
    backend.publish("a", b"x")
    assert (tmp_path / "ключ 100%#" / "a").read_bytes() == b"x"


@posix_only
def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    LocalBackend(tmp_path / "link").publish("a", b"x")
    assert (tmp_path / "real" / "a").read_bytes() == b"x"


# ---- Verbs


def test_publish_orders_write_sync_link_unlink_sync(root: Path) -> None:
    disk = WatchedDisk()
    backend = LocalBackend(root, disk)
    backend.publish("a/b/c", b"x")
    done = [operation for operation, _ in disk.steps]
    assert done[-8:] == ["create", "write", "fsync", "link", "unlink", *["fsync_dir"] * 3]
    assert [name for _, name in disk.steps[-3:]] == ["b", "a", "root"]
    assert ("fsync_dir", "deep") in disk.steps[:-8]  # the root's own name
    assert files(root) == ["a/b/c"]


def test_a_directory_that_others_made_is_synced_as_well(root: Path) -> None:
    (root / "a").mkdir(parents=True)
    disk = WatchedDisk()
    LocalBackend(root, disk).publish("a/c", b"x")
    assert disk.steps[-2:] == [("fsync_dir", "a"), ("fsync_dir", "root")]


def test_the_loser_of_publish_leaves_nothing(backend: LocalBackend, root: Path) -> None:
    backend.publish("a", b"first")
    with pytest.raises(FileExistsError):
        backend.publish("a", b"second")
    with pytest.raises(FileExistsError), backend.write("a") as sink:
        sink.write(b"third")
    assert files(root) == ["a"]
    assert (root / "a").read_bytes() == b"first"


def test_publish_has_one_winner_of_many_threads(backend: LocalBackend, root: Path) -> None:
    backend.publish("there", b"")
    won: list[int] = []

    def race(key: str, number: int, start: threading.Barrier) -> None:
        start.wait()
        try:
            LocalBackend(root).publish(key, str(number).encode())
        except FileExistsError:
            return
        won.append(number)

    for round_ in range(20):
        won.clear()
        start = threading.Barrier(8)
        threads = [threading.Thread(target=race, args=(f"r/{round_}", n, start)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert (root / f"r/{round_}").read_bytes() == str(won[0]).encode()


@pytest.mark.parametrize("operation", ["write", "fsync", "link", "fsync_dir"])
def test_a_failed_publish_is_not_acknowledged(root: Path, operation: str) -> None:
    root.mkdir(parents=True)
    # After the root's own sync, which is not the one that fails.
    broken = LocalBackend(root, FailingDisk(operation, errno.ENOSPC, after="create"))
    with pytest.raises(OSError, match="No space"):
        broken.publish("a", b"x")
    assert files(root) == (["a"] if operation == "fsync_dir" else [])


def test_a_failed_write_can_not_be_talked_away(root: Path) -> None:
    root.mkdir(parents=True)
    sink = LocalBackend(root, FailingDisk("write", errno.EDQUOT)).write("a")
    with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
        sink.write(bytes(1 << 20))
    with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
        sink.__exit__(None, None, None)
    assert files(root) == []


def test_replace_is_old_or_new(backend: LocalBackend, root: Path) -> None:
    backend.replace("a/s", b"old")
    broken = LocalBackend(root, FailingDisk("rename", errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        broken.replace("a/s", b"new")
    assert (root / "a/s").read_bytes() == b"old"
    assert files(root) == ["a/s"]
    backend.replace("a/s", b"new")
    assert (root / "a/s").read_bytes() == b"new"


@posix_only
def test_without_hard_links_the_exclusive_rename_does(root: Path) -> None:
    backend = LocalBackend(root, FailingDisk("link", errno.EPERM))
    backend.publish("a", b"first")
    with pytest.raises(FileExistsError):
        backend.publish("a", b"second")
    assert files(root) == ["a"]
    assert (root / "a").read_bytes() == b"first"


def test_small_and_large_writes_keep_their_order(backend: LocalBackend, root: Path) -> None:
    pieces = [bytes([n]) * size for n, size in enumerate([3, 300_000, 5, 100_000, 200_000, 9_000_000, 1, 0])]
    with backend.write("mixed") as sink:
        for piece in pieces:
            sink.write(memoryview(piece))
    assert (root / "mixed").read_bytes() == b"".join(pieces)


def test_short_writes_are_continued(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    LocalBackend(root).publish("a", bytes(range(100)))
    assert (root / "a").read_bytes() == bytes(range(100))


@pytest.mark.parametrize("name", ["preadv", "read"])
def test_short_reads_are_continued(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    backend = LocalBackend(root)
    backend.publish("a", bytes(range(100)))
    if name == "preadv" and hasattr(os, "preadv"):
        real = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:7]], at))
    else:
        monkeypatch.delattr(os, "preadv", raising=False)
        plain = os.read
        monkeypatch.setattr(os, "read", lambda fd, count: plain(fd, min(count, 7)))
    assert backend.read("a", 10, 90) == bytes(range(10, 90))
    with pytest.raises(EOFError):
        backend.read("a", 10, 101)


def test_delete_syncs_and_forgives_the_absent(backend: LocalBackend, root: Path) -> None:
    for key in ("a", "d/b", "d/c"):
        backend.publish(key, b"x")
    disk = WatchedDisk()
    LocalBackend(root, disk).delete(["d/b", "a", "d/absent", "absent/x"])
    assert files(root) == ["d/c"]
    assert [step for step in disk.steps if step[0] == "fsync_dir"] == [
        ("fsync_dir", "root"),
        ("fsync_dir", "d"),
    ]


def test_temporary_files_are_no_keys(backend: LocalBackend, root: Path) -> None:
    backend.publish("d/a", b"x")
    (root / "d/.ckptstore-0123456789abcdef.tmp").write_bytes(b"half")
    assert [listed.key for listed in backend.list()] == ["d/a"]
    assert backend.children("d") == ["a"]


# ---- What must not be followed or read


@posix_only
@pytest.mark.parametrize("key", ["link", "fifo", "device", "dirlink/secret", "directory"])
def test_only_plain_files_are_read(backend: LocalBackend, root: Path, tmp_path: Path, key: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    backend.publish("a", b"x")
    (root / "link").symlink_to(outside / "secret")
    (root / "dirlink").symlink_to(outside)
    (root / "device").symlink_to("/dev/zero")
    (root / "directory").mkdir()
    os.mkfifo(root / "fifo")
    with pytest.raises(OSError, match=r"never|Not a directory|regular"):
        backend.read(key, 0, 1)
    with pytest.raises(OSError, match=r"never|Not a directory|regular"):
        backend.read_into(key, 0, memoryview(bytearray(1)))


@posix_only
def test_links_are_listed_as_different_and_not_entered(
    backend: LocalBackend, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    backend.publish("d/a", b"x")
    (root / "d/link").symlink_to(tmp_path / "secret")
    (root / "d/up").symlink_to(tmp_path)
    os.mkfifo(root / "d/fifo")
    assert {listed.key: listed.size for listed in backend.list()} == {
        "d/a": 1,
        "d/fifo": -1,
        "d/link": -1,
        "d/up": -1,
    }
    assert backend.list("d/up") == []


@posix_only
def test_writes_do_not_follow_links_out(backend: LocalBackend, root: Path, tmp_path: Path) -> None:
    backend.publish("a", b"x")
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(OSError, match="no directory"):
        backend.publish("out/evil", b"x")
    with pytest.raises(OSError, match="no directory"):
        backend.delete(["out/evil"])
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("key", ["../x", "a/../x", "/x", "a//b", "a/", ".", "a/./b", "x\0y", ""])
def test_keys_stay_inside(backend: LocalBackend, root: Path, key: str) -> None:
    backend.publish("a", b"x")
    for call in (
        backend.read,
        lambda key: backend.publish(key, b"x"),
        lambda key: backend.replace(key, b"x"),
    ):
        with pytest.raises((ValueError, IsADirectoryError)):
            call(key)
    assert files(root) == ["a"]


# ---- What the system can't do


@posix_only
def test_an_exclusive_rename_is_made_from_mkdir_where_there_is_none(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "_renamer", None)
    disk = Disk()
    for name in ("from", "other"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_bytes(name.encode())
    (root / "empty").mkdir()
    with disk.open_root(str(root)) as directory:
        with pytest.warns(WeakStorageWarning, match="exclusive rename"), pytest.raises(FileExistsError):
            disk.rename_noreplace(directory, "from", directory, "empty")
        disk.rename_noreplace(directory, "from", directory, "to")
        with pytest.raises(FileExistsError):
            disk.rename_noreplace(directory, "other", directory, "to")
        with pytest.raises(FileNotFoundError):
            disk.rename_noreplace(directory, "absent", directory, "free")
    assert (root / "to" / "file").read_bytes() == b"from"
    assert sorted(os.listdir(root)) == ["empty", "other", "to"]


@posix_only
def test_an_exclusive_rename_spares_even_an_empty_directory(root: Path) -> None:
    (root / "from").mkdir(parents=True)
    (root / "empty").mkdir()
    with Disk().open_root(str(root)) as directory, pytest.raises(FileExistsError):
        Disk().rename_noreplace(directory, "from", directory, "empty")


@pytest.mark.parametrize(
    ("line", "weak"),
    [
        ("1 2 0:1 / {root} rw - nfs4 server:/x rw", True),
        ("1 2 0:1 / {root} rw - fuse.sshfs x rw", True),
        ("1 2 0:1 / {root} rw - overlay overlay rw", True),
        ("1 2 0:1 / {root} rw shared:1 - xfs /dev/sda rw", False),
        ("1 2 0:1 / {root}more rw - nfs4 x rw", False),
        ("1 2 0:1 / / rw - nfs4 x rw\n3 1 0:1 / {root} rw - ext4 x rw", False),
    ],
)
def test_weak_places_are_named_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, weak: bool
) -> None:
    table = tmp_path / "mountinfo"
    spelled = str(root).replace(" ", "\\040")
    table.write_text("9 9 0:1 / / rw - ext4 x rw\n" + line.format(root=spelled) + "\n")
    monkeypatch.setattr(mounts, "_MOUNTS", str(table))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            LocalBackend(root).replace("a", b"x")
    assert [warning.category for warning in said] == [WeakStorageWarning] * weak


def test_directories_that_can_not_be_synced_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not here")
        os.fsync(fd)

    monkeypatch.setattr(posix, "_sync", sync)
    with pytest.warns(WeakStorageWarning, match="power cut"):
        LocalBackend(root).publish("a", b"x")


def test_a_tree_may_vanish_while_it_is_removed(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "file").write_bytes(b"12345")
    os.link(tmp_path / "tree/a/file", tmp_path / "kept")

    class Racing(Disk):
        """Somebody else removes what is about to be removed."""

        def unlink(self, parent: Directory, name: str) -> None:
            if "/b/" in parent.path:
                Disk().unlink(parent, name)
            super().unlink(parent, name)

    disk = Racing()
    with disk.open_root(str(tmp_path)) as directory:
        assert disk.remove_tree(directory, "tree") == 0  # linked elsewhere, or removed by others
        assert disk.remove_tree(directory, "tree") == 0
    assert os.listdir(tmp_path) == ["kept"]
