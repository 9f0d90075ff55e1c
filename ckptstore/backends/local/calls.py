"""Try which of the system's calls a file system has, and say in words what a store does without them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping

from ckptstore.backends.base import NotCreateOnly, NotDurable
from ckptstore.backends.local.locks import try_lock
from ckptstore.backends.local.mounts import find_mount, moves_whole
from ckptstore.backends.local.posix import UNSUPPORTED, Directory, Disk, temporary_name

WITHOUT = {
    "hard links": "files that didn't change are copied",
    "exclusive rename": "names are reserved with mkdir",
    "permissions": "files are as the mount makes them, and may be written to",
    "directory sync": "a power cut may undo a save",
    "file sync": "saving is refused",
    "locks": "one process at a time may save or delete",
    "moves": "files may be moved one by one: the manifest goes last, and its deletion first",
}
"""What a store does where a call is missing."""


def try_calls(disk: Disk, directory: Directory) -> Mapping[str, str]:
    """Each of the calls, "yes" or what its lack means. Leaves nothing in `directory`."""
    with _new_file(disk, directory) as (name, fd):
        found = {
            "hard links": disk.can_link(directory),
            "exclusive rename": _can_rename(disk, directory, name),
            "permissions": _can_chmod(fd),
            "directory sync": directory.fd < 0 or _can_sync(directory.fd),
            "file sync": _can_fsync(disk, fd),
            "locks": try_lock(fd) is not None,
            "moves": moves_whole(directory.path),
        }
    said = {call: "yes" if there else f"no: {WITHOUT[call]}" for call, there in found.items()}
    if not found["hard links"] and not found["exclusive rename"]:
        said["exclusive rename"] = "no, nor hard links: for single_writer=True only"
    return {"mount": str(find_mount(os.path.realpath(directory.path))), **said}


@contextlib.contextmanager
def _new_file(disk: Disk, directory: Directory) -> Iterator[tuple[str, int]]:
    name = temporary_name()
    fd = disk.create(directory, name)
    try:
        yield name, fd
    finally:
        disk.close(fd)
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(directory, name)


def _can_rename(disk: Disk, directory: Directory, name: str) -> bool:
    """Whether a file is moved in one step that never replaces; then it is moved back."""
    other = temporary_name()
    try:
        if not disk.try_rename_noreplace(directory, name, directory, other):
            return False
        disk.rename(directory, other, directory, name)
    except (NotCreateOnly, FileNotFoundError):
        return False
    return True


def _can_chmod(fd: int) -> bool:
    try:
        os.fchmod(fd, 0o400)
    except OSError:
        return False
    return stat.S_IMODE(os.fstat(fd).st_mode) == 0o400


def _can_sync(fd: int) -> bool:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EBADF}:
            raise
        return False
    return True


def _can_fsync(disk: Disk, fd: int) -> bool:
    try:
        disk.fsync(fd)
    except NotDurable:
        return False
    return True
