"""What a store or a checkpoint may be given as."""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Callable
from typing import Any

from ckptstore.backends.registry import open_below
from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import CheckpointNotFound, InvalidRequest
from ckptstore.read.locate import locate
from ckptstore.store import CheckpointStore
from ckptstore.work import Lock

CheckpointSource = Checkpoint | CheckpointStore | str | os.PathLike[str]
"""A checkpoint, a store (its newest checkpoint), or the URL of either."""

StoreSource = CheckpointStore | str | os.PathLike[str] | Callable[..., CheckpointStore]
"""A store, the URL of one, or a function that opens it, which may take the name of a trial of Tune."""

_opened: dict[str, CheckpointStore] = {}
_lock = Lock()


def open_source(source: CheckpointSource) -> Checkpoint:
    """The checkpoint that `source` stands for.

    Raises CheckpointNotFound for a store without checkpoints, and what `Checkpoint.open` raises.
    """
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, CheckpointStore):
        found = locate(source)
        if not found.is_store:
            return Checkpoint.from_located(found)
        source = CheckpointStore(found.backend, create=False)
    newest = source.latest()
    if newest is None:
        raise CheckpointNotFound(source.url, "the store holds no checkpoint yet")
    return newest


class StoreHandle:
    """A store that travels to other processes: each opens it once, and all copies in one process share it.

    A pickle of it holds no credentials. If it was made from a `CheckpointStore`, another process opens the
    store with the credentials that it has; a store that signs opens there only by a function.
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
                "store", f"{source!r:.80} isn't a store", "Pass a CheckpointStore, its URL or a function"
            )

    def open(self, trial: str = "") -> CheckpointStore:
        """The store in this process: with the name of a `trial`, the one that this trial has for itself.

        That is below the store, or what the function returns for the name, if it takes one. InvalidRequest if
        this process can't open it.
        """
        key = f"{self._key}/{trial}" if trial else self._key
        with _lock:
            if key not in _opened:
                _opened[key] = self._open(trial)
            return _opened[key]

    def _open(self, trial: str) -> CheckpointStore:
        if isinstance(self._source, (str, os.PathLike)):
            url = os.fspath(self._source)
            return CheckpointStore(f"{url.rstrip('/')}/{trial}" if trial else url)
        if _accepts_name(self._source):
            return self._check(self._source(trial))
        store = self._open_shared()
        if not trial:
            return store
        if store.signs:
            raise InvalidRequest(
                f"store {self._label}",
                f"it signs, and the trial {trial!r} needs a store of its own",
                "Pass a function that takes the trial's name and opens its store",
            )
        opened, (backend,) = store.__reduce__()
        made: CheckpointStore = opened(open_below(backend, trial))
        return made

    def _open_shared(self) -> CheckpointStore:
        if self._source is None:
            raise InvalidRequest(
                f"store {self._label}",
                "it signs, and no pickle holds its key, so this process can't open it",
                "Pass a function that opens the store",
            )
        return self._check(self._source()) if callable(self._source) else self._check(self._source)

    def _check(self, made: Any) -> CheckpointStore:
        if not isinstance(made, CheckpointStore):
            raise InvalidRequest(
                f"store {self._label}", f"it returned {made!r:.80}", "Return a CheckpointStore"
            )
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        source = self._source
        if isinstance(source, CheckpointStore) and source.signs:
            source = None
        return _restore_source, (self._key, source, self._label)

    def __deepcopy__(self, memo: Any) -> StoreHandle:
        return self

    def __repr__(self) -> str:
        return f"<StoreHandle {self._label}>"


def _accepts_name(source: Any) -> bool:
    """Whether `source` is a function that can't be called without an argument, or has one to spare."""
    if not callable(source):
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(item.kind in kinds for item in inspect.signature(source).parameters.values())


def _restore_source(key: str, source: Any, label: str) -> StoreHandle:
    handle = StoreHandle.__new__(StoreHandle)
    handle._key, handle._source, handle._label = key, source, label
    return handle
