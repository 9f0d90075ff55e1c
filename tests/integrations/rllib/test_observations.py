"""Observations that the old stack's preprocessors changed: the new stack's connector for it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.integrations import rllib
from tests.integrations.rllib import corpus, training
from tests.integrations.rllib.test_restore import DATA, equal, weights

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.timeout(300)]


def flatten(env: Any, spaces: Any, device: Any) -> Any:
    from ray.rllib.connectors.env_to_module import FlattenObservations

    return FlattenObservations()


def test_dicts_on_the_new_stack(tmp_path: Path) -> None:
    import gymnasium.spaces as made
    import torch
    from ray import tune

    space = made.Dict({"b": made.Discrete(2), "a": made.Box(-1, 1, (3,), np.float32)})
    tune.register_env("my_dicts", lambda config: corpus.make_noise(space, made.Discrete(2)))
    config = training.ppo("old").environment("my_dicts").env_runners(observation_filter="NoFilter")
    algo = config.build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path)
    policy = algo.get_policy()
    seen = space.sample()
    flat = np.concatenate([seen["a"], np.eye(2, dtype="f4")[seen["b"]]])[None]
    *_, extra = policy.compute_actions(flat, explore=False)
    algo.stop()
    with pytest.raises(InvalidRequest, match=r"config=.*env_to_module_connector.*FlattenObservations"):
        rllib.from_checkpoint(ckpt, api_stack="new")
    again = rllib.from_checkpoint(ckpt, api_stack="new", config={"env_to_module_connector": flatten})
    try:
        out = again.get_module().forward_inference({"obs": torch.as_tensor(flat)})["action_dist_inputs"]
        np.testing.assert_allclose(out.detach().numpy(), extra["action_dist_inputs"], atol=corpus.LOGITS)
        again.train()
    finally:
        again.stop()


def to_floats(env: Any, spaces: Any, device: Any) -> Any:
    import gymnasium
    from ray.rllib.connectors.env_to_module.observation_preprocessor import SingleAgentObservationPreprocessor

    class ToFloats(SingleAgentObservationPreprocessor):  # type: ignore[misc]
        def recompute_output_observation_space(self, observed: Any, acted: Any) -> Any:
            return gymnasium.spaces.Box(0.0, 255.0, observed.shape, np.float32)

        def preprocess(self, observation: Any, episode: Any) -> Any:
            return observation.astype(np.float32)

    return ToFloats()


def test_images_of_bytes_in_front_of_a_module() -> None:
    from ray import tune

    from ckptstore.integrations.rllib.policies import build_space

    place = DATA / "v1_2/ray_2.34.0_hybrid_conv/checkpoint"
    stored = Checkpoint.open(place).policies["default_policy"]
    spaces = [build_space(stored[f"{side}_space"]) for side in ("observation", "action")]
    assert spaces[0].dtype == np.uint8
    tune.register_env("my_img", lambda config: corpus.make_noise(*spaces))
    with pytest.raises(InvalidRequest, match=r"uint8.*Pass config="):
        rllib.from_checkpoint(place)
    algo = rllib.from_checkpoint(place, config={"env_to_module_connector": to_floats})
    try:
        live = weights(algo, "new")
        equal(dict(stored["weights"]), {name: live[name] for name in stored["weights"]})
        algo.train()
    finally:
        algo.stop()
