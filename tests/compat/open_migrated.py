"""Opens a checkpoint of version 1.1 with the Ray that runs this, and prints the weights and logits as JSON.

    python open_migrated.py <directory> <observation as JSON>

Stands alone: the Python of an older Ray runs it, which needn't have ckptstore. Every policy is opened by itself,
and the algorithm by ``restore()`` into one that was built from the config's plain settings.
"""

from __future__ import annotations

import json
import pickle
import sys
import warnings

warnings.simplefilter("ignore")

import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.policy.policy import Policy

directory, observation = sys.argv[1], np.array(json.loads(sys.argv[2]), "f4")
found = {}
for policy_id, policy in Policy.from_checkpoint(directory).items():
    action, _, extra = policy.compute_single_action(observation, explore=False)
    found[policy_id] = {
        "weights": {name: np.asarray(value).tolist() for name, value in policy.get_weights().items()},
        "logits": np.asarray(extra["action_dist_inputs"]).tolist(),
        "timestep": int(policy.global_timestep),
        "kl_coeff": float(policy.kl_coeff),
        "moments": [len(item["state"]) for item in policy.get_state()["_optimizer_variables"]],
    }

with open(f"{directory}/algorithm_state.pkl", "rb") as file:
    config = pickle.load(file)["config"]
ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
fresh = PPOConfig().environment("CartPole-v1").training(model={"fcnet_hiddens": config["model"]["fcnet_hiddens"]})
for switch in ("experimental", "api_stack"):
    names = {"experimental": ["_enable_new_api_stack"]}
    if switch == "api_stack" and hasattr(fresh, "enable_rl_module_and_learner"):
        fresh.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
name = "num_env_runners" if hasattr(fresh, "num_env_runners") else "num_rollout_workers"
setattr(fresh, name, 0)
algo = fresh.build()
algo.restore(directory)
found["algorithm"] = {
    "iteration": algo.iteration,
    "weights": {
        name: np.asarray(value).tolist() for name, value in algo.get_policy().get_weights().items()
    },
}
algo.train()
found["algorithm"]["trained"] = algo.iteration
print("ANSWER" + json.dumps(found))
