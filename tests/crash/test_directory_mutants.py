"""The crash loop has teeth: each rule of the local commit is broken here, and the loop must notice."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import Directory, Disk
from ckptstore.commit.base import Check, IfExists, allow
from ckptstore.commit.local.catalog import DirectoryAttempt, DirectoryCatalog
from ckptstore.commit.local.root import list_committed
from ckptstore.format.names import CheckpointName
from ckptstore.testing import CrashingDisk, PowerCutDisk
from tests.crash.loop import Lose, Scenario, lose_all, lose_none, lose_some, run
from tests.crash.scenarios import DELETE, REPLACE, SAVE
from tests.crash.world import MANIFEST, Broken, catalog, manifest, payload


class _InPlaceAttempt(DirectoryAttempt):
    """Writes where the checkpoint will be, so that it grows under the eyes of readers."""

    manifest_first = False

    def __init__(self, store: DirectoryCatalog, step: int, attempt_id: str, staging: Directory) -> None:
        super().__init__(store, step, "error", attempt_id, staging, allow)
        self._name = CheckpointName(step)
        with store.backend.open_root() as root:
            self._disk.rename(staging, attempt_id, root, str(self._name))
        if self.manifest_first:
            with self.create(MANIFEST) as sink:
                sink.write(manifest(payload(step)))

    def commit(self, manifest: bytes) -> CheckpointName:
        if not self.manifest_first:
            with self.create(MANIFEST) as sink:
                sink.write(manifest)
        self._drain()
        self._sync_tree(self._top, "")
        self._close()
        return self._name


class _ManifestFirstAttempt(_InPlaceAttempt):
    manifest_first = True


class _InPlace(DirectoryCatalog):
    attempt: type[_InPlaceAttempt] = _InPlaceAttempt

    def begin(
        self, step: int, if_exists: IfExists, attempt_id: str, check: Check = allow
    ) -> DirectoryAttempt:
        with self.backend.open_root(make=True) as root:
            staging = open_below(self.backend.disk, root, ".staging", make=True)
        return self.attempt(self, step, attempt_id, staging)


class _ManifestFirst(_InPlace):
    attempt = _ManifestFirstAttempt


class _UnlinksBeforeUnpublishing(DirectoryCatalog):
    def unpublish(self, root: Directory, names: list[CheckpointName]) -> list[str]:
        for name in names:
            self.backend.disk.remove_tree(root, str(name))
        return []


class _UnlinksBeforeSyncing(DirectoryCatalog):
    def unpublish(self, root: Directory, names: list[CheckpointName]) -> list[str]:
        disk = self.backend.disk
        with open_below(disk, root, ".trash", make=True) as trash:
            for name in names:
                disk.rename(root, str(name), trash, str(name))
        return [str(name) for name in names]


class _ReplacesBackwards(DirectoryCatalog):
    """Unpublishes the old one, and then publishes the new one."""

    def begin(
        self, step: int, if_exists: IfExists, attempt_id: str, check: Check = allow
    ) -> DirectoryAttempt:
        with self.hold_lock() as root:
            self.unpublish(root, list_committed(self.backend.disk, root, step))
        return super().begin(step, if_exists, attempt_id, check)


class _SyncsNoFiles(PowerCutDisk):
    def fsync(self, fd: int) -> None:
        self.step("fsync", "")


class _SyncsNoDirectories(PowerCutDisk):
    def fsync_dir(self, directory: Directory) -> None:
        self.step("fsync_dir", directory.path)


class _SyncsOnlyTheRoot(PowerCutDisk):
    def fsync_dir(self, directory: Directory) -> None:
        if os.path.basename(directory.path) == "crashed":
            super().fsync_dir(directory)


@pytest.mark.parametrize(
    ("mutant", "scenario", "kind"),
    [
        (_InPlace, SAVE, CrashingDisk),
        (_ManifestFirst, SAVE, CrashingDisk),
        (_UnlinksBeforeUnpublishing, DELETE, CrashingDisk),
        (_UnlinksBeforeUnpublishing, REPLACE, CrashingDisk),
        (_UnlinksBeforeSyncing, DELETE, PowerCutDisk),
        (_ReplacesBackwards, REPLACE, CrashingDisk),
    ],
)
def test_the_loop_notices_a_broken_order(
    mutant: type[DirectoryCatalog],
    scenario: Scenario,
    kind: type[CrashingDisk],
    templates: dict[str, str],
    tmp_path: Path,
) -> None:
    def start(root: str, disk: Disk) -> DirectoryCatalog:
        return mutant(catalog(root, disk).backend, timeout=5)

    def loop() -> None:
        for seed in range(20):
            lose = functools.partial(lose_some, seed=seed)
            run(scenario, templates[""], str(tmp_path), start=start, kind=kind, lose=lose, again=False)

    with pytest.raises(Broken) as noticed:
        loop()
    print(noticed.value)


@pytest.mark.parametrize(
    ("disk", "lose"),
    [(_SyncsNoFiles, lose_none), (_SyncsNoDirectories, lose_all), (_SyncsOnlyTheRoot, lose_all)],
)
def test_the_loop_notices_a_missing_sync(
    disk: type[PowerCutDisk], lose: Lose, templates: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(Broken) as noticed:
        run(SAVE, templates[""], str(tmp_path), kind=disk, lose=lose, again=False)
    print(noticed.value)
