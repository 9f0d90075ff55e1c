"""What tests look at past the public doors, each in one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.objects.s3 import S3Client
from ckptstore.commit.local.attempt import DirectoryAttempt


def backend_of(store: CheckpointStore) -> Any:
    """The backend that `store` has opened."""
    return store._backend


def pending_memory(store: CheckpointStore) -> list[Any]:
    """The memory of each snapshot in flight."""
    return [job.memory for job in _background(store)._pending]


def free_memory(store: CheckpointStore) -> list[Any]:
    """The memory that is kept for later snapshots."""
    kept: list[Any] = _background(store)._free
    return kept


def slabs(memory: Any) -> list[memoryview]:
    """What the memory of a snapshot consists of."""
    found: list[memoryview] = memory._slabs
    return found


def _background(store: CheckpointStore) -> Any:
    return store._run.background


def drain(attempt: DirectoryAttempt) -> None:
    """Wait until all that the attempt has written is synced; raises what failed."""
    attempt._drain()


def options_of(backend: ObjectBackend) -> dict[str, Any]:
    """The storage options that `backend` opens its client with."""
    opener: Any = backend._opener
    options: dict[str, Any] = opener._state[1]
    return options


def answer_for_s3(
    monkeypatch: pytest.MonkeyPatch, client: S3Client, answer: Callable[..., Any]
) -> Callable[..., Any]:
    """Have `answer(seconds, method, **arguments)` stand in for the server; returns what asks the real one."""
    real = client._call
    monkeypatch.setattr(client, "_call", answer)
    return real
