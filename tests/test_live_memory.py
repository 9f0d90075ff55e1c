"""What is acknowledged opens, also when the memory it was saved from, or the file, changes meanwhile."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import SaveAborted
from ckptstore.format.digest import digest
from ckptstore.save import fingerprints
from ckptstore.save.fingerprints import Seen

ROUNDS = 6
SIZES = (1_000, 300_000, 3_000_000, 20_000_000)
"""Bytes: gathered with others, a part of their own, hashed in another thread, more than one part."""


@contextmanager
def writing_to(array: np.ndarray[Any, Any]) -> Iterator[None]:
    """Another thread goes on changing the array, as a learner does."""
    stop = threading.Event()

    def train() -> None:
        value = 0
        while not stop.is_set():
            value += 1
            array[:] = value % 251

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def in_state(array: Any) -> dict[str, Any]:
    return {"state": {"w": array}}


def in_a_policy(array: Any) -> dict[str, Any]:
    return {"policies": {"p": {"weights": {"w": array, "v": array[::2]}}}}


def in_a_component(array: Any) -> dict[str, Any]:
    return {"components": {"buffer": {"w": array, "s": array.reshape(2, -1).T}}}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("given", [in_state, in_a_policy, in_a_component])
def test_a_save_of_memory_that_changes_opens(
    given: Callable[[Any], dict[str, Any]], size: int, tmp_path: Path
) -> None:
    """Digest and bytes were of different moments: 7 or 8 of 10 such saves could never be loaded."""
    store = CheckpointStore(tmp_path)
    array = np.zeros(size, np.uint8)
    for step in range(ROUNDS):
        with writing_to(array):
            if step % 2:
                checkpoint = store.save_async(step, **given(array)).result()
            else:
                checkpoint = store.save(step, **given(array))
        assert checkpoint.check().ok
        checkpoint.load()
        checkpoint.load(trusted=True)
        for path in (tmp_path / checkpoint.name).rglob("*.pkl"):
            with open(path, "rb") as file:
                pickle.load(file)
        dict(checkpoint.components)
    quiet = store.save(ROUNDS, **given(array))
    assert quiet.check().ok


def test_what_was_compared_is_what_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is A when it is fingerprinted and B when it is hashed: A must not be taken for B afterwards."""
    old, new = b"a" * 2**17, b"b" * 2**17
    memory = bytearray(old)
    seen = Seen()

    def changes(data: Any) -> str:
        memory[:] = new
        return digest(data)

    monkeypatch.setattr(fingerprints, "digest", changes)
    seen.same(memoryview(memory), digest(new))
    monkeypatch.undo()
    seen.same(memoryview(bytearray(new)), digest(new))  # so that the next save has something to remember
    seen.next()
    assert not seen.same(memoryview(bytearray(old)), digest(new))


def stage(store: CheckpointStore, meanwhile: Callable[[str], object]) -> None:
    with store.stage(1) as path:
        name = os.path.join(path, "weights.bin")
        with open(name, "wb") as file:
            file.write(b"0" * 3_000_000)
        meanwhile(name)


@contextmanager
def appending(name: str) -> Iterator[None]:
    """A logger, or another rank, that isn't done with its file."""
    stop = threading.Event()
    started = threading.Event()

    def go_on() -> None:
        with open(name, "ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"x" * 100)
                started.set()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_staged_file_that_is_still_written_is_refused(place: str, tmp_path: Path) -> None:
    url = str(tmp_path / "run") if place == "disk" else f"memory://{tmp_path.name}/run"
    store = CheckpointStore(url)
    with store.stage(1) as path:
        name = os.path.join(path, "log.bin")
        Path(name).write_bytes(b"0" * 3_000_000)
    assert path.checkpoint is not None
    assert path.checkpoint.check().ok
    log = tmp_path / "log"
    log.write_bytes(b"0" * 3_000_000)
    with appending(str(log)):
        for step in range(2, 8):
            with pytest.raises(SaveAborted, match="changed"), store.stage(step) as path:
                os.link(log, os.path.join(path, "log.bin"))
    assert [item.step for item in store.checkpoints()] == [1]
