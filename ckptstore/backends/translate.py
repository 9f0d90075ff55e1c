"""Turns what a place says into the error tree: the one table from builtins to to_typed_error errors."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from ckptstore.backends.base import BadOptions, NotPlain, PlaceMissing, TooLarge
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointNotFound,
    InvalidRequest,
    StoreDenied,
    StoreFull,
    StoreNotFound,
    StoreUnavailable,
    UnsafeContent,
)

P = ParamSpec("P")
T = TypeVar("T")

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def to_typed_error(error: OSError | EOFError, what: str) -> CheckpointError:
    """The typed error for `error`, which happened to `what`. Raise it ``from error``."""
    if isinstance(error, CheckpointError):
        return error
    why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    if isinstance(error, EOFError):
        return CheckpointCorrupt(what, why)
    if isinstance(error, NotPlain):
        return CheckpointCorrupt(
            str(error.filename or what), why, "Remove it, or use an older checkpoint if it was part of one"
        )
    if isinstance(error, TooLarge):
        return CheckpointCorrupt(
            str(error.filename), why, "Bring back the file that was there, or use an older checkpoint"
        )
    if isinstance(error, BadOptions):
        return InvalidRequest(
            f"storage_options of {what}", why, "See what s3fs, gcsfs or fsspec's own file system takes"
        )
    if isinstance(error, PlaceMissing):
        return StoreNotFound(what, why, "Bring it back, or open a new CheckpointStore to begin anew")
    if isinstance(error, FileNotFoundError):
        return CheckpointNotFound(what, why)
    if error.errno in _FULL:
        return StoreFull(what, why)
    if isinstance(error, PermissionError) or error.errno in _DENIED:
        return StoreDenied(
            what,
            why,
            "Check the credentials, the clock here, the file modes and whether it is mounted read-only",
        )
    return StoreUnavailable(what, why)


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Lets no OSError or EOFError out untyped; CheckpointErrors pass as they are."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, EOFError) as error:
        raise to_typed_error(error, what) from error


@contextmanager
def explain_memory_error(what: str) -> Iterator[None]:
    """Says what is too large for this machine's memory: a length is claimed by whoever wrote the file."""
    try:
        yield
    except MemoryError as error:
        raise UnsafeContent(
            what, "it takes more memory than there is", "Load fewer policies, or with mmap=True"
        ) from error


def retry_if_corrupt(read: Callable[P, T]) -> Callable[P, T]:
    """Decorate `read` to run once more on CheckpointCorrupt: damage in transit rarely repeats.

    What nobody has damaged must not be passed over for something older.
    """

    @functools.wraps(read)
    def read_again(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except CheckpointCorrupt:
            return read(*args, **kwargs)

    return read_again
