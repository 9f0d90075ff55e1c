"""Every failure that a backend may raise becomes a typed error that says what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends import base
from ckptstore.backends.base import (
    BadOptions,
    CredentialsLost,
    Misfit,
    NotCreateOnly,
    NotDurable,
    NotPlain,
    PlaceMissing,
    Refused,
    too_large,
)
from ckptstore.backends.translate import BY_CLASS, BY_ERRNO, to_typed_error, translate_errors
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointExists,
    CheckpointGone,
    CheckpointNotFound,
    InvalidRequest,
    StoreDenied,
    StoreFull,
    StoreNotFound,
    StoreUnavailable,
    StoreUnsuitable,
)

WHERE = "s3://bucket/run/checkpoint_000001"

DOCUMENTED: dict[str, tuple[OSError | EOFError, type[CheckpointError]]] = {
    "FileNotFoundError": (FileNotFoundError(f"{WHERE}/a is not there"), CheckpointNotFound),
    "PlaceMissing": (PlaceMissing("the bucket is not there"), StoreNotFound),
    "NotPlain": (NotPlain(errno.ENOTDIR, "a link", "/run/a"), CheckpointCorrupt),
    "FileExistsError": (FileExistsError(f"{WHERE}/a is already there"), CheckpointExists),
    "PermissionError": (PermissionError("expired token"), StoreDenied),
    "OSError(ENOSPC, ...)": (OSError(errno.ENOSPC, "disk full"), StoreFull),
    "TimeoutError": (TimeoutError("no proper answer after 9 tries"), StoreUnavailable),
    "EOFError": (EOFError("it ends at byte 3"), CheckpointCorrupt),
    "TooLarge": (too_large("/run/a", 10, 5), CheckpointCorrupt),
    "BadOptions": (BadOptions("TypeError: no such option"), InvalidRequest),
    "Refused": (Refused("InvalidBucketName"), InvalidRequest),
    "Misfit": (Misfit("TypeError: read() takes 1 positional argument"), StoreUnsuitable),
    "NotCreateOnly": (NotCreateOnly(errno.ENOTSUP, "no hard links"), StoreUnsuitable),
    "NotDurable": (NotDurable(errno.EINVAL, "it can't sync"), StoreUnsuitable),
    "CredentialsLost": (CredentialsLost("403"), StoreDenied),
    "OSError": (OSError("HTTP 418"), StoreUnavailable),
}
"""The rows of the table in `ckptstore.backends.base`, each with an error of its kind."""

NUMBERS: dict[int, type[CheckpointError]] = {
    errno.EEXIST: CheckpointExists,
    errno.ENOENT: CheckpointNotFound,
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EFBIG: StoreFull,
    errno.EMLINK: StoreFull,
    errno.EACCES: StoreDenied,
    errno.EPERM: StoreDenied,
    errno.EROFS: StoreDenied,
    errno.ENOTDIR: InvalidRequest,
    errno.EISDIR: InvalidRequest,
    errno.ENAMETOOLONG: InvalidRequest,
    errno.ELOOP: InvalidRequest,
    errno.EINVAL: StoreUnsuitable,
    errno.ENOSYS: StoreUnsuitable,
    errno.ENOTSUP: StoreUnsuitable,
    errno.EOPNOTSUPP: StoreUnsuitable,
    errno.EXDEV: StoreUnsuitable,
}
"""What waiting does not mend."""

PASSING = (errno.EIO, errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET)


def test_every_documented_failure_has_a_row_here() -> None:
    table = str(base.__doc__).split("=====\n")[1].splitlines()
    assert [re.split(r"  +", row)[0] for row in table if not row.startswith("=")] == list(DOCUMENTED)


@pytest.mark.parametrize(("error", "typed"), DOCUMENTED.values(), ids=list(DOCUMENTED))
def test_documented_failures(error: OSError | EOFError, typed: type[CheckpointError]) -> None:
    with pytest.raises(typed) as caught, translate_errors(WHERE):
        raise error
    assert type(caught.value) is typed
    assert caught.value.__cause__ is error
    assert caught.value.why
    filename = getattr(error, "filename", None)
    assert caught.value.what == (
        filename or f"{'storage_options of ' * isinstance(error, BadOptions)}{WHERE}"
    )


@pytest.mark.parametrize(("number", "typed"), NUMBERS.items(), ids=[errno.errorcode[n] for n in NUMBERS])
def test_what_waiting_does_not_mend(number: int, typed: type[CheckpointError]) -> None:
    error = to_typed_error(OSError(number, os.strerror(number), "/below"), WHERE)
    assert type(error) is typed
    assert (error.what, error.why) == (WHERE, os.strerror(number))
    assert error.remedy or typed is CheckpointNotFound
    assert "later" not in error.remedy


@pytest.mark.parametrize("number", PASSING, ids=[errno.errorcode[n] for n in PASSING])
def test_what_passes_asks_to_try_again(number: int) -> None:
    error = to_typed_error(OSError(number, os.strerror(number)), WHERE)
    assert type(error) is StoreUnavailable
    assert error.remedy == StoreUnavailable.default_remedy


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EBADF, errno.ENOTEMPTY])
def test_what_passes_once_a_cause_is_gone_names_the_cause(number: int) -> None:
    error = to_typed_error(OSError(number, os.strerror(number)), WHERE)
    assert type(error) is StoreUnavailable
    assert error.remedy not in ("", StoreUnavailable.default_remedy)


def test_a_taken_name_is_said_to_be_taken() -> None:
    error = to_typed_error(FileExistsError(errno.EEXIST, "File exists"), WHERE)
    assert isinstance(error, CheckpointExists)
    assert "there already under that name" in error.remedy
    assert "if_exists" not in error.remedy  # it need not be a step


def test_a_class_comes_before_those_it_derives_from() -> None:
    kinds = list(BY_CLASS)
    for index, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[index + 1 :]), kind
    assert not any(issubclass(typed, CheckpointGone) for typed, _ in (*BY_CLASS.values(), *BY_ERRNO.values()))


def test_typed_errors_pass_as_they_are() -> None:
    error = StoreFull(WHERE, "full")
    assert to_typed_error(error, "elsewhere") is error
    with pytest.raises(StoreFull) as caught, translate_errors("elsewhere"):
        raise error
    assert caught.value is error


def test_impossible_paths_end_in_errors_that_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    for path in ("file", "file/below", "one", "one/below", "n" * 300):
        store = CheckpointStore(tmp_path / path)
        for call in (store.latest, lambda store=store: store.save(1, {"a": 1})):
            with pytest.raises(InvalidRequest) as caught:
                call()
            assert caught.value.what.startswith(store.url)
    with pytest.raises(InvalidRequest):
        Checkpoint.open(tmp_path / "one")
    assert sorted(os.listdir(tmp_path)) == ["file", "one", "two"]


def test_a_download_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    checkpoint = CheckpointStore(tmp_path / "run").save(1, {"a": 1})
    with pytest.raises(CheckpointExists, match="there already under that name"):
        checkpoint.download(tmp_path / "file")
    with pytest.raises(InvalidRequest, match="is a file"):
        checkpoint.download(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_bytes() == b"x"
