"""Publish and unpublish where a directory may move file by file: the manifest comes last, and goes first.

Mounts of buckets and drives have neither hard links nor exclusive renames, and move a directory by copying
each of its files. Its manifest has another name meanwhile, so that whatever a crash leaves is no checkpoint:

::

    <name>/_ckptstore/unpublished.json   the manifest of a directory on its way in or out
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from ckptstore.backends.base import NotPlain
from ckptstore.backends.local.posix import Directory, Disk, refuse_if_lost
from ckptstore.format.names import MANIFEST, META, CheckpointName

_MANIFEST = MANIFEST.rpartition("/")[2]
UNPUBLISHED = "unpublished.json"


def publish(
    disk: Disk,
    staging: Directory,
    attempt: str,
    root: Directory,
    names: Iterator[CheckpointName],
    check: Callable[[CheckpointName], None],
) -> CheckpointName:
    """Move the staged directory to the first of `names` that is free, and its manifest last. For one writer.

    `check` looks at what has arrived, before anybody takes it for a checkpoint.
    """
    _move_manifest(disk, staging, attempt, _MANIFEST, UNPUBLISHED)
    for name in names:
        try:
            disk.rename_if_free(staging, attempt, root, str(name))
        except FileExistsError:
            continue
        disk.fsync_dir(staging)
        disk.fsync_dir(root)
        check(name)
        _move_manifest(disk, root, str(name), UNPUBLISHED, _MANIFEST)
        return name
    raise AssertionError("the names never end")


def hide(disk: Disk, root: Directory, name: CheckpointName) -> None:
    """Have `name` be no checkpoint any more, durably, before it moves. Nothing is done behind a link."""
    with suppress(NotPlain):
        _move_manifest(disk, root, str(name), _MANIFEST, UNPUBLISHED)


def is_left(disk: Disk, root: Directory, name: CheckpointName) -> bool:
    """Whether `name` is what a crash has left of a publication or a delete. Asked under the root's lock."""
    try:
        with disk.open_dir(root, str(name)) as directory, disk.open_dir(directory, META) as meta:
            there = {entry.name for entry in disk.entries(meta)}
    except (FileNotFoundError, NotADirectoryError):
        return False
    return UNPUBLISHED in there and _MANIFEST not in there


def _move_manifest(disk: Disk, parent: Directory, name: str, source: str, target: str) -> None:
    with (
        refuse_if_lost(parent),
        disk.open_dir(parent, name) as directory,
        disk.open_dir(directory, META) as meta,
    ):
        disk.rename(meta, source, meta, target)
        disk.fsync_dir(meta)
