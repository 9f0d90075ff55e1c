"""Put a good file in the place of a damaged one, on a local disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from ckptstore.backends.base import Sink
from ckptstore.backends.local.backend import FileSink
from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import Directory, Disk, temporary_name
from ckptstore.commit.failures import was_deleted
from ckptstore.commit.local.root import LocalRoot
from ckptstore.format.names import CheckpointName, relative_path


def mend(
    ground: LocalRoot,
    name: CheckpointName,
    path: str,
    write: Callable[[Sink], None],
    check: Callable[[], None],
    twin: str | None,
) -> None:
    """Write beside it, sync, and rename over it under the root's lock, where no delete can be at work.

    The new file is another one: whoever shares the damaged one by a link keeps that. With `twin` it is a
    link to that file, where links can be made.
    """
    disk, backend = ground.backend.disk, ground.backend
    *parts, file = relative_path(path, str(name)).split("/")
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(backend.open_root())
        try:
            opened = [stack.enter_context(disk.open_dir(root, str(name)))]
        except FileNotFoundError:
            raise was_deleted(backend, name) from None
        for part in parts:
            opened.append(stack.enter_context(open_below(disk, opened[-1], part, make=True)))
        directory, temporary = opened[-1], temporary_name()
        try:
            if twin is None or not _link(disk, root, twin.split("/"), directory, temporary):
                _write(disk, directory, temporary, write)
            with ground.hold_lock():
                check()
                disk.rename(directory, temporary, directory, file)
                for one in reversed(opened):
                    disk.fsync_dir(one)
        except FileNotFoundError:
            raise was_deleted(backend, name) from None  # its directories went away under us
        finally:
            with contextlib.suppress(OSError):
                disk.unlink(directory, temporary)  # not there any more if all went well


def _write(disk: Disk, directory: Directory, name: str, write: Callable[[Sink], None]) -> None:
    def finish(fd: int, error: BaseException | None) -> None:
        try:
            if error is None:
                mode = os.fstat(directory.fd).st_mode if directory.fd >= 0 else 0o777
                disk.chmod(fd, mode & 0o444)
                disk.fsync(fd)
        finally:
            disk.close(fd)

    with FileSink(disk, disk.create(directory, name), finish) as sink:
        write(sink)


def _link(disk: Disk, root: Directory, twin: Sequence[str], directory: Directory, name: str) -> bool:
    with contextlib.ExitStack() as stack:
        source = root
        try:
            for part in twin[:-1]:
                source = stack.enter_context(disk.open_dir(source, part))
            disk.link(source, twin[-1], directory, name)
        except OSError:
            return False
    return True
