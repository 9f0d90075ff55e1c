"""A program may put another directory in the place of the one that it was given to write into."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import CheckpointError, SaveAborted


def remade(path: Path) -> None:
    """As TorchRL does, and Orbax when it is told to overwrite."""
    shutil.rmtree(path)
    path.mkdir()
    (path / "weights").write_bytes(b"new")


def renamed_into_place(path: Path) -> None:
    other = path.parent / f"{path.name}.tmp"
    other.mkdir()
    (other / "weights").write_bytes(b"new")
    path.rmdir()
    other.rename(path)


def renamed_over(path: Path) -> None:
    other = path.parent / f"{path.name}.tmp"
    (other / "deep").mkdir(parents=True)
    (other / "weights").write_bytes(b"new")
    other.rename(path)  # which an empty directory doesn't stop


def copied_after_removal(path: Path) -> None:
    other = path.parent / f"{path.name}.tmp"
    other.mkdir()
    (other / "weights").write_bytes(b"new")
    path.rmdir()
    shutil.copytree(other, path)
    shutil.rmtree(other)


WAYS = [remade, renamed_into_place, renamed_over, copied_after_removal]


@pytest.mark.parametrize("where", ["local", "memory"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_there_at_the_end_is_committed(
    tmp_path: Path, where: str, way: Callable[[Path], None]
) -> None:
    store = CheckpointStore(tmp_path if where == "local" else f"memory://{uuid.uuid4().hex}")
    store.save(0, {"i": 0})
    with store.stage(1) as path:
        way(Path(path))
    assert CheckpointStore(store.url).get(1).verify()
    with store.get(1).as_directory() as copy:
        assert (Path(copy) / "weights").read_bytes() == b"new"
    store.gc(grace=0)
    assert [each.step for each in store.checkpoints()] == [0, 1]
    if where == "local":
        assert list((tmp_path / ".staging").iterdir()) == []


def test_a_checkpoint_is_downloaded_into_it(tmp_path: Path) -> None:
    source = tmp_path / "foreign"
    CheckpointStore(tmp_path / "source").save(3, {"i": 3}).download(source)
    shutil.rmtree(source / "_ckptstore")
    store = CheckpointStore(tmp_path / "store")
    with store.stage(4) as path:
        Checkpoint.open(source).download(os.fspath(path))
    assert store.get(4).state == Checkpoint.open(source).state


@pytest.mark.parametrize("left", ["nothing", "a link", "a file"])
def test_what_can_not_be_committed_is_said(tmp_path: Path, left: str) -> None:
    store = CheckpointStore(tmp_path / "store")
    store.save(0, {"i": 0})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights").write_bytes(b"mine")
    with pytest.raises(CheckpointError), store.stage(1) as path:  # noqa: PT012 - the end of the block raises
        directory = os.fspath(path)
        os.rmdir(directory)
        if left == "a link":
            os.symlink(elsewhere, directory)
        elif left == "a file":
            Path(directory).write_bytes(b"no directory")
    assert [each.step for each in store.checkpoints()] == [0]
    assert (elsewhere / "weights").read_bytes() == b"mine"
    assert store.save(1, {"i": 1}).verify()


def test_one_that_a_sweep_took_is_not_brought_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(0, {"i": 0})
    with pytest.raises(SaveAborted, match="a sweep removed"), store.stage(1) as path:  # noqa: PT012
        directory = Path(path)
        (directory.parent / f"{directory.name}.lock").unlink()  # as a sweep does where locks don't reach
        remade(directory)
    assert [each.step for each in store.checkpoints()] == [0]


def test_what_is_made_beside_it_stays_while_it_lives(tmp_path: Path) -> None:
    """Orbax and others write to a directory beside the one they were given, and rename it at the end."""
    store = CheckpointStore(tmp_path)
    store.save(0, {"i": 0})
    with store.stage(1) as path:
        beside = Path(f"{os.fspath(path)}.orbax-checkpoint-tmp-1")
        beside.mkdir()
        (beside / "weights").write_bytes(b"new")
        other = CheckpointStore(tmp_path)
        other.save(2, {"i": 2})
        other.prune(5)
        assert other.gc(grace=0, dry_run=True).attempts == []
        assert other.gc(grace=0).attempts == []
        os.rmdir(path)
        beside.rename(os.fspath(path))
    assert store.get(1).verify()
    (tmp_path / ".staging" / "left").mkdir()
    assert store.gc(grace=0).attempts == ["left"]
