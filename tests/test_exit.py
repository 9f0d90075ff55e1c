"""The last save before the end of a program is kept, whatever the interpreter still allows by then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckptstore import CheckpointStore

PROGRAM = """
import _thread, atexit, sys, threading
import numpy as np
from ckptstore import CheckpointStore

how, threads, url = sys.argv[1:]
store = CheckpointStore(url)
given = dict(
    state={"a": np.ones(300_000)},
    policies={f"p{i}": {"weights": {"w": np.full(50_000, i)}} for i in range(12)},
)


def refuse(*_):
    raise RuntimeError("can't start new thread")


if threads == "none ever":  # as where a limit of processes is reached
    threading.Thread.start = _thread.start_new_thread = refuse
if how == "save":
    store.save(1, **given)
elif how == "save_async last":
    store.save_async(1, **given)
elif how == "stage_async last":
    with store.stage_async(1) as path:
        with open(f"{path}/x.bin", "wb") as file:
            file.write(b"1" * 3_000_000)
elif how == "save at exit":
    atexit.register(lambda: store.save(1, **given))
elif how == "save_async at exit":
    atexit.register(lambda: store.save_async(1, **given))
elif how == "both":
    store.save_async(0, **given)
    atexit.register(lambda: store.save_async(1, **given))
if threads == "none at the end":  # as in Python 3.12.1, also for those that it waits for
    threading.Thread.start = _thread.start_new_thread = refuse
"""


@pytest.mark.parametrize("threads", ["any", "none at the end", "none ever"])
@pytest.mark.parametrize(
    "how", ["save", "save_async last", "stage_async last", "save at exit", "save_async at exit", "both"]
)
def test_the_last_save_is_kept(how: str, threads: str, tmp_path: Path) -> None:
    """It was lost, with exit code 0, where no thread could be started any more."""
    command = [sys.executable, "-c", PROGRAM, how, threads, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    store = CheckpointStore(tmp_path / "run", create=False)
    newest = store.latest(verified=True)
    assert newest is not None
    assert newest.step == 1
    assert [checkpoint.step for checkpoint in store.checkpoints()] == ([0, 1] if how == "both" else [1])


INTERRUPTED = """
import signal, sys, threading
import numpy as np
from ckptstore import CheckpointStore
from ckptstore.save import background

real, hit = background.Background.wait, []

def wait(self):
    if not hit:
        hit.append(1)
        raise KeyboardInterrupt  # as the first moment of waiting may be interrupted
    return real(self)

background.Background.wait = wait
CheckpointStore(sys.argv[1]).save_async(1, {"a": np.ones(300_000)})
"""


def test_the_first_interrupt_at_the_end_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "interrupt once more" in done.stderr
    latest = CheckpointStore(tmp_path / "run").latest()
    assert latest is not None
    assert latest.step == 1
