"""A league of a hundred policies, and a match of two of them that fetches no others. Needs Ray.

python examples/rllib_league.py s3://bucket/runs/league
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env import make_multi_agent

from ckptstore.integrations import rllib

PLAYERS = [f"player_{number:03}" for number in range(100)]
ENVIRONMENT = make_multi_agent("CartPole-v1")  # two agents, each with a pole of its own


def between(first: str, second: str) -> Callable[..., str]:
    """Who plays which agent."""
    return lambda agent_id, *args, **kwargs: (first, second)[int(agent_id)]


def found(url: str) -> Any:
    """A league in which player 3 has learned from player 97, committed to the store at `url`."""
    config = (
        PPOConfig()
        .environment(ENVIRONMENT, env_config={"num_agents": 2})
        .env_runners(num_env_runners=0)
        .rl_module(model_config={"fcnet_hiddens": [32]})
        .training(train_batch_size_per_learner=256, minibatch_size=64)
        .multi_agent(
            policies=set(PLAYERS),
            policy_mapping_fn=between(PLAYERS[3], PLAYERS[97]),
            policies_to_train=[PLAYERS[3]],
        )
    )
    algo = config.build_algo()
    algo.train()
    saved = rllib.save(algo, url)
    algo.stop()
    return saved


def match(url: str, first: str, second: str) -> Any:
    """An algorithm of two players of the newest league, of whom the first learns."""
    return rllib.from_checkpoint(
        url,
        policy_ids=[first, second],  # nothing of the others is fetched or built
        policy_mapping_fn=between(first, second),
        policies_to_train=[first],
        config={"env": ENVIRONMENT, "env_config": {"num_agents": 2}},  # classes in checkpoints aren't run
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="the path or URL of a store")
    arguments = parser.parse_args()
    league = found(arguments.store)
    print(f"saved {len(league.policy_ids)} policies as {league.url}")
    algo = match(arguments.store, PLAYERS[7], PLAYERS[97])
    print(f"restored {PLAYERS[7]} and {PLAYERS[97]} at iteration {algo.iteration}")
    algo.train()
    algo.stop()
