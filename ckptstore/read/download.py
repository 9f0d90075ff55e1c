"""Copy the files of a checkpoint to a local directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from ckptstore.backends.translate import translate_errors
from ckptstore.errors import CheckpointCorrupt, InvalidRequest
from ckptstore.format.names import relative_path
from ckptstore.read.files import Files
from ckptstore.work import Progress, run_all


@contextmanager
def new_directory(target: str) -> Iterator[None]:
    """Make the directory `target`, or take an empty one; empty it again if the block fails."""
    with translate_errors(target):
        os.makedirs(target, mode=0o700, exist_ok=True)
        if os.listdir(target):
            raise InvalidRequest(target, "it isn't empty", "Name a new directory")
    try:
        yield
    except BaseException:
        # What is there is ours and not a checkpoint: the next try must find the directory empty.
        for name in os.listdir(target):
            path = os.path.join(target, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        raise


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


def write_file(path: str, chunks: Iterable[bytes]) -> None:
    """Write the new local file `path`; its directories are made."""
    with translate_errors(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)
