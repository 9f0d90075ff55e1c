"""A process that dies at each of its changes in turn, before or after the change reached the place."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from ckptstore.backends.registry import open_backend
from ckptstore.commit.objects.catalog import RegisterCatalog
from ckptstore.format.names import CheckpointName
from ckptstore.testing import CatalogTests, Crash, CrashingBackend, manifest_bytes

list_committed = CatalogTests.list_committed


def save(catalog: RegisterCatalog, step: int, if_exists: Any, attempt_id: str) -> None:
    attempt = catalog.begin(step, if_exists, attempt_id)
    for path in ("algorithm_state.pkl", "policies/pol0/policy_state.pkl"):
        with attempt.create(path) as sink:
            sink.write(attempt_id.encode())
    attempt.commit(manifest_bytes(attempt_id))


def visible(catalog: RegisterCatalog) -> dict[int, str]:
    """The id of each step's checkpoint: its highest committed attempt."""
    return {name.step: attempt_id for name, attempt_id in list_committed(catalog).items()}


# What happens, what is visible before, and what may be visible after.
SCENES: dict[str, tuple[Callable[[RegisterCatalog], object], list[dict[int, str]]]] = {
    "save": (lambda catalog: save(catalog, 2, "error", "new"), [{1: "old"}, {1: "old", 2: "new"}]),
    "replace": (lambda catalog: save(catalog, 1, "replace", "new"), [{1: "old"}, {1: "new"}]),
    "delete": (lambda catalog: catalog.delete(CheckpointName(1), lambda: None), [{1: "old"}, {}]),
    "sweep": (lambda catalog: catalog.sweep(0), [{1: "old"}]),
}


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("scene", SCENES)
def test_death_at_any_change(scene: str, landed: bool) -> None:
    act, allowed = SCENES[scene]
    for after in itertools.count():
        backend: Any = open_backend(f"memory://{uuid.uuid4().hex}")
        safe = RegisterCatalog(backend)
        save(safe, 1, "error", "old")
        safe.begin(9, "error", "lost")  # and a lost attempt, for the sweep
        dying: Any = CrashingBackend(backend, after, landed)
        died = True
        try:
            act(RegisterCatalog(dying))
            died = False
        except Crash:
            pass
        assert visible(safe) in allowed
        if not died:
            assert visible(safe) == allowed[-1]
            assert after > 2
            return
        # Nobody has to clean up before the next save, and a sweep harms nothing that is committed.
        before = visible(safe)
        save(safe, 3, "error", "next")
        save(safe, 2, "replace", "next")
        safe.sweep(0)
        after_all = visible(safe)
        assert after_all.pop(3) == "next"
        assert after_all.pop(2) == "next"
        before.pop(2, None)
        assert after_all == before
