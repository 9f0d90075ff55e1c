"""Asks a place whether it refuses to create what exists, before anything relies on it.

Many S3-compatible servers answer 200 to ``If-None-Match: *`` and overwrite: two writers would then
both be told that they won, and one checkpoint would silently replace the other. No table of vendors
and no absence of errors can be trusted, so each store is asked once per process.
"""

from __future__ import annotations

import json
import uuid

from ckptstore.backends.base import ObjectPlace, TooLarge
from ckptstore.commit.failures import ignores_create_only
from ckptstore.format.names import PROBE
from ckptstore.format.strictjson import MAX_SMALL_BYTES
from ckptstore.work import Lock

KEY = f"{PROBE}/create-only.json"
"""Stays in the store: later probes need one request less, and there is nothing to clean up."""

_lock = Lock()
_passed: set[str] = set()


def forget() -> None:
    """Ask every store again, as a new process would."""
    with _lock:
        _passed.clear()


def check_just_created(backend: ObjectPlace, key: str, data: bytes, other: bytes) -> None:
    """The same question put to `key`, which this process has just created holding `data`.

    A place that overwrites leaves `other` there: it must serve as well. Spares the first save into a
    new store a request.
    """
    if _create(backend, other, key) or not _holds(backend, key, data):
        raise ignores_create_only(backend)
    _note(backend)


def check_create_only(backend: ObjectPlace) -> None:
    """Return if `backend` refuses to create what exists; StoreUnsuitable if it overwrites.

    Two or three small requests, once per process and place. It cannot prove that one of two
    *simultaneous* creations is refused, which is why every commit is a single PUT: stores that honour
    the condition at all were never seen to fail there, and were seen to fail with multipart uploads.
    """
    with _lock:
        if backend.place in _passed:
            return
    first, second = _body(), _body()
    # A place that was probed before refuses at once, and holds another's body. One that has ours was
    # empty a moment ago (its reply may have been lost): there, the second try is the real question.
    is_new = _create(backend, first) or _holds(backend, KEY, first)
    if is_new and (_create(backend, second) or not _holds(backend, KEY, first)):
        raise ignores_create_only(backend)
    _note(backend)


def _note(backend: ObjectPlace) -> None:
    with _lock:
        _passed.add(backend.place)


def _create(backend: ObjectPlace, body: bytes, key: str = KEY) -> bool:
    try:
        backend.publish(key, body)
        return True
    except FileExistsError:
        return False


def _holds(backend: ObjectPlace, key: str, body: bytes) -> bool:
    """Whether it says so once: a reply that is damaged on its way must not condemn a place."""
    try:
        return any(backend.read(key, most=MAX_SMALL_BYTES) == body for _ in range(2))
    except TooLarge:
        return False  # nobody's who asked such a question


def _body() -> bytes:
    return json.dumps(
        {"purpose": "shows that what exists is not overwritten", "id": uuid.uuid4().hex}
    ).encode()
