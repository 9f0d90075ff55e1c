"""Remove what dead local saves left."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import time
from collections.abc import Sequence

from ckptstore.backends.local.locks import Lock, is_free, try_lock
from ckptstore.backends.local.mounts import is_shared
from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import Directory, Disk, is_temporary
from ckptstore.commit.base import Swept
from ckptstore.commit.local.in_place import is_left
from ckptstore.commit.local.life import is_dead
from ckptstore.commit.local.root import LOCK, LocalRoot, all_names, drop_lock, is_committed, leads_to
from ckptstore.format.names import HOLD, MAX_DEPTH, META, REFS, STAGING, TRASH

_MOST_AT_ONCE = 32
_MOST_LOOKED_AT = 10_000
_STRAY_AGE = 3600.0
"""Seconds after which the temporary file of a publish has no living writer, where nothing can be locked.

The clock may have jumped since: where there are locks, its writer's decides.
"""


def sweep(store: LocalRoot, grace: float) -> Swept:
    """Remove what dead attempts, deletes and publishes left behind.

    An attempt is dead when its lock can be taken; with `grace` its directory must also not have
    changed for that many seconds.
    """
    with store.backend.open_root() as root:
        dead = _take_dead(store, root, grace)
        freed = _sweep_strays(store, root)
    with store.hold_lock() as root:
        _trash_unpublished(store, root)
        trashed = _sync_trash(store, root)
    freed += store.remove(trashed)
    return Swept(sorted({*dead, *(name.rpartition(".")[0] for name in trashed)}), freed)


def tidy(store: LocalRoot) -> None:
    """Remove a few dead attempts, and the trash: cheap where nothing is there, and for every save to do.

    Only where locks tell, on every machine that may be writing: `gc` is for the others.
    """
    try:
        with store.backend.open_root() as root:
            with store.backend.disk.open_dir(root, STAGING) as staging:
                if next(store.backend.disk.entries(staging), None) is None or is_shared(store.backend.root):
                    return
            if not _take_dead(store, root, 0.0, _MOST_AT_ONCE):
                return
    except FileNotFoundError:
        return
    with store.hold_lock() as root:
        trashed = _sync_trash(store, root)
    store.remove(trashed[:_MOST_AT_ONCE])


def foresee(store: LocalRoot, grace: float) -> Swept:
    """What `sweep` would remove now, temporary files apart. Changes nothing."""
    disk, found, keys = store.backend.disk, set[str](), list[str]()
    with store.backend.open_root() as root:
        for folder in (STAGING, TRASH):
            try:
                directory = disk.open_dir(root, folder)
            except FileNotFoundError:
                continue
            with directory:
                here = [entry.name for entry in disk.entries(directory)]
                if folder == TRASH:
                    found.update(name.rpartition(".")[0] for name in here)
                else:
                    dead = _may_be_dead(disk, directory, here)
                    here = [name for name in dead if name in here and _is_dead(disk, directory, name, grace)]
                    found.update(here)
                keys += [f"{folder}/{name}" for name in sorted(here)]
    freed = sum(max(file.size, 0) for key in keys for file in store.backend.list(key))
    return Swept(sorted(found), freed)


def _is_dead(disk: Disk, staging: Directory, attempt: str, grace: float) -> bool:
    return bool(is_free(disk, staging, attempt + LOCK)) and _age(disk, staging, attempt) >= grace


def _sync_trash(store: LocalRoot, root: Directory) -> list[str]:
    """Under the lock: what the trash holds, once that is certain to survive a power cut.

    Whoever moved it here may have died before syncing. If its bytes went first, the power cut
    would bring back a committed checkpoint without them.
    """
    disk = store.backend.disk
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


def _take_dead(store: LocalRoot, root: Directory, grace: float, most: int | None = None) -> list[str]:
    """Move what dead writers left to the trash, at `most` so many of them; their ids."""
    disk, taken = store.backend.disk, []
    try:
        staging = disk.open_dir(root, STAGING)
    except FileNotFoundError:
        return []
    with staging:
        looked_at = itertools.islice(disk.entries(staging), None if most is None else _MOST_LOOKED_AT)
        for attempt in _may_be_dead(disk, staging, [entry.name for entry in looked_at])[:most]:
            lock = _take_lock(disk, staging, attempt)
            if lock is None:
                continue
            try:
                if _age(disk, staging, attempt) >= grace:
                    if _trash_attempt(store, root, staging, attempt):
                        taken.append(attempt)
                    drop_lock(disk, staging, attempt, lock)
            finally:
                lock.release()
    return taken


def _may_be_dead(disk: Disk, staging: Directory, found: Sequence[str]) -> list[str]:
    """Of what was `found` in the staging directory, all but what a living attempt needs.

    That is also what has no lock file of its own: a program may make a directory beside the one it was
    given, to rename it into place. Nobody can tell whose it is, so it stays while any attempt lives.
    """
    locked = sorted(name.removesuffix(LOCK) for name in found if name.endswith(LOCK))
    if any(is_free(disk, staging, attempt + LOCK) is False for attempt in locked):
        return locked
    return sorted({name.removesuffix(LOCK) for name in found})


def _trash_attempt(store: LocalRoot, root: Directory, staging: Directory, attempt: str) -> bool:
    """Rename the dead attempt away under the root's lock, where no commit can be looking at it."""
    disk = store.backend.disk
    with store.hold_lock(), open_below(disk, root, TRASH, make=True) as trash:
        try:
            disk.rename(staging, attempt, trash, f"{attempt}.{secrets.token_hex(8)}")
        except FileNotFoundError:
            return False
    return True


