"""The model: the same fields with the same meaning, whichever release wrote them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import UnsafeContent
from ckptstore.rllib_formats import model
from tests.rllib_formats.corpus import cases, open_directory, roots
from tests.rllib_formats.trees import DATA, load, open_files

STATE = {
    "algorithm_class",
    "iteration",
    "counters",
    "config",
    "policy_ids",
    "policy_mapping_fn",
    "policies_to_train",
    "filters",
    "replay_buffers",
    "connectors",
    "metrics",
    "env_runner",
    "last_result",
    "extra",
}
POLICY = {
    "policy_class",
    "weights",
    "optimizer",
    "global_timestep",
    "num_grad_updates",
    "exploration",
    "kl_coeff",
    "observation_space",
    "action_space",
    "config",
    "connectors",
    "extra",
}
ALGORITHMS = [case for case in cases(DATA) if len(roots(case)) == 1]


@pytest.mark.parametrize("case", ALGORITHMS, ids=lambda case: case.name)
def test_every_era_fills_the_same_fields(case: Any) -> None:
    foreign = open_directory(roots(case)[0])
    state = foreign.state()
    assert state.keys() == STATE
    assert state is foreign.state()
    for policy_id in foreign.policy_ids:
        policy = foreign.policy(policy_id)
        assert policy.keys() == POLICY
        assert isinstance(policy["observation_space"], dict)
        assert isinstance(policy["action_space"], dict)
        box = policy["observation_space"]
        assert isinstance(box["low"], np.ndarray)
        assert (box["low"].shape, box["low"].dtype.name) == (box["shape"], box["dtype"])
        assert policy["action_space"]["space"] in {"discrete", "box"}
        assert policy["config"]
        assert all(type(array) is np.ndarray for array in policy["weights"].values())
        for optimizer in policy["optimizer"].values():
            assert optimizer.keys() in ({"state", "param_groups"},) or all(
                isinstance(array, (np.ndarray, np.generic)) for array in optimizer.values()
            )
    if foreign.kind == "Algorithm":
        assert state["config"]
        assert state["policy_ids"] == list(foreign.policy_ids)
        lr = state["config"].get("lr")
        assert isinstance(lr, float) or any(name in case.name for name in ("sac", "tqc"))
        assert state["algorithm_class"] is None or state["algorithm_class"].startswith("ray.")


def test_what_old_stacks_kept_comes_through() -> None:
    buffer = open_files(load("v1_1/ray_2.4.0_dqn_buffer")).state()["replay_buffers"]["replay_buffers"][
        "default_policy"
    ]
    columns = buffer["_storage"][0]["sample_batch"]
    assert {"obs", "actions", "rewards", "terminateds"} <= columns.keys()
    assert columns["obs"].shape == (1, 4)
    older = open_files(load("v0_1/ray_2.0.1_dqn_buffer")).state()["replay_buffers"]["replay_buffers"][
        "default_policy"
    ]
    assert "terminateds" in older["_storage"][0]["sample_batch"]

    for case in ("v0_1/ray_2.0.1_ppo_filter", "v1_1/ray_2.10.0_filter"):
        foreign = open_files(load(case))
        (mean,) = foreign.state()["filters"].values()
        assert mean["filter"] == "MeanStdFilter"
        assert foreign.policy("default_policy")["kl_coeff"] > 0

    state = open_files(load("rllib_1_0_ppo_multi5")).state()
    assert state["iteration"] == 2
    assert state["policies_to_train"] == ["pol0", "pol1", "pol2"]
    assert isinstance(state["policy_mapping_fn"], Opaque)


def test_the_class_that_tune_pickled_by_value_has_its_name() -> None:
    assert (
        open_files(load("v1_0/ray_2.1.0_tune")).state()["algorithm_class"]
        == "ray.rllib.algorithms.ppo.ppo.PPO"
    )


def test_connectors_and_counters_of_the_new_stack() -> None:
    foreign = open_files(load("v2_0/ray_2.40.0_ppo"))
    state = foreign.state()
    assert any(path.startswith("env_to_module_connector/") for path in state["connectors"])
    assert state["counters"]["num_env_steps_sampled_lifetime"] == 400
    assert state["iteration"] == 2
    assert foreign.policy("default_policy")["policy_class"].startswith("ray.rllib.")


def test_counters_of_the_new_stack_before_it_had_a_tree() -> None:
    counters = open_files(load("v1_2/ray_2.20.0_no_policies")).state()["counters"]
    assert counters["num_env_steps_sampled_lifetime"] == 360
    assert counters["num_agent_steps_sampled_lifetime/default_agent"] == 360


def test_weights_are_arrays_or_an_error() -> None:
    nested = {"a": {"b": np.ones(2)}, "c": [np.zeros(1), np.float32(3)]}
    flat = model.weights(nested, "file")
    assert list(flat) == ["a/b", "c/0", "c/1"]
    assert flat["c/1"].shape == ()
    assert model.weights(None, "file") == {}
    for wrong in ("x", {"a": None}, {"a": Opaque("x", ())}, {"a": np.array([None])}, 3):
        with pytest.raises(UnsafeContent, match="file"):
            model.weights(wrong, "file")


def test_spaces_of_both_spellings_are_one() -> None:
    inner = {"space": "discrete", "n": 2}
    assert model.space({"space": inner}) == inner
    assert model.space({"space": inner, "original_space": {"space": inner}}) == {
        **inner,
        "original_space": inner,
    }
    assert model.space({"space": "tuple", "spaces": [{"space": inner}]}) == {
        "space": "tuple",
        "spaces": [inner],
    }
    assert model.space({"space": "dict", "spaces": {"a": inner}})["spaces"] == {"a": inner}
    assert model.space(None) is None
    with pytest.raises(UnsafeContent):
        model.space({"space": "box", "low": "nonsense"})
