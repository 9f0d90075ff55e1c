"""Commit on a local disk: stage a directory, sync all of it, rename it into place.

::

    <root>/.staging/<attempt id>/       the files, while they are being written
    <root>/.staging/<attempt id>.lock   flocked for the writer's life: a dead one's can be taken
    <root>/.trash/<name>.<random>/      unpublished, on its way out

The rename is the commit. Whatever decides or changes which checkpoints exist happens under one short
exclusive flock on the root directory, so what was checked still holds when it is acted upon. Nothing
is acknowledged, and nothing that depended on it undone, before the directories involved are synced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from ckptstore.backends.local import FileSink, LocalBackend, is_temporary, open_below
from ckptstore.backends.posix import Directory, Disk, Lock, identity, lock_within, try_lock
from ckptstore.commit.base import IfExists, Swept
from ckptstore.errors import CheckpointExists, CheckpointGone, InvalidRequest, SaveAborted
from ckptstore.names import (
    MANIFEST,
    META,
    MIN_MANIFEST_BYTES,
    SMALL_STATE_BYTES,
    CheckpointName,
    relative_path,
)

logger = logging.getLogger("ckptstore")

STAGING = ".staging"
TRASH = ".trash"
_LOCK = ".lock"
_ATTEMPT_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}\Z")
_STRAY_AGE = 3600.0  # seconds after which the temporary file of a publish has no living writer
_SYNCERS = 2  # more threads measured no faster, one is slower when files are small
_PENDING = 64  # files that may wait for their sync: bounds open descriptors and dirty memory


class DirectoryCatalog:
    """The checkpoints of one local directory: a :class:`~ckptstore.commit.base.Catalog`.

    `timeout` is how many seconds a call waits for another process to let go of the root's lock,
    which is held for milliseconds, before it raises TimeoutError.
    """

    def __init__(self, backend: LocalBackend, timeout: float = 60.0) -> None:
        self.backend = backend
        self.timeout = timeout

    # ---- What there is

    def names(self) -> list[CheckpointName]:
        """Every directory named like a checkpoint, ascending. FileNotFoundError without a root."""
        with self.backend.open_root() as root:
            return _names(self.backend.disk, root)

    def scan(self) -> Mapping[CheckpointName, Mapping[str, int]]:
        """The same, each with its files: path inside the checkpoint to size in bytes."""
        found: dict[CheckpointName, dict[str, int]] = {}
        for name in self.names():
            prefix = f"{name}/"
            found[name] = {file.key[len(prefix) :]: file.size for file in self.backend.list(str(name))}
        return found

    # ---- Changes

    def begin(self, step: int, if_exists: IfExists, attempt_id: str) -> DirectoryAttempt:
        """Start an attempt at `step`; CheckpointExists if that is taken and not to be replaced."""
        if not _ATTEMPT_ID.match(attempt_id) or attempt_id.endswith(_LOCK):
            raise InvalidRequest(f"attempt id {attempt_id!r}", "it can't be a directory name")
        disk = self.backend.disk
        with self.backend.open_root(make=True) as root:
            if if_exists != "replace" and (taken := committed(disk, root, step)):
                raise CheckpointExists(str(taken[-1]))
            staging = open_below(disk, root, STAGING, make=True)
        try:
            return DirectoryAttempt(self, step, if_exists, attempt_id, staging, self.timeout)
        except BaseException:
            staging.close()
            raise

    def delete(self, name: CheckpointName, check: Callable[[], None]) -> None:
        """Unpublish `name`, durably, then remove its bytes.

        Lower attempts at the step, which a crashed replacement may have left, go first: the highest
        one is the step's checkpoint, so they would come back to light. `check` runs under the root's
        lock and may read, but neither delete nor guard.
        """
        with self.locked() as root:
            attempts = committed(self.backend.disk, root, name.step)
            if name not in attempts:
                raise CheckpointGone(str(name))
            check()
            trashed = self.unpublish(root, [lower for lower in attempts if lower <= name])
        self.remove_quietly(trashed)

    @contextlib.contextmanager
    def guard(self, name: CheckpointName) -> Iterator[None]:
        """Keep deletes out while the caller writes a tag; CheckpointGone at entry if `name` is gone."""
        with self.locked() as root:
            if not is_committed(self.backend.disk, root, name):
                raise CheckpointGone(str(name))
            yield

    def sweep(self, grace: float | None) -> Swept:
        """Remove what dead attempts, deletes and publishes left behind.

        An attempt is dead when its lock can be taken; with `grace` its directory must also not have
        changed for that many seconds.
        """
        with self.backend.open_root() as root:
            dead = self._take_dead(root, grace or 0.0)
            freed = self._sweep_strays(root)
        with self.locked() as root:
            trashed = self._settled_trash(root)
        freed += self.remove(trashed)
        return Swept(sorted({*dead, *(name.rpartition(".")[0] for name in trashed)}), freed)

    # ---- What attempts and deletes share

    @contextlib.contextmanager
    def locked(self) -> Iterator[Directory]:
        """The root, open and under its exclusive lock. Not re-entrant."""
        with self.backend.open_root() as root:
            if root.fd < 0:
                yield root  # Windows
                return
            # A descriptor of its own: a child forked meanwhile closes this one and may still use the root.
            lock = Lock(self.backend.disk, self.backend.disk.open_dir(root, ".").fd)
            try:
                lock_within(lock.fd, self.timeout)
                yield root
            finally:
                lock.release()

    def unpublish(self, root: Directory, names: list[CheckpointName]) -> list[str]:
        """Under the lock: move `names` to the trash, each durably before the next. Names in the trash."""
        disk, trashed = self.backend.disk, list[str]()
        if not names:
            return trashed
        with open_below(disk, root, TRASH, make=True) as trash:
            for name in sorted(names):
                trashed.append(f"{name}.{secrets.token_hex(8)}")
                disk.rename(root, str(name), trash, trashed[-1])
                disk.fsync_dir(trash)
                disk.fsync_dir(root)
        return trashed

    def remove(self, trashed: list[str]) -> int:
        """Remove these from the trash; the bytes that freed. Somebody else may be at it too."""
        disk, freed = self.backend.disk, 0
        if trashed:
            with self.backend.open_root() as root, disk.open_dir(root, TRASH) as trash:
                for name in trashed:
                    freed += disk.remove_tree(trash, name)
        return freed

    def remove_quietly(self, trashed: list[str]) -> None:
        """The same after the deed: the checkpoint is gone whether or not its bytes can go now."""
        try:
            self.remove(trashed)
        except OSError as error:
            logger.warning("left in %s/%s for the next sweep: %s", self.backend.root, TRASH, error)

    def _settled_trash(self, root: Directory) -> list[str]:
        """Under the lock: what the trash holds, once that is certain to survive a power cut.

        Whoever moved it here may have died before syncing. If its bytes went first, the power cut
        would bring back a committed checkpoint without them.
        """
        disk = self.backend.disk
        try:
            trash = disk.open_dir(root, TRASH)
        except FileNotFoundError:
            return []
        with trash:
            names = [entry.name for entry in disk.entries(trash)]
            if names:
                disk.fsync_dir(trash)
                disk.fsync_dir(root)
        return sorted(names)

    def _take_dead(self, root: Directory, grace: float) -> list[str]:
        """Move the leavings of dead writers to the trash; their attempt ids."""
        disk, taken = self.backend.disk, []
        try:
            staging = disk.open_dir(root, STAGING)
        except FileNotFoundError:
            return []
        with staging:
            found = [entry.name for entry in disk.entries(staging)]
            for attempt in sorted({name.removesuffix(_LOCK) for name in found}):
                lock = _take_lock(disk, staging, attempt)
                if lock is None:
                    continue
                try:
                    if _age(disk, staging, attempt) >= grace:
                        if self._trash_attempt(root, staging, attempt):
                            taken.append(attempt)
                        with contextlib.suppress(FileNotFoundError):
                            disk.unlink(staging, attempt + _LOCK)
                finally:
                    lock.release()
        return taken

    def _trash_attempt(self, root: Directory, staging: Directory, attempt: str) -> bool:
        """Rename the dead attempt away under the root's lock, where no commit can be looking at it."""
        disk = self.backend.disk
        with self.locked(), open_below(disk, root, TRASH, make=True) as trash:
            try:
                disk.rename(staging, attempt, trash, f"{attempt}.{secrets.token_hex(8)}")
            except FileNotFoundError:
                return False
        return True

    def _sweep_strays(self, root: Directory) -> int:
        """Remove temporary files that crashed publishes left; the bytes that freed."""
        pending = [META, *(f"{name}/{META}" for name in _names(self.backend.disk, root))]
        freed = 0
        while pending:
            place = pending.pop()
            freed += self._sweep_strays_in(root, place, pending)
        return freed

    def _sweep_strays_in(self, root: Directory, place: str, pending: list[str]) -> int:
        disk, freed = self.backend.disk, 0
        with contextlib.ExitStack() as stack:
            directory = root
            try:
                for part in place.split("/"):
                    directory = stack.enter_context(disk.open_dir(directory, part))
            except (FileNotFoundError, NotADirectoryError):
                return 0
            for entry in list(disk.entries(directory)):
                if entry.is_dir:
                    pending.append(f"{place}/{entry.name}")
                elif is_temporary(entry.name) and _age(disk, directory, entry.name) > _STRAY_AGE:
                    freed += disk.remove_tree(directory, entry.name)
        return freed


