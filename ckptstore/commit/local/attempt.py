"""One checkpoint being written on a local disk: staged, synced, renamed into place.

The rename is the commit. Nothing is acknowledged, and nothing that depended on it undone, before the
files and directories involved are on the medium.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from ckptstore.backends.base import NotCreateOnly
from ckptstore.backends.local.backend import FileSink
from ckptstore.backends.local.paths import OpenPaths
from ckptstore.backends.local.posix import Directory, explain_loss, identity
from ckptstore.commit.attempts import next_name
from ckptstore.commit.base import Check, IfExists
from ckptstore.commit.failures import already_committed, already_written, check_manifest_length, url_of
from ckptstore.commit.local import in_place
from ckptstore.commit.local.root import (
    LOCK,
    LocalRoot,
    all_names,
    drop_lock,
    is_committed,
    leads_to,
    new_lock,
)
from ckptstore.errors import CheckpointProtected, InvalidRequest, SaveAborted
from ckptstore.format import manifest as manifests
from ckptstore.format.droppings import is_dropping
from ckptstore.format.names import MANIFEST, CheckpointName, relative_path
from ckptstore.logs import logger
from ckptstore.work import Pool, Task

if sys.platform != "win32":
    import resource

_SYNCERS = 2  # more threads measured no faster, one is slower when files are small
_CLOCK_TICK = 0.02  # seconds; file systems stamp times by the kernel's clock, which moves every 1 to 10 ms
_PENDING = 64  # files that may wait for their sync: bounds open descriptors and dirty memory
_DESCRIPTORS_EACH = 8  # of those that the process may have, for one such file: others are open, too


class _Modes(NamedTuple):
    """What new files and directories may have here, by umask, setgid directory and default ACL."""

    directory: int
    file: int
    group: int

    @classmethod
    def within(cls, made: os.stat_result) -> _Modes:
        """Those below a directory that was just made."""
        mode = made.st_mode & 0o777 | 0o700
        return cls(mode, mode & 0o444, made.st_gid)

    def fit(self, status: os.stat_result) -> bool:
        """Whether it is a file such as a save makes: one that nobody may write to, for the same people."""
        same = stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == self.file
        return same and (status.st_gid == self.group or sys.platform == "win32")


class DirectoryAttempt:
    """One directory being written under ``.staging``: an :class:`~ckptstore.commit.base.Attempt`.

    Files are synced by background threads while the next ones are written, which makes a durable save
    about as fast as the disk. Only the process that began it can commit or abandon it: a forked child
    has no lock.
    """

    reuse_from = 0
    read_freely = 32 * 2**20  # 10 ms out of the page cache

    def __init__(
        self,
        catalog: LocalRoot,
        step: int,
        if_exists: IfExists,
        attempt_id: str,
        staging: Directory,
        check: Check,
    ) -> None:
        self.id = attempt_id
        self.directory: str | None = os.path.join(staging.path, attempt_id)
        self._catalog = catalog
        self._disk = catalog.backend.disk
        self._step = step
        self._label = url_of(catalog.backend, CheckpointName(step))
        self._if_exists = if_exists
        self._staging = staging
        self._check = check
        self._pool = Pool(_SYNCERS)
        self._pending: deque[Task[None]] = deque()
        self._room = _files_at_once()
        self._synced: dict[tuple[int, int], tuple[int, int]] = {}
        self._times: dict[str, int] = {}
        self._created: set[str] = set()
        self._frozen: dict[str, tuple[tuple[int, int], int, int]] = {}
        self._failure: BaseException | None = None
        self._published = False
        self._manifest = b""
        self._lock = new_lock(self._disk, staging, attempt_id, catalog.timeout)
        try:
            self._disk.mkdir(staging, attempt_id)
            self._top = self._disk.open_dir(staging, attempt_id)
            status = self._disk.status(staging, attempt_id)
            self._identity = identity(status)
            self._modes = _Modes.within(status)
            self._places = OpenPaths(self._disk, lambda: self._disk.open_dir(self._top, "."), make=True)
            self._others = OpenPaths(self._disk, catalog.backend.open_root)
        except BaseException:
            self._drop_lock()
            raise

    # ---- Writing

    def create(self, path: str) -> FileSink:
        """A new file of the checkpoint; InvalidRequest if there is one already."""
        with self._place(path) as (directory, name):
            fd = self._disk.create(directory, name)
        self._created.add(path)

        def finish(fd: int, error: BaseException | None) -> None:
            if error is None:
                self._submit(partial(self._settle_file, fd))
                return
            self._failure = self._failure or error  # the file is cut short: never commit it
            self._disk.close(fd)

        return FileSink(self._disk, fd, finish)

    def reuse(self, path: str, key: str, size: int) -> bool:
        """Make the file `key` of another checkpoint a file of this one, by a hard link.

        False where that can't be: no such file, no links here or no more of them, a file of other
        permissions or another group than a new one would have, or one that was written to after the
        manifest that vouches for it. Then write it anew.
        """
        *parts, source = relative_path(key, self.id).split("/")
        with self._place(path) as (directory, name):
            try:
                committed = self._commit_time(parts[:1])
                origin = self._others.to(parts)
                status = self._disk.status(origin, source)
                if not self._modes.fit(status) or status.st_size != size:
                    return False
                if status.st_mtime_ns > committed:
                    return False
                self._disk.link(origin, source, directory, name)
            except FileExistsError:
                raise
            except OSError as error:
                logger.debug("%s is copied, not linked: %s", key, error)
                return False
        return True

    def _commit_time(self, checkpoint: Sequence[str]) -> int:
        """When the manifest in there was written, in nanoseconds by the file system's clock."""
        key = "/".join(checkpoint)
        if key not in self._times:
            meta, manifest = MANIFEST.split("/")
            self._times[key] = self._disk.status(self._others.to([*checkpoint, meta]), manifest).st_mtime_ns
        return self._times[key]

    @contextlib.contextmanager
    def _place(self, path: str) -> Iterator[tuple[Directory, str]]:
        """The directory of a new file, made if need be, and the file's name in it."""
        self._check_alive()
        *parts, name = relative_path(path, self.id).split("/")
        try:
            yield self._places.to(parts), name
        except (FileExistsError, NotADirectoryError):
            raise already_written(self._catalog.backend, CheckpointName(self._step), path) from None
        except FileNotFoundError:
            self._check_ours()
            raise

    def _check_alive(self) -> None:
        if self._failure:
            raise self._failure
        if not self._lock.is_held:
            raise SaveAborted(self._label, "it has ended, or began in another process", "Begin a new save")

    def _submit(self, settle: Callable[[], None]) -> None:
        """Have a background thread make something durable."""
        while len(self._pending) >= self._room:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._pending.popleft().join()
        self._pending.append(self._pool.submit(self._settle, settle))

    def _settle(self, settle: Callable[[], None]) -> None:
        try:
            settle()
        except BaseException as error:
            self._failure = self._failure or error
            raise

    def _settle_file(self, fd: int) -> None:
        """Make the file durable and unwritable: later saves may link it instead of writing it again."""
        try:
            if self._failure is None:
                self._disk.chmod(fd, self._modes.file)
                status = os.fstat(fd)  # before the sync: what is written during it counts as unsynced
                self._disk.fsync(fd)
                self._synced[identity(status)] = (status.st_size, status.st_mtime_ns)
        finally:
            self._disk.close(fd)

    def _settle_directory(self, directory: Directory) -> None:
        """Make the names in it durable."""
        with directory:
            if self._failure is None:
                self._disk.fsync_dir(directory)

    def _drain(self) -> None:
        """Wait for every sync; raises the first failure."""
        pending = self._outlast()
        for done in pending:
            done.result()
        if self._failure:
            raise self._failure

    def _outlast(self) -> list[Task[None]]:
        """Wait for every sync, however it ends."""
        pending = list(self._pending)
        for done in pending:
            done.outlast()
        self._pending.clear()
        return pending

    def freeze(self, paths: Sequence[str]) -> None:
        """See :class:`~ckptstore.commit.base.Attempt`.

        Their times are noted first, and only then are they synced: a write through a memory map shows in
        them where it is the first since then, and one that came before is in what is read after.
        """
        self._check_alive()
        self._follow_replacement()
        self._frozen = {path: self._version(path) for path in paths}
        time.sleep(_CLOCK_TICK)  # so that a later write gets a later time
        self._check_frozen()
        for path in paths:
            with self._place(path) as (directory, name):
                self._sync_file(directory, name)

    def _follow_replacement(self) -> None:
        """Take the directory that its program put in the place of ours, as some do with what they are given.

        Not a sweep's doing: that would have taken our lock, which is still there.
        """
        with contextlib.suppress(FileNotFoundError):
            if identity(self._disk.status(self._staging, self.id)) == self._identity:
                return
        if not leads_to(self._disk, self._staging, self.id + LOCK, self._lock.fd):
            self._check_ours()
        try:
            top = self._disk.open_dir(self._staging, self.id)
        except FileNotFoundError:
            raise SaveAborted(self._label, "its directory is gone", "Leave the directory in place") from None
        self._places.close()
        self._top.close()
        self._top, self._identity = top, identity(self._disk.status(self._staging, self.id))

    def _version(self, path: str) -> tuple[tuple[int, int], int, int]:
        with self._place(path) as (directory, name):
            status = self._disk.status(directory, name)
        return identity(status), status.st_size, status.st_mtime_ns

    def _check_frozen(self) -> None:
        for path, version in self._frozen.items():
            try:
                same = self._version(path) == version
            except FileNotFoundError:
                same = False
            if not same:
                raise self._refuse_change(path)

    def _refuse_change(self, path: str) -> SaveAborted:
        why = "it changed while it was being committed"
        remedy = "Close every file, and stop what writes there, before you commit them"
        return SaveAborted(f"{self._label}/{path}", why, remedy)

    # ---- The end

    def commit(self, manifest: bytes) -> CheckpointName:
        """Make the checkpoint exist, durably. See :class:`~ckptstore.commit.base.Attempt`."""
        try:
            self._check_alive()
            check_manifest_length(manifest)
            self._manifest = manifest
            self._drain()
            with self.create(MANIFEST) as sink:
                sink.write(manifest)
            self._drain()
            self._sync_tree(self._disk.open_dir(self._top, "."), "")
            self._drain()
            self._check_frozen()
            name, trashed = self._publish()
        except BaseException:
            if not self._published:
                self.abandon()
            self._close()
            raise
        self._close()
        self._catalog.remove_quietly(trashed)
        return name

    def _sync_tree(self, directory: Directory, path: str) -> None:
        """Sync what is not yet, files before the directory that names them, whoever wrote them.

        Closes `directory`. Which of two directories comes first is all the same: none has a name yet
        under which a reader would find it.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(directory)
            for entry in list(self._disk.entries(directory)):
                where = f"{path}{entry.name}"
                if entry.is_dir:
                    self._sync_tree(self._disk.open_dir(directory, entry.name), f"{where}/")
                elif entry.size < 0:
                    raise InvalidRequest(
                        f"{self._label}/{where}",
                        "it is not a regular file",
                        "Save a copy of what it points to",
                    )
                else:
                    new = self._frozen and where not in self._frozen and where not in self._created
                    if new and not is_dropping(where):
                        raise self._refuse_change(where)
                    self._sync_file(directory, entry.name)
            if directory.fd >= 0:
                mode = stat.S_IMODE(os.fstat(directory.fd).st_mode)
                if mode & 0o777 != self._modes.directory:
                    self._disk.chmod(directory.fd, mode & 0o7000 | self._modes.directory)
            stack.pop_all()
        self._submit(partial(self._settle_directory, directory))

    def _sync_file(self, directory: Directory, name: str) -> None:
        status = self._disk.status(directory, name)
        file, version = identity(status), (status.st_size, status.st_mtime_ns)
        if version in (self._synced.get(file), self._catalog.durable.get(file)):
            self._synced[file] = version
            return
        if directory.fd < 0:
            return  # Windows syncs only what is open for writing; the root's warning said so
        fd = self._disk.open_file(directory, name)
        try:
            if status.st_nlink == 1 and stat.S_IMODE(status.st_mode) != self._modes.file:
                self._disk.chmod(fd, self._modes.file)  # a file with other links belongs to others as well
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)

    def _publish(self) -> tuple[CheckpointName, list[str]]:
        disk, trashed = self._disk, list[str]()
        with self._catalog.hold_lock() as root:
            self._check_ours()
            there = [name for name in all_names(disk, root) if name.step == self._step]
            lower = [name for name in there if is_committed(disk, root, name)]
            if lower and self._if_exists != "replace":
                raise already_committed(self._catalog.backend, lower[-1])
            name = self._rename(root, there)
            self._published = True
            disk.fsync_dir(self._staging)
            disk.fsync_dir(root)
            self._catalog.durable = self._synced
            try:
                trashed = self._catalog.unpublish(root, list(filter(self._may_go, lower)))
            except OSError as error:  # committed all the same, and the higher attempt is the one that counts
                logger.warning("%s replaces %s, which could not be removed: %s", name, lower[-1], error)
        return name, trashed

    def _may_go(self, name: CheckpointName) -> bool:
        """Whether nothing protects `name`; asked under the root's lock, where no tag can slip past."""
        try:
            self._check(name)
        except CheckpointProtected:
            return False
        return True

    def _check_ours(self) -> None:
        """SaveAborted if a sweep took our directory, as it may where locks don't reach (NFS)."""
        with contextlib.suppress(FileNotFoundError):
            if identity(self._disk.status(self._staging, self.id)) == self._identity:
                return
        raise SaveAborted(self._label, "a sweep removed its staging directory", "Save again")

    def _rename(self, root: Directory, there: Sequence[CheckpointName]) -> CheckpointName:
        """Publish above the directories that are `there`; what else has such a name is passed over."""
        names = self._names_above(there)
        while True:
            name = next(names)
            try:
                self._disk.rename_noreplace(self._staging, self.id, root, str(name))
                return name
            except FileExistsError:
                continue
            except NotCreateOnly:
                if not self._catalog.backend.single_writer:
                    raise
            free = chain([name], names)
            return in_place.publish(self._disk, self._staging, self.id, root, free, self._check_arrived)

    def _check_arrived(self, name: CheckpointName) -> None:
        """NotDurable if the move has lost a file, as it may where it goes file by file."""
        there = {file.key: file.size for file in self._catalog.backend.list(str(name))}
        files = manifests.load(self._manifest, self._label).files
        if any(there.get(f"{name}/{file.path}") != file.size for file in files):
            raise explain_loss(self._catalog.backend.root)

    def _names_above(self, there: Sequence[CheckpointName]) -> Iterator[CheckpointName]:
        while True:
            there = [next_name(self._catalog.backend, self._step, there)]
            yield there[0]

    def abandon(self) -> None:
        """Remove what was staged; never raises an Exception. What it can't remove, a sweep will."""
        if not self._lock.is_held:
            return
        if self._published:
            self._close()
            return
        with contextlib.suppress(Exception):
            self._failure = self._failure or SaveAborted(self._label, "it was abandoned")
            self._outlast()  # and not what failed, which may be an interrupt
        with contextlib.suppress(Exception):
            self._check_ours()
            self._disk.remove_tree(self._staging, self.id)
        self._close()

    def _close(self) -> None:
        self._drop_lock()
        self._places.close()
        self._others.close()
        self._top.close()
        self._staging.close()

    def _drop_lock(self) -> None:
        if self._lock.is_held:
            with contextlib.suppress(OSError):
                drop_lock(self._disk, self._staging, self.id, self._lock)


def _files_at_once() -> int:
    """How many files may wait for their sync, where a process may have so many open."""
    if sys.platform == "win32":
        return _PENDING
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _PENDING if most == resource.RLIM_INFINITY else max(min(_PENDING, most // _DESCRIPTORS_EACH), 1)
