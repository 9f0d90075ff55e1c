"""What ``config=`` overrides takes effect at once, or the report says why it doesn't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptstore import Checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.integrations import rllib
from ckptstore.integrations.rllib import newstack
from tests.integrations.rllib import training
from tests.integrations.rllib.test_restore import DATA

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.timeout(300)]

OTHER = 0.0123


def rates(algo: Any) -> list[float]:
    """Of every optimizer."""
    if algo.config.enable_rl_module_and_learner:
        state = algo.learner_group.get_state(components="learner/optimizer")["learner"]["optimizer"]
        groups = [group for item in state.values() for group in item["state"]["param_groups"]]
    else:
        groups = [group for item in algo.get_policy()._optimizers for group in item.param_groups]
    return [float(group["lr"]) for group in groups]


@pytest.mark.parametrize("stack", ["old", "new"])
@pytest.mark.parametrize("how", ["dict", "whole", "restore"])
def test_the_rate_is_the_configs(stack: str, how: str, tmp_path: Path) -> None:
    algo = training.ppo(stack).build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path)
    assert rates(algo) == [1e-3]
    algo.stop()
    if how == "restore":
        again = training.ppo(stack, lr=OTHER).build_algo()
        rllib.restore(again, ckpt)
    else:
        again = rllib.from_checkpoint(ckpt, {"lr": OTHER} if how == "dict" else training.ppo(stack, lr=OTHER))
    try:
        assert rates(again) == [OTHER]
        again.train()
        assert rates(again) == [OTHER]
        assert "optimizer" in rllib.report(again).carried
    finally:
        again.stop()


@pytest.mark.parametrize("stack", ["old", "new"])
def test_other_settings_that_a_state_holds_too(stack: str, tmp_path: Path) -> None:
    algo = training.ppo(stack).build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path)
    algo.stop()
    changes: dict[str, Any] = {"kl_coeff": 0.77, "gamma": 0.5, "num_workers": 0}
    if stack == "new":
        changes["model_config"] = {"fcnet_activation": "relu"}
    else:
        changes["observation_filter"] = "NoFilter"
    again = rllib.from_checkpoint(ckpt, config=changes)
    try:
        dropped = rllib.report(again).dropped
        assert "config= has another" in dropped["kl_coeff"]
        assert (again.config.gamma, again.config.num_env_runners) == (0.5, 0)
        if stack == "new":
            learner = training.learner_of(again)
            assert float(learner.curr_kl_coeffs_per_module["default_policy"]) == pytest.approx(0.77)
            assert "ReLU" in str(again.get_module())
            assert again.get_module().model_config["fcnet_hiddens"] == [8]
        else:
            assert again.get_policy().kl_coeff == 0.77
            assert "no filter" in dropped["filters/default_policy"]
        again.train()
    finally:
        again.stop()
    with pytest.raises(InvalidRequest, match="no 'gama'"):
        rllib.from_checkpoint(ckpt, config={"gama": 0.5})


def test_a_schedule_of_the_old_stack_goes_on_at_its_step(tmp_path: Path) -> None:
    algo = training.ppo("old").build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path)
    steps = algo.get_policy().global_timestep
    algo.stop()
    again = rllib.from_checkpoint(ckpt, config={"lr_schedule": [[0, 1.0], [2 * steps, 0.0]]})
    try:
        assert rates(again) == [pytest.approx(0.5)]
    finally:
        again.stop()


def test_dqn_of_the_old_stack() -> None:
    place = DATA / "v1_1/ray_2.4.0_dqn_buffer/checkpoint"
    explored = {"type": "EpsilonGreedy", "initial_epsilon": 0.4, "final_epsilon": 0.4, "epsilon_timesteps": 9}
    algo = rllib.from_checkpoint(
        place, config={"lr": OTHER, "adam_epsilon": 0.25, "exploration_config": explored}
    )
    try:
        assert rates(algo) == [OTHER]
        assert algo.get_policy()._optimizers[0].param_groups[0]["eps"] == 0.25
        algo.train()
        assert algo.get_policy().exploration.get_state()["cur_epsilon"] == pytest.approx(0.4)
    finally:
        algo.stop()


def test_sac_of_the_old_stack_has_rates_of_its_own() -> None:
    place = DATA / "v1_1/ray_2.60.0_sac/checkpoint"
    other = {"actor_learning_rate": 0.1, "critic_learning_rate": 0.2, "entropy_learning_rate": 0.3}
    algo = rllib.from_checkpoint(place, config={"lr": OTHER, "optimization": other})
    try:
        assert rates(algo) == [0.1, *[0.2] * (len(rates(algo)) - 2), 0.3]
        assert "optimization" in rllib.report(algo).dropped["config/lr of default_policy"]
    finally:
        algo.stop()


def test_epsilon_of_a_module() -> None:
    algo = rllib.from_checkpoint(
        DATA / "v2_1/ray_2.60.0_dqn/checkpoint", config={"epsilon": 0.42, "lr": OTHER}
    )
    try:
        assert algo.get_module().epsilon_schedule.get_current_value() == pytest.approx(0.42)
        assert rates(algo) == [OTHER]
    finally:
        algo.stop()


def test_a_model_of_the_old_stack_is_overridden_key_by_key(tmp_path: Path) -> None:
    """As RLlib's own `training(model=...)` does it; a part of a model alone can't be built."""
    algo = training.ppo("old").build_algo()
    ckpt = rllib.save(algo, tmp_path)
    algo.stop()
    again = rllib.from_checkpoint(ckpt, {"model": {"fcnet_activation": "relu"}})
    try:
        assert again.config.model["fcnet_hiddens"] == [8]
        assert "ReLU" in str(again.get_policy().model)
    finally:
        again.stop()


def test_a_setting_that_the_writing_release_did_not_know() -> None:
    """Ray 2.49 built no LayerNorms, whatever its model config said; the weights tell."""
    policy = Checkpoint.open(DATA / "modules/appo/checkpoint").policies["default_policy"]
    said = {**policy, "config": {**policy["config"], "fcnet_use_layernorm": True}}
    made = newstack.build_model_config(training.ppo("new"), said)
    assert made["fcnet_use_layernorm"] is False
    assert made["fcnet_hiddens"] == policy["config"]["fcnet_hiddens"]
