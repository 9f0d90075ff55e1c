"""What is acknowledged opens, also when the memory it was saved from, or the file, changes meanwhile."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import InvalidRequest, SaveAborted
from ckptstore.format.digest import digest
from ckptstore.save import fingerprints, writing
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


@contextmanager
def changing(name: str, mode: str, write: Callable[[Any], object]) -> Iterator[None]:
    """A logger, or another rank, that isn't done with its file."""
    stop = threading.Event()
    started = threading.Event()

    def go_on() -> None:
        with open(name, mode, buffering=0) as file:
            while not stop.is_set():
                with contextlib.suppress(FileNotFoundError):  # given up, and removed with its directory
                    write(file)
                started.set()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(
        str(tmp_path / "run") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/run"
    )


def append(name: str) -> AbstractContextManager[None]:
    return changing(name, "ab", lambda file: file.write(b"x" * 100))


def overwrite(name: str) -> AbstractContextManager[None]:
    """The same number of bytes, again and again."""

    def write(file: Any) -> None:
        file.seek(0)
        file.write(os.urandom(1000))

    return changing(name, "r+b", write)


def write_through_a_map(name: str) -> AbstractContextManager[None]:
    """Which changes no size, and no time before the page is written back."""
    mapped = np.memmap(name, np.uint8, "r+")

    def write(file: Any) -> None:
        mapped[:1000] = np.frombuffer(os.urandom(1000), np.uint8)

    return changing(name, "rb", write)


def add_files(name: str) -> AbstractContextManager[None]:
    count = iter(range(10**9))

    def write(file: Any) -> None:
        Path(f"{name}.{next(count)}").write_bytes(b"more")

    return changing(name, "rb", write)


@pytest.mark.parametrize("change", [append, overwrite, write_through_a_map, add_files])
def test_a_staged_file_that_is_still_written_is_refused_or_whole(
    store: CheckpointStore, change: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Its digest was of another moment: 20 of 20 such checkpoints could never be loaded."""
    for step in range(6):
        with contextlib.ExitStack() as writer, contextlib.suppress(SaveAborted), store.stage(step) as path:
            name = os.path.join(path, "log.bin")
            Path(name).write_bytes(b"0" * 3_000_000)
            writer.enter_context(change(name))
        for checkpoint in store.checkpoints():
            assert checkpoint.check().ok


def append_once(name: str) -> None:
    with open(name, "ab") as file:
        file.write(b"x")


def overwrite_once(name: str) -> None:
    with open(name, "r+b") as file:
        file.write(b"1")


def map_once(name: str) -> None:
    np.memmap(name, np.uint8, "r+")[0] += 1


def replace_once(name: str) -> None:
    Path(f"{name}.new").write_bytes(b"1" * 3_000_000)
    os.replace(f"{name}.new", name)


def remove_once(name: str) -> None:
    os.unlink(name)


def add_once(name: str) -> None:
    Path(f"{name}.more").write_bytes(b"more")


@pytest.mark.parametrize(
    "change", [append_once, overwrite_once, map_once, replace_once, remove_once, add_once]
)
def test_a_change_while_a_staged_file_is_hashed_is_seen(
    store: CheckpointStore, change: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def digest_late(data: Any) -> str:
        found = digest(data)
        if len(names) == 1 and len(data) == 3_000_000:
            change(names[0])
            names.append("changed")
        return found

    monkeypatch.setattr(writing, "digest", digest_late)
    in_place = store.url.startswith("file")
    seen = in_place or change in (append_once, overwrite_once, map_once)
    expected = SaveAborted if seen else None
    with pytest.raises(expected) if expected else contextlib.nullcontext(), store.stage(1) as path:
        names.append(os.path.join(path, "log.bin"))
        Path(names[0]).write_bytes(b"0" * 3_000_000)
    assert names[1:] == ["changed"]
    for checkpoint in store.checkpoints():
        assert not in_place
        assert checkpoint.read("log.bin") == b"0" * 3_000_000  # what went up was hashed, whatever came after


def test_a_staged_link_to_a_file_elsewhere_becomes_a_file_of_its_own(
    store: CheckpointStore, tmp_path: Path
) -> None:
    """Its owner would go on writing to the checkpoint."""
    elsewhere = tmp_path / "latest.bin"
    elsewhere.write_bytes(b"0" * 3_000_000)
    with store.stage(1) as path:
        os.link(elsewhere, os.path.join(path, "linked.bin"))
        Path(path, "own.bin").write_bytes(b"1" * 1000)
        os.link(os.path.join(path, "own.bin"), os.path.join(path, "best.bin"))
    elsewhere.write_bytes(b"changed")
    assert path.checkpoint is not None
    assert path.checkpoint.check().ok
    assert path.checkpoint.read("linked.bin") == b"0" * 3_000_000
    assert path.checkpoint.read("best.bin") == b"1" * 1000
    assert elsewhere.read_bytes() == b"changed"


NAMES = [
    "models\\best.pt", "sub/color\\deblur.model", os.fsdecode(b"caf\xe9.bin"), "two\nlines", "tab\there",
    "checkpoint-5", "checkpoint-5.tune_metadata", "epoch=1-step=10.ckpt", "größe 試験.pt", "e\u0301.pt",
    "\x01", "trailing. ", "a%2Fb #?&+.pt",
    "-rf", "~", "*", "$HOME", "'", '"', "C:x", "con", ".hidden", "...", "emoji 🎈",
    ".ckptstore-0123456789abcdef.tmp", "sub/.ckptstore-0123456789abcdef.tmp", "x" * 255, "/".join("d" * 60),
    "policies/p/policy_state.pkl", "rllib_checkpoint.json", "algorithm_state.pkl", ".is_checkpoint",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("how", ["stage", "models"])
def test_a_name_is_refused_or_read(store: CheckpointStore, name: str, how: str, tmp_path: Path) -> None:
    """Names that the manifest's own reader refuses were committed, and unreadable for ever."""
    prefix = "" if how == "stage" else "policies/p/model/"
    try:
        if how == "stage":
            with store.stage(1) as path:
                write_named(path, name)
            checkpoint = path.checkpoint
        else:
            write_named(tmp_path / "model", name)
            checkpoint = store.save(1, policies={"p": {"w": 1}}, models={"p": tmp_path / "model"})
    except InvalidRequest:
        assert "\\" in name or not name.isascii() or ".ckptstore" in name
        return
    assert checkpoint is not None
    found = CheckpointStore(store.url).latest(verified=True)
    assert found is not None
    assert found.id == checkpoint.id
    assert found.read(prefix + name) == b"weights"
    with found.as_directory() as copy:
        assert Path(copy, prefix + name).read_bytes() == b"weights"


def write_named(directory: os.PathLike[str] | str, name: str) -> None:
    target = os.path.join(directory, name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as file:
        file.write(b"weights")
