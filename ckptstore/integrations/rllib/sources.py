"""A store that goes from process to process: each opens its own, once."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable
from typing import Any

from ckptstore.errors import InvalidRequest
from ckptstore.store import CheckpointStore

StoreSource = CheckpointStore | str | os.PathLike[str] | Callable[[], CheckpointStore]
"""A store, the URL of one, or a function that opens it."""

_opened: dict[str, CheckpointStore] = {}
_lock = threading.Lock()


class StoreHandle:
    """What a store is opened from. In one process everybody who has this place has the same store.

    A pickle of it holds no credentials. Where the store was given as an object, another process opens it
    with the credentials around it; a signed store can be opened there by a function only.
    """

    def __init__(self, source: StoreSource) -> None:
        self._key = uuid.uuid4().hex
        self._source: Any = source
        if isinstance(source, CheckpointStore):
            self._label = source.url
            with _lock:
                _opened[self._key] = source
        elif callable(source):
            self._label = f"{getattr(source, '__name__', source)!s}()"
        elif isinstance(source, (str, os.PathLike)):
            self._key = self._label = self._source = os.fspath(source)
        else:
            raise InvalidRequest(
                "store", f"{source!r:.80} is none", "Pass a CheckpointStore, its URL or a function"
            )

    def open(self) -> CheckpointStore:
        """The store in this process. InvalidRequest where it can't be opened here."""
        with _lock:
            if self._key not in _opened:
                _opened[self._key] = self._open()
            return _opened[self._key]

    def _open(self) -> CheckpointStore:
        if self._source is None:
            raise InvalidRequest(
                f"store {self._label}",
                "it signs, and its key is in no pickle, so this process can't open it",
                "Pass a function that opens the store",
            )
        made = self._source() if callable(self._source) else self._source
        if isinstance(made, CheckpointStore):
            return made
        if made is not self._source:
            raise InvalidRequest(
                f"store {self._label}", f"it returned {made!r:.80}", "Return a CheckpointStore"
            )
        return CheckpointStore(made)

    def __reduce__(self) -> tuple[Any, ...]:
        source = self._source
        if isinstance(source, CheckpointStore) and source.signs:
            source = None
        return _restore_source, (self._key, source, self._label)

    def __deepcopy__(self, memo: Any) -> StoreHandle:
        return self

    def __repr__(self) -> str:
        return f"<StoreHandle {self._label}>"


def _restore_source(key: str, source: Any, label: str) -> StoreHandle:
    place = StoreHandle.__new__(StoreHandle)
    place._key, place._source, place._label = key, source, label
    return place
