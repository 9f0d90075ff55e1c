"""A real trainer, small enough to read: REINFORCE on CartPole in numpy. Kill it whenever you like.

    python examples/train_numpy.py STORE --iterations 40

Started again, it goes on from the newest checkpoint in STORE (a path or an s3:// or gs:// URL). A
checkpoint holds everything the next iteration depends on, the random number generator included, so a
run that was killed ends with the very same weights as one that wasn't.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from ckptstore import CheckpointStore

Arrays = dict[str, "np.ndarray[Any, Any]"]

ENVIRONMENTS = 64  # CartPoles that are played at once
LONGEST = 200  # steps of an episode; to balance that long is perfect
LEARNING_RATE = 0.02


class CartPoles:
    """Many CartPole-v0 at once, with the equations of Barto, Sutton and Anderson (1983)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.state = rng.uniform(-0.05, 0.05, (ENVIRONMENTS, 4)).astype(np.float32)
        self.alive = np.ones(ENVIRONMENTS, bool)

    def step(self, push_right: np.ndarray[Any, Any]) -> None:
        """Push every cart left or right for 20 ms; one that fell stays fallen."""
        _, speed, angle, spin = self.state.T
        force = np.where(push_right, 10.0, -10.0)
        sine, cosine = np.sin(angle), np.cos(angle)
        pushed = (force + 0.05 * spin**2 * sine) / 1.1
        torque = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        shove = pushed - 0.05 * torque * cosine / 1.1
        change = np.stack([speed, shove, spin, torque], axis=1)
        self.state = (self.state + 0.02 * change).astype(np.float32)
        self.alive &= (np.abs(self.state[:, 0]) < 2.4) & (np.abs(self.state[:, 2]) < 0.209)


