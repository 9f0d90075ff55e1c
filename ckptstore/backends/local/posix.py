"""What a local store may ask of the operating system, one method each, and nothing of checkpoints.

Everything that changes a disk is a method of :class:`Disk` and announces itself to `Disk.step` first,
so that a test can count the changes, stop at each one, or check their order. Names are resolved
against open directories and no symbolic link is followed, so a path swapped under a running process
leads nowhere new. Linux and macOS share this code; Windows runs it by path, without locks and without
directory syncs, and :func:`ckptstore.backends.local.mounts.weaknesses` says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple

from ckptstore.backends.base import NotCreateOnly, NotDurable, NotPlain
from ckptstore.backends.local.mounts import find_mount, warn_of_mount, warn_once

if sys.platform != "win32":
    import fcntl

_BY_PATH = sys.platform == "win32"  # no openat there: names are joined to paths instead
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
_LINK_REFUSED = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_CHMOD_REFUSED = frozenset({errno.EPERM, errno.EROFS, *UNSUPPORTED})
_STAYS = frozenset({errno.EBUSY, errno.ESTALE, errno.ENOTEMPTY, errno.EACCES, errno.EPERM})
"""Why one name can't be removed while its neighbours can: in use on NFS or Windows, or somebody else's."""
_NO_LINK = "a symbolic link, which is never followed"
_NO_FILE = "not a regular file, so it is never read"
_NO_DIRECTORY = "no directory, or a link to one, which is never followed"
_DEEP = 64  # directories within directories that are walked with one descriptor each

Identity = tuple[int, int]
"""Device and inode number: the file itself, whatever it is called by now."""


class Entry(NamedTuple):
    """One name in a directory. `size` is in bytes and -1 for what is no regular file."""

    name: str
    is_dir: bool
    size: int
    modified: float
    """Seconds since 1970, by the clock of the machine that keeps the file; 0 for a directory."""


class Directory:
    """An open directory: names are resolved against it and not against a path. A context manager."""

    def __init__(self, disk: Disk, fd: int, path: str) -> None:
        self._disk = disk
        self.fd = fd
        self.path = path

    def at(self, name: str) -> tuple[str, int | None]:
        """`name` as the ``*at`` system calls want it: itself and this directory's descriptor."""
        return (os.path.join(self.path, name), None) if _BY_PATH else (name, self.fd)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._disk.close(fd)

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Disk:
    """The operating system's file calls. Stateless; safe from several threads.

    Every failure is the OSError of the call. The methods below "Changes" announce themselves to
    `step`; the others change nothing that a crash could leave half done.
    """

    def step(self, operation: str, path: str) -> None:
        """Called before each change. A test may count here, or raise to play dead."""

    # ---- Looking

    def open_root(self, path: str) -> Directory:
        """Open `path` itself, which may be a symbolic link: the user chose it."""
        if _BY_PATH:
            os.listdir(path)  # raises what an open would
            return Directory(self, -1, path)
        return Directory(self, self.on_open(os.open(path, _DIRECTORY)), path)

    def open_dir(self, parent: Directory, name: str) -> Directory:
        """Open the directory `name` ("." is `parent` itself); NotPlain for anything else, links included."""
        path = parent.path if name == "." else os.path.join(parent.path, name)
        if _BY_PATH:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise NotPlain(errno.ENOTDIR, _NO_DIRECTORY, path)
            return Directory(self, -1, path)
        try:
            fd = os.open(name, _DIRECTORY | _NOFOLLOW, dir_fd=parent.fd)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):  # Linux, macOS
                raise NotPlain(errno.ENOTDIR, _NO_DIRECTORY, path) from error
            error.filename = path
            raise
        return Directory(self, self.on_open(fd), path)

    def open_top(self, root: Directory, name: str) -> Directory:
        """Open the directory `name`, which may be a link of this user or root, for reading. Else NotPlain.

        That is what is left where a checkpoint was moved to a larger disk. Somebody else's link, in a folder
        that others may write to, could lead anywhere.
        """
        try:
            return self.open_dir(root, name)
        except NotPlain:
            status = self.status(root, name)
            if _BY_PATH or not stat.S_ISLNK(status.st_mode):
                raise
            path = os.path.join(root.path, name)
            if status.st_uid not in (os.geteuid(), 0):
                why = f"a link that the user with id {status.st_uid} has made, and is not followed"
                raise NotPlain(errno.ENOTDIR, why, path) from None
        try:
            directory = Directory(self, self.on_open(os.open(name, _DIRECTORY, dir_fd=root.fd)), path)
        except OSError as error:
            raise NotPlain(error.errno, f"a link to what can't be opened: {error.strerror}", path) from error
        if identity(self.status(root, name)) != identity(status):
            directory.close()
            raise NotPlain(errno.ENOTDIR, _NO_DIRECTORY, path)  # it was put there while we looked
        return directory

    def open_file(self, parent: Directory, name: str) -> int:
        """Open the regular file `name` for reading.

        NotPlain for anything else: a fifo would block for ever, a device would act, and a symbolic
        link could lead out of the store.
        """
        return self._open_plain(parent, name, os.O_RDONLY)

    def open_lock(self, parent: Directory, name: str) -> int:
        """Open the lock file `name` for writing, without which NFS does not lock it; NotPlain for no file."""
        return self._open_plain(parent, name, os.O_RDWR)

    def _open_plain(self, parent: Directory, name: str, access: int) -> int:
        path, dir_fd = parent.at(name)
        full = os.path.join(parent.path, name)
        if _BY_PATH and os.path.islink(full):
            raise NotPlain(errno.ELOOP, _NO_LINK, full)
        try:
            fd = os.open(path, access | getattr(os, "O_NONBLOCK", 0) | _NOFOLLOW, dir_fd=dir_fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotPlain(errno.ELOOP, _NO_LINK, full) from error
            if error.errno in (errno.ENXIO, errno.EISDIR):  # a socket, a device without a driver; to write
                raise NotPlain(error.errno, _NO_FILE, full) from error
            error.filename = full
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotPlain(errno.EINVAL, _NO_FILE, full)
        return self.on_open(fd)

    def on_open(self, fd: int) -> int:
        """Called with each new descriptor, so that a test knows what a dying process would drop."""
        return fd

    def close(self, fd: int) -> None:
        """Close `fd`. Errors that a network file system reports only here are raised."""
        os.close(fd)

    def entries(self, directory: Directory) -> Iterator[Entry]:
        """What `directory` holds, in no order; names that vanish meanwhile are left out."""
        with os.scandir(directory.path if _BY_PATH else directory.fd) as found:
            for entry in found:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        yield Entry(entry.name, True, -1, 0.0)
                    else:
                        status = entry.stat(follow_symlinks=False)
                        regular = stat.S_ISREG(status.st_mode)
                        size = status.st_size if regular else -1
                        yield Entry(entry.name, False, size, status.st_mtime)

    def status(self, parent: Directory, name: str) -> os.stat_result:
        """What `name` is, a symbolic link being one."""
        path, dir_fd = parent.at(name)
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def is_link(self, parent: Directory, name: str) -> bool:
        """Whether `name` is a symbolic link."""
        with contextlib.suppress(FileNotFoundError):
            return stat.S_ISLNK(self.status(parent, name).st_mode)
        return False

    # ---- Changes

    def mkdir(self, parent: Directory, name: str) -> None:
        """Make the directory `name`, for whom the umask says; FileExistsError if there is anything."""
        self.step("mkdir", os.path.join(parent.path, name))
        path, dir_fd = parent.at(name)
        os.mkdir(path, 0o777, dir_fd=dir_fd)

    def create(self, parent: Directory, name: str) -> int:
        """Create the file `name`, for whom the umask says, and open it. FileExistsError if it is taken."""
        self.step("create", os.path.join(parent.path, name))
        path, dir_fd = parent.at(name)
        return self.on_open(
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW, 0o666, dir_fd=dir_fd)
        )

    def write(self, fd: int, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`; one write call stops at 2 GiB, and sooner on a full disk."""
        self.step("write", f"fd {fd}")
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(fd, view) :]

    def start_writeback(self, fd: int, offset: int, count: int) -> None:
        """Have the system start writing these bytes out now. A hint: it promises and changes nothing.

        Left alone, the page cache keeps a file until its fsync, and the disk idles meanwhile.
        """
        if _sync_file_range is not None:
            _sync_file_range(fd, offset, count, 2)  # SYNC_FILE_RANGE_WRITE

    def chmod(self, fd: int, mode: int) -> None:
        """Set the permissions of an open file or directory, where the system has any.

        Where it refuses, they are the mount's or another user's to set: said once, as files that can't be
        made read-only are no less whole.
        """
        self.step("chmod", f"fd {fd}")
        if sys.platform == "win32":
            return
        try:
            os.fchmod(fd, mode)
        except OSError as error:
            if error.errno not in _CHMOD_REFUSED:
                raise
            weakness = "permissions can't be set here: files may be written to by whoever the mount lets"
            warn_of_mount(fd, path_of(fd), weakness)

    def fsync(self, fd: int) -> None:
        """Return once the file's bytes are on the medium; NotDurable where the system refuses to promise it.

        After a failure the bytes are in an unknown state and a second fsync would report success:
        the caller must give the file up.
        """
        self.step("fsync", f"fd {fd}")
        try:
            _sync(fd)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            why = f"{find_mount(path_of(fd))} can't sync files, so a save could be lost after it was told"
            raise NotDurable(error.errno, why, path_of(fd)) from error

    def fsync_dir(self, directory: Directory) -> None:
        """Return once the names in `directory` are on the medium."""
        self.step("fsync_dir", directory.path)
        if _BY_PATH:
            return
        try:
            _sync(directory.fd)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            weakness = "directories can't be synced here: a power cut may undo a save"
            warn_of_mount(directory.fd, directory.path, weakness)

    def rename(self, source_dir: Directory, source: str, target_dir: Directory, target: str) -> None:
        """Move `source` over `target`, in one step for every observer."""
        self.step("rename", os.path.join(target_dir.path, target))
        path, dir_fd = source_dir.at(source)
        target_path, target_fd = target_dir.at(target)
        os.replace(path, target_path, src_dir_fd=dir_fd, dst_dir_fd=target_fd)

    def rename_noreplace(
        self, source_dir: Directory, source: str, target_dir: Directory, target: str
    ) -> None:
        """Move the directory `source` to `target`; FileExistsError if there is anything at all.

        A plain rename would silently replace an empty directory. Where the file system lacks the
        exclusive call, the name is reserved with mkdir (which is exclusive everywhere) and the
        rename then replaces our own empty directory; a crash between the two leaves that one. Where there
        are no hard links either, that rename is seldom one step: NotCreateOnly.
        """
        self.step("rename_noreplace", os.path.join(target_dir.path, target))
        if not self.try_rename_noreplace(source_dir, source, target_dir, target):
            if not self.can_link(source_dir):
                why = f"{find_mount(target_dir.path)} has neither hard links nor exclusive renames"
                raise NotCreateOnly(errno.ENOTSUP, f"{why}, so two writers could both win one step")
            warn_once(target_dir.path, "no exclusive rename here: names are reserved with mkdir instead")
            self.mkdir(target_dir, target)
            try:
                self.rename(source_dir, source, target_dir, target)
            except OSError:
                self.rmdir(target_dir, target)
                raise

    def try_rename_noreplace(
        self, source_dir: Directory, source: str, target_dir: Directory, target: str
    ) -> bool:
        """The exclusive rename itself; False where the system has none."""
        path, dir_fd = source_dir.at(source)
        target_path, target_fd = target_dir.at(target)
        if sys.platform == "win32":
            os.rename(path, target_path)  # never replaces on Windows
            return True
        return _rename_exclusive(path, dir_fd, target_path, target_fd)

    def link(self, source_dir: Directory, source: str, target_dir: Directory, target: str) -> None:
        """Give the file `source` a second name; FileExistsError if there is anything under it."""
        self.step("link", os.path.join(target_dir.path, target))
        path, dir_fd = source_dir.at(source)
        target_path, target_fd = target_dir.at(target)
        os.link(path, target_path, src_dir_fd=dir_fd, dst_dir_fd=target_fd, follow_symlinks=_BY_PATH)

    def can_link(self, directory: Directory) -> bool:
        """Try whether files in `directory` can have two names."""
        first, second = temporary_name(), temporary_name()
        self.close(self.create(directory, first))
        try:
            self.link(directory, first, directory, second)
            self.unlink(directory, second)
        except OSError as error:
            if error.errno not in _LINK_REFUSED:
                raise
            return False
        finally:
            with refuse_if_lost(directory):
                self.unlink(directory, first)
        return True

    def rename_if_free(self, source_dir: Directory, source: str, target_dir: Directory, target: str) -> None:
        """Look, then move `source` to `target`; FileExistsError if there is anything. For one writer only."""
        with contextlib.suppress(FileNotFoundError):
            self.status(target_dir, target)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        with refuse_if_lost(source_dir):
            self.rename(source_dir, source, target_dir, target)

    def link_or_rename(
        self, directory: Directory, source: str, target: str, single_writer: bool = False
    ) -> None:
        """Give the file `source` the name `target`; FileExistsError if there is anything under it.

        `source` may stay as a second name. Some file systems (FAT, some FUSE) have no hard links:
        there the exclusive rename has to do. Where that is missing too this is NotCreateOnly, or for a
        `single_writer` a look before the rename.
        """
        try:
            self.link(directory, source, directory, target)
        except OSError as error:
            if error.errno not in _LINK_REFUSED:
                raise
            try:
                self.rename_noreplace(directory, source, directory, target)
            except NotCreateOnly:
                if not single_writer:
                    raise
                self.rename_if_free(directory, source, directory, target)

    def unlink(self, parent: Directory, name: str) -> None:
        """Remove a name that is no directory."""
        self.step("unlink", os.path.join(parent.path, name))
        path, dir_fd = parent.at(name)
        os.unlink(path, dir_fd=dir_fd)

    def rmdir(self, parent: Directory, name: str) -> None:
        """Remove an empty directory."""
        self.step("rmdir", os.path.join(parent.path, name))
        path, dir_fd = parent.at(name)
        os.rmdir(path, dir_fd=dir_fd)

    def remove_tree(self, parent: Directory, name: str) -> int:
        """Remove `name` and all below it; the bytes that freed. Another process may do the same meanwhile.

        However deep it is: what lies too deep to be walked to is moved up beside `name` first. What can't be
        removed now, such as a file in use on NFS, doesn't keep the rest; its error comes at the end.
        """
        freed, top = 0, _Top(parent, [name], [])
        while top.pending:
            freed += self._remove_below(parent, top.pending.pop(), top, _DEEP)
        if top.kept:
            raise top.kept[0]
        return freed

    def _remove_below(self, parent: Directory, name: str, top: _Top, levels: int) -> int:
        try:
            directory = self.open_dir(parent, name)
        except FileNotFoundError:
            return 0
        except NotPlain:
            return self._remove_file(parent, name, top)
        freed = 0
        with directory:
            if directory.fd >= 0 and os.fstat(directory.fd).st_mode & 0o300 != 0o300:
                self.chmod(directory.fd, 0o700)  # others staged it read-only: unlink needs it writable
            for entry in list(self.entries(directory)):
                if not entry.is_dir:
                    freed += self._remove_file(directory, entry.name, top)
                elif levels:
                    freed += self._remove_below(directory, entry.name, top, levels - 1)
                else:
                    top.pending.append(f"deep.{secrets.token_hex(8)}")
                    with contextlib.suppress(FileNotFoundError):
                        self.rename(directory, entry.name, top.parent, top.pending[-1])
        with contextlib.suppress(FileNotFoundError), top.keep_going():
            self.rmdir(parent, name)
        return freed

    def _remove_file(self, parent: Directory, name: str, top: _Top) -> int:
        try:
            status = self.status(parent, name)
            with top.keep_going():
                self.unlink(parent, name)
        except FileNotFoundError:
            return 0
        return status.st_size if status.st_nlink == 1 else 0  # other links keep the bytes


class _Top(NamedTuple):
    """Where a removal began, what is still to do there, and what was in its way."""

    parent: Directory
    pending: list[str]
    kept: list[OSError]

    @contextlib.contextmanager
    def keep_going(self) -> Iterator[None]:
        """Note that a name could not be removed, if that says nothing of its neighbours."""
        try:
            yield
        except OSError as error:
            if error.errno not in _STAYS:
                raise
            self.kept.append(error)


@contextlib.contextmanager
def refuse_if_lost(directory: Directory) -> Iterator[None]:
    """NotDurable where a name is gone that was made a moment ago, as in mounts that keep nothing back."""
    try:
        yield
    except FileNotFoundError as error:
        raise explain_loss(directory.path) from error


def explain_loss(path: str) -> NotDurable:
    """What to raise where a file system has lost what was written to it and synced."""
    why = f"{find_mount(path)} lost a file that was written a moment ago"
    return NotDurable(errno.EIO, why, path)


_TEMPORARY = re.compile(r"\.ckptstore-[0-9a-f]{16}\.tmp\Z")


def temporary_name() -> str:
    """A new name that is no key, and that a sweep recognises."""
    return f".ckptstore-{secrets.token_hex(8)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether `name` is a temporary one that something is written under before the real one."""
    return _TEMPORARY.match(name) is not None


def path_of(fd: int) -> str:
    """The path of an open file, for messages; "" if the system doesn't tell."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def _sync(fd: int) -> None:
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # plain fsync stops at the drive's cache there
            return
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    os.fsync(fd)


def identity(status: os.stat_result) -> Identity:
    """Which file a status is of."""
    return status.st_dev, status.st_ino


def _load_rename() -> Callable[[int, bytes, int, bytes], int] | None:
    """The C library's exclusive rename, or None where there is none."""
    name, flag = ("renameatx_np", 0x4) if sys.platform == "darwin" else ("renameat2", 0x1)
    if _BY_PATH:
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int

    def rename(source_fd: int, source: bytes, target_fd: int, target: bytes) -> int:
        return 0 if function(source_fd, source, target_fd, target, flag) == 0 else ctypes.get_errno()

    return rename


def _load_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Linux's call to start writeback, or None."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_renamer = _load_rename()
_sync_file_range = _load_sync_file_range()


def _rename_exclusive(source: str, source_fd: int | None, target: str, target_fd: int | None) -> bool:
    """Rename if `target` is free, else FileExistsError; False where the system can't do it."""
    if _renamer is None or source_fd is None or target_fd is None:
        return False
    code = _renamer(source_fd, os.fsencode(source), target_fd, os.fsencode(target))
    if code in UNSUPPORTED:
        return False
    if code:
        raise OSError(code, os.strerror(code), target)
    return True
