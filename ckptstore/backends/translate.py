"""Translate a backend's builtin errors into typed ones: the one table from the ones to the others."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from ckptstore.backends.base import BadOptions, BucketMissing, NotPlain, PlaceMissing, TooLarge
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointExists,
    CheckpointNotFound,
    InvalidRequest,
    StoreDenied,
    StoreFull,
    StoreNotFound,
    StoreUnavailable,
    StoreUnsuitable,
    UnsafeContent,
)

P = ParamSpec("P")
T = TypeVar("T")

Row = tuple[type[CheckpointError], str]
"""A typed error and its remedy; an empty one leaves the error's own."""

_DENIED: Row = (
    StoreDenied,
    "Check the credentials, the clock here, the file modes and whether it is mounted read-only",
)
_UNSUITABLE: Row = (
    StoreUnsuitable,
    "See what `ckptstore doctor` says of it, or use another file system or an object store",
)

BY_CLASS: dict[type[OSError | EOFError], Row] = {
    EOFError: (CheckpointCorrupt, ""),
    NotPlain: (CheckpointCorrupt, "Remove it, or use an older checkpoint if it was part of one"),
    TooLarge: (CheckpointCorrupt, "Bring back the file that was there, or use an older checkpoint"),
    BadOptions: (InvalidRequest, "See what s3fs, gcsfs or fsspec's own file system takes"),
    BucketMissing: (StoreNotFound, "Create the bucket, or check its name in the URL"),
    PlaceMissing: (StoreNotFound, "Bring it back, or open a new CheckpointStore to begin anew"),
    FileNotFoundError: (CheckpointNotFound, ""),
    FileExistsError: (
        CheckpointExists,
        "Something is there already under that name: remove it, or use another name",
    ),
    PermissionError: _DENIED,
    NotADirectoryError: (InvalidRequest, "Part of the path is a file: use another path"),
    IsADirectoryError: (
        InvalidRequest,
        "A file is needed there: remove the directory, or use another name",
    ),
}
"""By class; of those that an error is an instance of, the first one counts."""

BY_ERRNO: dict[int, Row] = {
    errno.ENOSPC: (StoreFull, ""),
    errno.EDQUOT: (StoreFull, ""),
    errno.EFBIG: (StoreFull, ""),
    errno.EMLINK: (
        StoreFull,
        "No more directories or links fit there: remove old checkpoints (ckptstore prune, ckptstore gc)",
    ),
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENAMETOOLONG: (InvalidRequest, "Use a shorter path, or shorter names"),
    errno.ELOOP: (InvalidRequest, "Use a path without that symbolic link, or mend the link"),
    errno.EINVAL: _UNSUITABLE,
    errno.ENOSYS: _UNSUITABLE,
    errno.ENOTSUP: _UNSUITABLE,
    errno.EOPNOTSUPP: _UNSUITABLE,
    errno.EXDEV: _UNSUITABLE,
    # These pass, but not by waiting alone.
    errno.EMFILE: (StoreUnavailable, "Raise the limit of open files (ulimit -n), or close some"),
    errno.EBADF: (
        StoreUnavailable,
        "Find what in this process closes files that it did not open, then try again",
    ),
    errno.ENOTEMPTY: (
        StoreUnavailable,
        "Another program writes there or keeps files open: stop it, then try again",
    ),
}
"""By errno, for errors whose class says nothing."""


def to_typed_error(error: OSError | EOFError, what: str) -> CheckpointError:
    """The typed error for `error`, which happened to `what`. Raise it ``from error``."""
    if isinstance(error, CheckpointError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    rows = (row for kind, row in BY_CLASS.items() if isinstance(error, kind))
    typed, remedy = next(rows, None) or BY_ERRNO.get(number or 0, (StoreUnavailable, ""))
    if isinstance(error, (NotPlain, TooLarge)):
        what = str(error.filename or what)
    elif isinstance(error, BadOptions):
        what = f"storage_options of {what}"
    return typed(what, why, remedy)


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Raise the typed error for any OSError or EOFError inside; CheckpointErrors pass as they are."""
    try:
        yield
    except CheckpointError:
        raise
    except (OSError, EOFError) as error:
        raise to_typed_error(error, what) from error


@contextmanager
def explain_memory_error(what: str) -> Iterator[None]:
    """Raise UnsafeContent for a MemoryError inside: it is the file that claims how long its data are."""
    try:
        yield
    except MemoryError as error:
        raise UnsafeContent(
            what, "it takes more memory than there is", "Load fewer policies, or with mmap=True"
        ) from error


def retry_if_corrupt(read: Callable[P, T]) -> Callable[P, T]:
    """Decorate `read` to run once more on CheckpointCorrupt: damage in transit rarely repeats.

    A checkpoint that is whole must not be passed over for an older one.
    """

    @functools.wraps(read)
    def read_again(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except CheckpointCorrupt:
            return read(*args, **kwargs)

    return read_again
