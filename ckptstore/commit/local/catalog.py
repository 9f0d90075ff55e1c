"""Commit on a local disk: which checkpoints a directory holds, and how they come and go."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from ckptstore.backends.local.backend import is_temporary
from ckptstore.backends.local.locks import Lock, try_lock
from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import Directory, Disk
from ckptstore.commit import adopt as adoption
from ckptstore.commit.base import Check, IfExists, Swept, Vouch, allow
from ckptstore.commit.local.attempt import DirectoryAttempt
from ckptstore.commit.local.root import (
    LOCK,
    STAGING,
    TRASH,
    LocalRoot,
    all_names,
    drop_lock,
    is_committed,
    leads_to,
    list_committed,
)
from ckptstore.errors import CheckpointExists, CheckpointGone, InvalidRequest, StoreUnavailable
from ckptstore.format.names import MAX_DEPTH, META, CheckpointName

__all__ = ["DirectoryAttempt", "DirectoryCatalog"]

_ATTEMPT_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}\Z")
_MAX_LOOKS = 20
T = TypeVar("T", bound=Iterable[CheckpointName])

_STRAY_AGE = 3600.0  # seconds after which the temporary file of a publish has no living writer


class DirectoryCatalog(LocalRoot):
    """The checkpoints of one local directory: a :class:`~ckptstore.commit.base.Catalog`."""

    in_place = True

    def created(self, key: str, data: bytes, other: bytes) -> None:
        """Nothing to try: what a link or rename refuses here was refused by the kernel."""

    # ---- What there is

    def names(self) -> list[CheckpointName]:
        """Every directory named like a checkpoint, ascending. FileNotFoundError without a root."""
        with self.backend.open_root() as root:
            return self._look_until_stable(lambda: all_names(self.backend.disk, root), root)

    def scan(self) -> Mapping[CheckpointName, Mapping[str, int]]:
        """The same, each with its files: path inside the checkpoint to size in bytes."""

        def look() -> dict[CheckpointName, dict[str, int]]:
            found: dict[CheckpointName, dict[str, int]] = {}
            for name in all_names(self.backend.disk, root):
                prefix = f"{name}/"
                found[name] = {file.key[len(prefix) :]: file.size for file in self.backend.list(str(name))}
            return found

        with self.backend.open_root() as root:
            return self._look_until_stable(look, root)

    def _look_until_stable(self, look: Callable[[], T], root: Directory) -> T:
        """What `look` sees, once no new name turns up meanwhile.

        A step that is being replaced changes its directory's name. A look that takes time can find the
        old one gone and have been too early for the new one, and so miss the step altogether.
        """
        for _ in range(_MAX_LOOKS):
            seen = look()
            if set(all_names(self.backend.disk, root)) <= set(seen):
                return seen
        raise StoreUnavailable(root.path, f"checkpoints kept appearing through {_MAX_LOOKS} looks")

    # ---- Changes

    def begin(
        self, step: int, if_exists: IfExists, attempt_id: str, check: Check = allow
    ) -> DirectoryAttempt:
        """Start an attempt at `step`; CheckpointExists if that is taken and not to be replaced."""
        if not _ATTEMPT_ID.match(attempt_id) or attempt_id.endswith(LOCK):
            raise InvalidRequest(f"attempt id {attempt_id!r}", "it can't be a directory name")
        disk = self.backend.disk
        with self.backend.open_root(make=True) as root:
            if if_exists != "replace" and (taken := list_committed(disk, root, step)):
                raise CheckpointExists(str(taken[-1]))
            staging = open_below(disk, root, STAGING, make=True)
            # Now, and not when the first delete wants to make room on a disk that has none for it.
            open_below(disk, root, TRASH, make=True).close()
        try:
            return DirectoryAttempt(self, step, if_exists, attempt_id, staging, check)
        except BaseException:
            staging.close()
            raise

    def adopt(self, name: CheckpointName, vouch: Vouch) -> None:
        """Give a directory that lies there already its manifest, under the root's lock."""
        adoption.in_directory(self, name, vouch)

    def delete(self, name: CheckpointName, check: Callable[[], None]) -> None:
        """Unpublish `name`, durably, then remove its bytes.

        Lower attempts at the step, which a crashed replacement may have left, go first: the highest
        one is the step's checkpoint, so they would come back to light. `check` runs under the root's
        lock and may read, but neither delete nor guard.
        """
        with self.hold_lock() as root:
            attempts = list_committed(self.backend.disk, root, name.step)
            if name not in attempts:
                raise CheckpointGone(str(name))
            check()
            trashed = self.unpublish(root, [lower for lower in attempts if lower <= name])
        self.remove_quietly(trashed)

    @contextlib.contextmanager
    def guard(self, name: CheckpointName) -> Iterator[None]:
        """Keep deletes out while the caller writes a tag; CheckpointGone at entry if `name` is gone."""
        with self.hold_lock() as root:
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
        with self.hold_lock() as root:
            trashed = self._sync_trash(root)
        freed += self.remove(trashed)
        return Swept(sorted({*dead, *(name.rpartition(".")[0] for name in trashed)}), freed)

    def _sync_trash(self, root: Directory) -> list[str]:
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
            for attempt in sorted({name.removesuffix(LOCK) for name in found}):
                lock = _take_lock(disk, staging, attempt)
                if lock is None:
                    continue
                try:
                    if _age(disk, staging, attempt) >= grace:
                        if self._trash_attempt(root, staging, attempt):
                            taken.append(attempt)
                        drop_lock(disk, staging, attempt, lock)
                finally:
                    lock.release()
        return taken

    def _trash_attempt(self, root: Directory, staging: Directory, attempt: str) -> bool:
        """Rename the dead attempt away under the root's lock, where no commit can be looking at it."""
        disk = self.backend.disk
        with self.hold_lock(), open_below(disk, root, TRASH, make=True) as trash:
            try:
                disk.rename(staging, attempt, trash, f"{attempt}.{secrets.token_hex(8)}")
            except FileNotFoundError:
                return False
        return True

    def _sweep_strays(self, root: Directory) -> int:
        """Remove temporary files that crashed publishes left; the bytes that freed."""
        pending = [META, *(f"{name}/{META}" for name in all_names(self.backend.disk, root))]
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
                if entry.is_dir and place.count("/") < MAX_DEPTH:
                    pending.append(f"{place}/{entry.name}")
                elif (
                    not entry.is_dir
                    and is_temporary(entry.name)
                    and _age(disk, directory, entry.name) > _STRAY_AGE
                ):
                    freed += disk.remove_tree(directory, entry.name)
        return freed


def _age(disk: Disk, parent: Directory, name: str) -> float:
    """Seconds since `name` changed; infinite if it is not there."""
    try:
        return time.time() - disk.status(parent, name).st_mtime
    except FileNotFoundError:
        return float("inf")


def _take_lock(disk: Disk, staging: Directory, attempt: str) -> Lock | None:
    """The lock of a dead attempt, or None if its writer lives."""
    name = attempt + LOCK
    try:
        fd = disk.open_lock(staging, name)
    except FileNotFoundError:
        try:
            fd = disk.create(staging, name)  # a directory without lock file: somebody removed that
        except FileExistsError:
            return None
    lock = Lock(disk, fd)
    if try_lock(fd) and leads_to(disk, staging, name, fd):
        return lock
    lock.release()
    return None
