"""Ways to get the commit on a local disk wrong, each applied to the process that calls `apply`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import Directory, Disk
from ckptstore.commit.local import catalog
from ckptstore.commit.local.attempt import DirectoryAttempt
from ckptstore.commit.local.root import LocalRoot
from ckptstore.format.names import CheckpointName
from tests.mutants.install import install


class Mutant(NamedTuple):
    """A broken rule, and the life in which breaking it must show."""

    apply: Callable[[], None]
    life: str


def _nothing(*arguments: Any, **options: Any) -> None:
    pass


def _no_fsync() -> None:
    Disk.fsync = _nothing  # type: ignore[method-assign]


def _no_directory_fsync() -> None:
    Disk.fsync_dir = _nothing  # type: ignore[method-assign]


class _LinkedFileNotSynced(DirectoryAttempt):
    def _sync_file(self, directory: Directory, name: str) -> None:
        if self._disk.status(directory, name).st_nlink == 1:
            super()._sync_file(directory, name)


class _PublishedBeforeItIsSynced(DirectoryAttempt):
    def _sync_tree(self, directory: Directory, path: str) -> None:
        pass

    def _publish(self) -> tuple[CheckpointName, list[str]]:
        done = super()._publish()
        super()._sync_tree(self._top, "")
        return done


def _payload_before_name() -> None:
    def unpublish(self: LocalRoot, root: Directory, names: list[CheckpointName]) -> list[str]:
        for name in names:
            self.backend.disk.remove_tree(root, str(name))
        return []

    LocalRoot.unpublish = unpublish  # type: ignore[method-assign]


def _trash_not_synced() -> None:
    def unpublish(self: LocalRoot, root: Directory, names: list[CheckpointName]) -> list[str]:
        disk = self.backend.disk
        with open_below(disk, root, ".trash", make=True) as trash:
            for name in names:
                disk.rename(root, str(name), trash, str(name))
        return [str(name) for name in names]

    LocalRoot.unpublish = unpublish  # type: ignore[method-assign]


MUTANTS = {
    "no fsync": Mutant(_no_fsync, "save"),
    "no directory fsync": Mutant(_no_directory_fsync, "save"),
    "linked file not synced": Mutant(partial(install, catalog, _LinkedFileNotSynced), "stage"),
    "published before it is synced": Mutant(partial(install, catalog, _PublishedBeforeItIsSynced), "save"),
    "payload removed before the name": Mutant(_payload_before_name, "delete"),
    "trash emptied before it is synced": Mutant(_trash_not_synced, "delete"),
}
