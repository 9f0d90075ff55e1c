"""A process forked while a save is in flight, as a DataLoader forks its workers, works and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptstore import CheckpointStore

PROGRAM = """
import os, sys
import numpy as np
from ckptstore import CheckpointStore

what, url = sys.argv[1:]
store = CheckpointStore(url)
store.save(1, {"i": 1})
large = {f"p{i}": {"weights": {"w": np.random.rand(1 << 19)}} for i in range(8)}
future = store.save_async(2, policies=large)
child = os.fork()
if not child:
    if what == "save":
        store.save(3, {"x": 1})
    elif what == "save_async":
        store.save_async(3, {"x": 1})
    elif what == "stage":
        with store.stage(3) as path:
            with open(f"{path}/x", "w") as file:
                file.write("x")
    elif what == "wait":
        store.wait()
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert future.result().step == 2
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("what", ["nothing", "save", "save_async", "stage", "wait"])
def test_a_child_does_its_work_and_ends(what: str, tmp_path: Path) -> None:
    """It waited for ever for a save whose thread had stayed in the parent."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, what, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    expected = [1, 2] if what in ("nothing", "wait") else [1, 2, 3]
    assert [each.step for each in CheckpointStore(tmp_path / "run").checkpoints()] == expected
