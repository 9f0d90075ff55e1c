"""Local files as the source of a save: staged directories and exported models."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence

from ckptstore.backends.local.posix import is_temporary
from ckptstore.backends.translate import translate_errors
from ckptstore.errors import CheckpointCorrupt, InvalidRequest, SaveAborted
from ckptstore.format import names
from ckptstore.format.droppings import is_dropping
from ckptstore.format.layout import Contents, Item, Write
from ckptstore.format.parts import PART_BYTES


def copy_item(path: str, source: str) -> Item:
    """A file with the bytes of the local file `source`, cut into parts of a fixed size."""

    def emit(write: Write) -> Sequence[tuple[int, int]]:
        buffer = memoryview(bytearray(PART_BYTES))
        with translate_errors(source), open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            before = os.fstat(file.fileno())
            while count := file.readinto(buffer):
                write(buffer[:count])
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise file_changed(source)
        return ()

    return Item(path, emit)


def model_items(contents: Contents, models: Mapping[str, str | os.PathLike[str]]) -> list[Item]:
    """The files of native model exports, each under its policy's ``model/``, as they are.

    A value of `models` is a local directory, or one file. InvalidRequest if it isn't there.
    """
    items = []
    for policy_id, source in models.items():
        what = f"models[{policy_id!r}]"
        if policy_id not in contents.policy_ids:
            raise InvalidRequest(what, "no policy of that id is being saved", "Use the id of one that is")
        path = os.fspath(source)
        if os.path.isdir(path):
            files = {name: os.path.join(path, name) for name in local_files(path)}
        elif os.path.isfile(path):
            files = {os.path.basename(path): path}
        else:
            raise InvalidRequest(what, f"{path!r} is no file or directory", "Export the model first")
        items += [
            copy_item(contents.policy_path(policy_id, f"model/{name}"), file) for name, file in files.items()
        ]
    return items


def local_files(directory: str) -> list[str]:
    """Paths of the files below `directory`, relative and sorted; InvalidRequest for anything but plain files.

    A link would be followed by whoever reads the checkpoint later, on another machine. A name that no
    reader would take is refused as well. Left out is what comes and goes by itself, such as ``.nfs*``.
    """
    with translate_errors(directory):
        paths = sorted(path for path in _plain_files(directory) if not is_dropping(path))
    for path in paths:
        _check_name(path, directory)
    return paths


def _check_name(path: str, directory: str) -> None:
    where = os.path.join(directory, path).encode("utf-8", "backslashreplace").decode()
    try:
        names.relative_path(path, where)
    except CheckpointCorrupt:
        why = "a checkpoint can't hold a name with a backslash or with bytes that aren't UTF-8"
        raise InvalidRequest(where, why, "Rename the file") from None
    if is_temporary(os.path.basename(path)):
        raise InvalidRequest(where, "its name is that of an unfinished file of ckptstore", "Rename the file")


def file_changed(path: str) -> SaveAborted:
    """What to raise for a file that something still writes to."""
    why = "it changed while it was being saved"
    return SaveAborted(path, why, "Close every file, and stop what writes there, before you commit them")


def take_own_copies(directory: str, paths: Sequence[str]) -> None:
    """Replace each file that has a name outside of `directory` as well by a copy of its own.

    Whoever has the other name may go on writing to the file, and would change the checkpoint.
    """
    inside: dict[tuple[int, int], int] = {}
    found = {path: os.stat(os.path.join(directory, path)) for path in paths}
    for status in found.values():
        inside[status.st_dev, status.st_ino] = inside.get((status.st_dev, status.st_ino), 0) + 1
    for path, status in found.items():
        if status.st_nlink > inside[status.st_dev, status.st_ino]:
            full = os.path.join(directory, path)
            copy = f"{full}.{secrets.token_hex(8)}"
            shutil.copy2(full, copy)
            os.replace(copy, full)


def _plain_files(directory: str) -> Iterator[str]:
    for folder, folders, files in os.walk(directory, onerror=_raise):
        if folder.count(os.sep) - directory.rstrip(os.sep).count(os.sep) > names.MAX_DEPTH:
            raise InvalidRequest(
                folder, f"it lies more than {names.MAX_DEPTH} directories deep", "Move it up"
            )
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            full = os.path.join(folder, name)
            if not stat.S_ISREG(os.lstat(full).st_mode):
                remedy = "Put plain files there, or links to files in the same directory"
                raise InvalidRequest(full, "it is a link that leads elsewhere, a pipe or a device", remedy)
            yield os.path.relpath(full, directory).replace(os.sep, "/")


def _raise(error: OSError) -> None:
    raise error
