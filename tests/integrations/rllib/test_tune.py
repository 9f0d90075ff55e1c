"""Tune's trials with their checkpoints in a store, killed and gone on."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
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
from ckptstore.integrations.rllib import pointers, sources
from tests.integrations.rllib import training
from tests.integrations.rllib.test_restore import equal, weights
from tests.test_signing import PRIVATE

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


def total(algo: Any, stack: str) -> float:
    return round(float(sum(np.abs(value).sum() for value in weights(algo, stack).values())), 3)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("stack", "source"), [("old", "class"), ("new", "class"), ("new", "function")])
def test_trials_of_a_sweep_have_stores_of_their_own(stack: str, source: str, tmp_path: Path) -> None:
    """Through `StoredAlgorithm` and, in the same sweep, through a `CheckpointCallback`."""
    from ray import tune
    from ray.rllib.algorithms.ppo import PPO

    root = tmp_path

    class Summed(rllib.StoredAlgorithm, PPO):  # type: ignore[misc]
        checkpoint_store = (
            str(root / "stores")
            if source == "class"
            else staticmethod(lambda trial: CheckpointStore(root / "stores" / trial))
        )

        def step(self) -> Any:
            return {**super().step(), "total": total(self, stack)}

    config = training.ppo(stack, lr=tune.grid_search([1e-4, 1e-1]))
    if stack == "new":
        config.algo_class = Summed
    config.callbacks(rllib.CheckpointCallback(tmp_path / "saved", wait=True))
    results = tune.Tuner(
        Summed,
        param_space=config.to_dict() if stack == "old" else config,
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(tmp_path / "tune"),
            stop={"training_iteration": 2},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    ).fit()
    trials = sorted(Path(result.path).name for result in results)
    assert len(trials) == 2
    assert sorted(os.listdir(tmp_path / "stores")) == sorted(os.listdir(tmp_path / "saved")) == trials
    for number, result in enumerate(results):
        truth = result.metrics["total"]
        ckpt = rllib.open_reported(result.checkpoint)
        assert ckpt.step == 2
        assert summed(ckpt) == truth
        told = result.metrics["ckptstore"]
        assert told["committed_step"] == 2
        assert told["store"] == CheckpointStore(tmp_path / "saved" / Path(result.path).name).url
        assert summed(CheckpointStore(told["store"], create=False).get(2)) == truth
        # What Tune calls to restore a trial, and population based training to copy from another.
        again = Summed(config=training.ppo(stack))
        again.load_checkpoint(result.checkpoint.path)
        assert total(again, stack) == truth, number
        again.stop()
    assert len({result.metrics["total"] for result in results}) == 2


def summed(ckpt: Checkpoint) -> float:
    return round(float(sum(np.abs(value).sum() for value in ckpt.weights("default_policy").values())), 3)


def test_a_trial_does_not_load_what_has_replaced_its_checkpoint(tmp_path: Path) -> None:
    kind = stored(tmp_path / "stores")
    algo = built(kind, "new")
    saved = algo.save(str(tmp_path / "tune")).checkpoint
    before = weights(algo, "new")
    other = built(kind, "new")
    other.save(str(tmp_path / "another"))
    with pytest.raises(CheckpointNotFound, match="another checkpoint has replaced"):
        algo.load_checkpoint(saved.path)
    equal(before, weights(algo, "new"))
    for each in (algo, other):
        each.stop()


@pytest.mark.parametrize("scheme", ["", "memory://", "s3://", "gs://", "github://"])
def test_any_store_has_one_below_it_for_a_trial(scheme: str, tmp_path: Path) -> None:
    name = "PPO_1a_lr=0.1,x=[2]_2026"
    url = f"{scheme}sweeps/ppo" if scheme else str(tmp_path / "ppo")
    options = {"key": "me", "secret": "hushhush"} if scheme == "s3://" else {}
    store = CheckpointStore(url, storage_options=options, retries=3, max_pending=2)
    handles = [sources.StoreHandle(item) for item in (store, url, lambda: store)]
    made = [handle.open(name) for handle in handles]
    assert {item.url for item in made} == {f"{store.url}/{name}"}
    assert made[0] is handles[0].open(name)
    assert handles[0].open() is store
    opened, _ = store.__reduce__()
    again, (backend,) = made[0].__reduce__()
    assert again.keywords == opened.keywords
    assert b"hushhush" not in pickle.dumps(made[0])
    if scheme == "s3://":
        assert backend._opener._state[1] == options
    by_name = sources.StoreHandle(lambda trial: CheckpointStore(tmp_path / f"own-{trial}"))
    assert [by_name.open("a").url, by_name.open().url] == [
        CheckpointStore(tmp_path / f"own-{trial}").url for trial in ("a", "")
    ]


def test_a_store_that_signs_needs_a_function_for_its_trials(tmp_path: Path) -> None:
    signing = CheckpointStore(tmp_path, signing_key=PRIVATE)
    for source in (signing, lambda: signing):
        with pytest.raises(InvalidRequest, match="Pass a function that takes the trial's name"):
            sources.StoreHandle(source).open("a")
    by_name = sources.StoreHandle(lambda trial: CheckpointStore(tmp_path / trial, signing_key=PRIVATE))
    assert by_name.open("a").signs


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
