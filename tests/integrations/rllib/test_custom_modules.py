"""Modules of classes of one's own come back as themselves or are asked for, never as RLlib's default."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.integrations import rllib
from tests.integrations.rllib import corpus, training
from tests.integrations.rllib.test_restore import equal, weights

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.timeout(300)]

SOURCE = """
    import torch
    from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule

    class PPONeverRight(DefaultPPOTorchRLModule):
        '''The default's parameters, but action 1 is never taken.'''

        def _forward(self, batch, **kwargs):
            out = super()._forward(batch, **kwargs)
            out["action_dist_inputs"] = out["action_dist_inputs"] + torch.tensor([0.0, -1e9])
            return out
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of a user's, which another process may not have."""
    (tmp_path / "users_package.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_package", raising=False)
    return "users_package"


def never_right(by: str) -> Any:
    if by == "reference":
        import users_package  # type: ignore[import-not-found]

        return users_package.PPONeverRight
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(SOURCE), scope)
    return scope["PPONeverRight"]


def with_module(kind: Any, **model: Any) -> Any:
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    config = training.ppo("new")
    return config.rl_module(rl_module_spec=RLModuleSpec(module_class=kind, model_config=model))


def save(config: Any, place: Path) -> tuple[Checkpoint, dict[str, Any]]:
    algo = config.build_algo()
    algo.train()
    ckpt = rllib.save(algo, place)
    found = weights(algo, "new")
    algo.stop()
    return ckpt, found


@pytest.mark.parametrize("by", ["reference", "value"])
def test_it_is_asked_for_by_name_and_comes_back_as_itself(by: str, package: str, tmp_path: Path) -> None:
    kind = never_right(by)
    ckpt, truth = save(with_module(kind, fcnet_hiddens=[8]), tmp_path / "store")
    remedy = r'PPONeverRight.*Pass config=\{"rl_module_spec"'
    for call in (rllib.from_checkpoint, rllib.policy_from_checkpoint):
        with pytest.raises(InvalidRequest, match=remedy):
            call(ckpt)
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    spec = RLModuleSpec(module_class=kind, model_config={"fcnet_hiddens": [8]})
    for given in ({"trusted": True}, {"config": {"rl_module_spec": spec}}):
        algo = rllib.from_checkpoint(ckpt, **given)
        try:
            assert type(algo.get_module()).__name__ == "PPONeverRight"
            equal(truth, weights(algo, "new"))
            import torch

            out = algo.get_module().forward_inference({"obs": torch.zeros(1, 4)})
            assert float(out["action_dist_inputs"][0, 1]) < -1e8
            algo.train()
        finally:
            algo.stop()


def test_a_class_that_is_not_here_is_a_typed_error(package: str, tmp_path: Path, monkeypatch: Any) -> None:
    ckpt, _ = save(with_module(never_right("reference"), fcnet_hiddens=[8]), tmp_path / "store")
    (tmp_path / f"{package}.py").unlink()
    monkeypatch.delitem(sys.modules, package)
    with pytest.raises(InvalidRequest, match=r"isn't here.*rl_module_spec"):
        rllib.from_checkpoint(ckpt, trusted=True)


def test_one_of_several_is_not_replaced_either(package: str, tmp_path: Path) -> None:
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.rllib.examples.rl_modules.classes.random_rlm import RandomRLModule

    own = RLModuleSpec(module_class=never_right("reference"), model_config={"fcnet_hiddens": [8]})
    specs = {"own": own, "default": RLModuleSpec(), "random": RLModuleSpec(module_class=RandomRLModule)}
    config = training.ppo("new").environment(corpus.multi_cartpole(3), env_config={"num_agents": 3})
    config.multi_agent(
        policies=set(specs), policy_mapping_fn=corpus.mapping(tuple(specs)), policies_to_train=["own"]
    )
    config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
    algo = config.build_algo()
    ckpt = rllib.save(algo, tmp_path / "store")
    truth = {name: weights(algo, "new", name) for name in ("own", "default")}
    algo.stop()
    more: dict[str, Any] = {"policy_mapping_fn": corpus.mapping(tuple(specs))}
    more["config"] = {"env": corpus.multi_cartpole(3), "env_config": {"num_agents": 3}}
    with pytest.raises(InvalidRequest, match=r"'own'.*PPONeverRight"):
        rllib.from_checkpoint(ckpt, **more)
    again = rllib.from_checkpoint(ckpt, trusted=True, **more)
    try:
        kinds = {name: type(again.get_module(name)).__name__ for name in specs}
        assert kinds == {
            "own": "PPONeverRight",
            "default": "DefaultPPOTorchRLModule",
            "random": "RandomRLModule",
        }
        for name, value in truth.items():
            equal(value, weights(again, "new", name))
        again.train()
    finally:
        again.stop()