def _trash_unpublished(store: LocalRoot, root: Directory) -> None:
    """Under the lock: move away what crashes have left of saves and deletes that move file by file."""
    disk = store.backend.disk
    for name in all_names(disk, root):
        if not is_committed(disk, root, name) and is_left(disk, root, name):
            with open_below(disk, root, TRASH, make=True) as trash:
                disk.rename(root, str(name), trash, f"{name}.{secrets.token_hex(8)}")


def _sweep_strays(store: LocalRoot, root: Directory) -> int:
    """Remove temporary files that crashed publishes left; the bytes that freed."""
    pending = [META, *(f"{name}/{META}" for name in all_names(store.backend.disk, root))]
    freed = 0
    while pending:
        freed += _sweep_strays_in(store, root, pending.pop(), pending)
    return freed


def _remove_empty_hold(store: LocalRoot, root: Directory, parent: Directory, ref: str) -> None:
    """Remove the directory of a rollback's pin, once its owner has ended and taken the pin away."""
    disk = store.backend.disk
    if is_dead(store, ref.removeprefix(HOLD), f"{REFS}/{ref}", _STRAY_AGE):
        with disk.open_dir(parent, ref) as directory:
            entries = list(disk.entries(directory))
            for entry in entries:
                if is_temporary(entry.name):
                    disk.unlink(directory, entry.name)
        if all(is_temporary(entry.name) for entry in entries):  # else the pin is there, and protects
            disk.rmdir(parent, ref)


def _sweep_strays_in(store: LocalRoot, root: Directory, path: str, pending: list[str]) -> int:
    disk, freed = store.backend.disk, 0
    with contextlib.ExitStack() as stack:
        directory = root
        try:
            for part in path.split("/"):
                directory = stack.enter_context(disk.open_dir(directory, part))
        except (FileNotFoundError, NotADirectoryError):
            return 0
        for entry in list(disk.entries(directory)):
            if entry.is_dir and path == REFS and entry.name.startswith(HOLD):
                _remove_empty_hold(store, root, directory, entry.name)
            elif entry.is_dir and path.count("/") < MAX_DEPTH:
                pending.append(f"{path}/{entry.name}")
            elif (
                not entry.is_dir
                and is_temporary(entry.name)
                and _age(disk, directory, entry.name) > _STRAY_AGE
                and is_free(disk, directory, entry.name) is not False  # its writer holds a lock on it
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
        if _age(disk, staging, attempt) == float("inf"):
            return None  # it ended meanwhile
        try:
            fd = disk.create(staging, name)  # a directory without lock file: somebody removed that
        except FileExistsError:
            return None
    lock = Lock(disk, fd)
    if try_lock(fd) and leads_to(disk, staging, name, fd):
        return lock
    lock.release()
    return None
