"""Many processes save one step at the same moment: exactly one is told that it won, and it did."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import CheckpointExists
from tests.contest import contest
from tests.figures import Figures


def content(step: int, who: int) -> dict[str, Any]:
    return {"step": step, "who": who, "x": np.full(20_000, step * 1000 + who)}


def attempt(url: str, step: int, who: int) -> str | None:
    try:
        return CheckpointStore(url, timeout=120).save(step, content(step, who)).name
    except CheckpointExists:
        return None


@pytest.mark.parametrize(
    ("processes", "rounds"),
    [(4, 10), pytest.param(16, 200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_one_winner(tmp_path: Path, figures: Figures, processes: int, rounds: int) -> None:
    winners = contest(partial(attempt, str(tmp_path)), processes, rounds)
    for step, won in enumerate(winners):
        assert len(won) == 1, f"step {step}: {won}"
        [(who, name)] = won.items()
        with open(tmp_path / name / "algorithm_state.pkl", "rb") as file:
            found = pickle.load(file)
        expected = content(step, who)
        assert (found["step"], found["who"]) == (step, who)
        np.testing.assert_array_equal(found["x"], expected["x"])
    store = CheckpointStore(tmp_path)
    assert [ckpt.step for ckpt in store.checkpoints()] == list(range(rounds))
    assert all(report.ok for report in store.verify())
    assert not list((tmp_path / ".staging").iterdir())
    figures.add(f"races run: {processes} processes save one step", rounds, "races run")
    print(f"{rounds} rounds of {processes} processes: {len(winners)} winners, re-read byte for byte")
