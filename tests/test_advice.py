"""What an error advises can help: for every errno at every kind of call, and for paths within a store."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.translate import to_typed_error
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
)
from tests.disks import FailingCallsDisk

TABLE: dict[str, tuple[type[CheckpointError], str]] = {
    "ENOSPC": (StoreFull, "Free some space"),
    "EDQUOT": (StoreFull, "quota"),
    "EFBIG": (StoreFull, "ulimit -f"),
    "EMLINK": (StoreFull, "remove old checkpoints"),
    "EACCES EPERM": (StoreDenied, "the file modes"),
    "EROFS": (StoreDenied, "read-only"),
    "ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED": (StoreDenied, "unlock"),
    "ENAMETOOLONG": (InvalidRequest, "shorter"),
    "ELOOP": (InvalidRequest, "link"),
    "EILSEQ": (InvalidRequest, "use another one"),
    "ENOTDIR": (InvalidRequest, "Part of the path is a file"),
    "EISDIR": (InvalidRequest, "remove the directory"),
    "EEXIST": (CheckpointExists, "use another name"),
    "EINVAL ENOSYS ENOTSUP EOPNOTSUPP EXDEV ENOTTY E2BIG EOVERFLOW ESPIPE ENOTBLK ENOEXEC": (
        StoreUnsuitable,
        "doctor",
    ),
    "ENODEV ENXIO ENOMEDIUM ENOTCONN": (StoreUnavailable, "bring it back"),
    "EUCLEAN EBADMSG EMEDIUMTYPE": (StoreUnavailable, "damaged"),
    "EMFILE": (StoreUnavailable, "ulimit -n"),
    "ENFILE": (StoreUnavailable, "close some"),
    "ENOMEM": (StoreUnavailable, "Free some memory"),
    "EBADF": (StoreUnavailable, "closes files"),
    "ENOTEMPTY ETXTBSY": (StoreUnavailable, "stop it"),
}
"""What waiting alone doesn't mend: the class, and a word of what to do instead."""

PASSING = {
    *("EIO", "EINTR", "EAGAIN", "EALREADY", "EINPROGRESS", "EBUSY", "ESTALE", "ENOLCK", "EDEADLK"),
    *("EDEADLOCK", "EPIPE", "ESHUTDOWN", "ENOBUFS", "ETIME", "ETIMEDOUT", "ECANCELED", "ERESTART"),
    *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "ECOMM", "EREMOTEIO", "ENOLINK"),
    *("ENETDOWN", "ENETRESET", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
}
"""What does pass: these alone may be told to try again later."""

EXPECTED = {name: row for names, row in TABLE.items() for name in names.split()}
NUMBERS = sorted(errno.errorcode)


def name_of(number: int) -> str:
    return errno.errorcode[number]


@pytest.mark.parametrize("number", NUMBERS, ids=name_of)
def test_each_errno_says_what_can_help(number: int) -> None:
    error = to_typed_error(OSError(number, os.strerror(number)), "file:///run")
    name = name_of(number)
    if name in EXPECTED:
        typed, words = EXPECTED[name]
        assert type(error) is typed
        assert words in error.remedy
    elif name in PASSING:
        assert type(error) is StoreUnavailable
        assert error.remedy == StoreUnavailable.default_remedy
    elif name == "ENOENT":
        assert type(error) is CheckpointNotFound
    else:
        assert type(error) is StoreUnavailable
        assert error.remedy
    assert ("later" in error.remedy) == (name in PASSING)
    assert os.strerror(number) in str(error)


def list_them(store: CheckpointStore) -> None:
    store.checkpoints()


def read_one(store: CheckpointStore) -> None:
    store.get(1).state  # noqa: B018


def write_one(store: CheckpointStore) -> None:
    store.save(2, {"a": 2})


CALLS: dict[str, tuple[str, Callable[[CheckpointStore], None]]] = {
    "list": ("entries", list_them),
    "read": ("open_file", read_one),
    "write": ("create", write_one),
}
TAKEN_FOR_DAMAGE = {"ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENXIO", "EEXIST"}
"""What a call itself means something by: that a file isn't there, or something else lies there."""


@pytest.mark.parametrize("call", CALLS)
def test_every_errno_at_every_call_of_a_disk(tmp_path: Path, call: str) -> None:
    operation, use = CALLS[call]
    CheckpointStore(tmp_path).save(1, {"a": 1})
    errors: dict[str, CheckpointError] = {}
    for number in NUMBERS:
        store = CheckpointStore(LocalBackend(tmp_path, disk=FailingCallsDisk(operation, number)))
        try:
            use(store)
        except CheckpointError as error:
            errors[name_of(number)] = error
    for name, said in errors.items():
        assert said.remedy, (name, said)
        assert name in PASSING or "later" not in said.remedy, (name, said)
        if name not in TAKEN_FOR_DAMAGE:
            assert type(said) not in (CheckpointNotFound, CheckpointCorrupt), (name, said)
            if name in EXPECTED:
                assert type(said) is EXPECTED[name][0], (name, said)
                assert EXPECTED[name][1] in said.remedy, (name, said)
    seen = set(map(type, errors.values()))
    assert {StoreFull, StoreDenied, StoreUnavailable, InvalidRequest, StoreUnsuitable} <= seen
    assert CheckpointStore(tmp_path).get(1).state == {"a": 1}


@pytest.mark.parametrize(
    "path",
    [
        "checkpoint_000007",
        "checkpoint_000001/policies",
        "checkpoint_000001/policies/pol1",
        "_ckptstore/refs",
        ".staging",
    ],
)
def test_nobody_is_told_to_make_a_store_in_a_checkpoint(tmp_path: Path, path: str) -> None:
    root = tmp_path / "run"
    CheckpointStore(root).save(1, {"a": 1}, policies={"pol1": {"w": 1}})
    with pytest.raises(CheckpointError) as caught:
        CheckpointStore(root / path, create=False).latest()
    assert "create=True" not in caught.value.remedy
    assert "first save" not in caught.value.remedy
    assert str(root) in caught.value.remedy
    with pytest.raises(StoreNotFound, match="create=True"):
        CheckpointStore(tmp_path / "nowhere", create=False).latest()