class DirectoryAttempt:
    """One directory being written under ``.staging``: an :class:`~ckptstore.commit.base.Attempt`.

    Files are synced by background threads while the next ones are written, which makes a durable save
    about as fast as the disk. Only the process that began it can commit or abandon it: a forked child
    has no lock.
    """

    def __init__(
        self,
        catalog: DirectoryCatalog,
        step: int,
        if_exists: IfExists,
        attempt_id: str,
        staging: Directory,
        timeout: float,
    ) -> None:
        self.id = attempt_id
        self.directory: str | None = os.path.join(staging.path, attempt_id)
        self._catalog = catalog
        self._disk = catalog.backend.disk
        self._step = step
        self._if_exists = if_exists
        self._staging = staging
        self._mutex = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []
        self._room = threading.BoundedSemaphore(_PENDING)
        self._synced: dict[tuple[int, int], tuple[int, int]] = {}
        self._failure: BaseException | None = None
        self._published = False
        self._lock = _new_lock(self._disk, staging, attempt_id, timeout)
        try:
            self._disk.mkdir(staging, attempt_id)
            self._top = self._disk.open_dir(staging, attempt_id)
            self._identity = identity(self._disk.status(staging, attempt_id))
        except BaseException:
            self._drop_lock()
            raise

    # ---- Writing

    def create(self, path: str) -> FileSink:
        """A new file of the checkpoint; InvalidRequest if there is one already."""
        with self._place(path) as (directory, name):
            fd = self._disk.create(directory, name)

        def finish(fd: int, error: BaseException | None) -> None:
            if error is None:
                self._submit(fd)
                return
            self._failure = self._failure or error  # the file is cut short: never commit it
            self._disk.close(fd)

        return FileSink(self._disk, fd, finish)

    def reuse(self, path: str, key: str) -> bool:
        """Make the file `key` of another checkpoint a file of this one, by a hard link.

        False where that can't be: no such file, no links here or no more of them, or a file that its
        owner may still write to, which would change both checkpoints. Then write it anew.
        """
        *parts, source = relative_path(key, self.id).split("/")
        with self._place(path) as (directory, name), contextlib.ExitStack() as stack:
            try:
                origin = stack.enter_context(self._catalog.backend.open_root())
                for part in parts:
                    origin = stack.enter_context(self._disk.open_dir(origin, part))
                status = self._disk.status(origin, source)
                if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o222:
                    return False
                self._disk.link(origin, source, directory, name)
            except FileExistsError:
                raise
            except OSError as error:
                logger.debug("%s is copied, not linked: %s", key, error)
                return False
        return True

    @contextlib.contextmanager
    def _place(self, path: str) -> Iterator[tuple[Directory, str]]:
        """The directory of a new file, made if need be, and the file's name in it."""
        self._check_alive()
        *parts, name = relative_path(path, self.id).split("/")
        try:
            with contextlib.ExitStack() as stack:
                directory = self._top
                for part in parts:
                    directory = stack.enter_context(open_below(self._disk, directory, part, make=True))
                yield directory, name
        except FileExistsError:
            raise InvalidRequest(path, "the checkpoint has such a file already") from None
        except FileNotFoundError:
            self._check_ours()
            raise

    def _check_alive(self) -> None:
        if self._failure:
            raise self._failure
        if not self._lock.held:
            raise SaveAborted(f"save of step {self._step}", "it ended already, or began in another process")

    def _submit(self, fd: int) -> None:
        """Have a background thread make `fd` durable and close it."""
        self._room.acquire()
        with self._mutex:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_SYNCERS, thread_name_prefix="ckptstore-sync")
            try:
                self._pending.append(self._pool.submit(self._settle, fd))
                return
            except RuntimeError:
                pass  # the interpreter is going down and takes no new threads
        self._settle(fd)

    def _settle(self, fd: int) -> None:
        """Make the file durable and unwritable: later saves may link it instead of writing it again."""
        try:
            try:
                if self._failure is None:
                    self._disk.chmod(fd, 0o400)
                    self._disk.fsync(fd)
                    status = os.fstat(fd)
                    self._synced[identity(status)] = (status.st_size, status.st_mtime_ns)
            finally:
                self._disk.close(fd)
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._room.release()

    def _drain(self) -> None:
        """Wait for every sync; raises the first failure."""
        with self._mutex:
            pool, self._pool = self._pool, None
            pending, self._pending = self._pending, []
        if pool:
            pool.shutdown(wait=True)
        for done in pending:
            done.result()
        if self._failure:
            raise self._failure

    # ---- The end

    def commit(self, manifest: bytes) -> CheckpointName:
        """Make the checkpoint exist, durably. See :class:`~ckptstore.commit.base.Attempt`."""
        try:
            self._check_alive()
            _check_length(manifest)
            self._drain()
            with self.create(MANIFEST) as sink:
                sink.write(manifest)
            self._drain()
            self._sync_tree(self._top, "")
            self._drain()
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
        """Sync what is not yet, files before the directory that names them, whoever wrote them."""
        for entry in list(self._disk.entries(directory)):
            where = f"{path}{entry.name}"
            if entry.is_dir:
                with self._disk.open_dir(directory, entry.name) as below:
                    self._sync_tree(below, f"{where}/")
            elif entry.size < 0:
                raise InvalidRequest(where, "it is no regular file", "Save a copy of what it points to")
            else:
                self._sync_file(directory, entry.name)
        if os.name == "posix" and os.fstat(directory.fd).st_mode & 0o077:
            self._disk.chmod(directory.fd, 0o700)
        self._disk.fsync_dir(directory)

    def _sync_file(self, directory: Directory, name: str) -> None:
        status = self._disk.status(directory, name)
        if self._synced.get(identity(status)) == (status.st_size, status.st_mtime_ns):
            return
        fd = self._disk.open_file(directory, name)
        try:
            if status.st_nlink == 1 and status.st_mode & 0o377:
                self._disk.chmod(fd, 0o400)  # a file with other links belongs to others as well
            self._disk.fsync(fd)
        finally:
            self._disk.close(fd)

    def _publish(self) -> tuple[CheckpointName, list[str]]:
        disk, trashed = self._disk, list[str]()
        with self._catalog.locked() as root:
            self._check_ours()
            lower = committed(disk, root, self._step)
            if lower and self._if_exists != "replace":
                raise CheckpointExists(str(lower[-1]))
            name = self._rename(root, lower[-1].attempt + 1 if lower else 0)
            self._published = True
            disk.fsync_dir(self._staging)
            disk.fsync_dir(root)
            try:
                trashed = self._catalog.unpublish(root, lower)
            except OSError as error:  # committed all the same, and the higher attempt is the one that counts
                logger.warning("%s replaces %s, which could not be removed: %s", name, lower[-1], error)
        return name, trashed

    def _check_ours(self) -> None:
        """SaveAborted if a sweep took our directory, as it may where locks don't reach (NFS)."""
        with contextlib.suppress(FileNotFoundError):
            if identity(self._disk.status(self._staging, self.id)) == self._identity:
                return
        raise SaveAborted(f"save of step {self._step}", "its staging directory was swept away")

    def _rename(self, root: Directory, attempt: int) -> CheckpointName:
        """Publish under the first free name from `attempt` on: others' directories are passed over."""
        while True:
            name = CheckpointName(self._step, attempt)
            try:
                self._disk.rename_noreplace(self._staging, self.id, root, str(name))
                return name
            except FileExistsError:
                attempt += 1

    def abandon(self) -> None:
        """Remove what was staged; never raises an Exception. What it can't remove, a sweep will."""
        if not self._lock.held or self._published:
            return
        with contextlib.suppress(Exception):
            self._failure = self._failure or SaveAborted(f"save of step {self._step}", "it was abandoned")
            self._drain()
        with contextlib.suppress(Exception):
            self._check_ours()
            self._disk.remove_tree(self._staging, self.id)
        self._close()

    def _close(self) -> None:
        """Let go of the lock, its file first: a lock without a name is one that nobody else takes."""
        self._drop_lock()
        self._top.close()
        self._staging.close()

    def _drop_lock(self) -> None:
        try:
            if self._lock.held:
                with contextlib.suppress(OSError):
                    self._disk.unlink(self._staging, self.id + _LOCK)
        finally:
            self._lock.release()