def test_rays_own_classes_are_built_without_being_asked_for(tmp_path: Path) -> None:
    import gymnasium
    from ray.rllib.examples.rl_modules.classes.action_masking_rlm import ActionMaskingTorchRLModule

    class Masked(gymnasium.Env):  # type: ignore[misc]
        observation_space = gymnasium.spaces.Dict(
            {
                "observations": gymnasium.spaces.Box(-1, 1, (4,), np.float32),
                "action_mask": gymnasium.spaces.Box(0, 1, (3,), np.float32),
            }
        )
        action_space = gymnasium.spaces.Discrete(3)
        seen = {"observations": np.zeros(4, "f4"), "action_mask": np.array([1, 1, 0], "f4")}  # noqa: RUF012

        def __init__(self, config: Any = None) -> None:
            pass

        def reset(self, **options: Any) -> Any:
            self.steps = 0
            return self.seen, {}

        def step(self, action: Any) -> Any:
            assert action != 2
            self.steps += 1
            return self.seen, 1.0, self.steps > 9, False, {}

    config = with_module(ActionMaskingTorchRLModule, head_fcnet_hiddens=[8]).environment(Masked)
    ckpt, truth = save(config, tmp_path / "store")
    algo = rllib.from_checkpoint(ckpt, config={"env": Masked})
    try:
        assert type(algo.get_module()) is ActionMaskingTorchRLModule
        equal(truth, weights(algo, "new"))
        algo.train()
    finally:
        algo.stop()


@pytest.mark.parametrize("stack", ["old", "new"])
def test_output_of_the_writers_machine_leads_nowhere(stack: str, tmp_path: Path) -> None:
    there = tmp_path / "theirs"
    algo = training.ppo(stack, output=str(there), batch_mode="complete_episodes").build_algo()
    ckpt = rllib.save(algo, tmp_path / "store", step=0)
    algo.stop()
    before = sorted(there.rglob("*")) if there.exists() else []
    algo = rllib.from_checkpoint(ckpt)
    try:
        assert algo.config.output is None
        assert "machine that wrote it" in rllib.report(algo).dropped["config/output"]
        algo.train()
        assert (sorted(there.rglob("*")) if there.exists() else []) == before
    finally:
        algo.stop()
    for given in ({"trusted": True}, {"config": {"output": str(there)}}):
        algo = rllib.from_checkpoint(ckpt, **given)
        assert algo.config.output == str(there)
        assert "config/output" not in rllib.report(algo).dropped
        algo.stop()


def test_data_of_the_writers_machine_are_asked_for(tmp_path: Path) -> None:
    from ray.rllib.algorithms.marwil import MARWILConfig

    data = tmp_path / "data"
    recording = training.ppo("old", output=str(data), batch_mode="complete_episodes").build_algo()
    recording.train()
    recording.stop()
    config = MARWILConfig().environment("CartPole-v1").env_runners(num_env_runners=0)
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    config.offline_data(input_=str(data)).training(train_batch_size=64, model={"fcnet_hiddens": [8]})
    algo = config.build_algo()
    ckpt = rllib.save(algo, tmp_path / "store", step=0)
    truth = weights(algo, "old")
    algo.stop()
    moved = data.rename(tmp_path / "moved")
    with pytest.raises(InvalidRequest, match=r'input_.*Pass config=\{"input_": '):
        rllib.from_checkpoint(ckpt)
    for place in (str(moved), "sampler"):
        algo = rllib.from_checkpoint(ckpt, config={"input_": place})
        equal(truth, weights(algo, "old"))
        algo.stop()
    with pytest.raises(InvalidRequest, match="input_"):
        rllib.from_checkpoint(ckpt, config={"gamma": 0.5})
    with pytest.raises(InvalidRequest, match=r"input_.*No files found"):  # Ray's own words for it
        rllib.from_checkpoint(ckpt, trusted=True)


def heuristic() -> Any:
    from ray.rllib.policy.policy import Policy

    class AlwaysOne(Policy):  # type: ignore[misc]
        def compute_actions(self, obs_batch: Any, *args: Any, **more: Any) -> Any:
            return np.ones(len(obs_batch), int), [], {}

        def learn_on_batch(self, samples: Any) -> Any:
            return {}

        def get_weights(self) -> Any:
            return {}

        def set_weights(self, weights: Any) -> None:
            assert weights == {}

    return AlwaysOne


@pytest.mark.parametrize("whose", ["rays", "ones own"])
def test_a_heuristic_beside_ppo_of_the_old_stack(whose: str, tmp_path: Path) -> None:
    from ray.rllib.examples._old_api_stack.policy.random_policy import RandomPolicy
    from ray.rllib.policy.policy import PolicySpec

    kind = RandomPolicy if whose == "rays" else heuristic()
    config = training.ppo("old", observation_filter="NoFilter")
    config.environment(corpus.multi_cartpole(2), env_config={"num_agents": 2})
    policies = {"learned": PolicySpec(), "fixed": PolicySpec(policy_class=kind)}
    config.multi_agent(
        policies=policies,
        policy_mapping_fn=corpus.mapping(("learned", "fixed")),
        policies_to_train=["learned"],
    )
    algo = config.build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path / "store")
    truth = weights(algo, "old", "learned")
    algo.stop()
    more: dict[str, Any] = {"policy_mapping_fn": corpus.mapping(("learned", "fixed"))}
    more["config"] = {"env": corpus.multi_cartpole(2), "env_config": {"num_agents": 2}}
    if whose == "ones own":
        with pytest.raises(InvalidRequest, match=r"'fixed'.*AlwaysOne.*Pass config=\{\"policies\""):
            rllib.from_checkpoint(ckpt, **more)
        more["trusted"] = True
    again = rllib.from_checkpoint(ckpt, **more)
    try:
        assert type(again.get_policy("fixed")).__name__ == kind.__name__
        equal(truth, weights(again, "old", "learned"))
        again.train()
    finally:
        again.stop()
    if whose == "ones own":
        given = rllib.from_checkpoint(
            ckpt, config={**more["config"], "policies": policies}, policy_mapping_fn=more["policy_mapping_fn"]
        )
        assert type(given.get_policy("fixed")).__name__ == "AlwaysOne"
        given.stop()


