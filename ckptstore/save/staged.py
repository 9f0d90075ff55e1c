"""Make what a program left in its staging directory fit to be committed: plain files, and nothing else."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress

from ckptstore.backends.translate import translate_errors
from ckptstore.errors import InvalidRequest, SaveAborted
from ckptstore.format import names

EMPTY = ".empty-directory"
"""The file that stands for an empty directory: neither manifests nor buckets know directories."""
_EMPTY_TEXT = b"This directory was empty when it was saved.\n"


def check_directory(directory: str) -> None:
    """Whether it is there still, and a directory: some programs put something else in its place.

    Raises SaveAborted if it is gone, and InvalidRequest if a link or a file is there.
    """
    try:
        mode = os.lstat(directory).st_mode
    except FileNotFoundError:
        why = "it was moved away or removed before it could be committed"
        raise SaveAborted(
            directory, why, "Leave it in place, and copy what you moved into a new stage()"
        ) from None
    if stat.S_ISLNK(mode):
        why = f"a link to {os.readlink(directory)} was put in its place, and is not followed"
        raise InvalidRequest(directory, why, "Nothing behind it was touched: copy that into a new stage()")
    if not stat.S_ISDIR(mode):
        raise InvalidRequest(directory, "a file was put in its place", "Write files into the directory")


def settle_links(directory: str) -> None:
    """Turn links to what lies in `directory` itself into files.

    Trainers link ``latest.pth`` to the newest of their files. Such a link becomes a second name of the file
    where there are hard links, else a copy. One that leads elsewhere is left, for the save to refuse.
    """
    top = os.path.realpath(directory)
    with translate_errors(directory):
        links = [
            path
            for folder, found in _walk(directory)
            for name in found
            if os.path.islink(path := os.path.join(folder, name))
        ]
        for path in reversed(links):
            _settle_link(path, top)


def mark_empty(directory: str) -> list[str]:
    """Put a file into each empty directory below `directory`, so that it survives; their paths."""
    made = []
    with translate_errors(directory):
        for folder, found in _walk(directory):
            within = os.path.relpath(folder, directory).replace(os.sep, "/")
            if not found and within != names.POLICIES:  # RLlib takes what is in there for policies
                made.append(f"{within}/{EMPTY}")
                with open(os.path.join(folder, EMPTY), "xb") as file:
                    file.write(_EMPTY_TEXT)
    return made


def _walk(directory: str) -> Iterator[tuple[str, list[str]]]:
    """Each directory that may be committed, from the top down, and the names in it.

    What lies deeper is left for the save to refuse; `os.walk` ends in a RecursionError there.
    """
    pending = [(directory, 0)]
    while pending:
        folder, depth = pending.pop()
        with os.scandir(folder) as entries:
            found = list(entries)
        yield folder, [entry.name for entry in found]
        if depth <= names.MAX_DEPTH:
            pending += [(entry.path, depth + 1) for entry in found if entry.is_dir(follow_symlinks=False)]


def _settle_link(path: str, top: str) -> None:
    target = os.path.realpath(path)
    inside = target.startswith(top + os.sep)
    if not inside or not os.path.exists(target):
        return
    if os.path.isdir(target):
        if (os.path.realpath(os.path.dirname(path)) + os.sep).startswith(target + os.sep):
            return  # it leads to where it lies itself
        os.unlink(path)
        shutil.copytree(target, path, symlinks=True, copy_function=_link_or_copy)
    else:
        os.unlink(path)
        _link_or_copy(target, path)


def _link_or_copy(source: str, target: str, *, follow_symlinks: bool = True) -> str:
    if os.path.islink(source):
        source = os.path.realpath(source)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    with suppress(OSError):
        os.chmod(
            target, stat.S_IMODE(os.stat(target).st_mode) & 0o444
        )  # saves leave shared files as they are
    return target
