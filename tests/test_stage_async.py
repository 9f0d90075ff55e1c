"""Directories staged for a framework, committed while it goes on."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.errors import CheckpointExists, InvalidRequest, StoreNotFound
from ckptstore.retention import BestN
from ckptstore.staging import Staged
from tests.disks import DelayedDisk
from tests.inside import backend_of
from tests.servers import Server
from tests.test_signing import PRIVATE, PUBLIC


def stage(store: CheckpointStore, step: int, content: str = "x", **more: object) -> Staged:
    staged = store.stage_async(step, **more)  # type: ignore[arg-type]
    with staged as path:
        (Path(path) / "model.bin").write_text(content)
    return staged


def test_the_block_ends_before_the_commit_and_the_future_tells_when(tmp_path: Path) -> None:
    disk = DelayedDisk("rename_noreplace")
    store = CheckpointStore(LocalBackend(tmp_path, disk))
    staged = stage(store, 1)
    assert staged.future is not None
    assert not staged.future.done()
    assert staged.checkpoint is None
    with pytest.raises(InvalidRequest, match="inside the `with` block only"):
        os.fspath(staged)
    disk.gate.set()
    assert staged.future.result(120).step == 1
    assert staged.checkpoint is not None
    assert (tmp_path / "checkpoint_000001" / "model.bin").read_text() == "x"
    assert staged.checkpoint.verify().ok


def test_one_commit_at_a_time_and_each_is_the_parent_of_the_next(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(1, 6):
        stage(store, step)
    store.wait()
    found = store.checkpoints()
    assert [ckpt.step for ckpt in found] == [1, 2, 3, 4, 5]
    parents = [ckpt.manifest.parent for ckpt in found]
    assert [parent and parent.id for parent in parents] == [None, *(ckpt.id for ckpt in found[:-1])]


def test_a_failure_nobody_looked_at_comes_up_at_the_next_and_at_wait(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    stage(store, 1)
    stage(store, 2, if_exists="replace")
    with store.stage_async(3) as path:
        os.symlink("/etc/passwd", os.path.join(path, "link"))
    with pytest.raises(InvalidRequest, match="link"):
        store.stage_async(4)
    with store.stage_async(5):
        pass
    with pytest.raises(InvalidRequest, match="nothing was written"):
        store.wait()
    store.wait()  # once
    stage(store, 6)
    store.wait()
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 2, 6]
    assert os.listdir(tmp_path / ".staging") == []


def test_after_an_exception_nothing_is_committed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)

    def interrupted() -> None:
        with store.stage_async(1) as path:
            (Path(path) / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    store.wait()
    assert store.latest() is None
    assert os.listdir(tmp_path / ".staging") == []


def test_a_failure_that_comes_up_at_the_end_of_the_block_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    stage(store, 1)
    store.wait()

    def second() -> None:
        with store.stage_async(2) as path:
            (Path(path) / "model.bin").write_text("x")
            store.save_async(1)  # fails meanwhile, and is looked at when the commit would begin

    with pytest.raises(CheckpointExists):
        second()
    store.wait()
    assert [ckpt.step for ckpt in store.checkpoints()] == [1]
    assert os.listdir(tmp_path / ".staging") == []


def test_what_keep_does_not_keep_goes_in_the_background(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step, score in ((1, 9.0), (2, 1.0), (3, 2.0), (4, 3.0)):
        stage(store, step, metrics={"score": score}, keep=BestN("score", 1))
    store.wait()
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 4]
    with pytest.raises(InvalidRequest, match="keep"):
        store.stage_async(5, keep="all")  # type: ignore[arg-type]


def test_what_a_run_that_went_back_saved_last_is_not_pruned(tmp_path: Path) -> None:
    for step in (50, 60):
        CheckpointStore(tmp_path).save(step)
    store = CheckpointStore(tmp_path)
    store.get(50).resume()
    for step in (51, 52):
        stage(store, step, keep=1)
    store.wait()
    assert [ckpt.step for ckpt in store.checkpoints()] == [50, 52, 60]
    parent = store.get(52).manifest.parent
    assert parent is not None
    assert CheckpointStore(tmp_path).prune(1) == ["checkpoint_000050", "checkpoint_000052"]


def test_a_commit_stands_where_pruning_fails_and_the_log_says_so(
    seaweedfs: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(seaweedfs.new_url(), storage_options=seaweedfs.options)
    stage(store, 1)
    store.wait()

    def refuse(*args: object) -> None:
        raise PermissionError("no deletes here")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "ckptstore"):
        patch.setattr(backend_of(store), "replace", refuse)  # tombstones are written with it
        staged = stage(store, 2, keep=1)
        assert staged.future is not None
        assert staged.future.result(120).step == 2
    assert any("nothing was pruned" in item.getMessage() for item in caplog.records)
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 2]
    stage(store, 3, keep=1)
    store.wait()
    assert [ckpt.step for ckpt in store.checkpoints()] == [3]


def test_nothing_is_sent_to_a_bucket_before_the_block_has_ended(
    seaweedfs: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = seaweedfs.new_url()
    store = CheckpointStore(url, storage_options=seaweedfs.options)
    stage(store, 1)
    store.wait()
    before = seaweedfs.sizes(url)
    with store.stage_async(2) as path:
        (Path(path) / "model.bin").write_text("x")
        assert seaweedfs.sizes(url) == before
        directory = os.fspath(path)
    store.wait()
    assert seaweedfs.peek(f"{url}/checkpoint_000002/model.bin") == b"x"
    assert not os.path.exists(directory)


ENDS = """
import sys
from ckptstore import CheckpointStore
with CheckpointStore(sys.argv[1]).stage_async(1) as path:
    with open(f"{path}/model.bin", "wb") as file:
        file.write(bytes(50_000_000))
"""


def test_the_program_does_not_end_under_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ENDS, str(tmp_path)], timeout=120, check=True)
    assert CheckpointStore(tmp_path).get(1).verify().ok


def test_a_pickled_store_opens_the_same_place_without_secrets(seaweedfs: Server, tmp_path: Path) -> None:
    url = seaweedfs.new_url()
    store = CheckpointStore(url, storage_options=seaweedfs.options, concurrency=3)
    data = pickle.dumps(store)
    assert seaweedfs.options["secret"].encode() not in data
    again = pickle.loads(data)
    assert (again.url, backend_of(again).concurrency) == (url, 3)
    with pytest.raises(StoreNotFound):
        pickle.loads(pickle.dumps(CheckpointStore(tmp_path / "none", create=False))).latest()
    trusting = pickle.loads(pickle.dumps(CheckpointStore(tmp_path, trusted_keys=[PUBLIC])))
    CheckpointStore(tmp_path, signing_key=PRIVATE).save(1)
    CheckpointStore(tmp_path).save(2)
    assert [ckpt.step for ckpt in trusting.checkpoints()] == [1]
    with pytest.raises(TypeError, match="signing key"):
        pickle.dumps(CheckpointStore(tmp_path, signing_key=PRIVATE))
