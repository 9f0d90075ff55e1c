"""Saves in the background and the end of the program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckptstore import CheckpointStore

ENDS = """
import sys, logging
import numpy as np
logging.basicConfig()
from ckptstore import CheckpointStore
store = CheckpointStore(sys.argv[1])
store.save_async(1, {"x": np.ones(4_000_000)})
"""


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "del store"])
def test_the_program_does_not_end_under_a_save(tmp_path: Path, ending: str) -> None:
    subprocess.run([sys.executable, "-c", ENDS + ending, str(tmp_path)], timeout=120, check=False)
    ckpt = CheckpointStore(tmp_path).get(1)
    assert ckpt.verify().ok
    assert ckpt.state["x"].sum() == 4_000_000


def test_a_failure_while_the_program_ends_is_logged(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(1)
    done = subprocess.run(
        [sys.executable, "-c", ENDS, str(tmp_path)], timeout=120, check=False, capture_output=True, text=True
    )
    assert "CheckpointExists" in done.stderr
    assert CheckpointStore(tmp_path).get(1).state == {}
