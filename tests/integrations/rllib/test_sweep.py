"""A sweep of four trials that is killed twice: every checkpoint in every store is its own trial's."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.integrations import rllib
from tests.integrations.rllib import training
from tests.integrations.rllib.test_restore import weights
from tests.integrations.rllib.training import say
from tests.servers import Server

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 10
RATES = [1e-4, 1e-3, 1e-2, 1e-1]
# By learning rate: before training on from a step, or with a step committed that Tune isn't told of.
KILLS = {1e-3: ("between", 4), 1e-1: ("untold", 7)}


def fingerprint(found: Mapping[str, Any]) -> str:
    whole = b"".join(name.encode() + np.asarray(found[name]).tobytes() for name in sorted(found))
    return hashlib.sha256(whole).hexdigest()[:16]


def sweep(stack: str, root: Path, open_store: Callable[[str], CheckpointStore]) -> Any:
    """Four trials, one of which is killed between two saves, and one between a commit and the word of it."""
    from ray import tune
    from ray.rllib.algorithms.ppo import PPO

    log = str(root / "log")

    class Swept(rllib.StoredAlgorithm, PPO):  # type: ignore[misc]
        checkpoint_store = staticmethod(lambda trial: open_store(f"stored/{trial}"))

        def tell(self, word: str, step: int) -> None:
            say(log, self._storage.trial_dir_name, word, step, fingerprint(weights(self, stack)))

        def die(self, where: str) -> None:
            if KILLS.get(self.config.lr) == (where, self.iteration) and not (root / where).exists():
                (root / where).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def step(self) -> Any:
            self.die("between")
            result = super().step()
            self.tell("trained", self.iteration + 1)
            return result

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            super().save_checkpoint(checkpoint_dir)
            if os.path.exists(os.path.join(checkpoint_dir, "ckptstore.json")):  # not the callback's
                self.die("untold")

        def load_checkpoint(self, checkpoint_dir: str) -> None:
            super().load_checkpoint(checkpoint_dir)
            self.tell("loaded", self.iteration)

    config = training.ppo(stack, lr=tune.grid_search(RATES))
    if stack == "new":
        config.algo_class = Swept
    config.callbacks(rllib.CheckpointCallback(lambda trial: open_store(f"called/{trial}"), every=2))
    return tune.Tuner(
        Swept,
        param_space=config.to_dict() if stack == "old" else config,
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(root / "tune"),
            stop={"training_iteration": STEPS},
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    ).fit()


@pytest.mark.parametrize("place", ["disk", "seaweedfs"])
@pytest.mark.parametrize("stack", ["old", "new"])
def test_no_trial_gets_the_weights_of_another(
    stack: str, place: str, start_server: Callable[[str], Server], tmp_path: Path
) -> None:
    if place == "disk":
        url, options = str(tmp_path / "stores"), {}
    else:
        server = start_server(place)
        url, options = server.new_url(), server.options

    def open_store(name: str) -> CheckpointStore:
        return CheckpointStore(f"{url}/{name}", storage_options=options)

    results = sweep(stack, tmp_path, open_store)
    assert [result.error for result in results] == [None] * len(RATES)
    assert (tmp_path / "between").exists()
    assert (tmp_path / "untold").exists()
    trained: dict[tuple[str, int], str] = {}
    loaded: dict[float, int] = {}
    rates = {Path(result.path).name: result.config["lr"] for result in results}
    for line in (tmp_path / "log").read_text().splitlines():
        trial, word, step, found = line.split()
        if word == "loaded":
            loaded[rates[trial]] = int(step)
            assert found == trained[trial, int(step)], line
        else:
            trained[trial, int(step)] = found  # a step that is trained again counts
    # Tune had not been told of 7; of what came before it had.
    assert loaded == {1e-3: 4, 1e-1: 6}
    assert len(set(trained.values())) == len(trained) == len(RATES) * STEPS
    whose = {found: key for key, found in trained.items()}
    compared = 0
    for kind, steps in (("stored", range(1, STEPS + 1)), ("called", range(2, STEPS + 1, 2))):
        for trial in rates:
            store = open_store(f"{kind}/{trial}")
            assert [ckpt.step for ckpt in store.checkpoints()] == list(steps)
            assert all(report.ok for report in store.verify())
            for ckpt in store.checkpoints():
                assert whose[fingerprint(ckpt.weights("default_policy"))] == (trial, ckpt.step), ckpt.url
                compared += 1
    for result in results:
        trial = Path(result.path).name
        assert result.metrics["training_iteration"] == STEPS
        assert result.metrics["ckptstore"]["store"] == open_store(f"called/{trial}").url
        last = rllib.open_reported(result.checkpoint, open_store(f"stored/{trial}"))
        assert last.step == STEPS
    assert isinstance(last, Checkpoint)
    algo = rllib.from_checkpoint(last)
    try:
        assert algo.iteration == STEPS
        assert whose[fingerprint(weights(algo, stack))] == (trial, STEPS)
        algo.train()
    finally:
        algo.stop()
    print(
        f"{stack}, {place}: {compared} checkpoints of {len(RATES)} trials compared, 0 mixed; 2 kills resumed"
    )
