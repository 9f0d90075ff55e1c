"""Weights of eager TensorFlow, a list in the order of Keras. Ray's own are among the golden ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.networks import new_stack_module

BOX = {"space": "box", "low": np.zeros(3), "high": np.ones(3), "shape": (3,), "dtype": "float32"}
KERAS = {  # model.get_weights() of such models, by Keras
    (1, True): ["fc_1", "fc_out", "value_out"],
    (3, True): ["fc_1", "fc_2", "fc_3", "fc_out", "value_out"],
    (1, False): ["fc_1", "fc_value_1", "fc_out", "value_out"],
    (3, False): ["fc_1", "fc_value_1", "fc_2", "fc_value_2", "fc_3", "fc_value_3", "fc_out", "value_out"],
}


def policy(layers: list[str], shared: bool) -> dict[str, Any]:
    draw = np.random.default_rng(1)
    weights: list[Any] = []
    for layer in layers:
        inputs = 3 if layer.endswith("_1") else 8
        outputs = {"fc_out": 2, "value_out": 1}.get(layer, 8)
        weights += [draw.normal(size=(inputs, outputs)).astype("f4"), draw.normal(size=outputs).astype("f4")]
    model = {"vf_share_layers": shared, "fcnet_hiddens": [8], "fcnet_activation": "tanh"}
    return {
        "policy_class": "PPOTF2Policy",
        "weights": {str(index): value for index, value in enumerate(weights)},
        "observation_space": BOX,
        "action_space": {"space": "discrete", "n": 2},
        "config": {"model": model},
        "optimizer": {},
    }


@pytest.mark.parametrize(("hidden", "shared"), KERAS)
def test_each_finds_its_layer(hidden: int, shared: bool) -> None:
    layers = KERAS[hidden, shared]
    stored = policy(layers, shared)
    module = new_stack_module(stored)
    trunk = "encoder.encoder" if shared else "encoder.actor_encoder"
    places = {f"fc_{number + 1}": f"{trunk}.net.mlp.{2 * number}" for number in range(hidden)}
    places |= {
        f"fc_value_{number + 1}": f"encoder.critic_encoder.net.mlp.{2 * number}" for number in range(hidden)
    }
    places |= {"fc_out": "pi.net.mlp.0", "value_out": "vf.net.mlp.0"}
    for index, layer in enumerate(layers):
        np.testing.assert_array_equal(
            module.weights[f"{places[layer]}.weight"], stored["weights"][str(2 * index)].T
        )
        np.testing.assert_array_equal(
            module.weights[f"{places[layer]}.bias"], stored["weights"][str(2 * index + 1)]
        )


@pytest.mark.parametrize("kind", ["odd", "bias first", "convolution", "class", "shared", "apart", "empty"])
def test_what_is_not_such_a_list(kind: str) -> None:
    stored = policy(KERAS[3, True], True)
    weights = stored["weights"]
    if kind == "odd":
        weights["10"] = np.zeros(2, "f4")
    elif kind == "bias first":
        weights["0"], weights["1"] = weights["1"], weights["0"]
    elif kind == "convolution":
        weights["0"] = np.zeros((3, 3, 3, 8), "f4")
    elif kind == "class":
        stored["policy_class"] = "SACTF2Policy"
    elif kind == "apart":
        stored["config"]["model"]["vf_share_layers"] = False
    elif kind == "shared":
        stored = policy(KERAS[3, False], False)
        stored["config"]["model"]["vf_share_layers"] = True
    else:
        stored = policy(KERAS[1, True][1:], True)
    with pytest.raises(UnreadableFormat):
        new_stack_module(stored)


def q_policy(**settings: Any) -> dict[str, Any]:
    """DQN with two streams of one hidden layer, as eager TensorFlow lists it."""
    layers = ["fc_1", "fc_2", "value_out", "hidden_0", "fc_out", "hidden_0", "value_out"]
    stored = policy(layers, True)
    stored["config"] |= {"dueling": True, "hiddens": [8], "noisy": False, "num_atoms": 1, **settings}
    stored["config"]["model"]["fcnet_hiddens"] = [8, 8]
    return {**stored, "policy_class": "ray.rllib.policy.eager_tf_policy.DQNTFPolicy_eager"}


def test_streams_find_their_layers() -> None:
    stored = q_policy()
    weights = new_stack_module(stored).weights
    assert (
        new_stack_module({**stored, "policy_class": "DQNTFPolicy_eager_traced"}).weights.keys()
        == weights.keys()
    )
    for index, layer in {
        0: "encoder.net.mlp.0",
        6: "af.net.mlp.0",
        8: "af.net.mlp.2",
        12: "vf.net.mlp.2",
    }.items():
        np.testing.assert_array_equal(weights[f"{layer}.weight"], stored["weights"][str(index)].T)


@pytest.mark.parametrize(
    "changed", [{"hiddens": []}, {"hiddens": [8, 8]}, {"noisy": True}, {"dueling": False}, {"model": {}}]
)
def test_streams_that_nothing_tells_apart(changed: dict[str, Any]) -> None:
    stored = q_policy()
    if "model" in changed:  # two branches: their layers are listed in an order that isn't known
        stored["config"]["model"]["vf_share_layers"] = False
    else:
        stored["config"] |= changed
    with pytest.raises(UnreadableFormat, match="without names"):
        new_stack_module(stored)


def test_a_list_of_sac() -> None:
    layers = ["fc_1", "fc_out", "value_out", *["fc_1", "value_out", "value_out"] * 2]
    stored = policy(layers, True)
    stored["weights"]["1"] = np.arange(8, dtype="f4")
    count = len(stored["weights"])
    stored["weights"][str(count)] = np.array(0.0, "f4")
    small = {"fcnet_hiddens": [8]}
    stored["config"] = {"policy_model_config": small, "q_model_config": small, "twin_q": True}
    stored |= {"action_space": {"space": "box", "shape": (1,), "dtype": "float32"}}
    stored["policy_class"] = "SACTFPolicy_eager"
    module = new_stack_module(stored)
    np.testing.assert_array_equal(module.weights["pi_encoder.net.mlp.0.bias"], np.arange(8))
    assert module.model_config["fcnet_activation"] == "tanh"  # RLlib's default: the config has what was set
    stored["config"]["policy_model_config"] = {**small, "vf_share_layers": False}
    with pytest.raises(UnreadableFormat):
        new_stack_module(stored)
