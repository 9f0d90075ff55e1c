"""A directory tree on a local disk: durable, create-only where promised, and never outside its root.

A new object is written under a temporary name in its own directory, synced, and given its real name
by ``link``, which fails if the name is taken: that is the one create-only call that every local file
system has. What a crash leaves carries the temporary name, is not a key, and goes with the next sweep.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from ckptstore.backends.base import Listed, PlaceMissing, too_large
from ckptstore.backends.local.calls import try_calls
from ckptstore.backends.local.locks import try_lock
from ckptstore.backends.local.mounts import file_system, warn_once, weaknesses
from ckptstore.backends.local.paths import open_below
from ckptstore.backends.local.posix import (
    Directory,
    Disk,
    Entry,
    Identity,
    identity,
    is_temporary,
    temporary_name,
)
from ckptstore.backends.urls import to_file_url
from ckptstore.work import Lock

_GATHER = 1 << 18  # writes smaller than this many bytes are put together
_DEEPEST = 110  # directories within directories: the 100 of a checkpoint, and a store below the root
_AHEAD = 1 << 23  # bytes after which the disk begins to write


class FileSink:
    """Streams to one open file, then calls `finish(fd, error)`, which owns the descriptor."""

    def __init__(self, disk: Disk, fd: int, finish: Callable[[int, BaseException | None], None]) -> None:
        self._disk = disk
        self._fd = fd
        self._finish = finish
        self._small = bytearray()
        self._size = 0
        self._begun = 0
        self._failed: OSError | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        if memoryview(data).nbytes >= _GATHER:
            self._flush()
            self._put(data)
            return
        self._small += data
        if len(self._small) >= _GATHER:
            self._flush()

    def _flush(self) -> None:
        small, self._small = self._small, bytearray()
        if small:
            self._put(small)

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        if self._failed:
            raise self._failed
        try:
            self._disk.write(self._fd, data)
        except OSError as error:
            self._failed = error  # a caller that carries on must not end with a file cut short
            raise
        self._size += memoryview(data).nbytes
        if self._size - self._begun >= _AHEAD:
            self._disk.start_writeback(self._fd, self._begun, self._size - self._begun)
            self._begun = self._size

    def __enter__(self) -> FileSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._flush()
                error = self._failed
            except BaseException as failure:
                self._finish(self._fd, failure)
                raise
            if error is not None:
                self._finish(self._fd, error)
                raise error
        self._finish(self._fd, error)


def _is_never_linked(name: str) -> bool:
    return False


class LocalBackend:
    """The directory `root` as a :class:`~ckptstore.backends.base.Backend`.

    The first write makes the root and its missing parents. From then on a root that vanished is a
    FileNotFoundError and never made anew: an unmounted disk must not turn into an empty store.
    Pass another `disk` to watch or to break what happens below. With `single_writer` create-only writes are
    a look before a rename where the file system has nothing better.
    """

    def __init__(
        self, root: str | os.PathLike[str], disk: Disk | None = None, *, single_writer: bool = False
    ) -> None:
        self.root = os.path.abspath(os.fspath(root))
        self.disk = disk or Disk()
        self.single_writer = single_writer
        self.linked: Callable[[str], bool] = _is_never_linked
        """Which names at the top may be links that reading follows: `Disk.open_top` says whose."""
        self._seen = False  # the root was there once
        self._ready = False  # it is durable, and its weaknesses were warned of
        self._preparing = Lock()

    def __repr__(self) -> str:
        return f"LocalBackend({self.url!r})"

    def describe(self) -> dict[str, str]:
        """What this backend promises, in words, by subject."""
        promises = {
            "place": self.url,
            "durability": "synced files and directories before a save returns",
            "create-only writes": "a rename that never replaces, under a lock on the root",
            "file system": file_system(os.path.realpath(self.root)) or "unknown",
        }
        if weakness := weaknesses(self.root):
            promises["weakness"] = weakness
        return promises

    def try_calls(self, prefix: str) -> Mapping[str, str]:
        """What the file system can't do, in words, tried in the directory `prefix`, which is made."""
        with self._parent(f"{prefix}/calls", make=True) as (directory, _):
            tried = try_calls(self.disk, directory)
        if tried["exclusive rename"] != "yes" and tried["hard links"] != "yes":
            return {**tried, "create-only writes": "a look before a rename, and so for one writer at a time"}
        return tried

    def below(self, name: str) -> LocalBackend:
        """The directory `name` below, on the same disk."""
        return LocalBackend(os.path.join(self.root, name), self.disk, single_writer=self.single_writer)

    def for_single_writer(self) -> LocalBackend:
        """The same directory, for a caller who answers for it that nobody else writes there."""
        made = LocalBackend(self.root, self.disk, single_writer=True)
        made.linked = self.linked
        return made

    def __reduce__(self) -> tuple[type[LocalBackend], tuple[str]]:
        return LocalBackend, (self.root,)

    @property
    def url(self) -> str:
        """``file://`` and the absolute path as it is, but for what would be read as an escape."""
        return to_file_url(self.root)

    @property
    def concurrency(self) -> int:
        """How many files it is best to move at once: enough to hash on the cores there are."""
        return min(os.cpu_count() or 1, 8)

    # ---- Reading

    def read(self, key: str, start: int = 0, stop: int | None = None, most: int | None = None) -> bytes:
        """The bytes ``[start, stop)`` of `key`; EOFError if there are fewer than `stop` asks for.

        TooLarge if `stop` is None and there are more than `most`.
        """
        with self._file(key) as (fd, size):
            if stop is None and most is not None and size - start > most:
                raise too_large(self._path(key), size - start, most)
            end = size if stop is None else stop
            pieces: list[bytes] = []
            os.lseek(fd, start, os.SEEK_SET)
            while start < end:
                # Straight into the bytes that are returned: a policy of 10 MiB is not copied once more.
                pieces.append(os.read(fd, end - start))
                if not pieces[-1]:
                    raise EOFError(f"{self._path(key)} ends at byte {start}; {end} were asked for")
                start += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, key: str, start: int, target: memoryview) -> None:
        """Fill `target` with the bytes of `key` from `start` on; EOFError if there are fewer."""
        with self._file(key) as (fd, _):
            self._fill(fd, key, start, target.cast("B"))

    def _fill(self, fd: int, key: str, start: int, target: memoryview) -> None:
        done = 0
        while done < len(target):
            if hasattr(os, "preadv"):
                count = os.preadv(fd, [target[done:]], start + done)
            else:
                os.lseek(fd, start + done, os.SEEK_SET)
                chunk = os.read(fd, len(target) - done)
                count = len(chunk)
                target[done : done + count] = chunk
            if not count:
                raise EOFError(
                    f"{self._path(key)} ends at byte {start + done}; {start + len(target)} were asked for"
                )
            done += count

    def map(self, key: str) -> memoryview:
        """The bytes of `key`, memory-mapped: read when they are touched; changes stay in this process."""
        with self._file(key) as (fd, size):
            return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY) if size else b"")

    def size_of(self, key: str) -> int:
        """The bytes of `key`."""
        with self._file(key) as (_, size):
            return size

    def file_id(self, key: str) -> Identity:
        """Which file `key` leads to: hard links of one have the same."""
        with self._parent(key, linked=True) as (directory, name):
            return identity(self.disk.status(directory, name))

    @contextlib.contextmanager
    def _file(self, key: str) -> Iterator[tuple[int, int]]:
        with self._parent(key, linked=True) as (directory, name):
            fd = self.disk.open_file(directory, name)
        try:
            yield fd, os.fstat(fd).st_size
        finally:
            self.disk.close(fd)

    def children(self, prefix: str = "") -> list[str]:
        """Names directly below `prefix`, sorted; none if it is absent. FileNotFoundError without a root."""
        return sorted(entry.name for entry in self._entries(prefix) if not is_temporary(entry.name))

    def _entries(self, prefix: str) -> Iterator[Entry]:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(self.open_root())
            try:
                for index, part in enumerate(self._parts(prefix)):
                    open_dir = self.disk.open_dir if index or not self.linked(part) else self.disk.open_top
                    directory = stack.enter_context(open_dir(directory, part))
            except (FileNotFoundError, NotADirectoryError):
                return
            yield from self.disk.entries(directory)

    def list(self, prefix: str = "") -> list[Listed]:
        """Every file below `prefix`, sorted by key. FileNotFoundError without a root.

        Anything but a regular file is listed with size -1, which no manifest names: it shows up as a
        difference, and reading it is refused. So is a directory nested too deeply to be a store's.
        """
        found: list[Listed] = []
        pending = [prefix]
        while pending:
            directory = pending.pop()
            for entry in self._entries(directory):
                key = f"{directory}/{entry.name}" if directory else entry.name
                if (entry.is_dir and key.count("/") < _DEEPEST) or (not directory and self._is_linked(entry)):
                    pending.append(key)
                elif not is_temporary(entry.name):
                    found.append(Listed(key, entry.size, entry.modified))
        return sorted(found)

    def _is_linked(self, entry: Entry) -> bool:
        """Whether it is a link, at the top, to a directory that may be read."""
        if entry.is_dir or entry.size >= 0 or not self.linked(entry.name):
            return False
        with contextlib.suppress(OSError), self.open_root() as root:
            self.disk.open_top(root, entry.name).close()
            return True
        return False

    # ---- Writing

    def write(self, key: str) -> FileSink:
        """A new object, streamed; durable after a clean exit. FileExistsError then if the key is taken."""
        return self._sink(key, replace=False)

    def publish(self, key: str, data: bytes) -> None:
        """Create `key` holding `data`: all or nothing, durable, one winner ever."""
        with self._sink(key, replace=False) as sink:
            sink.write(data)

    def replace(self, key: str, data: bytes) -> None:
        """Set `key` to `data`, old or new and never between, durable."""
        with self._sink(key, replace=True) as sink:
            sink.write(data)

    def _sink(self, key: str, *, replace: bool) -> FileSink:
        disk, stack = self.disk, contextlib.ExitStack()
        directory, name = stack.enter_context(self._parent(key, make=True))
        temporary = temporary_name()

        def finish(fd: int, error: BaseException | None) -> None:
            moved = False
            with stack:
                try:
                    try:
                        if error is None:
                            disk.fsync(fd)
                    finally:
                        disk.close(fd)
                    if error is None and replace:
                        disk.rename(directory, temporary, directory, name)
                        moved = True
                    elif error is None:
                        disk.link_or_rename(directory, temporary, name, self.single_writer)
                finally:
                    if not moved:
                        with contextlib.suppress(FileNotFoundError):
                            disk.unlink(directory, temporary)
                if error is None:
                    self._sync_up(directory, key)

        try:
            fd = disk.create(directory, temporary)
            # Until it is closed: a sweep leaves it alone, whatever the clock says.
            try_lock(fd)
            return FileSink(disk, fd, finish)
        except BaseException:
            stack.close()
            raise

    def _sync_up(self, directory: Directory, key: str) -> None:
        """Sync every directory from the key's own up to the root.

        All of them, not only those this call made: another process may have made one a moment ago and
        not have synced it yet. One that is clean costs next to nothing.
        """
        self.disk.fsync_dir(directory)
        for depth in range(key.count("/") - 1, -1, -1):
            with self._walk(key.split("/")[:depth]) as parent:
                self.disk.fsync_dir(parent)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove `keys`, durably; those already absent are fine."""
        for parent in sorted({key.rpartition("/")[0] for key in keys}):
            try:
                with self._walk(self._parts(parent)) as directory:
                    for key in keys:
                        if key.rpartition("/")[0] == parent:
                            with contextlib.suppress(FileNotFoundError):
                                self.disk.unlink(directory, key.rpartition("/")[2])
                    self.disk.fsync_dir(directory)
            except FileNotFoundError:
                self.open_root().close()  # a vanished root is not an absent key

    # ---- Directories

    def open_root(self, *, make: bool = False) -> Directory:
        """The root, open. With `make` it is made, unless this backend saw it before."""
        if make and not self._ready:
            with self._preparing:
                if not self._ready:
                    self._prepare()
        try:
            directory = self.disk.open_root(self.root)
        except FileNotFoundError as error:
            if self._seen:
                raise PlaceMissing(errno.ENOENT, "the directory was there before", self.root) from error
            raise
        self._seen = True
        return directory

    def _prepare(self) -> None:
        """Make the root and its missing parents, and see that each is durable in its own parent."""
        missing = [self.root]
        while not self._seen and not os.path.isdir(os.path.dirname(missing[-1])):
            missing.append(os.path.dirname(missing[-1]))
        for path in reversed(missing):
            try:
                parent = self.disk.open_root(os.path.dirname(path))
            except PermissionError:
                if os.path.isdir(path):
                    continue  # a parent that may be traversed but not opened, as /home often is
                raise
            with parent:
                if not self._seen and os.path.basename(path):
                    with contextlib.suppress(FileExistsError):
                        self.disk.mkdir(parent, os.path.basename(path))
                self.disk.fsync_dir(parent)
        if weakness := weaknesses(self.root):
            warn_once(self.root, weakness)
        self._ready = True

    @contextlib.contextmanager
    def _parent(
        self, key: str, *, make: bool = False, linked: bool = False
    ) -> Iterator[tuple[Directory, str]]:
        *parts, name = self._parts(key) or [""]
        if not name:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.root)
        with self._walk(parts, make=make, linked=linked) as directory:
            yield directory, name

    @contextlib.contextmanager
    def _walk(self, parts: Sequence[str], *, make: bool = False, linked: bool = False) -> Iterator[Directory]:
        directory = self.open_root(make=make)
        try:
            for index, part in enumerate(parts):
                if linked and not index and self.linked(part):
                    deeper = self.disk.open_top(directory, part)
                else:
                    deeper = open_below(self.disk, directory, part, make=make)
                directory.close()
                directory = deeper
            yield directory
        finally:
            directory.close()

    def _path(self, key: str) -> str:
        return os.path.join(self.root, *self._parts(key))

    def _parts(self, key: str) -> Sequence[str]:
        """The components of `key`. ValueError if one could lead out of the root; callers checked before."""
        parts = key.split("/") if key else []
        separators = {os.sep, os.altsep or os.sep, "\0", *(":" if os.name == "nt" else "")} - {"/"}
        if any(part in {"", ".", ".."} or separators & set(part) for part in parts):
            raise ValueError(f"{key!r} is not a plain relative key")
        return parts
