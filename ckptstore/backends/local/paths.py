"""Ways down from an open directory, a step at a time, so that no symbolic link is followed on any of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

from ckptstore.backends.local.posix import Directory, Disk


def open_below(disk: Disk, directory: Directory, name: str, *, make: bool) -> Directory:
    """Open the directory `name` in `directory`; with `make`, made if it is absent."""
    if make:
        try:
            return disk.open_dir(directory, name)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                disk.mkdir(directory, name)
    return disk.open_dir(directory, name)


class OpenPaths:
    """Keeps open, for each thread, the directories down to the one it asked for last.

    A file's neighbour then costs no step at all, and a file of the directory beside it one.
    """

    def __init__(self, disk: Disk, top: Callable[[], Directory], *, make: bool = False) -> None:
        """`top` opens what the ways start from; with `make`, directories that are absent are made."""
        self._disk = disk
        self._top = top
        self._make = make
        self._mine = threading.local()
        self._all: list[_Way] = []

    def to(self, names: Sequence[str]) -> Directory:
        """The directory that `names` lead to; it stays open until this thread's next call."""
        way: _Way | None = getattr(self._mine, "way", None)
        if way is None:
            way = self._mine.way = _Way(self._top())
            self._all.append(way)
        way.keep(names)
        for name in names[len(way.names) :]:
            way.open.append(open_below(self._disk, way.open[-1], name, make=self._make))
            way.names.append(name)
        return way.open[-1]

    def close(self) -> None:
        """Close everything, for every thread: none may be at it any more."""
        ways, self._all, self._mine = self._all, [], threading.local()
        for way in ways:
            way.keep(())
            way.open[0].close()


class _Way:
    def __init__(self, top: Directory) -> None:
        self.names: list[str] = []
        self.open = [top]

    def keep(self, names: Sequence[str]) -> None:
        """Close what does not lie on the way to `names`."""
        shared = 0
        while shared < min(len(names), len(self.names)) and names[shared] == self.names[shared]:
            shared += 1
        del self.names[shared:]
        while len(self.open) > shared + 1:
            self.open.pop().close()
