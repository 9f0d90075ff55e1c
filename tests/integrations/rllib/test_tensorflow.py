"""Policies of TensorFlow, where that is installed: ``make compat`` has a Ray with it.

They need Keras 2, which is ``TF_USE_LEGACY_KERAS=1`` with tf_keras; without it the error says so.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.integrations import rllib

LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") == "1"
legacy = pytest.mark.skipif(not LEGACY, reason="Ray's policies of TensorFlow need Keras 2")
pytestmark = [
    pytest.mark.usefixtures("needs_ray"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow isn't installed beside Ray"),
]

DATA = Path(__file__).parents[2] / "data"
# Eager policies first: static ones turn that off in the whole process.
CASES = ["v1_0/ray_2.3.1_tf2", "v1_1/ray_2.4.0_tf1"]


def by_name(policy: Any) -> dict[str, Any]:
    found = policy.get_weights()
    return found if isinstance(found, dict) else {str(index): value for index, value in enumerate(found)}


@legacy
@pytest.mark.skipif(find_spec("tensorflow_probability") is not None, reason="it is installed")
def test_what_squashed_gaussians_need_is_named() -> None:
    """Ray itself only asserts that it is there."""
    config = {"framework_str": "tf2", "simple_optimizer": True, "lr": 1e-3}
    with pytest.raises(InvalidRequest, match="needs tensorflow_probability"):
        rllib.from_checkpoint(DATA / "v1_1/ray_2.60.0_sac/checkpoint", config=config)


@legacy
@pytest.mark.parametrize("case", CASES)
def test_a_policy_of_tensorflow_comes_back_and_trains(case: str) -> None:
    ckpt = Checkpoint.open(DATA / case / "checkpoint")
    truth = ckpt.weights()
    algo = rllib.from_checkpoint(ckpt)
    try:
        policy = algo.get_policy()
        alone = rllib.policy_from_checkpoint(ckpt)["default_policy"]
        for found in (policy, alone):
            weights = by_name(found)
            assert weights.keys() == truth.keys()
            for name, value in truth.items():
                np.testing.assert_array_equal(weights[name], value, err_msg=name)
        obs = np.random.default_rng(1).standard_normal((1000, 4)).astype("f4")
        one, other = (item.compute_actions(obs, explore=False)[2] for item in (policy, alone))
        np.testing.assert_allclose(one["action_dist_inputs"], other["action_dist_inputs"], rtol=0, atol=1e-6)
        variables = ckpt.policies["default_policy"]["optimizer"]["variables"]
        if case.endswith("tf1"):
            live = policy.get_state()["_optimizer_variables"]
            assert live.keys() == variables.keys()
            assert all(np.array_equal(live[name], value) for name, value in variables.items())
            assert "optimizer" in rllib.report(algo).carried
        else:  # RLlib itself can't
            assert "only in static graphs" in rllib.report(algo).dropped["optimizer"]
        algo.train()
    finally:
        algo.stop()


@pytest.mark.skipif(LEGACY, reason="it is Keras 2")
def test_another_keras_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"Keras 2.*TF_USE_LEGACY_KERAS=1"):
        rllib.from_checkpoint(DATA / CASES[0] / "checkpoint")