def test_a_model_that_is_not_registered_is_a_typed_error_and_works_when_it_is(tmp_path: Path) -> None:
    from ray.rllib.models import ModelCatalog
    from ray.rllib.models.torch.fcnet import FullyConnectedNetwork
    from ray.tune.registry import RLLIB_MODEL, _global_registry

    class Net(FullyConnectedNetwork):  # type: ignore[misc]
        """A user's."""

    ModelCatalog.register_custom_model("users_net", Net)
    algo = (
        training.ppo("old").training(model={"custom_model": "users_net", "fcnet_hiddens": [8]}).build_algo()
    )
    ckpt = rllib.save(algo, tmp_path / "store", step=0)
    truth = weights(algo, "old")
    algo.stop()
    _global_registry.unregister(RLLIB_MODEL, "users_net")
    with pytest.raises(InvalidRequest, match=r"register_custom_model\('users_net'"):
        rllib.from_checkpoint(ckpt)
    ModelCatalog.register_custom_model("users_net", Net)
    again = rllib.from_checkpoint(ckpt)
    assert type(again.get_policy().model).__name__ == "Net"
    equal(truth, weights(again, "old"))
    again.stop()


def test_a_module_of_the_learner_alone_is_no_agents(tmp_path: Path) -> None:
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.rllib.examples.learners.classes import intrinsic_curiosity_learners as curious
    from ray.rllib.examples.rl_modules.classes.intrinsic_curiosity_model_rlm import IntrinsicCuriosityModel

    sizes = {"feature_dim": 8, "feature_net_hiddens": (8,), "feature_net_activation": "relu"}
    sizes |= {"inverse_net_hiddens": (8,), "inverse_net_activation": "relu"}
    sizes |= {"forward_net_hiddens": (8,), "forward_net_activation": "relu"}
    own = RLModuleSpec(module_class=IntrinsicCuriosityModel, learner_only=True, model_config=sizes)
    specs = {"default_policy": RLModuleSpec(), curious.ICM_MODULE_ID: own}
    config = training.ppo("new").rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
    config.training(
        learner_class=curious.PPOTorchLearnerWithCuriosity,
        learner_config_dict={"intrinsic_reward_coeff": 0.05, "forward_loss_weight": 0.2},
    )
    algo = config.build_algo()
    algo.train()
    ckpt = rllib.save(algo, tmp_path / "store")
    truth = {name: weights(algo, "new", name) for name in specs}
    algo.stop()
    assert ckpt.policy_ids == ("default_policy",)
    plain = training.ppo("new").build_algo()
    report = rllib.restore(plain, ckpt)
    assert f"components/rl_module.{curious.ICM_MODULE_ID}" in report.dropped
    equal(truth["default_policy"], weights(plain, "new"))
    plain.stop()
    again = rllib.from_checkpoint(ckpt, policy_ids=["default_policy"])
    try:
        assert not again.config.is_multi_agent
        assert type(training.learner_of(again)).__name__ == "PPOTorchLearnerWithCuriosity"
        for name, value in truth.items():
            equal(value, weights(again, "new", name))
        again.train()
    finally:
        again.stop()


def test_a_learner_of_ones_own_is_used_if_it_is_trusted_and_told_of_otherwise(tmp_path: Path) -> None:
    from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner

    class Patient(PPOTorchLearner):  # type: ignore[misc]
        """By value, as it is local."""

    def none(observation_space: Any, action_space: Any) -> Any:
        return []

    algo = training.ppo("new").training(learner_class=Patient, learner_connector=none).build_algo()
    ckpt = rllib.save(algo, tmp_path, step=0)
    algo.stop()
    algo = rllib.from_checkpoint(ckpt)
    dropped = rllib.report(algo).dropped
    assert type(training.learner_of(algo)) is PPOTorchLearner
    assert {"config/_learner_class", "config/_learner_connector"} <= dropped.keys()
    algo.stop()
    for given in ({"trusted": True}, {"config": {"learner_class": Patient, "learner_connector": none}}):
        algo = rllib.from_checkpoint(ckpt, **given)
        assert type(training.learner_of(algo)).__name__ == "Patient"
        assert algo.config._learner_connector is not None
        assert not [name for name in rllib.report(algo).dropped if "learner" in name]
        algo.train()
        algo.stop()
