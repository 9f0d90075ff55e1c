"""Checkpoints migrated to 1.1, opened and trained on by older Rays, with no help from ckptstore.

`make compat` installs them and names their Pythons in CKPTSTORE_OLDER_RAYS.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore

PYTHONS = os.environ.get("CKPTSTORE_OLDER_RAYS", "").split()
DATA = Path(__file__).parents[1] / "data"
OPENER = Path(__file__).with_name("open_migrated.py")
OBSERVATION = [0.0, 0.1, 0.2, 0.3]
# Whether the algorithm can be restored as well. RLlib wants filters of its own class there; 1.1 has data.
CASES = {"v1_0/ray_2.1.0_tune": True, "v1_1/ray_2.10.0_filter": False}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHONS, reason="CKPTSTORE_OLDER_RAYS names no Python with an older Ray"),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("python", PYTHONS)
def test_an_older_ray_opens_what_was_migrated(python: str, case: str, tmp_path: Path) -> None:
    source = Checkpoint.open(DATA / case / "checkpoint")
    migrated = source.migrate(CheckpointStore(tmp_path / "store")).checkpoint
    assert migrated is not None
    command = [python, "-W", "ignore", str(OPENER)]
    with migrated.as_directory() as path:
        done = subprocess.run(
            [*command, str(path), json.dumps(OBSERVATION), *(["restore"] if CASES[case] else [])],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.rpartition("ANSWER")[2])
    algorithm = found.pop("algorithm", None)
    assert (algorithm is not None) == CASES[case]
    assert sorted(found) == sorted(source.policy_ids)
    for policy_id, got in found.items():
        stored = source.policies[policy_id]
        same(got["weights"], stored["weights"])
        assert got["timestep"] == stored["global_timestep"]
        assert got["kl_coeff"] == stored["kl_coeff"]
        assert got["moments"] == [len(item["state"]) for item in stored["optimizer"].values()]
    if algorithm is None:
        return
    same(algorithm["weights"], source.policies["default_policy"]["weights"])
    print(f"{Path(python).parts[-3]} opened {case}: iteration {algorithm['iteration']}, then trained")
    assert algorithm["trained"] == algorithm["iteration"] + 1


def same(got: dict[str, Any], stored: dict[str, Any]) -> None:
    assert got.keys() == stored.keys()
    for name, value in stored.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6, err_msg=name)
