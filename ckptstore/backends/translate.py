"""Translate a backend's builtin errors into typed ones: the one table from the ones to the others."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from ckptstore.backends.base import (
    BadOptions,
    BucketMissing,
    CredentialsLost,
    Misfit,
    NotCreateOnly,
    NotDurable,
    NotPlain,
    PlaceMissing,
    Refused,
    TooLarge,
)
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
_TRANSIENT: Row = (StoreUnavailable, "")
_UNKNOWN: Row = (StoreUnavailable, "Mend what it says; nothing that was acknowledged is lost")

BY_CLASS: dict[type[OSError | EOFError], Row] = {
    EOFError: (CheckpointCorrupt, ""),
    NotPlain: (CheckpointCorrupt, "Remove it, or use an older checkpoint if it was part of one"),
    TooLarge: (CheckpointCorrupt, "Bring back the file that was there, or use an older checkpoint"),
    BadOptions: (InvalidRequest, "See what s3fs, gcsfs or fsspec's own file system takes"),
    BucketMissing: (StoreNotFound, "Create the bucket, or check its name in the URL"),
    Refused: (InvalidRequest, "Check the URL, the region, the endpoint and storage_options"),
    Misfit: (
        StoreUnsuitable,
        "Install another release of the client library: docs/testing.md names those that are tried",
    ),
    NotCreateOnly: (
        StoreUnsuitable,
        "Pass single_writer=True if one process at a time writes there, or use another kind of place",
    ),
    NotDurable: (
        StoreUnsuitable,
        "Use another file system, or the bucket by its own URL; rclone needs --vfs-cache-mode writes",
    ),
    CredentialsLost: (
        StoreDenied,
        "A pickle keeps no credentials: open it anew with its storage_options, or give this process some",
    ),
    PlaceMissing: (StoreNotFound, "Bring it back, or open a new CheckpointStore to begin anew"),
    FileNotFoundError: (CheckpointNotFound, "Check the path, and what else removes files there"),
    FileExistsError: (
        CheckpointExists,
        "Something is there already under that name: remove it, or use another name",
    ),
    NotADirectoryError: (InvalidRequest, "Part of the path is a file: use another path"),
    IsADirectoryError: (
        InvalidRequest,
        "A file is needed there: remove the directory, or use another name",
    ),
    PermissionError: _DENIED,
    TimeoutError: _TRANSIENT,
    ConnectionError: _TRANSIENT,
    BlockingIOError: _TRANSIENT,
    InterruptedError: _TRANSIENT,
}
"""By class; of those that an error is an instance of, the first one counts."""

_BY_NAME: dict[str, Row] = {
    "ENOSPC": (StoreFull, ""),
    "EDQUOT": (StoreFull, "Free some space (ckptstore prune, ckptstore gc), or have the quota raised"),
    "EFBIG": (
        StoreFull,
        "It takes no file of that size: raise the limit (ulimit -f), or use another file system",
    ),
    "EMLINK": (
        StoreFull,
        "No more directories or links fit there: remove old checkpoints (ckptstore prune, ckptstore gc)",
    ),
    "EACCES EPERM": _DENIED,
    "EROFS": (StoreDenied, "It is mounted read-only: mount it for writing, or save elsewhere"),
    "ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED": (
        StoreDenied,
        "It is encrypted, and the key isn't there: unlock it",
    ),
    "ENAMETOOLONG": (InvalidRequest, "Use a shorter path, or shorter names"),
    "ELOOP": (InvalidRequest, "Use a path without that symbolic link, or mend the link"),
    "EILSEQ": (InvalidRequest, "That file system takes no such name: use another one"),
    "EINVAL ENOSYS ENOTSUP EOPNOTSUPP EXDEV ENOTTY E2BIG EOVERFLOW ESPIPE ENOTBLK ENOEXEC": _UNSUITABLE,
    "ENODEV ENXIO ENOMEDIUM ENOTCONN": (
        StoreUnavailable,
        "The disk or mount isn't there any more: bring it back",
    ),
    "EUCLEAN EBADMSG EMEDIUMTYPE": (
        StoreUnavailable,
        "The file system is damaged: have it checked, and save elsewhere until then",
    ),
    # These pass, but not by waiting alone.
    "EMFILE": (StoreUnavailable, "Raise the limit of open files (ulimit -n), or close some"),
    "ENFILE": (StoreUnavailable, "The system has no room for more open files: close some, in any program"),
    "ENOMEM": (StoreUnavailable, "Free some memory, in this process or another"),
    "EBADF": (
        StoreUnavailable,
        "Find what in this process closes files that it did not open, then try again",
    ),
    "ENOTEMPTY ETXTBSY": (
        StoreUnavailable,
        "Another program writes there or keeps files open: stop it, then try again",
    ),
    # These do pass.
    "EIO EINTR EAGAIN EBUSY ESTALE ENOLCK EDEADLK EPIPE ENOBUFS ETIME ECANCELED ERESTART": _TRANSIENT,
    "ETIMEDOUT ECONNABORTED ECONNREFUSED ECONNRESET ECOMM EREMOTEIO ENOLINK": _TRANSIENT,
    "ENETDOWN ENETRESET ENETUNREACH EHOSTDOWN EHOSTUNREACH": _TRANSIENT,
}

BY_ERRNO = {
    getattr(errno, name): row
    for names, row in _BY_NAME.items()
    for name in names.split()
    if hasattr(errno, name)  # macOS has fewer
}
"""By errno, for errors whose class says nothing. Of any other the system's own words are all there is."""


def to_typed_error(error: OSError | EOFError, what: str) -> CheckpointError:
    """The typed error for `error`, which happened to `what`. Raise it ``from error``."""
    if isinstance(error, CheckpointError):
        return error
    number = error.errno if isinstance(error, OSError) else None
    why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    rows = (row for kind, row in BY_CLASS.items() if isinstance(error, kind))
    typed, remedy = next(rows, None) or BY_ERRNO.get(number or 0, _UNKNOWN)
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
