"""Restores an algorithm of RLlib from a directory and trains on. Run by a Python with Ray, not by pytest.

    python ray_restore.py <directory> <answer.pkl>

The algorithm is the one that the directory names.

The answer has the learner's weights, its optimizers, the iteration and the lifetime steps after
`restore_from_path`, and the iteration after one more.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any


def main(directory: str, answer: str) -> None:
    """Restore, train once."""
    with open(
        f"{directory}/learner_group/learner/rl_module/default_policy/class_and_ctor_args.pkl", "rb"
    ) as file:
        model_config = pickle.load(file)["ctor_args_and_kwargs"][1]["model_config"]
    with open(f"{directory}/class_and_ctor_args.pkl", "rb") as file:
        config: Any = pickle.load(file)["class"].get_default_config()
    config.environment("CartPole-v1").env_runners(num_env_runners=0).learners(num_learners=0)
    config.rl_module(model_config=model_config).reporting(min_time_s_per_iteration=0)
    config.training(train_batch_size_per_learner=128)
    algo: Any = config.build_algo()
    algo.restore_from_path(directory)
    state = algo.learner_group.get_state()["learner"]
    found = {
        "algorithm": type(algo).__name__,
        "weights": state["rl_module"]["default_policy"],
        "optimizer": state["optimizer"],
        "iteration": algo.iteration,
        "steps": algo.env_runner.get_state()["num_env_steps_sampled_lifetime"],
    }
    algo.train()
    found["afterwards"] = algo.iteration
    algo.stop()
    with open(answer, "wb") as file:
        pickle.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
