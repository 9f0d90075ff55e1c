"""Saves in the background and the end of the program."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore, errors
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.format.layout import pickle_item
from ckptstore.save.background import _Memory
from tests.disks import DelayedDisk
from tests.inside import free_memory, pending_memory, slabs

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
    assert any(slabs(memory) for memory in pending_memory(store))
    store.close()
    assert not pending_memory(store)
    assert not free_memory(store)  # given back
    assert [set(ckpt.state["x"]) for ckpt in store.checkpoints()] == [{step} for step in range(16)]


def test_as_many_are_in_flight_as_may_be(tmp_path: Path) -> None:
    disk = DelayedDisk("rename_noreplace")
    store = CheckpointStore(LocalBackend(tmp_path, disk), max_pending=3)
    weights = np.zeros(300_000)
    futures = []
    for step in range(3):
        weights[:] = step
        futures.append(store.save_async(step, {"x": weights}))
    assert not any(future.done() for future in futures)
    late: list[int] = []

    def fourth() -> None:
        store.save_async(3, {"x": np.full(300_000, 3.0)})
        late.append(sum(future.done() for future in futures))

    thread = threading.Thread(target=fourth)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    disk.gate.set()
    thread.join()
    store.wait()
    assert late[0] >= 1
    found = store.checkpoints()
    assert [set(ckpt.state["x"]) for ckpt in found] == [{step} for step in range(4)]
    parents = [ckpt.manifest.parent and ckpt.manifest.parent.id for ckpt in found]
    assert parents == [None, *(ckpt.id for ckpt in found[:-1])]
    assert len(free_memory(store)) == 3  # no more than that, ever


def test_one_that_fails_stops_none_behind_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = DelayedDisk("rename_noreplace")
    disk.failing = {"checkpoint_000000", "checkpoint_000001"}
    store = CheckpointStore(LocalBackend(tmp_path, disk), max_pending=4)
    for step in range(3):
        store.save_async(step, {"x": step})
    called_off = store.save_async(3, {"x": 3})
    assert called_off.cancel()
    disk.gate.set()
    with pytest.raises(errors.StoreFull):
        store.wait()
    assert "one more save in the background failed" in caplog.text
    store.wait()  # told once
    assert [ckpt.state for ckpt in store.checkpoints()] == [{"x": 2}]


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
def test_max_pending_is_a_positive_int(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match="max_pending"):
        CheckpointStore(tmp_path, max_pending=wrong)


def test_the_memory_of_snapshots_is_used_again_and_no_larger_than_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Memory, "SLAB_BYTES", 1000_000)
    memory = _Memory()
    random = np.random.default_rng(0)

    def written(*sizes: int) -> list[int]:
        arrays = [random.random(size // 8) for size in sizes]
        items = memory.snapshot([pickle_item(str(index), array) for index, array in enumerate(arrays)])
        for array, item in zip(arrays, items, strict=True):
            saved = array.tobytes()
            array[:] = 0
            chunks: list[bytes] = []
            item.emit(lambda data, chunks=chunks: chunks.append(bytes(data)))  # type: ignore[misc]
            assert saved in b"".join(chunks)
        return [np.frombuffer(slab, np.uint8).ctypes.data for slab in slabs(memory)]

    first = written(600_000, 600_000, 300_000, 0, 8)
    assert len(first) == 2
    assert written(600_000, 600_000, 300_000, 0, 8) == first
    assert written(600_000, 300_000) == first[:1]
    assert len(written(600_000, 4000_000, 400_000)) == 3
    assert sum(map(len, slabs(memory))) == 6000_000
    assert len(written(4000_000)) == 1


def test_what_a_callback_logs_is_not_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    told = threading.Event()

    def callback(done: object) -> None:
        logging.getLogger("ckptstore").warning("said by a callback")
        told.set()

    store.save_async(1, {"a": 1}).add_done_callback(callback)
    assert told.wait(60)
    assert "said by a callback" in caplog.text
