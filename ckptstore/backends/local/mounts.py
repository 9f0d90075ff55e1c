"""What a file system can't promise, warned of once."""

from __future__ import annotations

import os
import re
import sys
import warnings
from typing import NamedTuple

_NETWORK = ("nfs", "cifs", "smb", "afs", "9p", "ceph", "glusterfs", "lustre", "gpfs", "virtiofs")
_MOUNTS = "/proc/self/mountinfo"


class WeakStorageWarning(UserWarning):
    """The file system below a store can't keep one of its promises; said once per path and process."""


_warned: set[tuple[str, str]] = set()


def warn_once(path: str, weakness: str) -> None:
    """Warn about `path`, once for this `weakness` in this process."""
    if (path, weakness) not in _warned:
        _warned.add((path, weakness))
        warnings.warn(f"{path}: {weakness}", WeakStorageWarning, stacklevel=4)


def warn_of_mount(fd: int, path: str, weakness: str) -> None:
    """Warn about the mount that the open `fd` lies on, once for this `weakness` in this process."""
    device = (str(os.fstat(fd).st_dev), weakness)
    if device not in _warned:
        _warned.add(device)
        warn_once(find_mount(os.path.realpath(path)).point or path, weakness)


class Mount(NamedTuple):
    """Where a file system is mounted, and of what type it is, such as "ext4"; "" if unknown."""

    point: str
    kind: str

    def __str__(self) -> str:
        return f"the {self.kind} mounted at {self.point}" if self.kind else "this file system"


def file_system(path: str) -> str:
    """The type of the file system that `path` lies on, such as "ext4"; "" if unknown."""
    return find_mount(path).kind


def find_mount(path: str) -> Mount:
    """The mount that `path`, without links, lies on."""
    best, kind = "", ""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                before, _, after = line.partition(" - ")
                point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
                inside = path == point or path.startswith(point.rstrip("/") + "/")
                if inside and len(point) >= len(best):
                    best, kind = point, after.split()[0]
    except OSError:
        return Mount("", "")
    return Mount(best, kind)


def is_shared(path: str) -> bool:
    """Whether other machines may write to what lies at `path`, so that a lock seen free here says little."""
    return sys.platform == "win32" or file_system(os.path.realpath(path)).startswith((*_NETWORK, "fuse"))


def moves_whole(path: str) -> bool:
    """Whether a directory moves in one step there: what runs below FUSE may copy and remove file by file."""
    return not file_system(os.path.realpath(path)).startswith("fuse")


def weaknesses(path: str) -> str:
    """What a store at `path` can't promise because of the system below it; "" if nothing."""
    if sys.platform == "win32":
        return "Windows: no locks and no directory syncs, so use one writer, and a power cut may undo a save"
    kind = file_system(os.path.realpath(path))
    if kind.startswith(_NETWORK):
        return (
            f"{kind} is a network file system: locks, exclusive renames and fsync are as good as its server. "
            "Save from one host at a time, or use an object store"
        )
    if kind.startswith("fuse"):
        return f"{kind}: what runs below FUSE may not honour fsync, locks or atomic renames"
    if kind in {"overlay", "aufs"}:
        return f"{kind}: a container's own layer goes with the container. Mount a volume for what must stay"
    return ""
