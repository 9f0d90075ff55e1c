"""Other Pythons and numpys open what `migrate` writes at 1.1 with plain ``pickle.load``, without Ray.

Needs the environments of ``python -m tests.codec.other_pythons``. `CKPTSTORE_CORPUS` names a larger
collection to take besides the checkpoints kept here.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from tests.codec.other_pythons import ENVIRONMENTS, ROOT, Environment
from tests.rllib_formats.corpus import cases, flat, roots

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[1] / "data"

READ = """
import json, pickle, sys, warnings
warnings.simplefilter("error")
from pathlib import Path
import numpy as np

def flat(value, prefix):
    if isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(item, f"{prefix}/{key}")
    else:
        yield prefix, value

count, pickles = 0, 0
for place in sorted(Path(sys.argv[1]).iterdir()):
    read = {}
    for path in sorted(place.rglob("*")):
        if path.suffix == ".pkl" or path.name == ".tune_metadata":
            with open(path, "rb") as file:
                read[path.relative_to(place).as_posix()] = pickle.load(file)
            pickles += 1
    policies = {path.split("/")[-2] if "/" in path else "default_policy": value
                for path, value in read.items() if path.endswith("policy_state.pkl")}
    found = {}
    for policy_id, policy in policies.items():
        found.update(flat(policy["weights"], f"weights/{policy_id}"))
        optimizer = policy["_optimizer_variables"] or policy.get("learner_state", {}).get("optimizer", {})
        found.update(flat(optimizer, f"optimizer/{policy_id}"))
    found.update(flat(dict(read.get("algorithm_state.pkl", {}).get("counters", {})), "counters"))
    with np.load(place / "truth.npz") as truth:
        missing = set(truth.files) - set(found)
        assert not missing, (place, sorted(missing)[:5])
        for name in truth.files:
            assert np.asarray(found[name]).dtype == truth[name].dtype, (place, name)
            assert np.array_equal(found[name], truth[name], equal_nan=truth[name].dtype.kind == "f"), name
        count += len(truth.files)
modules = ("ray", "torch", "gym", "gymnasium", "ckptstore")
known = sorted(name for name in modules if name in sys.modules)
answer = {"values": count, "pickles": pickles, "numpy": np.__version__, "imported": known}
print("ANSWER" + json.dumps(answer))
"""


def truth(before: Checkpoint) -> dict[str, Any]:
    """What the migrated checkpoint must hold, by its path in the migrated pickles."""
    found: dict[str, Any] = {}
    for policy_id in before.policy_ids:
        policy = before.policies[policy_id]
        found.update({f"weights/{policy_id}/{name}": value for name, value in policy["weights"].items()})
        optimizer = policy["optimizer"]
        optimizer = optimizer["variables"] if optimizer.keys() == {"variables"} else optimizer
        found.update(flat(optimizer, f"optimizer/{policy_id}"))
    if before.kind == "Algorithm":
        found.update(flat(before.state["counters"], "counters"))
    return {name: value for name, value in found.items() if np.asarray(value).dtype.kind != "O"}


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of migrated checkpoints, the truth inside each."""
    made, scratch = tmp_path_factory.mktemp("migrated"), tmp_path_factory.mktemp("scratch")
    folders = [DATA, *(Path(name) for name in [os.environ.get("CKPTSTORE_CORPUS")] if name)]
    every = [root for folder in folders for case in cases(folder) for root in roots(case)]
    for index, root in enumerate(every):
        before = Checkpoint.open(root)
        done = before.migrate(scratch / str(index))
        assert done.checkpoint is not None
        done.checkpoint.download(made / str(index))
        with open(made / str(index) / "truth.npz", "wb") as file:
            np.savez(file, **truth(before))
    return made


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=[environment.name for environment in ENVIRONMENTS])
def test_plain_pickle_load_opens_them(migrated: Path, environment: Environment) -> None:
    if not environment.executable.exists():
        pytest.skip(f"{ROOT} has no {environment.name}")
    done = subprocess.run(
        [environment.executable, "-I", "-c", READ, migrated], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.rpartition("ANSWER")[2])
    print(environment.name, len(list(migrated.iterdir())), "checkpoints", answer)
    assert answer["imported"] == []
    assert answer["values"] > 100
