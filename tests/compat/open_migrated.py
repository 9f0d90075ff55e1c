"""Opens a checkpoint of version 1.1 with the Ray that runs this, and prints what it found as JSON.

    python open_migrated.py <directory> <observation as JSON> [restore]

Stands alone: the Python of an older Ray runs it, which needn't have ckptstore. Every policy is opened by
itself, and with "restore" the algorithm by ``restore()`` into one that was built afresh.
"""

import json
import pickle
import sys
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.policy.policy import Policy


def listed(weights: dict[str, Any]) -> dict[str, Any]:
    """For JSON."""
    return {name: np.asarray(value).tolist() for name, value in weights.items()}


def policies(directory: str, observation: list[float]) -> dict[str, Any]:
    """What each policy holds, and that it acts."""
    found = {}
    for policy_id, policy in Policy.from_checkpoint(directory).items():
        timestep = int(policy.global_timestep)  # acting counts
        policy.compute_single_action(np.array(observation, "f4"), explore=False)
        found[policy_id] = {
            "weights": listed(policy.get_weights()),
            "timestep": timestep,
            "kl_coeff": float(policy.kl_coeff),
            "moments": [len(item["state"]) for item in policy.get_state()["_optimizer_variables"]],
        }
    return found


def algorithm(directory: str) -> dict[str, Any]:
    """What a fresh PPO holds after restoring, and that it trains on."""
    with open(f"{directory}/algorithm_state.pkl", "rb") as file:
        config = pickle.load(file)["config"]
    fresh = PPOConfig().environment("CartPole-v1")
    fresh.training(model={"fcnet_hiddens": config["model"]["fcnet_hiddens"]}, train_batch_size=200)
    fresh.observation_filter = config["observation_filter"]
    if hasattr(fresh, "enable_rl_module_and_learner"):
        fresh.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    setattr(fresh, "num_env_runners" if hasattr(fresh, "num_env_runners") else "num_rollout_workers", 0)
    algo = fresh.build()
    algo.restore(directory)
    found = {"iteration": algo.iteration, "weights": listed(algo.get_policy().get_weights())}
    algo.train()
    return {**found, "trained": algo.iteration}


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    found = policies(sys.argv[1], json.loads(sys.argv[2]))
    if sys.argv[3:] == ["restore"]:
        found["algorithm"] = algorithm(sys.argv[1])
    print("ANSWER" + json.dumps(found))
