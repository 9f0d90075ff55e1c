"""Tell whether a process that works on a local store still lives: by a lock that dies with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from ckptstore.backends.local.locks import is_free
from ckptstore.backends.local.paths import open_below
from ckptstore.commit.local.root import LOCK, LocalRoot, drop_lock, new_lock
from ckptstore.format.names import STAGING
from ckptstore.logs import logger


@contextlib.contextmanager
def show_life(store: LocalRoot, holder: str) -> Iterator[None]:
    """Hold a lock file of that name in ``.staging``, where a sweep finds those of the dead."""
    disk = store.backend.disk
    with store.backend.open_root() as root, open_below(disk, root, STAGING, make=True) as staging:
        lock = new_lock(disk, staging, holder, store.timeout)
        try:
            yield
        finally:
            try:
                drop_lock(disk, staging, holder, lock)
            except OSError as error:  # it is free, which is what counts
                logger.warning("left in %s for the next sweep: %s", staging.path, error)


def is_dead(store: LocalRoot, holder: str, prefix: str, bound: float) -> bool:
    """See :class:`ckptstore.commit.base.Catalog`."""
    disk = store.backend.disk
    free: bool | None = True  # where nothing is, nobody lives
    with (
        store.backend.open_root() as root,
        contextlib.suppress(FileNotFoundError),
        disk.open_dir(root, STAGING) as staging,
    ):
        free = is_free(disk, staging, holder + LOCK)
    if free is None:
        times = [entry.modified for entry in store.backend.list(prefix)]
        return all(moment is not None and time.time() - moment > bound for moment in times)
    return free
