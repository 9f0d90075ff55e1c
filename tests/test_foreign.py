"""What RLlib wrote, through the front door: opened where it lies, or committed to a store."""

from __future__ import annotations

import json
import pickle
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointNotFound,
    InvalidRequest,
    UnreadableFormat,
    UnsafeContent,
)
from tests.stores import RLLIB_1_0, tree_bytes

WRITTEN = RLLIB_1_0 / "checkpoint"
POLICIES = tuple(f"pol{index}" for index in range(5))


def truth(policy_id: str) -> dict[str, np.ndarray]:
    prefix = f"weights/{policy_id}/"
    with np.load(RLLIB_1_0 / "expected.npz") as expected:
        return {key[len(prefix) :]: expected[key] for key in expected.files if key.startswith(prefix)}


def assert_true(ckpt: Checkpoint, policy_id: str, name: str | None = None) -> None:
    weights = ckpt.weights(policy_id)
    expected = truth(name or policy_id)
    assert weights.keys() == expected.keys()
    for key, array in expected.items():
        assert (weights[key].dtype, weights[key].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(weights[key], array)


def test_open_it_where_it_lies() -> None:
    ckpt = Checkpoint.open(WRITTEN)
    assert (ckpt.committed, ckpt.verified, ckpt.id) == (False, False, "")
    assert (ckpt.kind, ckpt.version, ckpt.policy_ids) == ("Algorithm", "1.0", POLICIES)
    for policy_id in POLICIES:
        assert_true(ckpt, policy_id)
    assert ckpt.state["counters"]["num_env_steps_sampled"] > 0
    assert ckpt.load(policy_ids=["pol3"]).policies["pol3"]["global_timestep"] > 0
    assert ckpt.verify().ok
    with pytest.raises(UnreadableFormat, match="committed"):
        ckpt.manifest  # noqa: B018
    with pytest.raises(InvalidRequest, match="as_directory"):
        ckpt.load(trusted=True)
    with pytest.raises(CheckpointNotFound, match="pol4"):
        ckpt.weights("pol9")


def test_open_one_policy_of_it() -> None:
    ckpt = Checkpoint.open(WRITTEN / "policies" / "pol2")
    assert (ckpt.kind, ckpt.policy_ids) == ("Policy", ("default_policy",))
    assert_true(ckpt, "default_policy", "pol2")
    np.testing.assert_equal(ckpt.weights(), truth("pol2"))


def test_a_policy_is_fetched_only_when_asked_for(tmp_path: Path) -> None:
    shutil.copytree(WRITTEN, tmp_path / "copy")
    for policy_id in POLICIES[1:]:
        (tmp_path / "copy" / "policies" / policy_id / "policy_state.pkl").write_bytes(b"damaged")
    ckpt = Checkpoint.open(tmp_path / "copy")
    assert_true(ckpt, "pol0")
    report = ckpt.check()
    assert len(report.problems) == 4
    with pytest.raises(CheckpointCorrupt, match="pol1"):
        ckpt.verify()


@pytest.mark.parametrize("place", ["local", "memory"])
def test_commit_it_to_a_store(tmp_path: Path, place: str) -> None:
    store = CheckpointStore(tmp_path / "store" if place == "local" else f"memory://{uuid.uuid4().hex}")
    with store.stage(step=2) as path:
        shutil.copytree(WRITTEN, path, dirs_exist_ok=True)
    ckpt = store.get(2)
    assert (ckpt.committed, ckpt.kind, ckpt.version, ckpt.policy_ids) == (True, "Algorithm", "1.0", POLICIES)
    assert ckpt.manifest.origin == "stage"
    for policy_id in POLICIES:
        assert_true(ckpt, policy_id)
    assert ckpt.verify().ok
    with ckpt.as_directory() as copy:
        files = tree_bytes(copy)
        assert {key: files[key] for key in tree_bytes(WRITTEN)} == tree_bytes(WRITTEN)
    with ckpt.as_directory(policy_ids=["pol1", "pol4"]) as part:
        assert sorted(entry.name for entry in Path(part, "policies").iterdir()) == ["pol1", "pol4"]
        assert json.loads(Path(part, "rllib_checkpoint.json").read_text())["policy_ids"] == ["pol1", "pol4"]
        assert Checkpoint.open(part).policy_ids == ("pol1", "pol4")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound):
        Checkpoint.open(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointNotFound):
        Checkpoint.open(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(UnreadableFormat):
        Checkpoint.open(tmp_path / "empty")


def test_the_file_that_the_oldest_releases_called_the_checkpoint(tmp_path: Path) -> None:
    old = WRITTEN.parent.parent / "v0_1" / "ray_1.13.0_multi" / "checkpoint"
    ckpt = Checkpoint.open(old / "checkpoint-3")
    assert (ckpt.version, ckpt.step, ckpt.ray_version, ckpt.url) == ("0.1", 3, "1.13.0", f"file://{old}")
    with pytest.raises(CheckpointNotFound):
        Checkpoint.open(old / "checkpoint-4")
    with pytest.raises(CheckpointNotFound, match="a part of its path is a file"):
        Checkpoint.open(old / "checkpoint-3" / "checkpoint-3")
    CheckpointStore(tmp_path).save(1, {"a": 1})
    with pytest.raises(InvalidRequest, match=r"it is a file.*checkpoint_000001$"):
        Checkpoint.open(tmp_path / "checkpoint_000001" / "algorithm_state.pkl")
    shutil.copy(old / "checkpoint-3", tmp_path / "checkpoint-3")
    shutil.copy(old / "checkpoint-3", tmp_path / "checkpoint-4")
    (tmp_path / "_ckptstore" / "store.json").unlink()
    with pytest.raises(UnreadableFormat, match="several checkpoints"):
        Checkpoint.open(tmp_path / "checkpoint-3")


def test_a_directory_around_checkpoints_says_what_to_open(tmp_path: Path) -> None:
    shutil.copytree(WRITTEN, tmp_path / "trial" / "checkpoint_000010")
    with pytest.raises(UnreadableFormat, match=r"Did you mean checkpoint_000010\?"):
        Checkpoint.open(tmp_path / "trial")
    with pytest.raises(UnreadableFormat, match=r"Did you mean trial/checkpoint_000010\?"):
        Checkpoint.open(tmp_path)
    shutil.copytree(WRITTEN, tmp_path / "trial" / "checkpoint_000020")
    with pytest.raises(UnreadableFormat, match="2 directories in it look like one") as caught:
        Checkpoint.open(tmp_path / "trial")
    assert caught.value.what == f"file://{tmp_path}/trial"
    CheckpointStore(tmp_path / "store").save(1, {"a": 1})
    with pytest.raises(UnreadableFormat, match="it is a store"):
        Checkpoint.open(tmp_path / "store")


def test_one_policy_is_read_without_what_lists_them_all(tmp_path: Path) -> None:
    shutil.copytree(WRITTEN, tmp_path / "copy")
    (tmp_path / "copy" / "algorithm_state.pkl").write_bytes(b"damaged")
    ckpt = Checkpoint.open(tmp_path / "copy")
    assert_true(ckpt, "pol2")
    assert ckpt.policies["pol3"]["global_timestep"] > 0
    assert "pol4" in ckpt.policies
    with pytest.raises(UnsafeContent):
        ckpt.weights("pol9")
    absent: object = 7
    assert absent not in ckpt.policies


def test_ray_version(tmp_path: Path) -> None:
    assert Checkpoint.open(WRITTEN).ray_version == "2.1.0"
    store = CheckpointStore(tmp_path)
    assert store.save(1, {"a": 1}).ray_version == ""
    with store.stage(2) as path:
        (Path(path) / "weights.bin").write_bytes(b"1")
    assert store.get(2).ray_version == ""


def test_policies_left_out_on_purpose_are_no_damage() -> None:
    ckpt = Checkpoint.open(WRITTEN.parent.parent / "v1_1" / "ray_2.38.0_trainable_only" / "checkpoint")
    assert ckpt.verify().ok
    assert [note.kind for note in ckpt.notes if note.path == "policies/frozen_b"] == ["absent"]


def test_an_unfinished_save_of_ours_is_not_rllibs(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(1, {"a": 1}, {"p": {"weights": {"w": np.zeros(2)}}})
    (tmp_path / "checkpoint_000001" / "_ckptstore" / "manifest.json").unlink()
    assert Checkpoint.open(tmp_path / "checkpoint_000001").committed is False


def test_checkpoints_travel_between_processes() -> None:
    ckpt = pickle.loads(pickle.dumps(Checkpoint.open(WRITTEN)))
    assert_true(ckpt, "pol1")
