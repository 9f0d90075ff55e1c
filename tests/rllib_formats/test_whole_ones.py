"""Checkpoints that lack what they never had are whole: they open, and nobody calls them damaged."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import CheckpointCorrupt

DATA = Path(__file__).parents[1] / "data"
VECTOR = np.arange(7, dtype="f4")


def test_es_and_ars_have_a_vector_and_no_policies(tmp_path: Path) -> None:
    root = tmp_path / "checkpoint_000002"
    root.mkdir()
    (root / ".is_checkpoint").touch()
    state = {"weights": VECTOR, "filter": {"demean": True}, "episodes_so_far": 48}
    (root / "checkpoint-2").write_bytes(pickle.dumps(state))
    (root / "checkpoint-2.tune_metadata").write_bytes(pickle.dumps({"iteration": 2, "ray_version": "1.13.0"}))
    ckpt = Checkpoint.open(root)
    assert (ckpt.version, ckpt.policy_ids) == ("0.1", ())
    assert ckpt.verify().ok
    assert ckpt.state["iteration"] == 2
    np.testing.assert_array_equal(ckpt.state["extra"]["weights"], VECTOR)
    assert ckpt.state["extra"]["filter"] == {"demean": True}


def qmix(root: Path, **networks: Any) -> Checkpoint:
    """An algorithm as Ray 2.1 to 2.3 wrote QMIX."""
    place = root / "policies" / "default_policy"
    place.mkdir(parents=True)
    worker = {"policy_ids": ["default_policy"], "filters": {}}
    state = {"algorithm_class": "QMix", "config": {}, "worker": worker, "counters": {}}
    (root / "algorithm_state.pkl").write_bytes(pickle.dumps(state))
    info = {"type": "Algorithm", "checkpoint_version": "1.0", "ray_version": "2.2.0"}
    (root / "rllib_checkpoint.json").write_text(json.dumps(info))
    (place / "policy_state.pkl").write_bytes(pickle.dumps({"cur_epsilon": 0.5, **networks}))
    return Checkpoint.open(root)


def test_qmix_has_its_networks_beside_each_other(tmp_path: Path) -> None:
    net = {"fc1.weight": VECTOR}
    ckpt = qmix(tmp_path / "a", model=net, target_model=net, mixer=net, target_mixer=net)
    names = ("model", "target_model", "mixer", "target_mixer")
    assert set(ckpt.weights()) == {f"{name}/fc1.weight" for name in names}
    assert ckpt.policies["default_policy"]["extra"] == {"cur_epsilon": 0.5}
    assert ckpt.verify().ok
    # Its other mode has no mixer.
    ckpt = qmix(tmp_path / "b", model=net, target_model=net, mixer=None, target_mixer=None)
    assert set(ckpt.weights()) == {"model/fc1.weight", "target_model/fc1.weight"}
    assert ckpt.verify().ok


def test_a_module_without_parameters_has_no_optimizer(tmp_path: Path) -> None:
    root = tmp_path / "checkpoint"
    shutil.copytree(DATA / "v2_0/ray_2.40.0_ppo/checkpoint", root)
    learner = root / "learner_group/learner"
    state = Checkpoint.open(root).components["learner"]
    (learner / "state.pkl").write_bytes(pickle.dumps({**state, "optimizer": {}}))
    with pytest.raises(CheckpointCorrupt, match="the Learner has none"):  # it has parameters
        Checkpoint.open(root).verify()
    [module] = (learner / "rl_module/default_policy").glob("module_state.*")
    module.unlink()
    module.with_suffix(".pkl").write_bytes(pickle.dumps({}))
    info = json.loads((root / "rllib_checkpoint.json").read_text())
    (root / "rllib_checkpoint.json").write_text(json.dumps({**info, "checkpoint_version": "2.1"}))
    ckpt = Checkpoint.open(root)
    assert ckpt.weights() == {}
    assert ckpt.verify().ok, ckpt.verify()
