"""Copy the files of a checkpoint to a local directory."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType

from ckptstore.backends.local.scratch import Scratch
from ckptstore.backends.translate import translate_errors
from ckptstore.errors import CheckpointCorrupt, CheckpointExists, InvalidRequest
from ckptstore.format import names
from ckptstore.format.manifest import Manifest
from ckptstore.format.names import relative_path
from ckptstore.read.files import Files
from ckptstore.work import Progress, run_all

_PRIVATE = ".ckptstore-download-"


@contextmanager
def new_directory(target: str, expected: Mapping[str, int], whole: bool = True) -> Iterator[str]:
    """A private directory that becomes the directory `target`, new or empty, when the block ends well.

    Several may do this at once: one wins, and the others find there already what they have made too. Only of
    a manifest that isn't of the `whole` checkpoint there may be several. InvalidRequest at once if `target`
    lies in a checkpoint, is a store's own, or is neither empty nor has all files that are `expected`, with
    these sizes; CheckpointExists at the end if what lies there by then is something else, which is left.
    """
    from ckptstore.backends.local.backend import LocalBackend
    from ckptstore.commit.place import refuse_a_copy  # neither is needed to open and load

    with translate_errors(target):
        refuse_a_copy(LocalBackend(os.path.abspath(target)))
        os.makedirs(target, exist_ok=True)
        place = os.path.realpath(target)  # what a link leads to is filled, not the link replaced
        there = _sizes(place)
        if there and any(there.get(path) != size for path, size in expected.items()):
            raise InvalidRequest(target, "it isn't empty", "Name a new directory")
    scratch = Scratch(_parent_for(place), _PRIVATE)
    try:
        with translate_errors(target):
            scratch.make()
        yield scratch.path
        with translate_errors(target):
            _move(scratch.path, place, target, whole)
        scratch.remove()  # it has another name by now, if it wasn't the loser's
    except BaseException:
        scratch.remove()
        raise


def _parent_for(place: str) -> str:
    """Beside `place`, so that a rename brings it there; or within, where that is a mount, or all there is."""
    beside = os.path.dirname(place)
    return place if os.path.ismount(place) or not os.access(beside, os.W_OK | os.X_OK) else beside


def _move(made: str, place: str, target: str, whole: bool) -> None:
    if os.path.dirname(made) != place:
        shutil.copymode(place, made)  # it may have been made by somebody who wants it read by others
        try:
            if os.name == "nt":
                with suppress(OSError):
                    os.rmdir(place)
            os.rename(made, place)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                raise
    elif not _sizes(place):
        # Last, as everywhere: a copy cut short is not a checkpoint.
        for name in sorted(os.listdir(made), key=lambda name: name == names.META):
            os.rename(os.path.join(made, name), os.path.join(place, name))
        return
    ours, theirs = _sizes(made), _sizes(place)
    skip = set() if whole else {names.MANIFEST}
    same = set(ours) == set(theirs) and all(
        filecmp.cmp(os.path.join(made, path), os.path.join(place, path), shallow=False)
        for path in set(ours) - skip
    )
    if not same:
        raise CheckpointExists(target, "something else lies there by now", "Name a new directory")


def _sizes(place: str) -> dict[str, int]:
    """Every file below `place` but those of downloads that go on, and its size in bytes; -1 for no file."""
    found = {}
    for folder, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith(_PRIVATE)]
        within = os.path.relpath(folder, place).replace(os.sep, "/")
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
            status = os.lstat(os.path.join(folder, name))
            path = name if within == "." else f"{within}/{name}"
            found[path] = status.st_size if stat.S_ISREG(status.st_mode) else -1
        if not files and not folders and within != ".":
            found[within] = -1
    return found


def copy_files(
    files: Files, paths: Sequence[str], target: str, concurrency: int, progress: Progress | None = None
) -> None:
    """Copy `paths` of `files` into the local directory `target`, several at a time."""

    def copy(path: str) -> None:
        write_file(path_below(target, path, files.label), chunks(path))

    def chunks(path: str) -> Iterator[bytes]:
        for data in files.stream(path):
            yield data
            if progress is not None:
                progress(len(data))

    run_all(copy, paths, concurrency)


def path_below(target: str, path: str, source: str, flavour: ModuleType = os.path) -> str:
    """The local path of the file `path` below `target`. CheckpointCorrupt if it isn't there."""
    if flavour.splitdrive(relative_path(path, source))[0]:  # joining that would forget the target
        raise CheckpointCorrupt(source, f"the path {path[:200]!r} names a drive")
    return str(flavour.join(target, path))


def write_description(directory: str, table: bytes, manifest: Manifest) -> None:
    """Make the files in `directory` a checkpoint. Last, as everywhere: a copy cut short is none."""
    write_file(os.path.join(directory, names.PARTS), [table])
    write_file(os.path.join(directory, names.MANIFEST), [manifest.dump()])


def write_file(path: str, chunks: Iterable[bytes]) -> None:
    """Write the new local file `path`; its directories are made."""
    with translate_errors(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
