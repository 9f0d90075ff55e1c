"""The global random generators, saved and restored as one object."""

from __future__ import annotations

import random
import sys
import uuid
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.integrations.rng import GlobalRNG


def draw() -> list[Any]:
    torch: Any = sys.modules.get("torch")
    numbers = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]
    return numbers if torch is None else [*numbers, torch.randn(3).tolist()]


@pytest.fixture(params=[False, True], ids=["without torch", "with torch"])
def torch_or_not(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        pytest.importorskip("torch", reason="torch is not installed")
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.mark.usefixtures("torch_or_not")
def test_what_is_drawn_next_is_the_same() -> None:
    draw()
    random.gauss(0, 1), np.random.randn()  # each of the two keeps a second number for the next call
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}/run")
    checkpoint = store.save(1, {"rng": GlobalRNG()}, opaque="error")
    expected = [draw() for _ in range(3)]
    random.seed(7), np.random.seed(7)
    assert draw() != expected[0]
    checkpoint.restore({"rng": GlobalRNG()})
    assert [draw() for _ in range(3)] == expected


def test_a_state_with_torch_sets_the_others_where_torch_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    state = GlobalRNG().state_dict() | {"torch": np.zeros(5056, "uint8")}
    expected = random.random()
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    GlobalRNG().load_state_dict(state)
    assert random.random() == expected