def _check_length(manifest: bytes) -> None:
    """A shorter one would be taken for a tombstone once the checkpoint is copied to an object store."""
    if len(manifest) < MIN_MANIFEST_BYTES:
        raise InvalidRequest("manifest", f"{len(manifest)} bytes are fewer than {MIN_MANIFEST_BYTES}")


def _names(disk: Disk, root: Directory) -> list[CheckpointName]:
    found = (CheckpointName.parse(entry.name) for entry in disk.entries(root) if entry.is_dir)
    return sorted(name for name in found if name is not None)


def is_committed(disk: Disk, root: Directory, name: CheckpointName) -> bool:
    """Whether the directory `name` has a manifest, which no crash leaves without the rest.

    A smaller one is a tombstone or seal, copied here from an object store.
    """
    try:
        with disk.open_dir(root, str(name)) as directory, disk.open_dir(directory, META) as meta:
            status = disk.status(meta, MANIFEST.rpartition("/")[2])
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > SMALL_STATE_BYTES


def committed(disk: Disk, root: Directory, step: int) -> list[CheckpointName]:
    """The committed attempts at `step`, ascending: the last one is the step's checkpoint."""
    return [name for name in _names(disk, root) if name.step == step and is_committed(disk, root, name)]


def _age(disk: Disk, parent: Directory, name: str) -> float:
    """Seconds since `name` changed; infinite if it is not there."""
    try:
        return time.time() - disk.status(parent, name).st_mtime
    except FileNotFoundError:
        return float("inf")


