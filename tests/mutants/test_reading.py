"""Three rules of reading, each with a harness that holds it, and fails once the rule is broken."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.objects import retry
from ckptstore.backends.objects.http_status import Outcome
from ckptstore.backends.registry import open_backend
from ckptstore.errors import CheckpointCorrupt, StoreUnavailable
from tests.mutants.reading import MUTANTS
from tests.stores import flipped


def damage_is_noticed(root: Path) -> None:
    store = CheckpointStore(root)
    store.save(1, {"w": np.arange(9000.0)})
    seen = 0
    for at in flipped(root / "checkpoint_000001" / "algorithm_state.pkl"):
        if 1000 < at < 70_000:  # among the numbers of the array, where only a digest can tell
            seen += 1
            with pytest.raises(CheckpointCorrupt):
                store.get(1).load()
    assert seen > 40


def nothing_listed_is_no_empty_store(root: Path) -> None:
    backend = open_backend(f"memory://{root.name}")
    store = CheckpointStore(backend)
    store.save(1)
    with patch.multiple(backend, starting=_nothing, children=_nothing, list=_nothing):
        try:
            latest = store.latest()
        except StoreUnavailable:
            return
    assert latest is not None, "taken for an empty store"


def _nothing(*arguments: object, **options: object) -> list[object]:
    return []


def classify(error: BaseException) -> Outcome:
    return Outcome.RETRY if isinstance(error, TimeoutError) else Outcome.DENIED


def an_outage_ends(root: Path) -> None:
    now = 0.0

    def failing(limit: float) -> None:
        nonlocal now
        now += 1
        raise TimeoutError if now < 1000 else RuntimeError("it never ends")

    policy = retry.RetryPolicy(5.0, clock=lambda: now, jitter=lambda: 0.0)
    with pytest.raises(retry.RetriesExhausted):
        policy.run(failing, classify)


HARNESSES: dict[str, Callable[[Path], None]] = {
    "digest not checked": damage_is_noticed,
    "listing trusted": nothing_listed_is_no_empty_store,
    "retry without deadline": an_outage_ends,
}


@pytest.mark.parametrize("broken", [False, True], ids=["rule", "broken rule"])
@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, broken: bool
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with contextlib.ExitStack() as stack:
        if broken:
            stack.enter_context(MUTANTS[name]())
            reason = {
                "digest not checked": "DID NOT RAISE",
                "listing trusted": "taken for an empty store",
                "retry without deadline": "it never ends",
            }[name]
            stack.enter_context(pytest.raises((Exception, pytest.fail.Exception), match=reason))
        HARNESSES[name](tmp_path)
