"""A training loop that is there to be killed; imported once, and forked for each of its lives."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.callbacks.callbacks import RLlibCallback

from ckptstore import CheckpointStore
from ckptstore.integrations import rllib
from tests.integrations.rllib import training
from tests.integrations.rllib.training import say


def fingerprint(algo: PPO) -> str:
    """Of the weights."""
    found = algo.learner_group.get_weights()["default_policy"]
    whole = b"".join(name.encode() + np.asarray(found[name]).tobytes() for name in sorted(found))
    return hashlib.sha256(whole).hexdigest()[:16]


def live(url: str, options: dict[str, Any], log: str, address: str) -> None:
    """Go on from what the store holds, and train until killed.

    Says ``resumed``, then ``trained`` before the save of each iteration begins, and ``committed`` as soon as
    the results of training tell of a commit.
    """
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    logging.getLogger("ray").setLevel("ERROR")

    class Saying(RLlibCallback):  # type: ignore[misc]
        """Comes before the one that saves."""

        def on_train_result(self, *, algorithm: Any, **more: Any) -> None:
            say(log, "trained", algorithm.iteration, fingerprint(algorithm))

    store = CheckpointStore(url, storage_options=options)
    config = training.ppo("new").callbacks([Saying, rllib.CheckpointCallback(store, keep=3)])
    algo = rllib.resume_or_build(config, store)
    say(log, "resumed", algo.iteration, fingerprint(algo))
    while True:
        told = algo.train().get("ckptstore")
        if told:
            say(log, "committed", told["committed_step"])
