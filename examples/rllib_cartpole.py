"""PPO on CartPole that keeps its checkpoints in a bucket, and goes on there after a crash. Needs Ray.

    python examples/rllib_cartpole.py s3://bucket/runs/cartpole --iterations 20

Kill it whenever you like and start it again, on another machine or with a newer Ray. A gs:// URL and a path
will do as well; credentials come from the environment.
"""

from __future__ import annotations

import argparse

from ray.rllib.algorithms.ppo import PPOConfig

from ckptstore import BestN, LatestN
from ckptstore.integrations import rllib


def train(url: str, iterations: int) -> None:
    """Until so many iterations were trained in all."""
    best = BestN("env_runners/episode_return_mean", 1)
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .training(train_batch_size_per_learner=512, minibatch_size=64, num_epochs=6)
        .callbacks(rllib.CheckpointCallback(url, every=1, keep=LatestN(3) | best))
    )
    algo = rllib.resume_or_build(config, url)
    print(f"going on from iteration {algo.iteration}")
    while algo.iteration < iterations:
        result = algo.train()
        print(f"{algo.iteration:4} return {result['env_runners'].get('episode_return_mean', 0):.1f}")
    algo.stop()  # when the last save has landed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="the path or URL of a store")
    parser.add_argument("--iterations", type=int, default=20)
    arguments = parser.parse_args()
    train(arguments.store, arguments.iterations)
