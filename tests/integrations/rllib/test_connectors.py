"""Connectors of the new API stack are kept or asked for, and their states reach every env runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import InvalidRequest
from ckptstore.integrations import rllib
from tests.integrations.rllib import training
from tests.integrations.rllib.test_restore import DATA, equal, weights

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.timeout(300)]


def filtered(**more: Any) -> Any:
    """PPO behind a filter, on schedules, with env runners in other processes and for evaluation."""

    def make_filter(env: Any, spaces: Any, device: Any) -> Any:
        from ray.rllib.connectors.env_to_module import MeanStdFilter

        return MeanStdFilter(clip_by_value=5.0)

    config = training.ppo("new").env_runners(
        num_env_runners=1, rollout_fragment_length=64, env_to_module_connector=make_filter, **more
    )
    config.training(entropy_coeff=[[0, 0.5], [256, 0.0]], lr=[[0, 1e-3], [256, 1e-4]])
    return config.evaluation(evaluation_num_env_runners=1, evaluation_interval=None)


def everywhere(algo: Any) -> list[tuple[Any, ...]]:
    """Pushes and steps of every env runner, then entropy coefficient and learning rate of the learner."""

    def look(runner: Any) -> tuple[Any, ...]:
        state = runner.get_state(components="env_to_module_connector")
        [own] = state["env_to_module_connector"]["MeanStdFilter"].values()
        steps = runner.get_state(components="x")["num_env_steps_sampled_lifetime"]
        return own["running_stats"][0]["num_pushes"], own["clip_by_value"], int(steps)

    found: list[Any] = []
    for group in (algo.env_runner_group, algo.eval_env_runner_group):
        found += [] if group is None else group.foreach_env_runner(look)
    learner = training.learner_of(algo)
    entropy = learner.entropy_coeff_schedulers_per_module["default_policy"].get_current_value()
    return [*found, (round(float(entropy), 6), round(rate(algo), 8))]


def rate(algo: Any) -> float:
    state = algo.learner_group.get_state(components="learner/optimizer")["learner"]["optimizer"]
    [item] = state.values()
    return float(item["state"]["param_groups"][0]["lr"])


@pytest.fixture(scope="module")
def saved(needs_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A checkpoint, and what its algorithm had everywhere."""
    store = CheckpointStore(tmp_path_factory.mktemp("filtered") / "store")
    algo = filtered().build_algo()
    algo.train()
    rllib.save(algo, store)
    truth = everywhere(algo)
    algo.stop()
    return store, truth


@pytest.mark.parametrize("how", ["from_checkpoint", "trusted", "restore", "resume_or_build"])
def test_filters_steps_and_schedules_are_the_same_in_every_runner(how: str, saved: Any) -> None:
    store, truth = saved
    assert truth[0][0] >= 64
    if how == "restore":
        algo = filtered().build_algo()
        assert everywhere(algo) != truth
        rllib.restore(algo, store)
    elif how == "resume_or_build":
        algo = rllib.resume_or_build(filtered(), store)
    else:
        algo = rllib.from_checkpoint(store, trusted=how == "trusted")
    try:
        found = everywhere(algo)
        assert len(found) == 5
        # RLlib itself leaves the evaluation's runners as they are until it evaluates.
        assert {item[:2] for item in found[:-1]} == {truth[0][:2]}
        assert {item[2] for item in found[:-1]} == {truth[0][2]}
        assert found[-1] == truth[-1]
        assert not [name for name in rllib.report(algo).dropped if "connector" in name]
        algo.train()
    finally:
        algo.stop()


def test_what_is_saved_after_that_opens_with_plain_ray(saved: Any, tmp_path: Path) -> None:
    from ray.rllib.algorithms.algorithm import Algorithm

    algo = rllib.from_checkpoint(saved[0], config={"num_env_runners": 0, "evaluation_num_env_runners": 0})
    ckpt = rllib.save(algo, tmp_path / "store")
    algo.stop()
    assert not [use for use in ckpt.scan() if use.name.startswith("ckptstore")]
    with ckpt.as_directory() as path:
        theirs = Algorithm.from_checkpoint(str(path))
    assert type(theirs.env_runner._env_to_module.connectors[0]).__name__ == "MeanStdFilter"
    theirs.stop()


