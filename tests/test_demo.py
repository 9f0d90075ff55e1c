"""The demo and its trainer do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from ckptstore import CheckpointStore

TOP = Path(__file__).parent.parent
TRAINER = [sys.executable, "-W", "error", str(TOP / "examples/train_numpy.py")]


def train(store: Path, *arguments: str) -> str:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*TRAINER, str(store), "--replay-size", "1000", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_resumed_run_ends_like_one_in_a_piece(tmp_path: Path) -> None:
    train(tmp_path / "one", "--iterations", "12")
    train(tmp_path / "two", "--iterations", "5")
    assert "resumed at iteration 5" in train(tmp_path / "two", "--iterations", "12")
    one, two = (CheckpointStore(tmp_path / name, create=False).latest() for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.step == two.step == 12
    assert one.id != two.id
    for name, array in one.weights().items():
        np.testing.assert_array_equal(array, two.weights()[name])
    for name, array in one.components["replay_buffer"].items():
        np.testing.assert_array_equal(array, two.components["replay_buffer"][name])


def test_it_learns(tmp_path: Path) -> None:
    train(tmp_path / "run", "--iterations", "25")
    returns = [item.metrics["return_mean"] for item in CheckpointStore(tmp_path / "run").checkpoints()]
    assert returns[-1] > 2 * returns[0] > 20


def test_the_whole_demo(tmp_path: Path) -> None:
    for name in ("examples", "tests/data/rllib_1_0_ppo_multi5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(TOP / name, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _HERE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed (exit code -9)") == 2
    assert len(re.findall(r"resumed at iteration (?:10|15|20)", done.stdout)) == 2
    assert done.stdout.count("equal bit by bit") == 2
    assert done.stdout.count("removed 0 leftovers") == 1  # the next save did
    assert done.stdout.count("removed 1 leftover") == 1
    assert done.stdout.count("_value_branch._model.0.weight") == 2
    assert "That was it" in done.stdout


# The tour, in a directory of its own.
_HERE = f"""
import sys
sys.path.insert(0, {str(TOP / "examples")!r})
import demo
demo.TOP = sys.argv[1]
sys.exit(demo.main())
"""
