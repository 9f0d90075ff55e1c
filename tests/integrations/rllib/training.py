"""Algorithms that are small enough to be trained in a test, and updates from one fixed batch.

    python -m tests.integrations.rllib.training <checkpoint> <old|new> <result.npz>

restores the checkpoint in this new process, makes one update from the fixed batch and writes the weights.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np


def ppo(stack: str, **changes: Any) -> Any:
    """A config of PPO on CartPole, on the "old" or the "new" API stack."""
    from ray.rllib.algorithms.ppo import PPOConfig

    config = PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=0).debugging(seed=1)
    config.api_stack(
        enable_rl_module_and_learner=stack == "new", enable_env_runner_and_connector_v2=stack == "new"
    )
    config.training(num_epochs=1, minibatch_size=32, lr=1e-3)
    if stack == "new":
        config.training(train_batch_size_per_learner=64)
        config.rl_module(model_config={"fcnet_hiddens": [8], "fcnet_activation": "tanh"})
    else:
        config.training(train_batch_size=64, model={"fcnet_hiddens": [8]})
        config.env_runners(observation_filter="MeanStdFilter", rollout_fragment_length=64)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def fixed_batch() -> Any:
    """Thirty-two steps, the same in every process."""
    from ray.rllib.policy.sample_batch import SampleBatch

    draw = np.random.default_rng(0)
    size = 32
    columns = {
        "obs": draw.normal(size=(size, 4)).astype("f4"),
        "new_obs": draw.normal(size=(size, 4)).astype("f4"),
        "actions": draw.integers(0, 2, size),
        "rewards": np.ones(size, "f4"),
        "terminateds": np.zeros(size, bool),
        "truncateds": np.zeros(size, bool),
        "action_logp": draw.normal(size=size).astype("f4"),
        "action_dist_inputs": draw.normal(size=(size, 2)).astype("f4"),
        "vf_preds": draw.normal(size=size).astype("f4"),
        "advantages": draw.normal(size=size).astype("f4"),
        "value_targets": draw.normal(size=size).astype("f4"),
    }
    return SampleBatch(columns)


def learner_of(algo: Any) -> Any:
    """The learner of the new API stack that runs in this process."""
    return algo.learner_group._learner


def update(algo: Any, stack: str) -> dict[str, Any]:
    """The weights after one update from the fixed batch."""
    import torch

    torch.manual_seed(0)
    np.random.seed(0)  # RLlib shuffles with it
    if stack == "old":
        policy = algo.get_policy()
        policy.learn_on_batch(fixed_batch())
        return {name: np.array(value) for name, value in policy.get_weights().items()}
    from ray.rllib.policy.sample_batch import MultiAgentBatch

    batch = fixed_batch()
    tensors = type(batch)({name: torch.as_tensor(value) for name, value in batch.items()})
    learner_of(algo).update(batch=MultiAgentBatch({"default_policy": tensors}, len(batch)))
    found = algo.learner_group.get_weights()["default_policy"]
    return {name: np.array(value) for name, value in found.items()}


def main(url: str, stack: str, result: str) -> None:
    """See the top."""
    from ckptstore.integrations import rllib
    from tests.integrations.rllib import corpus

    corpus.start_ray()
    algo = rllib.from_checkpoint(url)
    np.savez(result, **update(algo, stack))


if __name__ == "__main__":
    main(*sys.argv[1:])


def say(log: str, *words: object) -> None:
    """One line, whole, before anything else happens."""
    line = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(line, (" ".join(map(str, words)) + "\n").encode())
    os.close(line)
