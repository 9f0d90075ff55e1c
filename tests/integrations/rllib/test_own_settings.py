"""Policies with settings of their own go on with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ckptstore.integrations import rllib
from tests.integrations.rllib import corpus, training

pytestmark = pytest.mark.usefixtures("needs_ray")


def test_a_policy_goes_on_with_a_network_and_rates_of_its_own(tmp_path: Path) -> None:
    from ray.rllib.policy.policy import PolicySpec

    config = training.ppo("old", observation_filter="NoFilter", rollout_fragment_length=32)
    config.environment(corpus.multi_cartpole(2), env_config={"num_agents": 2})
    own = {"gamma": 0.5, "lr": 0.003, "model": {"fcnet_hiddens": [5]}}
    config.multi_agent(
        policies={"a": PolicySpec(), "b": PolicySpec(config=own)},
        policy_mapping_fn=corpus.mapping(("a", "b")),
    )
    algo = config.build_algo()
    algo.train()
    truth = {name: algo.get_policy(name).get_weights() for name in "ab"}
    saved = rllib.save(algo, tmp_path)
    algo.stop()
    restored = rllib.from_checkpoint(
        saved,
        config={"env": corpus.multi_cartpole(2), "env_config": {"num_agents": 2}},
        policy_mapping_fn=corpus.mapping(("a", "b")),
    )
    try:
        assert rllib.report(restored).dropped == {}
        for name, gamma, rate, size in (("a", 0.99, 1e-3, 8), ("b", 0.5, 3e-3, 5)):
            policy = restored.get_policy(name)
            assert (policy.config["gamma"], policy.config["lr"]) == (gamma, rate)
            assert policy.config["model"]["fcnet_hiddens"] == [size]
            assert policy.config["model"]["max_seq_len"] == 20
            for key, value in policy.get_weights().items():
                np.testing.assert_array_equal(value, truth[name][key])
        restored.train()
    finally:
        restored.stop()
