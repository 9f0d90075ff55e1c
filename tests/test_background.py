"""Saves in the background and the end of the program."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.background import _Memory
from ckptstore.plan import pickled

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


def test_each_is_the_parent_of_the_next_also_when_it_is_still_being_written(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    futures = [store.save_async(step, {"x": np.ones(1_000_000)}) for step in range(4)]
    ids = [future.result().id for future in futures]
    parents = [ckpt.manifest.parent for ckpt in store.checkpoints()]
    assert [parent and parent.id for parent in parents] == [None, *ids[:-1]]


def test_snapshots_of_two_threads_are_not_mixed(tmp_path: Path) -> None:
    """They share memory, one after the other: the second must wait until the first is written."""
    store = CheckpointStore(tmp_path)
    before = threading.Barrier(2)

    def saves(which: int) -> None:
        before.wait()
        for step in range(which, 16, 2):
            store.save_async(step, {"x": np.full(500_000, step)})

    threads = [threading.Thread(target=saves, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store._background._memory._slabs
    store.close()
    assert not store._background._memory._slabs  # given back
    assert [set(ckpt.state["x"]) for ckpt in store.checkpoints()] == [{step} for step in range(16)]


def test_the_memory_of_snapshots_is_used_again_and_no_larger_than_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Memory, "SLAB_BYTES", 1000_000)
    memory = _Memory()
    random = np.random.default_rng(0)

    def written(*sizes: int) -> list[int]:
        arrays = [random.random(size // 8) for size in sizes]
        items = memory.snapshot([pickled(str(index), array) for index, array in enumerate(arrays)])
        for array, item in zip(arrays, items, strict=True):
            saved = array.tobytes()
            array[:] = 0
            chunks: list[bytes] = []
            item.emit(lambda data, chunks=chunks: chunks.append(bytes(data)))  # type: ignore[misc]
            assert saved in b"".join(chunks)
        return [np.frombuffer(slab, np.uint8).ctypes.data for slab in memory._slabs]

    first = written(600_000, 600_000, 300_000, 0, 8)
    assert len(first) == 2
    assert written(600_000, 600_000, 300_000, 0, 8) == first
    assert written(600_000, 300_000) == first[:1]
    assert len(written(600_000, 4000_000, 400_000)) == 3
    assert sum(map(len, memory._slabs)) == 6000_000
    assert len(written(4000_000)) == 1
