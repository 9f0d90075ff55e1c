"""Commit on a local disk: which checkpoints a directory holds, and how they come and go."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from ckptstore.backends.base import Sink
from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import Directory
from ckptstore.commit.base import Check, IfExists, Swept, Vouch, allow
from ckptstore.commit.failures import already_committed, already_deleted, was_deleted
from ckptstore.commit.local import life
from ckptstore.commit.local.adopt import adopt as adopt_in_place
from ckptstore.commit.local.attempt import DirectoryAttempt
from ckptstore.commit.local.mend import mend as mend_in_place
from ckptstore.commit.local.root import (
    LOCK,
    LocalRoot,
    all_names,
    is_committed,
    list_committed,
)
from ckptstore.commit.local.sweep import foresee, sweep, tidy
from ckptstore.errors import CheckpointError, InvalidRequest, StoreUnavailable
from ckptstore.format.names import STAGING, TRASH, CheckpointName
from ckptstore.logs import logger

__all__ = ["DirectoryAttempt", "DirectoryCatalog"]

_ATTEMPT_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}\Z")
_MAX_LOOKS = 20
T = TypeVar("T", bound=Iterable[CheckpointName])


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
        self.tidy()
        with self.backend.open_root(make=True) as root:
            if if_exists != "replace" and (taken := list_committed(disk, root, step)):
                raise already_committed(self.backend, taken[-1])
            staging = open_below(disk, root, STAGING, make=True)
            # Made now: at the first delete the disk may be full.
            open_below(disk, root, TRASH, make=True).close()
        try:
            return DirectoryAttempt(self, step, if_exists, attempt_id, staging, check)
        except BaseException:
            staging.close()
            raise

    def discard(self, attempt_id: str) -> None:
        """Remove its directory and its lock file, if they are there."""
        disk = self.backend.disk
        with (
            contextlib.suppress(FileNotFoundError),
            self.backend.open_root() as root,
            disk.open_dir(root, STAGING) as staging,
        ):
            disk.remove_tree(staging, attempt_id)
            disk.unlink(staging, attempt_id + LOCK)

    def tidy(self) -> None:
        """Remove a few dead attempts, and what interrupted deletes have left in the trash."""
        try:
            tidy(self)
        except (OSError, CheckpointError) as error:
            logger.info("%s: what dead saves left stays for the next one: %s", self.backend.url, error)

    def adopt(self, name: CheckpointName, vouch: Vouch, check: Check = allow) -> None:
        """Give a directory that lies there already its manifest, under the root's lock."""
        adopt_in_place(self, name, vouch)

    def delete(self, name: CheckpointName, check: Callable[[], None]) -> None:
        """Unpublish `name`, durably, then remove its bytes.

        Lower attempts at the step, which a crashed replacement may have left, go first: the highest
        one is the step's checkpoint, so they would come back to light. `check` runs under the root's
        lock and may read, but neither delete nor guard.
        """
        with self.hold_lock() as root:
            attempts = list_committed(self.backend.disk, root, name.step)
            if name not in attempts:
                raise already_deleted(self.backend, name)
            check()
            trashed = self.unpublish(root, [lower for lower in attempts if lower <= name])
        self.remove_quietly(trashed)

    @contextlib.contextmanager
    def guard(self, name: CheckpointName) -> Iterator[None]:
        """Keep deletes out while the caller writes a tag; CheckpointGone at entry if `name` is gone."""
        with self.hold_lock() as root:
            if not is_committed(self.backend.disk, root, name):
                raise was_deleted(self.backend, name)
            yield

    def show_life(self, holder: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock file in ``.staging``."""
        return life.show_life(self, holder)

    def is_dead(self, holder: str, prefix: str, bound: float) -> bool:
        """Whether the lock file is free, or gone."""
        return life.is_dead(self, holder, prefix, bound)

    def mend(
        self,
        name: CheckpointName,
        path: str,
        write: Callable[[Sink], None],
        check: Callable[[], None],
        twin: str | None = None,
    ) -> None:
        """Write beside the damaged file, and rename over it under the root's lock."""
        mend_in_place(self, name, path, write, check, twin)

    def sweep(self, grace: float | None, check: Check = allow, dry_run: bool = False) -> Swept:
        """Remove what dead attempts, deletes and publishes left behind: nothing that has a name to check."""
        return (foresee if dry_run else sweep)(self, grace or 0.0)
