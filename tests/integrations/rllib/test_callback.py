"""Algorithms that save themselves while they train, and go on where they were."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest

from ckptstore import BestN, CheckpointStore
from ckptstore.errors import CheckpointCorrupt, InvalidRequest
from ckptstore.integrations import rllib
from ckptstore.integrations.rllib import sources as sources
from tests.integrations.rllib import training
from tests.integrations.rllib.test_restore import equal, weights
from tests.test_signing import PRIVATE

pytestmark = pytest.mark.usefixtures("needs_ray")


def steps(store: CheckpointStore) -> list[int]:
    return [ckpt.step for ckpt in store.checkpoints()]


@pytest.mark.parametrize("stack", ["old", "new"])
def test_it_saves_while_training_goes_on_and_prunes(stack: str, tmp_path: Path) -> None:
    from ray.rllib.algorithms.algorithm import Algorithm

    store = CheckpointStore(tmp_path)
    config = training.ppo(stack).callbacks(rllib.CheckpointCallback(store, every=2, keep=2))
    algo = config.build_algo()
    for iteration in range(1, 8):
        result = algo.train()
        told = result.get("ckptstore", {}).get("committed_step", 0)
        assert told <= iteration
        assert told >= iteration - 3  # saving waits for the save before
        if iteration == 6:
            then = weights(algo, stack)
    algo.stop()
    assert steps(store) == [4, 6]
    ckpt = store.get(6)
    assert ckpt.verify().ok
    assert ckpt.metrics["training_iteration"] == 6
    name = "episode_return_mean" if stack == "old" else "num_env_steps_sampled_lifetime"
    assert ckpt.metrics["env_runners"][name] > 0
    best = store.best(f"env_runners/{name}")
    assert best is not None
    assert best.step in (4, 6)
    parent = ckpt.manifest.parent
    assert parent is not None
    assert parent.id == store.get(4).id
    # The callback is not in it: it opens anywhere, and doesn't go on saving by itself.
    assert not [use for use in ckpt.scan() if use.name.startswith("ckptstore")]
    ours = rllib.from_checkpoint(ckpt)
    assert rllib.report(ours).dropped == {}
    with ckpt.as_directory() as path:
        theirs = Algorithm.from_checkpoint(str(path))
    for other in (ours, theirs):
        equal(then, weights(other, stack))
        other.train()
        assert other.iteration == 7
        other.stop()
    assert steps(store) == [4, 6]


def test_every_train_returns_with_its_checkpoint_committed_if_that_is_asked_for(tmp_path: Path) -> None:
    config = training.ppo("new").callbacks(rllib.CheckpointCallback(tmp_path, wait=True))
    algo = config.build_algo()
    for iteration in (1, 2):
        assert algo.train()["ckptstore"] == {"committed_step": iteration}
        assert os.listdir(tmp_path / ".staging") == []
    algo.stop()


@pytest.mark.parametrize("stack", ["old", "new"])
def test_a_failed_save_comes_up_at_the_next_and_at_the_end(stack: str, tmp_path: Path) -> None:
    from ray.rllib.algorithms.ppo import PPO

    class Linking(PPO):  # type: ignore[misc]
        """Saves what can't be committed."""

        failing = True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            super().save_checkpoint(checkpoint_dir)
            if self.failing:
                os.symlink("nowhere", os.path.join(checkpoint_dir, "link"))

    config = training.ppo(stack).callbacks(rllib.CheckpointCallback(tmp_path, every=2))
    config.algo_class = Linking
    algo = config.build_algo()
    for _ in range(3):
        algo.train()  # the second fails in the background
    with pytest.raises(InvalidRequest, match="link"):
        algo.train()
    algo.failing = False
    algo.train()
    algo.train()
    algo.failing = True
    algo.train()
    algo.train()
    with pytest.raises(InvalidRequest, match="link"):
        algo.stop()
    assert steps(CheckpointStore(tmp_path)) == [6]


def test_callbacks_of_ones_own_stand_beside_it(tmp_path: Path) -> None:
    from ray.rllib.callbacks.callbacks import RLlibCallback

    class Mine(RLlibCallback):  # type: ignore[misc]
        def on_train_result(self, *, result: dict[str, Any], **more: Any) -> None:
            result["mine"] = 5.0

    config = training.ppo("new").callbacks([Mine, rllib.CheckpointCallback(tmp_path, keep=BestN("mine", 1))])
    config.env_runners(num_env_runners=1)  # in another process
    algo = config.build_algo()
    algo.train()
    algo.stop()
    ckpt = CheckpointStore(tmp_path).get(1)
    assert ckpt.metrics["mine"] == 5.0
    algo = rllib.resume_or_build(config, tmp_path)
    algo.train()
    algo.stop()
    assert steps(CheckpointStore(tmp_path)) == [1, 2]


