"""Tune's trials with their checkpoints in a store, killed and gone on."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointNotFound,
    InvalidRequest,
    StoreNotFound,
    UnreadableFormat,
)
from ckptstore.integrations import rllib
from ckptstore.integrations.rllib import pointers
from tests.integrations.rllib import training
from tests.integrations.rllib.test_restore import equal, weights

pytestmark = pytest.mark.usefixtures("needs_ray")


def stored(root: Any, **attributes: Any) -> Any:
    """PPO with its checkpoints below `root`."""
    from ray.rllib.algorithms.ppo import PPO

    return type("StoredPPO", (rllib.StoredAlgorithm, PPO), {"checkpoint_store": root, **attributes})


def built(kind: Any, stack: str) -> Any:
    return kind(config=training.ppo(stack))  # as Tune does


@pytest.mark.parametrize("stack", ["old", "new"])
def test_an_algorithm_is_saved_to_the_store_and_loaded_from_it(stack: str, tmp_path: Path) -> None:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.ppo import PPO

    kind = stored(tmp_path / "stores", checkpoint_keep=2)
    algo = built(kind, stack)
    for step in (1, 2, 3):
        algo.train()
        saved = algo.save(str(tmp_path / f"tune{step}")).checkpoint
        assert os.listdir(saved.path) == ["ckptstore.json"]
    assert type(algo) is kind
    then = weights(algo, stack)
    store = CheckpointStore(tmp_path / "stores" / "default", create=False)
    assert [ckpt.step for ckpt in store.checkpoints()] == [2, 3]
    algo.train()
    algo.restore(saved)
    assert algo.iteration == 3
    equal(then, weights(algo, stack))
    algo.train()
    algo.save(str(tmp_path / "tune4"))
    parent = store.get(4).manifest.parent
    assert parent is not None
    assert parent.id == store.get(3).id
    assert rllib.save(algo, tmp_path / "another").kind == "Algorithm"
    algo.stop()
    # Without this class, and with nothing but Ray.
    ckpt = rllib.open_reported(saved)
    assert ckpt.step == 3
    assert not [use for use in ckpt.scan() if "StoredPPO" in use.name or use.name.startswith("ckptstore")]
    ours = rllib.from_checkpoint(ckpt)
    assert rllib.report(ours).dropped == {}
    with ckpt.as_directory() as path:
        theirs = Algorithm.from_checkpoint(str(path))
    for other in (ours, theirs):
        assert type(other) is PPO
        equal(then, weights(other, stack))
        other.stop()


def test_what_ray_alone_has_saved_is_loaded_too(tmp_path: Path) -> None:
    plain = training.ppo("new").build_algo()
    plain.train()
    saved = plain.save(str(tmp_path / "plain")).checkpoint
    algo = built(stored(tmp_path / "stores"), "new")
    algo.restore(saved)
    equal(weights(plain, "new"), weights(algo, "new"))
    with pytest.raises(UnreadableFormat, match=r"there is no ckptstore\.json"):
        rllib.open_reported(saved)
    plain.stop()
    algo.stop()


def test_a_failed_save_tells_tune_nothing(tmp_path: Path) -> None:
    algo = built(stored(staticmethod(lambda trial: CheckpointStore(tmp_path / "stores"))), "new")
    (tmp_path / "stores").write_text("in the way")
    with pytest.raises(InvalidRequest, match="Part of the path is a file"):
        algo.save(str(tmp_path / "tune"))
    assert os.listdir(tmp_path / "tune") == []
    algo.checkpoint_store = None
    algo._checkpoint_handles.clear()
    with pytest.raises(InvalidRequest, match="isn't the URL of a store"):
        algo.save(str(tmp_path / "tune"))
    algo.stop()


def test_pointers_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    from ray.tune import Checkpoint as Reported

    ckpt = CheckpointStore(tmp_path / "store").save(1)
    reported = Reported.from_directory(str(tmp_path))
    pointer = pointers.Pointer(str(tmp_path / "store"), ckpt.name, ckpt.id)
    for data in (b"", b"[]", b"{}", b'{"store": 1, "name": "checkpoint_000001", "id": "a"}', b"[" * 60_000):
        (tmp_path / "ckptstore.json").write_bytes(data)
        with pytest.raises(CheckpointCorrupt, match=r"ckptstore\.json"):
            rllib.open_reported(reported)
    (tmp_path / "ckptstore.json").write_bytes(pointers.dump(pointer._replace(name="../../etc")))
    with pytest.raises(CheckpointCorrupt, match="doesn't name a checkpoint"):
        rllib.open_reported(reported)
    (tmp_path / "ckptstore.json").write_bytes(pointers.dump(pointer))
    assert rllib.open_reported(reported).id == ckpt.id
    moved = (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(StoreNotFound):
        rllib.open_reported(reported)
    assert rllib.open_reported(reported, moved).id == ckpt.id
    CheckpointStore(moved).delete(1)
    CheckpointStore(moved).save(1)
    with pytest.raises(CheckpointNotFound, match="another checkpoint has replaced"):
        rllib.open_reported(reported, CheckpointStore(moved))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stack", ["old", "new"])
def test_a_killed_trial_goes_on(stack: str, tmp_path: Path) -> None:
    """Once between two saves, and once when its checkpoint was committed and Tune not told of it."""
    from ray import tune
    from ray.rllib.algorithms.ppo import PPO

    root = tmp_path

    class Dying(rllib.StoredAlgorithm, PPO):  # type: ignore[misc]
        checkpoint_store = str(root / "stores")
        checkpoint_keep = 3

        def die_once(self, where: str) -> None:
            if not (root / where).exists():
                (root / where).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def step(self) -> Any:
            if self.iteration == 2:
                self.die_once("between")
            return super().step()

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            super().save_checkpoint(checkpoint_dir)
            if self.iteration == 4:
                self.die_once("untold")

        def load_checkpoint(self, checkpoint_dir: str) -> None:
            super().load_checkpoint(checkpoint_dir)
            with (root / "loaded").open("a") as log:
                log.write(f"{self.iteration} {float(sum(v.sum() for v in weights(self, stack).values()))}\n")

    config = training.ppo(stack)
    results = tune.Tuner(
        Dying,
        param_space=config.to_dict() if stack == "old" else config,
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(tmp_path / "tune"),
            stop={"training_iteration": 6},
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2),
        ),
    ).fit()
    assert results[0].error is None
    assert results[0].metrics["training_iteration"] == 6
    assert (root / "between").exists()
    assert (root / "untold").exists()
    loaded = [line.split() for line in (root / "loaded").read_text().splitlines()]
    assert [int(step) for step, _ in loaded] == [2, 3]
    (trial,) = os.listdir(tmp_path / "stores")
    store = CheckpointStore(tmp_path / "stores" / trial, create=False)
    assert [ckpt.step for ckpt in store.checkpoints()] == [3, 4, 5, 6]  # 3 is what it went on from
    assert all(report.ok for report in store.verify())
    last = rllib.open_reported(results[0].checkpoint)
    assert (last.step, last.id) == (6, store.get(6).id)
    third = store.get(3)
    assert float(loaded[1][1]) == pytest.approx(
        float(sum(v.sum() for v in third.weights().values())), abs=1e-4
    )
    algo = rllib.from_checkpoint(Checkpoint.open(last.url))
    assert algo.iteration == 6
    algo.train()
    algo.stop()
    print(f"{stack}: a trial killed twice went on from 2 and from 3, to {last.step}")
