"""RLlib's new API stack opens what `migrate` writes at 2.1, and it computes what the old one computed.

Runs where CKPTSTORE_RAY_PYTHON names a Python with Ray (`make compat` installs one). `CKPTSTORE_CORPUS` names
a larger collection of checkpoints to take besides those kept here.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import UnreadableFormat
from tests.networks.test_old_stack import CASES, OLD_STACK
from tests.networks.test_old_stack import MODULES as MODULE_CASES
from tests.rllib_formats.corpus import cases, probe, roots

RAY_PYTHON = os.environ.get("CKPTSTORE_RAY_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RAY_PYTHON, reason="CKPTSTORE_RAY_PYTHON names no Python with Ray"),
]
HERE = Path(__file__).parent
DATA = HERE.parent / "data"
MODULES = "learner_group/learner/rl_module"


def run(script: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [RAY_PYTHON, "-W", "ignore", HERE / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def opened(jobs: list[dict[str, Any]], directory: Path) -> list[dict[str, Any]]:
    """What Ray makes of the jobs."""
    path = directory / "jobs.json"
    path.write_text(json.dumps(jobs))
    answers: list[dict[str, Any]] = json.loads(run("ray_modules.py", path).rpartition("ANSWER")[2])
    assert len(answers) == len(jobs)
    return answers


def places(made: Checkpoint, policy_id: str) -> list[dict[str, Any]]:
    """The ways to open a module of `made`."""
    path = made.url.removeprefix("file://")
    if made.kind == "RLModule":
        return [{"kind": "RLModule", "path": path}]
    base = f"{path}/{MODULES}" if made.kind == "Algorithm" else path
    return [
        {"kind": "RLModule", "path": f"{base}/{policy_id}"},
        {"kind": "MultiRLModule", "path": base, "module": policy_id},
    ]


def test_logits_are_those_of_the_live_algorithms(tmp_path: Path) -> None:
    folders = [DATA, *(Path(name) for name in [os.environ.get("CKPTSTORE_CORPUS")] if name)]
    jobs: list[dict[str, Any]] = []
    truths: list[Any] = []
    counted: Counter[str] = Counter()
    for number, case in enumerate(case for folder in folders for case in cases(folder)):
        expected = json.loads((case / "expected.json").read_text())
        for root in roots(case):
            try:
                done = Checkpoint.open(root).migrate(tmp_path / f"{number}-{root.name}", to="2.1")
            except UnreadableFormat as error:
                counted[f"refused: {error.why[:50]}"] += 1
                continue
            assert done.checkpoint is not None
            for policy_id in done.policies:
                found = probe(expected, policy_id)
                known = found is not None and "new_dqn" not in root.parent.name
                known = known and root.parent.name != "ray_2.60.0_dqn"
                space = Checkpoint.open(root).policies[policy_id]["observation_space"]
                obs, truth = (
                    ([found[0]], found[1])
                    if found and known
                    else (np.zeros((2, *space["shape"])).tolist(), None)
                )
                for place in places(done.checkpoint, policy_id):
                    jobs.append({**place, "obs": obs})
                    truths.append(truth if known else None)
    for job, answer, truth in zip(jobs, opened(jobs, tmp_path), truths, strict=True):
        assert "error" not in answer, (job["path"], answer)
        if truth is not None:
            np.testing.assert_allclose(answer["logits"][0], truth, rtol=1e-5, atol=1e-5, err_msg=job["path"])
        counted[f"{answer['class']}: " + ("opened" if truth is None else "logits equal")] += 1
    print(dict(counted))
    assert not [name for name in counted if name.startswith("refused")]
    assert counted["DefaultPPOTorchRLModule: logits equal"] > 20
    assert counted["DefaultDQNTorchRLModule: logits equal"] > 1
    assert counted["DefaultSACTorchRLModule: opened"] > 1


def compare(folder: Path, names: list[str], tmp_path: Path) -> None:
    """Every case of `folder`, as RLlib opens it, against what the old model computed on 100 observations."""
    jobs, truths = [], []
    for name in names:
        with np.load(folder / name / "truth.npz") as archive:
            truths.append({key: archive[key] for key in archive.files})
        done = Checkpoint.open(folder / name / "checkpoint").migrate(tmp_path / name, to="2.1")
        assert done.checkpoint is not None
        [place] = places(done.checkpoint, "default_policy")
        jobs.append({**place, "obs": (truths[-1]["obs"].astype("f4") / 127).tolist()})
    for name, answer, truth in zip(names, opened(jobs, tmp_path), truths, strict=True):
        assert "error" not in answer, (name, answer)
        worst = {
            key: float(np.abs(np.array(answer[key]) - truth[key]).max())
            for key in ("logits", "values")
            if key in truth
        }
        print(f"{name:20} {answer['class']:26} {len(truth['obs'])} observations {worst}")
        assert max(worst.values()) < 1e-5, name


def test_networks_of_the_old_stack_on_random_observations(tmp_path: Path) -> None:
    compare(OLD_STACK, CASES, tmp_path)


def test_networks_made_just_now(tmp_path: Path) -> None:
    run("make_old_stack.py", tmp_path / "old")
    names = sorted(path.name for path in (tmp_path / "old").iterdir())
    assert set(CASES) - set(names) == {"a2c", "a3c", "pg", "simple_q"}  # which Ray 2.60 doesn't have
    compare(tmp_path / "old", names, tmp_path)


def test_modules_of_every_algorithm(tmp_path: Path) -> None:
    compare(MODULE_CASES, sorted(path.name for path in MODULE_CASES.iterdir()), tmp_path)


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("v0_1/ray_2.0.1_ppo_filter", "PPO"),
        ("v1_2/ray_2.5.1_learner", "PPO"),
        ("v1_1/ray_2.4.0_dqn_buffer", "DQN"),
        ("v2_0/ray_2.40.0_ppo", "PPO"),
        ("v0_1/ray_1.13.0_impala", "IMPALA"),
        ("v1_2/ray_2.12.0_hybrid_appo", "APPO"),
    ],
)
def test_an_algorithm_goes_on_from_it(case: str, name: str, tmp_path: Path) -> None:
    before = Checkpoint.open(DATA / case / "checkpoint")
    done = before.migrate(tmp_path / "store", to="2.1").checkpoint
    assert done is not None
    run("ray_restore.py", done.url.removeprefix("file://"), tmp_path / "answer.pkl")
    answer = pickle.loads((tmp_path / "answer.pkl").read_bytes())
    assert answer["algorithm"] == name
    weights = done.weights("default_policy")
    assert answer["weights"].keys() == weights.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(answer["weights"][key], value)
    stored = done.policies["default_policy"]["optimizer"]["default_optimizer"]
    restored = answer["optimizer"]["default_policy_default_optimizer"]["state"]
    assert restored["state"].keys() == stored["state"].keys() != set()
    for index, moments in stored["state"].items():
        for key, value in moments.items():
            np.testing.assert_allclose(restored["state"][index][key], value, rtol=1e-6)
    assert restored["param_groups"][0]["lr"] == stored["param_groups"][0]["lr"]
    assert answer["iteration"] == (before.state["iteration"] or 0)
    counters = before.state["counters"]
    names = ("num_env_steps_sampled_lifetime", "num_env_steps_sampled", "num_steps_sampled")
    assert answer["steps"] == next(counters[name] for name in names if name in counters)
    assert answer["afterwards"] == answer["iteration"] + 1


def test_nothing_in_the_table_is_wrong() -> None:
    """Every golden checkpoint, opened, verified, migrated, loaded by Ray and exported."""
    done = subprocess.run(
        [RAY_PYTHON, "-W", "ignore", "-m", "tests.compat.table", DATA],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parents[1],
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("2.1 and onnx")]
    counted, _, total = line.partition(": ")[2].partition(" of ")
    assert int(counted) > 0.9 * int(total) > 20