@pytest.mark.parametrize("stack", ["old", "new"])
def test_a_run_goes_on_from_the_newest_whole_checkpoint(stack: str, tmp_path: Path) -> None:
    callback = rllib.CheckpointCallback(tmp_path, keep=1)
    config = training.ppo(stack).callbacks(callback)
    store = CheckpointStore(tmp_path)  # not the one that the callback opens
    algo = rllib.resume_or_build(config, store)
    assert algo.iteration == 0
    algo.train()
    then = weights(algo, stack)
    algo.stop()
    again = rllib.resume_or_build(config, store)
    equal(then, weights(again, stack))
    for _ in range(3):
        again.train()
    again.stop()
    assert steps(store) == [1, 4]  # the one it went on from is kept beside the newest
    damaged = next(path for path in (tmp_path / "checkpoint_000004").rglob("*.pkl"))
    damaged.chmod(0o600)
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    algo = rllib.resume_or_build(config, store)
    assert algo.iteration == 1
    equal(then, weights(algo, stack))
    algo.train()
    algo.stop()
    # It stays although the damaged one is newer, and the next run goes on from it.
    assert steps(store) == [1, 2, 4]
    parent = store.get(2).manifest.parent
    assert parent is not None
    assert parent.id == store.get(1).id


def test_it_does_not_begin_anew_where_everything_is_damaged(tmp_path: Path) -> None:
    config = training.ppo("new").callbacks(rllib.CheckpointCallback(tmp_path))
    algo = rllib.resume_or_build(config, tmp_path)
    algo.train()
    algo.stop()
    next((tmp_path / "checkpoint_000001").rglob("algorithm_state.pkl")).unlink()
    with pytest.raises(CheckpointCorrupt):
        rllib.resume_or_build(config, tmp_path)


def elsewhere(callback: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The callback as another process sees it."""
    from ray import cloudpickle

    data = cloudpickle.dumps(callback)
    monkeypatch.setattr(sources, "_opened", {})
    return data, cloudpickle.loads(data)


def test_each_process_opens_its_own_store_and_no_pickle_has_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"key": "me", "secret": "hushhush", "endpoint_url": "http://127.0.0.1:1"}
    store = CheckpointStore("s3://bucket/run", storage_options=options)
    callback = rllib.CheckpointCallback(store, every=3, keep=[1, BestN("x", 2)])
    assert copy.deepcopy(callback).store is store
    data, again = elsewhere(callback, monkeypatch)
    assert b"hushhush" not in data
    assert again.store is not store
    assert again.store is copy.deepcopy(again).store
    assert again.store.url == store.url
    assert repr(again) == repr(callback)
    by_function = rllib.CheckpointCallback(lambda: CheckpointStore(tmp_path))
    assert by_function.store is by_function.store
    assert elsewhere(by_function, monkeypatch)[1].store.url == CheckpointStore(tmp_path).url
    signing = rllib.CheckpointCallback(CheckpointStore(tmp_path, signing_key=PRIVATE))
    data, again = elsewhere(signing, monkeypatch)
    assert PRIVATE not in data
    with pytest.raises(InvalidRequest, match="Pass a function that opens the store"):
        again.store  # noqa: B018


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"every": 0}, "every"),
        ({"every": 1.5}, "every"),
        ({"keep": "all"}, "keep"),
        ({"store": 5}, "store"),
        ({"store": None}, "store"),
    ],
)
def test_what_makes_no_sense_is_refused_before_training(
    wrong: dict[str, Any], names: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=names):
        rllib.CheckpointCallback(**{"store": tmp_path, **wrong})
    with pytest.raises(InvalidRequest, match="Return a CheckpointStore"):
        rllib.CheckpointCallback(lambda: tmp_path).store  # type: ignore[arg-type,return-value]  # noqa: B018


@pytest.mark.parametrize("how", ["from_checkpoint", "restore"])
def test_what_was_restored_is_the_parent_of_the_next_and_not_pruned(how: str, tmp_path: Path) -> None:
    algo = training.ppo("new").build_algo()
    first = rllib.save(algo, tmp_path, step=1)
    store = CheckpointStore(tmp_path)
    if how == "restore":
        rllib.restore(algo, store)
    else:
        algo.stop()
        algo = rllib.from_checkpoint(store)
    parents = [rllib.save(algo, store, step=step).manifest.parent for step in (2, 3)]
    algo.stop()
    assert parents[0] is not None
    assert parents[0].id == first.id
    store.prune(1)
    assert steps(store) == [1, 3]
