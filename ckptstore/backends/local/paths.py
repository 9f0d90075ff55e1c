"""Open directories step by step, so that no symbolic link is followed on the way."""

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
        """`top` opens what every path starts from; with `make`, directories that are absent are made."""
        self._disk = disk
        self._top = top
        self._make = make
        self._mine = threading.local()
        self._all: list[_OpenPath] = []

    def to(self, names: Sequence[str]) -> Directory:
        """The directory that `names` lead to; it stays open until this thread's next call."""
        path: _OpenPath | None = getattr(self._mine, "path", None)
        if path is None:
            path = self._mine.path = _OpenPath(self._top())
            self._all.append(path)
        path.keep(names)
        for name in names[len(path.names) :]:
            path.open.append(open_below(self._disk, path.open[-1], name, make=self._make))
            path.names.append(name)
        return path.open[-1]

    def close(self) -> None:
        """Close everything, for every thread: none may still be using it."""
        paths, self._all, self._mine = self._all, [], threading.local()
        for path in paths:
            path.keep(())
            path.open[0].close()


class _OpenPath:
    def __init__(self, top: Directory) -> None:
        self.names: list[str] = []
        self.open = [top]

    def keep(self, names: Sequence[str]) -> None:
        """Close what does not lie on the path to `names`."""
        shared = 0
        while shared < min(len(names), len(self.names)) and names[shared] == self.names[shared]:
            shared += 1
        del self.names[shared:]
        while len(self.open) > shared + 1:
            self.open.pop().close()
