"""A download of some policies: a committed checkpoint with the original's digests, state and policies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore, Opaque
from ckptstore.errors import CheckpointCorrupt, CheckpointExists, CheckpointNotFound, InvalidRequest
from tests.rllib_formats import corpus
from tests.stores import policies, unlinked

DATA = Path(__file__).parent / "data"
ROOTS = [root for case in corpus.cases(DATA) for root in corpus.roots(case)]
STATE = {"iteration": 7, "nested": {"a": np.arange(5)}, "policies": "a key of the caller's own"}


def same(one: Any, other: Any) -> bool:
    return Opaque("x", (one,)) == Opaque("x", (other,))  # compares arrays too


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoint:
    store = CheckpointStore(tmp_path / "store")
    return store.save(3, STATE, policies(3), {"c": [1, 2]}, metrics={"r": 1.0}, labels=["eval"])


def test_it_is_committed_and_gives_the_same(saved: Checkpoint, tmp_path: Path) -> None:
    part = Checkpoint.open(saved.download(tmp_path / "part", policy_ids=["pol1", "pol0"]))
    assert part.committed
    assert part.verify().ok
    assert same(part.state, saved.state)
    assert part.policy_ids == ("pol0", "pol1")
    assert all(same(part.policies[each], saved.policies[each]) for each in part.policy_ids)
    assert part.components["c"] == [1, 2]
    assert (part.step, part.metrics, part.labels) == (3, saved.metrics, saved.labels)
    assert same(part.load(trusted=True).state, saved.load(trusted=True).state)
    assert part.id != saved.id
    assert part.manifest.parent is not None
    assert part.manifest.parent.id == saved.id
    theirs = {file.path: file.digest for file in saved.manifest.files}
    mine = {file.path: file.digest for file in part.manifest.files}
    assert {path for path, digest in mine.items() if theirs[path] != digest} == {"rllib_checkpoint.json"}
    assert {path for path in theirs if path not in mine} == set(saved.files_of("pol2"))
    assert "pol2" not in part.policies


def test_a_changed_byte_is_found(saved: Checkpoint, tmp_path: Path) -> None:
    for number, path in enumerate(["algorithm_state.pkl", "rllib_checkpoint.json", "_ckptstore/parts.json"]):
        part = Path(saved.download(tmp_path / str(number), policy_ids=["pol1"]))
        data = bytearray(unlinked(part / path))
        data[len(data) // 2] ^= 1
        (part / path).write_bytes(data)
        with pytest.raises(CheckpointCorrupt):
            Checkpoint.open(part).verify()


def test_parts_of_parts_directories_and_stores(saved: Checkpoint, tmp_path: Path) -> None:
    with saved.as_directory(policy_ids=["pol1", "pol2"]) as path:
        part = Checkpoint.open(path)
        assert part.verify().ok
        smaller = Checkpoint.open(part.download(tmp_path / "smaller", policy_ids=["pol2"]))
        other = CheckpointStore(tmp_path / "other")
        added = other.add(part)
        assert added.verify().ok
        with pytest.raises(CheckpointExists):
            other.add(saved)
        with pytest.raises(CheckpointNotFound):
            part.download(tmp_path / "gone", policy_ids=["pol0"])
    assert smaller.verify().ok
    assert same(smaller.state, saved.state)
    info = json.loads(smaller.read("rllib_checkpoint.json"))
    assert (info["policy_ids"], info["ckptstore_left_out"]) == (["pol2"], ["pol0", "pol1"])
    assert smaller.manifest.writer == saved.manifest.writer


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("root", ROOTS, ids=lambda root: f"{root.parent.parent.name}/{root.parent.name}")
def test_of_what_rllib_wrote(root: Path, committed: bool, tmp_path: Path) -> None:
    whole = Checkpoint.open(root)
    if committed:
        store = CheckpointStore(tmp_path / "store")
        with store.stage(3) as path:
            shutil.copytree(root, path, dirs_exist_ok=True)
        whole = store.get(3)
    policy_id = whole.policy_ids[0]
    try:
        part = Checkpoint.open(whole.download(tmp_path / "part", policy_ids=[policy_id]))
    except InvalidRequest:
        assert whole.kind != "Algorithm" or whole.version == "0.1"  # which has one file for all
        return
    assert part.committed == committed
    assert part.verify().ok
    assert part.version == whole.version
    assert part.policy_ids == (policy_id,)
    others = {path for each in whole.policy_ids if each != policy_id for path in whole.files_of(each)}
    assert not others.intersection(part.listing())
    assert same(part.policies[policy_id], whole.policies[policy_id])
    assert {key for key in whole.state if not same(part.state[key], whole.state[key])} <= {"policy_ids"}


def test_a_policy_that_was_lost_is_still_missed(tmp_path: Path) -> None:
    whole = Checkpoint.open(DATA / "rllib_1_0_ppo_multi5" / "checkpoint")
    part = Path(whole.download(tmp_path / "part", policy_ids=["pol1", "pol2"]))
    assert Checkpoint.open(part).state["policy_ids"] == ["pol1", "pol2"]
    shutil.rmtree(part / "policies" / "pol2")
    with pytest.raises(CheckpointCorrupt, match="pol2"):
        Checkpoint.open(part).policies["pol2"]


def test_a_directory_without_json_keeps_its_version(tmp_path: Path) -> None:
    old = Path(shutil.copytree(DATA / "rllib_1_0_ppo_multi5" / "checkpoint", tmp_path / "old"))
    (old / "rllib_checkpoint.json").unlink(missing_ok=True)
    whole = Checkpoint.open(old)
    part = Checkpoint.open(whole.download(tmp_path / "part", policy_ids=["pol1"]))
    assert part.version == whole.version == "1.0"
    assert {key for key in whole.state if not same(part.state[key], whole.state[key])} == {"policy_ids"}
