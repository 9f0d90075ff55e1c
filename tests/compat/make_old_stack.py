"""Writes policies of the old API stack, with what they compute. Run by a Python with Ray, not by pytest.

    python make_old_stack.py <folder>

Ray 2.60 has all but the algorithms of `REMOVED`, which were written with Ray 2.7.2.

Makes ``<folder>/<case>/checkpoint`` (as `Policy.export_checkpoint` writes it) and ``truth.npz``: 100 random
observations (times 127), the inputs of the action distribution (of DQN: Q values), and values where there
are any.
Weights are random, so that no bias is zero. The ones in ``tests/data/old_stack`` were made by this.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.policy.sample_batch import SampleBatch

FLAT, FEW = gym.spaces.Box(-1.0, 1.0, (4,), np.float32), gym.spaces.Discrete(3)
IMAGE = gym.spaces.Box(0.0, 1.0, (10, 10, 3), np.float32)
MOVE = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
PARTS = gym.spaces.Tuple([FEW, gym.spaces.Dict(b=gym.spaces.MultiDiscrete([2, 3]), a=MOVE)])
CONV: dict[str, Any] = {"conv_filters": [[4, [5, 5], 2], [6, [5, 5], 2]], "conv_activation": "relu"}
HIDDEN: dict[str, Any] = {"fcnet_hiddens": [12, 8], "fcnet_activation": "relu"}

CASES: dict[str, tuple[str, Any, Any, dict[str, Any], dict[str, Any]]] = {
    "ppo_shared": ("PPO", FLAT, FEW, {**HIDDEN, "vf_share_layers": True}, {}),
    "ppo_free_log_std": ("PPO", FLAT, MOVE, {"fcnet_hiddens": [12], "free_log_std": True}, {}),
    "ppo_gaussian": (
        "PPO",
        FLAT,
        MOVE,
        {**HIDDEN, "fcnet_activation": "swish", "post_fcnet_hiddens": [5]},
        {},
    ),
    "ppo_multi_discrete": (
        "PPO",
        FLAT,
        gym.spaces.MultiDiscrete([2, 3]),
        {**HIDDEN, "vf_share_layers": False},
        {},
    ),
    "ppo_lstm": ("PPO", FLAT, MOVE, {**HIDDEN, "use_lstm": True, "lstm_cell_size": 7}, {}),
    "ppo_conv": ("PPO", IMAGE, FEW, {**CONV, "vf_share_layers": False}, {}),
    "ppo_conv_shared": ("PPO", IMAGE, FEW, {**CONV, "vf_share_layers": True}, {}),
    "dqn_plain": ("DQN", FLAT, FEW, HIDDEN, {"dueling": False, "hiddens": [9, 5]}),
    "dqn_conv": ("DQN", IMAGE, FEW, {**CONV, "fcnet_hiddens": [6]}, {"dueling": True, "hiddens": [9]}),
    "sac": ("SAC", FLAT, MOVE, {}, {}),
    "sac_discrete": ("SAC", FLAT, FEW, {}, {}),
    "cql": ("CQL", FLAT, MOVE, {}, {}),
    "ppo_tuple": ("PPO", FLAT, PARTS, HIDDEN, {}),
    "impala": ("IMPALA", FLAT, FEW, {**HIDDEN, "vf_share_layers": True}, {}),
    "impala_lstm": ("IMPALA", FLAT, FEW, {**HIDDEN, "use_lstm": True, "lstm_cell_size": 7}, {}),
    "appo": ("APPO", FLAT, MOVE, {**HIDDEN, "vf_share_layers": False}, {}),
    "marwil": ("MARWIL", FLAT, MOVE, {**HIDDEN, "vf_share_layers": True}, {}),
    "bc_conv": ("BC", IMAGE, FEW, {**CONV, "vf_share_layers": True}, {}),
    "dqn_no_hiddens": ("DQN", FLAT, FEW, HIDDEN, {"dueling": False, "hiddens": []}),
    "a2c": ("A2C", FLAT, MOVE, {**HIDDEN, "vf_share_layers": True}, {}),
    "a3c": ("A3C", FLAT, FEW, {**HIDDEN, "vf_share_layers": False}, {}),
    "pg": ("PG", FLAT, FEW, {**HIDDEN, "vf_share_layers": True}, {}),
    "simple_q": ("SimpleQ", FLAT, FEW, {**HIDDEN, "vf_share_layers": True}, {}),
}
CLASSES = {
    "PPO": ("ppo", "PPO", "ppo.ppo_torch_policy", "PPO"),
    "DQN": ("dqn", "DQN", "dqn.dqn_torch_policy", "DQN"),
    "SAC": ("sac", "SAC", "sac.sac_torch_policy", "SAC"),
    "CQL": ("cql", "CQL", "cql.cql_torch_policy", "CQL"),
    "IMPALA": ("impala", "IMPALA", "impala.impala_torch_policy", "Impala"),
    "APPO": ("appo", "APPO", "appo.appo_torch_policy", "APPO"),
    "MARWIL": ("marwil", "MARWIL", "marwil.marwil_torch_policy", "MARWIL"),
    "BC": ("bc", "BC", "marwil.marwil_torch_policy", "MARWIL"),
    "A2C": ("a2c", "A2C", "a3c.a3c_torch_policy", "A3C"),
    "A3C": ("a3c", "A3C", "a3c.a3c_torch_policy", "A3C"),
    "PG": ("pg", "PG", "pg.pg_torch_policy", "PG"),
    "SimpleQ": ("simple_q", "SimpleQ", "simple_q.simple_q_torch_policy", "SimpleQ"),
}
"""Module and name of the config's class and of the policy's, by algorithm."""
REMOVED = ("A2C", "A3C", "PG", "SimpleQ")


def classes_of(algorithm: str) -> tuple[Any, Any]:
    """The classes of the config and of the policy."""
    module, config, policy_module, policy = CLASSES[algorithm]
    found = importlib.import_module(f"ray.rllib.algorithms.{module}")
    policies = importlib.import_module(f"ray.rllib.algorithms.{policy_module}")
    return getattr(found, f"{config}Config"), getattr(policies, f"{policy}TorchPolicy")


def policy_of(name: str) -> Any:
    """The policy of a case, with random weights."""
    algorithm, observation_space, action_space, model, settings = CASES[name]
    config_class, policy_class = classes_of(algorithm)
    config = config_class()
    if hasattr(config, "api_stack"):
        config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    config = config.framework("torch").training(model=model).debugging(seed=3)
    if algorithm in ("SAC", "CQL"):
        config = config.training(q_model_config=HIDDEN, policy_model_config=HIDDEN)
    config = config.training(**settings)
    rng = np.random.default_rng(11)
    policy = policy_class(observation_space, action_space, config.to_dict())
    policy.set_weights(
        {
            key: (rng.normal(size=np.shape(value)) * 0.3).astype(np.float32)
            for key, value in policy.get_weights().items()
        }
    )
    return policy


def computed(policy: Any, algorithm: str, obs: Any) -> dict[str, Any]:
    """What the policy's own model makes of `obs`."""
    model = policy.model
    model.eval()
    batch = SampleBatch({"obs": torch.from_numpy(obs)})
    with torch.no_grad():
        if algorithm == "SimpleQ":
            return {"logits": model(batch, [], None)[0].numpy()}
        if algorithm == "DQN":
            compute = importlib.import_module("ray.rllib.algorithms.dqn.dqn_torch_policy").compute_q_values
            return {"logits": compute(policy, model, batch, explore=False, is_training=False)[0].numpy()}
        state = [torch.from_numpy(part)[None].repeat(len(obs), 1) for part in policy.get_initial_state()]
        lengths = torch.ones(len(obs), dtype=torch.int32)
        out, _ = model(batch, state, lengths)
        if algorithm in ("SAC", "CQL"):
            return {"logits": model.get_action_model_outputs(out)[0].numpy()}
        return {"logits": out.numpy(), "values": model.value_function().numpy()}


def main(folder: Path) -> None:
    """Write all cases."""
    removed = importlib.util.find_spec("ray.rllib.algorithms.pg") is not None
    for name, (algorithm, observation_space, *_) in CASES.items():
        if (algorithm in REMOVED) != removed:
            continue
        policy = policy_of(name)
        whole = np.random.default_rng(5).integers(-127, 128, (100, *observation_space.shape), np.int8)
        obs = whole.astype(np.float32) / 127
        policy.export_checkpoint(str(folder / name / "checkpoint"))
        with open(folder / name / "truth.npz", "wb") as file:
            np.savez_compressed(file, obs=whole, **computed(policy, algorithm, obs))
        print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