class Trainer:
    """A policy, its optimizer, a replay buffer and a random number generator."""

    def __init__(self, seed: int, replay_size: int) -> None:
        self.iteration = 0
        self.rng = np.random.default_rng(seed)
        self.weights: Arrays = {
            "hidden/kernel": self.rng.normal(0, 0.5, (4, 32)).astype(np.float32),
            "hidden/bias": np.zeros(32, np.float32),
            "logit/kernel": self.rng.normal(0, 0.1, 32).astype(np.float32),
        }
        self.adam: dict[str, Any] = {
            "mean": {name: np.zeros_like(value) for name, value in self.weights.items()},
            "square": {name: np.zeros_like(value) for name, value in self.weights.items()},
        }
        # Every transition seen, as algorithms keep them that learn from the past too. It makes the
        # checkpoint as heavy as a real one.
        self.replay: Arrays = {
            "observation": np.zeros((replay_size, 4), np.float32),
            "next_observation": np.zeros((replay_size, 4), np.float32),
            "action": np.zeros(replay_size, np.int8),
            "seen": np.zeros(1, np.int64),
        }

    # -- the part that matters here ---------------------------------------------------------------

    def save(self, store: CheckpointStore, mean_return: float) -> None:
        """Commit a checkpoint: all of it or nothing, whatever happens meanwhile."""
        store.save(
            step=self.iteration,
            state={"adam": self.adam, "rng": self.rng.bit_generator.state},
            policies={"default_policy": {"weights": self.weights}},
            components={"replay_buffer": self.replay},
            metrics={"return_mean": mean_return},
            if_exists="replace",
        )

    def resume(self, store: CheckpointStore) -> bool:
        """Go on from the newest checkpoint; False if there is none yet."""
        checkpoint = store.latest()
        if checkpoint is None:
            return False
        self.iteration = checkpoint.step
        self.weights = checkpoint.weights("default_policy")
        self.adam = checkpoint.state["adam"]
        self.rng.bit_generator.state = checkpoint.state["rng"]
        self.replay = checkpoint.components["replay_buffer"]
        return True

    # -- learning ---------------------------------------------------------------------------------

    def train(self) -> float:
        """One iteration: play a batch of episodes, improve the policy. Returns the mean return."""
        self.iteration += 1
        poles = CartPoles(self.rng)
        seen, acted, lived = [], [], []
        for _ in range(LONGEST):
            observation = poles.state
            push_right = self.rng.random(ENVIRONMENTS) < self._probability(self._hidden(observation))
            seen.append(observation)
            acted.append(push_right)
            lived.append(poles.alive.copy())
            poles.step(push_right)
            self._remember(observation, push_right, poles.state)
        alive = np.array(lived)
        returns = np.flip(np.cumsum(np.flip(alive, 0), 0), 0).astype(np.float32)  # reward 1 a step
        advantage = returns - returns.mean(axis=1, keepdims=True)
        advantage /= advantage.std() + 1e-6
        self._improve(np.concatenate(seen), np.concatenate(acted), (advantage * alive).ravel())
        return float(returns[0].mean())

    def _hidden(self, observation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        hidden: np.ndarray[Any, Any] = np.tanh(
            observation @ self.weights["hidden/kernel"] + self.weights["hidden/bias"]
        )
        return hidden

    def _probability(self, hidden: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        probability: np.ndarray[Any, Any] = 1 / (1 + np.exp(-hidden @ self.weights["logit/kernel"]))
        return probability

    def _improve(
        self,
        observation: np.ndarray[Any, Any],
        action: np.ndarray[Any, Any],
        advantage: np.ndarray[Any, Any],
    ) -> None:
        hidden = self._hidden(observation)
        at_logit = (action - self._probability(hidden)) * advantage / len(action)
        at_hidden = np.outer(at_logit, self.weights["logit/kernel"]) * (1 - hidden**2)
        gradients = {
            "hidden/kernel": observation.T @ at_hidden,
            "hidden/bias": at_hidden.sum(axis=0),
            "logit/kernel": hidden.T @ at_logit,
        }
        for name, gradient in gradients.items():
            mean, square = self.adam["mean"][name], self.adam["square"][name]
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            unbiased = square / (1 - 0.999**self.iteration)
            step = mean / (1 - 0.9**self.iteration) / (np.sqrt(unbiased) + 1e-8)
            self.weights[name] = (self.weights[name] + LEARNING_RATE * step).astype(np.float32)

    def _remember(
        self,
        observation: np.ndarray[Any, Any],
        action: np.ndarray[Any, Any],
        following: np.ndarray[Any, Any],
    ) -> None:
        size = len(self.replay["action"])
        where = np.arange(self.replay["seen"][0], self.replay["seen"][0] + ENVIRONMENTS) % size
        self.replay["observation"][where] = observation
        self.replay["next_observation"][where] = following
        self.replay["action"][where] = action
        self.replay["seen"] += ENVIRONMENTS


def main() -> None:
    """Train, saving every few iterations."""
    parser = argparse.ArgumentParser(description="REINFORCE on CartPole, with checkpoints.")
    parser.add_argument("store", help="path or URL of the store")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--save-every", type=int, default=5, metavar="N", help="iterations")
    parser.add_argument("--replay-size", type=int, default=1_000_000, metavar="N", help="transitions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage-options", type=json.loads, default={}, metavar="JSON")
    arguments = parser.parse_args()

    trainer = Trainer(arguments.seed, arguments.replay_size)
    with CheckpointStore(arguments.store, storage_options=arguments.storage_options) as store:
        if trainer.resume(store):
            print(f"resumed at iteration {trainer.iteration}", flush=True)
        while trainer.iteration < arguments.iterations:
            mean_return = trainer.train()
            if trainer.iteration % arguments.save_every == 0 or trainer.iteration == arguments.iterations:
                trainer.save(store, mean_return)
                print(f"iteration {trainer.iteration}: mean return {mean_return:.1f}, saved", flush=True)


if __name__ == "__main__":
    main()