def _new_lock(disk: Disk, staging: Directory, attempt: str, timeout: float) -> Lock:
    """Create and take the lock file of a new attempt.

    A sweep that finds the file before it is locked takes it for a dead writer's and removes it. So
    the lock counts only if the name still leads to the file that was locked.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            lock = Lock(disk, disk.create(staging, attempt + _LOCK))
        except FileExistsError:
            raise InvalidRequest(f"attempt id {attempt!r}", "it is in use") from None
        if try_lock(lock.fd) and _names_file(disk, staging, attempt + _LOCK, lock.fd):
            return lock
        lock.release()
        if time.monotonic() > deadline:
            raise TimeoutError(f"no lock on {attempt + _LOCK} within {timeout:g} s")
        time.sleep(0.001)


def _take_lock(disk: Disk, staging: Directory, attempt: str) -> Lock | None:
    """The lock of a dead attempt, or None if its writer lives."""
    name = attempt + _LOCK
    try:
        fd = disk.open_file(staging, name)
    except FileNotFoundError:
        try:
            fd = disk.create(staging, name)  # a directory without lock file: somebody removed that
        except FileExistsError:
            return None
    lock = Lock(disk, fd)
    if try_lock(fd) and _names_file(disk, staging, name, fd):
        return lock
    lock.release()
    return None


def _names_file(disk: Disk, parent: Directory, name: str, fd: int) -> bool:
    try:
        return identity(disk.status(parent, name)) == identity(os.fstat(fd))
    except FileNotFoundError:
        return False
