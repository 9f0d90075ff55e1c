"""G7: however many processes save one step at once, one wins, and its bytes are the ones that stay."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from ckptstore.commit.base import IfExists
from ckptstore.errors import CheckpointExists
from tests.contest import contest
from tests.crash.world import catalog, leftovers, payload, save, state
from tests.figures import Figures

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks there")


def _attempt(root: str, if_exists: IfExists, step: int, who: int) -> str | None:
    try:
        return str(save(catalog(root, timeout=120), step, if_exists, f"by {who}"))
    except CheckpointExists:
        return None


def _race(root: str, processes: int, rounds: int, if_exists: IfExists) -> list[dict[int, str]]:
    """Winners by step: number of the process to name of its checkpoint."""
    return contest(partial(_attempt, root, if_exists), processes, rounds)


def _check_one_winner(root: str, processes: int, rounds: int) -> None:
    won = _race(root, processes, rounds, "error")
    shown = state(root)
    for step in range(rounds):
        ((number, name),) = won[step].items()
        expected = payload(step, f"by {number}")
        assert {path: shown[name][path] for path in expected} == expected
    assert len(shown) == rounds
    assert leftovers(root) == []


def test_one_of_eight_processes_wins_each_of_twenty_rounds(tmp_path: Path, figures: Figures) -> None:
    _check_one_winner(str(tmp_path / "store"), 8, 20)
    figures.add("races run: 8 processes commit one step", 20, "races run")


@pytest.mark.slow
def test_one_of_sixteen_processes_wins_each_of_two_hundred_rounds(tmp_path: Path, figures: Figures) -> None:
    _check_one_winner(str(tmp_path / "store"), 16, 200)
    figures.add("races run: 16 processes commit one step", 200, "races run")


def test_of_racing_replacements_the_last_stays(tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    won = _race(root, 4, 5, "replace")
    shown = state(root)
    for step in range(5):
        names = {name: number for number, name in won[step].items()}
        base = f"checkpoint_{step:06d}"
        assert sorted(names) == [base, f"{base}-r1", f"{base}-r2", f"{base}-r3"]
        expected = payload(step, f"by {names[f'{base}-r3']}")
        assert {path: shown[f"{base}-r3"][path] for path in expected} == expected
    assert len(shown) == 5
    assert leftovers(root) == []
