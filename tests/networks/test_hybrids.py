"""Policies of the old stack that wrap a module: their network is the module's, whatever ``model`` says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint
from ckptstore.cli.app import root
from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.networks import find_network, new_stack_module
from tests.export.truth import run_onnx

DATA = Path(__file__).parents[1] / "data/v1_2"
RELU = DATA / "ray_2.12.0_hybrid_relu"
CONV = DATA / "ray_2.34.0_hybrid_conv"


def policy_of(case: Path) -> dict[str, Any]:
    return dict(Checkpoint.open(case / "checkpoint").policies["default_policy"])


def by_hand(weights: dict[str, Any], obs: Any, active: Any) -> Any:
    """The logits of two hidden layers."""
    for layer in ("encoder.actor_encoder.net.mlp.0", "encoder.actor_encoder.net.mlp.2"):
        obs = active(obs @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    return obs @ weights["pi.net.mlp.0.weight"].T + weights["pi.net.mlp.0.bias"]


def test_the_file_has_the_activation_of_the_module(tmp_path: Path) -> None:
    ckpt = Checkpoint.open(RELU / "checkpoint")
    assert ckpt.policies["default_policy"]["config"]["model"]["fcnet_activation"] == "tanh"
    done = ckpt.export(tmp_path / "policy.onnx")
    obs = np.random.default_rng(0).normal(size=(1000, 4)).astype("f4")
    found = run_onnx(tmp_path / "policy.onnx", {"obs": obs})["action_dist_inputs"]
    weights = dict(ckpt.weights())
    assert np.abs(found - by_hand(weights, obs, lambda x: np.maximum(x, 0))).max() < 1e-5
    assert np.abs(found - by_hand(weights, obs, np.tanh)).max() > 0.1
    assert not [line for line in done.unproven if "settings" in line]
    assert any("RLlib" in line for line in done.unproven)
    # What the live algorithm answered, to an observation of the largest numbers there are.
    truth = json.loads((RELU / "expected.json").read_text())["probe_unbounded"]
    live = run_onnx(tmp_path / "policy.onnx", {"obs": np.array([truth["obs"]], "f4")})["action_dist_inputs"]
    np.testing.assert_allclose(live[0], truth["logits"], rtol=1e-5)


def test_convolutions_have_the_strides_of_the_module(tmp_path: Path) -> None:
    ckpt = Checkpoint.open(CONV / "checkpoint")
    assert ckpt.policies["default_policy"]["config"]["model"]["conv_filters"] is None
    ckpt.export(tmp_path / "policy.onnx")
    truth = json.loads((CONV / "expected.json").read_text())
    found = run_onnx(tmp_path / "policy.onnx", {"obs": np.array([truth["probe_obs"]], "f4")})
    expected = truth["probe_logits"]["default_policy"]
    np.testing.assert_allclose(found["action_dist_inputs"][0], expected, rtol=1e-5)


@pytest.mark.parametrize("case", [RELU, CONV], ids=lambda case: case.name)
def test_what_is_migrated_builds_the_same_network(case: Path, tmp_path: Path) -> None:
    made = Checkpoint.open(case / "checkpoint").migrate(tmp_path / "new", to="2.1").checkpoint
    assert made is not None
    again, before = made.policies["default_policy"], policy_of(case)
    for key, value in before["extra"]["module_spec"]["config"].items():
        if key in ("fcnet_hiddens", "fcnet_activation", "conv_filters", "vf_share_layers"):
            assert again["config"][key] == value, key


def test_the_modules_own_record_comes_first_then_what_the_config_says_of_modules() -> None:
    policy = policy_of(RELU)
    record = {"class": policy["extra"]["module_spec"]["class"]}
    sizes = {"fcnet_hiddens": [12, 6]}
    given = {
        "record": {**sizes, "fcnet_activation": "elu"},
        "_model_config_dict": {**sizes, "fcnet_activation": "relu"},
        "model": {**sizes, "fcnet_activation": "tanh"},
    }
    for first, activation in (("record", "elu"), ("_model_config_dict", "relu"), ("model", "tanh")):
        config = {name: value for name, value in given.items() if name != "record"}
        extra = {"module_spec": {**record, "config": given["record"]}} if "record" in given else {}
        module = new_stack_module({**policy, "config": config, "extra": extra})
        assert module.model_config["fcnet_activation"] == activation
        assert bool(module.unproven) == (first != "record")
        del given[first]


@pytest.mark.parametrize("key", ["_model_config_dict", "_model_config"])
def test_a_config_of_the_algorithm_overrides_the_old_model_key_by_key(key: str) -> None:
    policy = policy_of(RELU)
    config = {
        "model": {"fcnet_hiddens": [12, 6], "fcnet_activation": "tanh"},
        key: {"fcnet_activation": "relu"},
    }
    assert (
        new_stack_module({**policy, "config": config, "extra": {}}).model_config["fcnet_activation"] == "relu"
    )


WRONG = {
    "another width": (RELU, {"fcnet_hiddens": [12, 8]}),
    "another number": (RELU, {"fcnet_hiddens": [12]}),
    "none at all": (RELU, {"fcnet_hiddens": None}),
    "of the old stack": (RELU, {"fcnet_hiddens": [256, 256]}),
    "other filters": (CONV, {"conv_filters": [[4, [4, 4], 2], [16, [4, 4], 2]]}),
    "one filter less": (CONV, {"conv_filters": [[4, [4, 4], 2]]}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_config_of_another_network_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    case, change = WRONG[name]

    def lie(model: dict[str, Any]) -> dict[str, Any]:
        """Change the record."""
        changed = copy.deepcopy(model)
        changed["policies"]["default_policy"]["extra"]["module_spec"]["config"] |= change
        return changed

    ckpt = Checkpoint.open(case / "checkpoint")
    with pytest.raises(UnreadableFormat, match="its config describes layers of"):
        ckpt.migrate(tmp_path / "new", to="2.1", steps=[lie])
    assert not (tmp_path / "new").exists()
    with pytest.raises(UnreadableFormat, match="its config describes layers of"):
        find_network(lie({"policies": {"default_policy": policy_of(case)}})["policies"]["default_policy"])


def test_modules_of_the_new_stack_are_compared_with_their_config_too() -> None:
    policy = dict(Checkpoint.open(DATA.parent / "v2_0/ray_2.40.0_ppo/checkpoint").policies["default_policy"])
    with pytest.raises(UnreadableFormat, match="its config describes layers of"):
        new_stack_module({**policy, "config": {**policy["config"], "fcnet_hiddens": [7]}})


def test_the_command_says_what_is_not_proven(tmp_path: Path) -> None:
    done = CliRunner().invoke(root, ["export", str(RELU / "checkpoint"), str(tmp_path / "policy.onnx")])
    assert "not proven: that RLlib computes the same" in done.stdout
    command = ["export", str(RELU / "checkpoint"), str(tmp_path / "again.onnx"), "--json"]
    assert len(json.loads(CliRunner().invoke(root, command).stdout)["unproven"]) == 1