def test_without_a_local_env_runner(tmp_path: Path) -> None:
    config = filtered(create_local_env_runner=False).evaluation(evaluation_num_env_runners=0)
    algo = config.build_algo()
    algo.train()
    rllib.save(algo, tmp_path)
    truth = everywhere(algo)
    algo.stop()
    again = rllib.from_checkpoint(tmp_path)
    try:
        assert everywhere(again)[0] == truth[0]
        assert everywhere(again)[-1] == truth[-1]
        own = again.env_to_module_connector.get_state()["MeanStdFilter"][None]
        assert own["running_stats"][0]["num_pushes"] == truth[0][0]
    finally:
        again.stop()


def counting(env: Any = None, spaces: Any = None, device: Any = None) -> Any:
    """A connector that nobody but its user has."""
    from ray.rllib.connectors.connector_v2 import ConnectorV2

    class CountCalls(ConnectorV2):  # type: ignore[misc]
        calls = 0

        def __call__(self, *, batch: Any, **more: Any) -> Any:
            self.calls += 1
            return batch

        def get_state(self, *args: Any, **more: Any) -> Any:
            return {"calls": self.calls}

        def set_state(self, state: Any) -> None:
            self.calls = state["calls"]

    return CountCalls()


@pytest.mark.parametrize("slot", ["env_to_module_connector", "module_to_env_connector"])
def test_a_connector_of_ones_own_is_asked_for_by_name(slot: str, tmp_path: Path) -> None:
    algo = training.ppo("new").env_runners(**{slot: counting}).build_algo()
    algo.train()
    rllib.save(algo, tmp_path)
    pipeline = getattr(algo.env_runner, f"_{slot.removesuffix('_connector')}")
    [calls] = [item.calls for item in pipeline.connectors if type(item).__name__ == "CountCalls"]
    assert calls > 0
    algo.stop()
    with pytest.raises(InvalidRequest, match=rf'CountCalls.*Pass config=\{{"{slot}": '):
        rllib.from_checkpoint(tmp_path)
    for name in (slot, f"_{slot}"):
        again = rllib.from_checkpoint(tmp_path, config={name: counting})
        pipeline = getattr(again.env_runner, f"_{slot.removesuffix('_connector')}")
        assert [item.calls for item in pipeline.connectors if type(item).__name__ == "CountCalls"] == [calls]
        again.stop()
    # Built by the caller, without it: nothing is set.
    plain = training.ppo("new").build_algo()
    before = weights(plain, "new")
    with pytest.raises(InvalidRequest, match=rf"CountCalls.*{slot}="):
        rllib.restore(plain, tmp_path)
    equal(before, weights(plain, "new"))
    plain.stop()


def test_connectors_of_rllibs_own_without_a_state_are_built_again(tmp_path: Path) -> None:
    def three(env: Any, spaces: Any, device: Any) -> Any:
        from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter
        from ray.rllib.connectors.env_to_module.prev_actions_prev_rewards import PrevActionsPrevRewards

        return [MeanStdFilter(), PrevActionsPrevRewards(n_prev_actions=2), FlattenObservations()]

    algo = training.ppo("new").env_runners(env_to_module_connector=three).build_algo()
    algo.train()
    truth = weights(algo, "new")
    rllib.save(algo, tmp_path)
    algo.stop()
    again = rllib.from_checkpoint(tmp_path)
    try:
        connectors = again.env_runner._env_to_module.connectors
        names = [type(item).__name__ for item in connectors]
        assert names[:3] == ["MeanStdFilter", "PrevActionsPrevRewards", "FlattenObservations"]
        assert (connectors[1].n_prev_actions, connectors[1].n_prev_rewards) == (2, 1)
        equal(truth, weights(again, "new"))
        again.train()
    finally:
        again.stop()


@pytest.mark.parametrize("name", ["v2_0/ray_2.34.0_filter", "v2_1/ray_2.54.0_filter"])
def test_filters_of_older_releases(name: str) -> None:
    case = DATA / name
    from tests.integrations.rllib import corpus

    algo = corpus.by_ckptstore(case / "checkpoint")
    try:
        live = algo.env_runner.get_state(components="env_to_module_connector")
        [own] = live["env_to_module_connector"]["MeanStdFilter"].values()
        from ray.rllib.utils.filter import RunningStat

        stat = RunningStat.from_state(own["running_stats"][0])
        stored = Checkpoint.open(case / "checkpoint").state["connectors"]
        [before] = stored["env_to_module_connector/MeanStdFilter"].values()
        assert stat.num_pushes == before["running_stats"][0]["num_pushes"] > 400
        with np.load(case / "expected.npz") as archive:
            means = [archive[key] for key in archive.files if key.endswith("mean_array")]
        if means:
            np.testing.assert_array_equal(stat.mean_array, means[0])
        assert np.all(stat.sum_sq_diff_array > 0)
    finally:
        algo.stop()
