"""What becomes of an old config. Needs no Ray: the target is any object with attributes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ckptstore import Checkpoint, Opaque
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.integrations.rllib import config as configs
from ckptstore.integrations.rllib import newstack
from ckptstore.integrations.rllib.report import RestoreReport

DATA = Path(__file__).parents[2] / "data"


def target(**attributes: Any) -> Any:
    return SimpleNamespace(**attributes)


def translate_errors(config: dict[str, Any], new_stack: bool = False, **known: Any) -> configs.Translation:
    return configs.translate(config, target(**known), new_stack)


def test_every_rename_leads_to_a_name_that_is_not_renamed_again() -> None:
    old = {item.old for item in configs.RENAMED}
    assert len(old) == len(configs.RENAMED)
    assert not old & {item.new for item in configs.RENAMED}
    assert not old & {item.name for item in configs.REMOVED}


def test_names_of_every_release_arrive_at_todays() -> None:
    for name in ("num_workers", "num_rollout_workers", "num_env_runners"):
        assert translate_errors({name: 3}, num_env_runners=0).values == {"num_env_runners": 3}
    found = translate_errors({"num_sgd_iter": 7}, num_epochs=1)
    assert found.renamed == ["num_sgd_iter -> num_epochs (2.38)"]


def test_an_old_name_without_a_value_does_not_hide_the_new_one() -> None:
    for nothing in (None, -1):
        assert translate_errors({"num_epochs": 5, "num_sgd_iter": nothing}, num_epochs=1).values == {
            "num_epochs": 5
        }


def test_what_says_something_and_is_gone_is_reported() -> None:
    assert translate_errors({"horizon": 200}).dropped == {
        "horizon": "gone in Ray 2.3: wrap the environment in gymnasium's TimeLimit"
    }
    assert translate_errors({"horizon": None, "soft_horizon": -1}).dropped == {}
    assert "no such attribute" in translate_errors({"my_setting": 1}).dropped["my_setting"]
    assert "code" in translate_errors({"lr": Opaque("mine.f", (1,))}, lr=0.1).dropped["lr"]
    assert (
        "config="
        in translate_errors({"evaluation_config": {"explore": False}, "evaluation_interval": 1}).dropped[
            "evaluation_config"
        ]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replay_buffer_config", {"type": "subprocess.Popen", "args": ["touch", "x"]}),
        ("replay_buffer_config", {"type": "ReplayBuffer", "underlying": {"type": "os.system"}}),
        ("replay_buffer_config", {"type": Opaque("subprocess.Popen"), "args": ["touch", "x"]}),
        ("exploration_config", {"type": "builtins.exec"}),
        ("input_", "os.system"),
        ("callbacks_class", "subprocess.Popen"),
        ("callbacks_class", Opaque("subprocess.Popen")),
    ],
)
def test_names_in_a_config_lead_nowhere_but_into_rllib(name: str, value: Any) -> None:
    known: dict[str, Any] = {name: type if name == "callbacks_class" else None}
    found = configs.translate({name: value}, target(**known), False)
    assert name not in found.values
    assert "code" in found.dropped[name]


def test_rllibs_own_classes_go_by_their_bare_names() -> None:
    module = "ray.rllib.utils.replay_buffers.multi_agent_prioritized_replay_buffer"
    for kind in (f"{module}.MultiAgentPrioritizedReplayBuffer", "MultiAgentPrioritizedReplayBuffer"):
        for value in (kind, Opaque(kind)):
            found = translate_errors({"replay_buffer_config": {"type": value}}, replay_buffer_config={})
            assert found.values == {"replay_buffer_config": {"type": "MultiAgentPrioritizedReplayBuffer"}}


@pytest.mark.parametrize("env", ["subprocess.Popen", "evil:Env-v0", "a.b.C"])
def test_environments_that_would_be_imported_are_known(env: str) -> None:
    assert configs.may_import(env)


@pytest.mark.parametrize("env", ["CartPole-v1", "ALE/Pong-v5", "my_registered_env", "Env-v1.5"])
def test_registered_environments_are_not(env: str) -> None:
    assert not configs.may_import(env)


def test_settings_of_single_policies() -> None:
    of_1_0 = {"policy_class": None, "observation_space": None, "action_space": None, "config": {"lr": 1e-3}}
    of_2_40 = [None, None, None, {"gamma": 0.5}]
    plain = [None, None, None, None]
    specs = {"a": of_1_0, "b": of_2_40, "c": plain, "d": {**of_1_0, "config": {}}}
    now = target(lr=1e-2, gamma=0.9)
    for stored in ({"policies": specs}, {"multiagent": {"policies": specs}}):
        found, dropped = configs.translate_single_policies(stored, ["a", "b", "c", "d"], now, False)
        assert {name: item.values for name, item in found.items()} == {"a": {"lr": 1e-3}, "b": {"gamma": 0.5}}
        assert dropped == {}
        assert configs.translate_single_policies(stored, ["c"], now, False) == ({}, {})
        found, dropped = configs.translate_single_policies(stored, ["a", "c"], now, True)
        assert found == {}
        assert list(dropped) == ["policies/a/config"]
        assert "(lr)" in dropped["policies/a/config"]
    assert configs.translate_single_policies({"policies": {"a", "b"}}, ["a"], now, False) == ({}, {})


def test_settings_of_single_policies_lead_nowhere_either() -> None:
    own = {
        "exploration_config": {"type": "builtins.exec"},
        "lr": 1e-3,
        "nonsense": 1,
        "callbacks": Opaque("os.system"),
    }
    specs = {"a": {"config": own}, "b": {"config": Opaque("my.Config")}}
    now = target(lr=1e-2, exploration_config={}, callbacks_class=type)
    found, dropped = configs.translate_single_policies({"policies": specs}, ["a", "b"], now, False)
    assert found["a"].values == {"lr": 1e-3}
    assert sorted(dropped) == [
        "policies/a/config/callbacks_class",
        "policies/a/config/exploration_config",
        "policies/a/config/nonsense",
        "policies/b/config",
    ]


@pytest.mark.parametrize("case", ["v0_1/ray_2.0.1_ppo_filter", "v1_1/ray_2.10.0_filter"])
def test_a_filter_has_no_place_on_the_new_stack_whatever_release_wrote_it(case: str) -> None:
    source = Checkpoint.open(DATA / case / "checkpoint").rllib()
    policies = {name: source.policy(name) for name in source.policy_ids}
    told = RestoreReport("here", source.ray_version, "new", True)
    with pytest.raises(UnreadableFormat, match="MeanStdFilter"):
        newstack.convert(source.state(), policies, told)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output", "/home/them/run"),
        ("output", "s3://theirs/run"),
        ("input_", "/home/them/data"),
        ("input_", ["/home/them/a.json", "/home/them/b.json"]),
        ("input_", {"/home/them/a.json": 0.5, "sampler": 0.5}),
        ("input_", "dataset"),
    ],
)
def test_places_of_the_writers_machine_are_left_out(name: str, value: Any) -> None:
    found = configs.translate({name: value}, target(**{name: None}), False)
    assert name not in found.values
    assert "machine that wrote it" in found.dropped[name]
    assert configs.translate({name: value}, target(**{name: None}), False, places=True).values == {
        name: value
    }


@pytest.mark.parametrize(("name", "value"), [("output", None), ("output", "logdir"), ("input_", "sampler")])
def test_what_names_no_place_is_carried(name: str, value: Any) -> None:
    found = configs.translate({name: value}, target(**{name: 0}), False)
    assert (found.values, found.dropped) == ({name: value}, {})


def test_settings_of_ray_1_that_todays_validation_refuses() -> None:
    buffer = {"type": "MultiAgentReplayBuffer", "capacity": 5, "replay_batch_size": 16, "learning_starts": 10}
    config = {"replay_buffer_config": buffer, "replay_batch_size": -1, "input_evaluation": ["is"]}
    known: dict[str, Any] = dict.fromkeys(config)
    found = configs.translate(config, target(**known, num_steps_sampled_before_learning_starts=0), False)
    assert found.values == {
        "replay_buffer_config": {"type": "MultiAgentReplayBuffer", "capacity": 5},
        "num_steps_sampled_before_learning_starts": 10,
    }
    assert "off_policy" in found.dropped["input_evaluation"]


def test_a_caller_may_use_rllibs_words_and_those_of_earlier_releases() -> None:
    own = target(_env_to_module_connector=None, num_env_runners=0, lr=0.1)
    for name, attribute in (
        ("lr", "lr"),
        ("env_to_module_connector", "_env_to_module_connector"),
        ("num_workers", "num_env_runners"),
        ("policies", "policies"),
    ):
        assert configs.find_attribute(own, name) == attribute
    for name in ("gama", "num_sgd_iter", "__class__"):
        with pytest.raises(InvalidRequest, match=name):
            configs.find_attribute(own, name)
