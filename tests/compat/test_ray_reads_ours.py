"""RLlib's own reader, given directories that ckptstore wrote.

Runs where CKPTSTORE_RAY_PYTHON names a Python with Ray (`make compat` installs one).
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore

RAY_PYTHON = os.environ.get("CKPTSTORE_RAY_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RAY_PYTHON, reason="CKPTSTORE_RAY_PYTHON names no Python with Ray"),
]

ADOPTED = Path(__file__).parents[1] / "data" / "v2_1" / "ray_2.60.0_dqn" / "checkpoint"
ASK = """
import json, pickle, sys
from ray.rllib.utils.checkpoints import get_checkpoint_info
found = {}
for path in sys.argv[1:]:
    info = get_checkpoint_info(path)
    with open(info["state_file"], "rb") as file:
        state = pickle.load(file)
    found[path] = {
        "type": info["type"], "version": str(info["checkpoint_version"]), "format": info["format"],
        "policy_ids": sorted(info["policy_ids"] or []), "state": sorted(state),
    }
print("ANSWER" + json.dumps(found))
"""


def ask(*paths: str | Path) -> dict[str, Any]:
    done = subprocess.run(
        [RAY_PYTHON, "-W", "ignore", "-c", ASK, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.rpartition("ANSWER")[2])
    return answer


def test_type_version_and_policies(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    ids = ["pol 0", "pol*1", "pöl_2", "pol.3", "pol%4", "pol#5", "pol&6"]
    policies = {policy_id: {"weights": {"w": np.ones((300, 300), "f4")}} for policy_id in ids}
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.pt").write_bytes(b"x")
    algorithm = store.save(
        1, {"iteration": 1, "counters": {}}, policies, {"buffer": 1}, models={"pol 0": model}
    )
    alone = store.save(2, policy=policies["pol 0"])
    bare = store.save(3)
    part = algorithm.download(tmp_path / "part", policy_ids=ids[:2])
    paths = [ckpt.url.removeprefix("file://") for ckpt in (algorithm, alone, bare)]
    found = list(ask(*paths, part).values())
    common = {"version": "1.1", "format": "cloudpickle"}
    assert found == [
        {"type": "Algorithm", "policy_ids": sorted(ids), "state": ["counters", "iteration"], **common},
        {"type": "Policy", "policy_ids": [], "state": ["weights"], **common},
        {"type": "Algorithm", "policy_ids": [], "state": [], **common},
        {"type": "Algorithm", "policy_ids": sorted(ids[:2]), "state": ["counters", "iteration"], **common},
    ]
    print("RLlib reads", found)


def test_an_adopted_directory_is_restored_as_before(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoint_000010"
    shutil.copytree(ADOPTED, directory)
    made = CheckpointStore(tmp_path).adopt("checkpoint_000010")
    answer = tmp_path / "answer.pkl"
    script = Path(__file__).parent / "ray_restore.py"
    done = subprocess.run(
        [RAY_PYTHON, "-W", "ignore", script, "DQN", directory, answer],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = pickle.loads(answer.read_bytes())
    weights = made.weights("default_policy")
    assert found["weights"].keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(found["weights"][name], array)
    assert found["iteration"] == made.state["iteration"]
    assert made.check().ok
