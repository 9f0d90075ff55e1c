"""Many processes save one step at the same moment: exactly one is told that it won, and it did."""

from __future__ import annotations

import multiprocessing
import pickle
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import CheckpointExists
from tests.figures import Figures

CONTEXT = multiprocessing.get_context("spawn")
Result = tuple[int, int, str | None]


def content(step: int, who: int) -> dict[str, Any]:
    return {"step": step, "who": who, "x": np.full(20_000, step * 1000 + who)}


def contend(url: str, who: int, rounds: int, barrier: Barrier, results: Queue[Result]) -> None:
    store = CheckpointStore(url)
    for step in range(rounds):
        barrier.wait(120)
        try:
            name = store.save(step, content(step, who)).name
        except CheckpointExists:
            results.put((step, who, None))
        else:
            results.put((step, who, name))


def race(root: Path, processes: int, rounds: int) -> dict[int, list[tuple[int, str]]]:
    """Winners by step."""
    barrier, results = CONTEXT.Barrier(processes), CONTEXT.Queue()
    workers = [
        CONTEXT.Process(target=contend, args=(str(root), who, rounds, barrier, results))
        for who in range(processes)
    ]
    for worker in workers:
        worker.start()
    winners: dict[int, list[tuple[int, str]]] = {step: [] for step in range(rounds)}
    for _ in range(processes * rounds):
        step, who, name = results.get(timeout=240)
        if name is not None:
            winners[step].append((who, name))
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    return winners


@pytest.mark.parametrize(
    ("processes", "rounds"),
    [(4, 10), pytest.param(16, 200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_one_winner(tmp_path: Path, figures: Figures, processes: int, rounds: int) -> None:
    winners = race(tmp_path, processes, rounds)
    for step, won in winners.items():
        assert len(won) == 1, f"step {step}: {won}"
        [(who, name)] = won
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
