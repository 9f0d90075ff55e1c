"""Adopt on a local disk."""

from __future__ import annotations

from ckptstore.backends.local.posix import Directory, Disk
from ckptstore.commit.adopt import build_manifest, check_unchanged, is_taken
from ckptstore.commit.base import Vouch
from ckptstore.commit.local.root import LocalRoot, list_committed
from ckptstore.format.names import MANIFEST, PARTS, CheckpointName


def adopt(ground: LocalRoot, name: CheckpointName, vouch: Vouch) -> None:
    """On a local disk: sync what lies there, then publish the manifest under the root's lock."""
    disk, backend = ground.backend.disk, ground.backend
    with ground.hold_lock() as root:
        if is_taken(backend, name, list_committed(disk, root, name.step)):
            return
    found = backend.list(str(name))
    table, manifest = build_manifest(backend, name, found, vouch)
    with backend.open_root() as root, disk.open_dir(root, str(name)) as top:
        _sync(disk, top)
    with ground.hold_lock() as root:
        if is_taken(backend, name, list_committed(disk, root, name.step)):
            return
        check_unchanged(backend, name, found, backend.list(str(name)))
        backend.replace(f"{name}/{PARTS}", table)  # whatever an adoption that died has left there
        backend.publish(f"{name}/{MANIFEST}", manifest)


def _sync(disk: Disk, directory: Directory) -> None:
    """Make durable what another program wrote, files before the directory that names them."""
    for entry in list(disk.entries(directory)):
        if entry.is_dir:
            with disk.open_dir(directory, entry.name) as below:
                _sync(disk, below)
        elif directory.fd >= 0:  # Windows syncs only what is open for writing
            fd = disk.open_file(directory, entry.name)
            try:
                disk.fsync(fd)
            finally:
                disk.close(fd)
    disk.fsync_dir(directory)
