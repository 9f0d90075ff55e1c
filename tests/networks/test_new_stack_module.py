"""Networks of the old API stack as modules of the new one: what they compute, what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointError, UnreadableFormat
from ckptstore.rllib_formats.networks import Module, new_stack_module
from ckptstore.rllib_formats.write import constructors as constructing
from tests.networks.forward import outputs
from tests.rllib_formats.corpus import cases, probe, roots

DATA = Path(__file__).parents[1] / "data"


def probed() -> list[tuple[str, Path, str, list[float], list[float]]]:
    """Every policy whose logits the live algorithm left beside it: name, directory, id, input, output."""
    found = []
    for case in cases(DATA):
        expected = json.loads((case / "expected.json").read_text())
        for root in roots(case):
            for policy_id in expected["policy_ids"]:
                # The truth of DQN on the new stack is an action, SAC had no fitting input.
                if (probed := probe(expected, policy_id)) and "2.60.0_dqn" not in case.name:
                    found.append((f"{case.name}/{root.name}/{policy_id}", root, policy_id, *probed))
    return found


PROBED = probed()


@pytest.mark.parametrize(
    ("root", "policy_id", "obs", "truth"), [item[1:] for item in PROBED], ids=[item[0] for item in PROBED]
)
def test_logits_are_those_of_the_live_algorithm(
    root: Path, policy_id: str, obs: list[float], truth: list[float]
) -> None:
    policy = Checkpoint.open(root).policies[policy_id]
    module = new_stack_module(policy)
    assert np.abs(outputs(module, np.array([obs]))[0][0] - truth).max() < 1e-5


RNG = np.random.default_rng(7)


def dense(out: int, inputs: int, name: str) -> dict[str, Any]:
    return {
        f"{name}.weight": RNG.normal(size=(out, inputs)).astype("f4"),
        f"{name}.bias": RNG.normal(size=out).astype("f4"),
    }


def ppo(shared: bool = False, **model: Any) -> dict[str, Any]:
    """A PPO policy on 4 numbers, with 2 actions and hidden layers of 8 and 6."""
    weights = dense(2, 6, "_logits._model.0")
    weights |= dense(8, 4, "_hidden_layers.0._model.0") | dense(6, 8, "_hidden_layers.1._model.0")
    if not shared:
        weights |= dense(8, 4, "_value_branch_separate.0._model.0")
        weights |= dense(6, 8, "_value_branch_separate.1._model.0")
    weights |= dense(1, 6, "_value_branch._model.0")
    moments = {
        index: {"step": 3.0, "exp_avg": value + 1, "exp_avg_sq": value**2}
        for index, value in enumerate(weights.values())
    }
    group = {"lr": 1e-3, "params": list(range(len(weights)))}
    settings = {
        "fcnet_hiddens": [8, 6],
        "fcnet_activation": "tanh",
        "vf_share_layers": shared,
        **model,
    }
    return {
        "policy_class": "PPOTorchPolicy",
        "weights": weights,
        "optimizer": {"0": {"state": moments, "param_groups": [group]}},
        "observation_space": {"space": "box", "shape": (4,), "dtype": "float32", "low": -1.0, "high": 1.0},
        "action_space": {"space": "discrete", "n": 2, "start": 0},
        "config": {"model": settings},
    }


def reference(policy: dict[str, Any], obs: Any) -> tuple[Any, Any]:
    """What `ppo` computes, spelled out layer by layer."""
    w = policy["weights"]

    def run(x: Any, *names: str) -> Any:
        for name in names:
            x = np.tanh(x @ w[f"{name}._model.0.weight"].T + w[f"{name}._model.0.bias"])
        return x

    def head(x: Any, name: str) -> Any:
        return x @ w[f"{name}._model.0.weight"].T + w[f"{name}._model.0.bias"]

    trunk = run(obs, "_hidden_layers.0", "_hidden_layers.1")
    separate = "_value_branch_separate.0._model.0.weight" in w
    other = run(obs, "_value_branch_separate.0", "_value_branch_separate.1") if separate else trunk
    return head(trunk, "_logits"), head(other, "_value_branch")[..., 0]


@pytest.mark.parametrize("shared", [False, True])
def test_policy_and_value_on_random_observations(shared: bool) -> None:
    policy = ppo(shared)
    obs = RNG.normal(size=(100, 4))
    for got, expected in zip(outputs(new_stack_module(policy), obs), reference(policy, obs), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_the_optimizer_follows_its_parameters(shared: bool) -> None:
    policy = ppo(shared)
    module = new_stack_module(policy)
    names = [name for name in module.weights if "const" not in name]
    state = module.optimizer["default_optimizer"]
    assert state["param_groups"] == [{"lr": 1e-3, "params": list(range(len(names)))}]
    for index, name in enumerate(names):
        np.testing.assert_array_equal(state["state"][index]["exp_avg"], module.weights[name] + 1)
        np.testing.assert_array_equal(state["state"][index]["exp_avg_sq"], module.weights[name] ** 2)
        assert state["state"][index]["step"] == 3.0
    # One that isn't over exactly these parameters is left out, not guessed at.
    policy["optimizer"]["0"]["param_groups"][0]["params"].pop()
    assert new_stack_module(policy).optimizer == {}


def test_free_log_std() -> None:
    policy = ppo(free_log_std=True)
    policy["action_space"] = {"space": "box", "shape": (2,), "dtype": "float32", "low": -1.0, "high": 1.0}
    std = np.array([0.5, -0.25], "f4")
    policy["weights"] = {"_append_free_log_std.log_std": std, **policy["weights"]}
    module = new_stack_module(policy)
    got = outputs(module, np.zeros((3, 4)))[0]
    assert got.shape == (3, 4)
    np.testing.assert_array_equal(got[:, 2:], np.broadcast_to(std, (3, 2)))
    assert module.model_config["free_log_std"] is True


def test_images() -> None:
    """Convolutions go where the module has them, and one pixel's convolution becomes a dense head."""
    weights = {}
    for index, (out, inputs, size, at) in enumerate([(4, 3, 5, 1), (6, 4, 5, 0)]):
        weights[f"_convs.{index}._model.{at}.weight"] = RNG.normal(size=(out, inputs, size, size))
        weights[f"_convs.{index}._model.{at}.bias"] = RNG.normal(size=out)
    weights |= {
        "_logits._model.0.weight": RNG.normal(size=(2, 6, 1, 1)),
        "_logits._model.0.bias": np.zeros(2),
    }
    weights |= dense(1, 6, "_value_branch._model.0")
    policy = ppo(True, conv_filters=[[4, [5, 5], 2], [6, [5, 5], 2]], conv_activation="relu")
    policy |= {"weights": weights, "optimizer": {}}
    policy["observation_space"] = {"space": "box", "shape": (10, 10, 3), "dtype": "float32"}
    module = new_stack_module(policy)
    assert module.model_config["conv_filters"] == [[4, [5, 5], 2, "same"], [6, [5, 5], 2, "valid"]]
    base = "encoder.encoder.net.0.cnn"
    np.testing.assert_array_equal(module.weights[f"{base}.1.weight"], weights["_convs.0._model.1.weight"])
    np.testing.assert_array_equal(module.weights[f"{base}.3.weight"], weights["_convs.1._model.0.weight"])
    assert module.weights["pi.net.mlp.0.weight"].shape == (2, 6)
    shallow = copy.deepcopy(policy)
    shallow["config"]["model"]["conv_filters"] = [[4, [5, 5], 2], [7, [5, 5], 2]]
    with pytest.raises(UnreadableFormat, match=r"_convs\.1 has the shape"):
        new_stack_module(shallow)


def _without(policy: dict[str, Any], name: str) -> None:
    del policy["weights"][name]


def _heads_alone(policy: dict[str, Any]) -> dict[str, Any]:
    """The weights of a policy that was built with ``fcnet_hiddens=[]``, by their names."""
    hidden = ("_hidden_layers", "_value_branch_separate")
    return {name: value for name, value in policy["weights"].items() if not any(h in name for h in hidden)}


REFUSED: dict[str, tuple[Any, str]] = {
    "class": (lambda p: p.update(policy_class="DDPGTorchPolicy"), "DDPGTorchPolicy"),
    "own class": (lambda p: p.update(policy_class="my.PPOTorchPolicyX"), "my.PPOTorchPolicyX"),
    "own class of RLlib's name": (lambda p: p.update(policy_class="my.PPOTorchPolicy"), "my.PPOTorchPolicy"),
    "own model": (lambda p: p["config"]["model"].update(custom_model="mine"), "custom_model='mine'"),
    "attention": (lambda p: p["config"]["model"].update(use_attention=True), "use_attention"),
    "distribution": (lambda p: p["config"]["model"].update(custom_action_dist="mine"), "custom_action_dist"),
    "activation": (lambda p: p["config"]["model"].update(fcnet_activation="gelu"), "'gelu'"),
    "previous action": (
        lambda p: p["config"]["model"].update(use_lstm=True, lstm_use_prev_action=True),
        "lstm_use_prev_action",
    ),
    "one weight more": (lambda p: p["weights"].update({"_extra.weight": np.ones(1)}), "_extra.weight"),
    "one weight less": (lambda p: _without(p, "_logits._model.0.bias"), "_logits._model.0.bias"),
    "a layer less": (lambda p: _without(p, "_hidden_layers.1._model.0.weight"), "layers of other sizes"),
    "another shape": (
        lambda p: p["weights"].update({"_hidden_layers.1._model.0.weight": np.ones((6, 7), "f4")}),
        "has the shape",
    ),
    "more actions": (lambda p: p["action_space"].update(n=3), "doesn't give 3 numbers"),
    "tuple actions": (lambda p: p.update(action_space={"space": "tuple", "spaces": []}), "tuple"),
    "no space": (lambda p: p.update(observation_space=None), "space that isn't in the checkpoint"),
    "table": (lambda p: p["observation_space"].update(shape=(2, 2)), r"\(2, 2\)"),
    "no hidden layers": (lambda p: p.update(weights=_heads_alone(p)), "it has no hidden layers"),
    "no hidden layers under streams": (
        lambda p: p.update(**{**dqn(), "weights": _heads_alone(dqn())}),
        "it has no hidden layers",
    ),
    "no hidden layers in a SAC": (
        lambda p: p.update(**{**sac(True), "weights": _heads_alone(sac(True))}),
        "it has no hidden layers",
    ),
    "no hidden layers under an LSTM": (
        lambda p: p.update(
            weights=_heads_alone(p), config={"model": {**p["config"]["model"], "use_lstm": True}}
        ),
        "it has no hidden layers",
    ),
    "sharing": (lambda p: p["config"]["model"].update(vf_share_layers=True), "vf_share_layers"),
    "no config": (lambda p: p.update(config={}), "config doesn't describe the network"),
    "no weights": (lambda p: p.update(weights={}), "PPOTorchPolicy and has no weights"),
    "its own random class": (
        lambda p: p.update(weights={}, policy_class="my.RandomPolicy"),
        "my.RandomPolicy",
    ),
    "parts without log_std": (
        lambda p: p.update(
            action_space={"space": "tuple", "spaces": [{"space": "discrete", "n": 2}]},
            config={"model": {**p["config"]["model"], "free_log_std": True}},
        ),
        "aren't one box",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_by_name(name: str) -> None:
    policy = ppo()
    change, said = REFUSED[name]
    change(policy)
    with pytest.raises(UnreadableFormat, match=said) as caught:
        new_stack_module(policy, "policies/mine")
    assert caught.value.what == "policies/mine"


def dqn(dueling: bool = True, **settings: Any) -> dict[str, Any]:
    policy = ppo(True)
    policy["policy_class"] = "DQNTorchPolicy"
    policy["config"] |= {"dueling": dueling, "hiddens": [5], "num_atoms": 1, "noisy": False, **settings}
    weights = {name: value for name, value in policy["weights"].items() if not name.startswith("_logits")}
    weights |= dense(5, 6, "advantage_module.dueling_A_0._model.0") | dense(
        2, 5, "advantage_module.A._model.0"
    )
    if dueling:
        weights |= dense(5, 6, "value_module.dueling_V_0._model.0") | dense(1, 5, "value_module.V._model.0")
    return {**policy, "weights": weights, "optimizer": {}}


@pytest.mark.parametrize("dueling", [False, True])
def test_dqn(dueling: bool) -> None:
    policy = dqn(dueling)
    module = new_stack_module(policy)
    w, obs = policy["weights"], RNG.normal(size=(100, 4))
    trunk = obs
    for index in range(2):
        trunk = np.tanh(
            trunk @ w[f"_hidden_layers.{index}._model.0.weight"].T
            + w[f"_hidden_layers.{index}._model.0.bias"]
        )

    def stream(name: str, letter: str) -> Any:
        first, last = f"{name}.dueling_{letter}_0._model.0", f"{name}.{letter}._model.0"
        inner = np.maximum(trunk @ w[f"{first}.weight"].T + w[f"{first}.bias"], 0)
        return inner @ w[f"{last}.weight"].T + w[f"{last}.bias"]

    expected = stream("advantage_module", "A")
    if dueling:
        expected = expected - expected.mean(axis=1, keepdims=True) + stream("value_module", "V")
    np.testing.assert_allclose(outputs(module, obs)[0], expected, atol=1e-5)
    for name, value in module.weights.items():
        if name.startswith("_target_"):
            np.testing.assert_array_equal(value, module.weights[name.removeprefix("_target_")])
    assert any("_value_branch" in line for line in module.dropped)
    assert ("_target_vf.net.mlp.0.weight" in module.weights) == dueling


@pytest.mark.parametrize("settings", [{"dueling": True}, {"hiddens": [5]}])
def test_a_trunk_that_gives_q_values_under_streams(settings: dict[str, Any]) -> None:
    policy = Checkpoint.open(DATA / "old_stack/simple_q/checkpoint").policies["default_policy"]
    new_stack_module(policy)
    with pytest.raises(UnreadableFormat, match="describes streams"):
        new_stack_module({**policy, "config": {**policy["config"], **settings}})


@pytest.mark.parametrize(("name", "value"), [("noisy", True), ("num_atoms", 51)])
def test_kinds_of_dqn_that_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UnreadableFormat, match=name):
        new_stack_module(dqn(**{name: value}))


def sac(discrete: bool) -> dict[str, Any]:
    policy = ppo()
    outs = 2 if discrete else 4
    weights: dict[str, Any] = {"log_alpha": np.zeros(1), "target_entropy": np.zeros(1)}
    for net, inputs, out in (
        ("action_model", 4, outs),
        ("q_net", 4 if discrete else 6, 2 if discrete else 1),
    ):
        weights |= dense(out, 8, f"{net}._logits._model.0") | dense(
            8, inputs, f"{net}._hidden_layers.0._model.0"
        )
        weights |= dense(1, 8, f"{net}._value_branch._model.0")
    if not discrete:
        policy["action_space"] = {"space": "box", "shape": (2,), "dtype": "float32"}
    model = {"fcnet_hiddens": [8], "fcnet_activation": "relu"}
    policy["config"] = {"policy_model_config": model, "q_model_config": dict(model)}
    return {**policy, "policy_class": "SACTorchPolicy", "weights": weights, "optimizer": {}}


@pytest.mark.parametrize("discrete", [False, True])
def test_sac(discrete: bool) -> None:
    policy = sac(discrete)
    module = new_stack_module(policy)
    w, obs = policy["weights"], RNG.normal(size=(100, 4))
    first, last = "action_model._hidden_layers.0._model.0", "action_model._logits._model.0"
    inner = np.maximum(obs @ w[f"{first}.weight"].T + w[f"{first}.bias"], 0)
    expected = inner @ w[f"{last}.weight"].T + w[f"{last}.bias"]
    np.testing.assert_allclose(outputs(module, obs)[0], expected, atol=1e-5)
    assert module.inference_only is not discrete
    assert ("target_qf_encoder.net.mlp.0.weight" in module.weights) == discrete
    assert any("q_net._logits" in line for line in module.dropped) is not discrete


def module_of(folder: str, **settings: Any) -> dict[str, Any]:
    """A module that Ray 2.60 wrote, with other settings beside it."""
    policy = Checkpoint.open(DATA / f"modules/{folder}/checkpoint").policies["default_policy"]
    return {**policy, "weights": dict(policy["weights"]), "config": {**policy["config"], **settings}}


@pytest.mark.parametrize("key", ["fcnet_use_layernorm", "head_fcnet_use_layernorm"])
@pytest.mark.parametrize("folder", ["bc", "appo", "dqn_atoms", "cql", "tqc"])
def test_a_setting_that_the_writing_release_did_not_know(key: str, folder: str) -> None:
    """Earlier releases took any key; today's module would have layers that nothing was stored of."""
    module = new_stack_module(module_of(folder, **{key: True}))
    assert module.model_config[key] is False
    assert list(module.weights) == list(new_stack_module(module_of(folder)).weights)


def test_norms_have_to_be_where_today_has_them() -> None:
    """Today's are after each layer, the encoder's last one included."""
    policy = module_of("bc", fcnet_use_layernorm=True)
    base = "_encoder.net.mlp"
    moved = {"2": "3"}
    weights = {}
    for name, value in policy["weights"].items():
        number = name.removeprefix(f"{base}.").partition(".")[0] if name.startswith(base) else ""
        weights[
            name.replace(f"{base}.{number}.", f"{base}.{moved.get(number, number)}.") if number else name
        ] = value
    for part in ("weight", "bias"):
        weights[f"{base}.1.{part}"] = np.ones(12, "f4")
    some = {**policy, "weights": dict(weights)}
    with pytest.raises(UnreadableFormat, match="LayerNorms"):
        new_stack_module(some)
    for part in ("weight", "bias"):
        weights[f"{base}.4.{part}"] = np.ones(8, "f4")
    whole = {**policy, "weights": weights}
    assert new_stack_module(whole).model_config["fcnet_use_layernorm"] is True
    with pytest.raises(UnreadableFormat, match="LayerNorms"):
        new_stack_module({**whole, "config": {**policy["config"], "fcnet_use_layernorm": False}})


UNLIKE: dict[str, Any] = {
    "other sizes": lambda p: p["weights"].update(
        dense(5, 4, "q_net._hidden_layers.0._model.0") | dense(2, 5, "q_net._logits._model.0")
    ),
    "a layer more": lambda p: p["weights"].update(dense(8, 8, "q_net._hidden_layers.1._model.0")),
    "a layer less": lambda p: p.update(
        weights={k: v for k, v in p["weights"].items() if "q_net._hid" not in k}
    ),
    "another activation": lambda p: p["config"]["q_model_config"].update(fcnet_activation="tanh"),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_a_sac_whose_q_networks_are_unlike_its_policy(kind: str) -> None:
    """Today one config is for both; what acts doesn't need the Q networks."""
    policy = sac(True)
    known = outputs(new_stack_module(policy), obs := RNG.normal(size=(10, 4)))[0]
    UNLIKE[kind](policy)
    module = new_stack_module(policy)
    np.testing.assert_array_equal(outputs(module, obs)[0], known)
    assert module.inference_only
    assert {name.partition(".")[0] for name in module.weights} == {"pi_encoder", "pi"}
    assert any("q_net._logits" in line and "layers" in line for line in module.dropped)


@pytest.mark.parametrize("head", ["pi", "_old_pi", "_pi_head"])
def test_the_constant_of_a_head_is_where_todays_module_has_it(head: str) -> None:
    """A head's own parameter comes before its constant, and both before its layers."""
    folder = "bc_free_log_std" if head == "_pi_head" else "appo"
    policy = Checkpoint.open(DATA / f"modules/{folder}/checkpoint").policies["default_policy"]
    weights = dict(policy["weights"])
    if folder == "appo":
        for name in list(weights):
            if name in ("pi.log_std_clip_param_const", "_old_pi.log_std_clip_param_const"):
                weights[name.replace("clip_param_const", "")[:-1]] = np.zeros(1, "f4")
            weights[name] = weights.pop(name)
    today = list(weights)
    assert today.index(f"{head}.log_std") + 1 == today.index(f"{head}.log_std_clip_param_const")
    earlier = {name: value for name, value in weights.items() if not name.endswith("_const")}
    assert list(new_stack_module({**policy, "weights": earlier}).weights) == today


def test_modules_are_carried_with_todays_names() -> None:
    policy = Checkpoint.open(DATA / "v1_2/ray_2.5.1_learner/checkpoint").policies["default_policy"]
    module = new_stack_module(policy)
    assert isinstance(module, Module)
    assert module.class_name.endswith(".DefaultPPOTorchRLModule")
    for name, value in policy["weights"].items():
        np.testing.assert_array_equal(module.weights[name], value)
    added = module.weights.keys() - policy["weights"].keys()
    assert added == {"pi.log_std_clip_param_const", "vf.log_std_clip_param_const"}
    assert list(policy["optimizer"]) == ["default_policy"]
    assert list(module.optimizer) == ["default_optimizer"]
    for name in ("mine.MyModuleRLModule", "mine.DefaultPPOTorchRLModule", "ray_like.PPOTorchRLModule"):
        with pytest.raises(UnreadableFormat, match=name):
            new_stack_module({**policy, "policy_class": name, "config": {}})


def test_a_distribution_under_streams_was_another_function() -> None:
    """Up to Ray 2.40 its logits were centred over actions: today's module would act otherwise."""
    old = "ray.rllib.algorithms.dqn.torch.dqn_rainbow_torch_rl_module.DQNRainbowTorchRLModule"
    for case, refused in (("dqn_atoms_dueling", True), ("dqn_atoms", False)):
        policy = Checkpoint.open(DATA / "modules" / case / "checkpoint").policies["default_policy"]
        new_stack_module(policy)
        if refused:
            with pytest.raises(UnreadableFormat, match="up to Ray 2"):
                new_stack_module({**policy, "policy_class": old})
        else:
            new_stack_module({**policy, "policy_class": old})


def test_former_names_of_targets() -> None:
    """APPO's, up to Ray 2.33."""
    policy = Checkpoint.open(DATA / "v1_2/ray_2.12.0_hybrid_appo/checkpoint").policies["default_policy"]
    old = [name for name in policy["weights"] if name.startswith("old_")]
    module = new_stack_module(policy)
    assert module.class_name.endswith(".DefaultAPPOTorchRLModule")
    assert len(old) > 4
    for name in old:
        np.testing.assert_array_equal(module.weights[f"_{name}"], policy["weights"][name])
        assert f"weights/{name} -> weights/_{name}" in module.renamed
    assert not [name for name in module.weights if name.startswith("old_")]
    # Its optimizer had them among its parameters, and moments for none of them that was trained.
    trained = [name for name in module.weights if not name.startswith("_old_") and "const" not in name]
    stored, moved = policy["optimizer"]["default_optimizer"], module.optimizer["default_optimizer"]
    assert len(stored["param_groups"][0]["params"]) == len(policy["weights"]) > len(trained)
    assert moved["param_groups"][0]["params"] == list(range(len(trained)))
    for number, name in enumerate(trained):
        assert np.shape(moved["state"][number]["exp_avg"]) == module.weights[name].shape
    del policy["weights"][old[0]]
    with pytest.raises(UnreadableFormat, match="target networks aren't whole"):
        new_stack_module(policy)


def test_steps_under_their_former_name(tmp_path: Path) -> None:
    ckpt = Checkpoint.open(DATA / "v0_1/ray_1.13.0_impala/checkpoint")
    made = ckpt.migrate(tmp_path / "new", to="2.1").checkpoint
    assert made is not None
    assert (
        made.state["counters"]["num_env_steps_sampled_lifetime"]
        == ckpt.state["counters"]["num_steps_sampled"]
    )


def test_an_optimizer_of_another_size_is_dropped_aloud() -> None:
    """RLlib would fail over it, and not go on."""
    policy = Checkpoint.open(DATA / "v2_0/ray_2.40.0_ppo/checkpoint").policies["default_policy"]
    assert new_stack_module(policy).optimizer
    policy["optimizer"]["default_optimizer"]["param_groups"][0]["params"].pop()
    module = new_stack_module(policy)
    assert module.optimizer == {}
    assert module.dropped == ("optimizer/default_optimizer: it isn't over the weights of this module",)


def test_what_exploration_puts_beside_the_network_is_dropped_aloud() -> None:
    policy = Checkpoint.open(DATA / "v1_1/ray_2.39.0_curiosity/checkpoint").policies["default_policy"]
    module = new_stack_module(policy)
    assert any(line.startswith("weights/_curiosity_feature_net.") for line in module.dropped)
    assert module.optimizer["default_optimizer"]["state"].keys() == set(range(12))
    policy["config"]["exploration_config"] = {"type": "StochasticSampling"}
    with pytest.raises(UnreadableFormat, match="_curiosity_feature_net"):
        new_stack_module(policy)


@pytest.mark.parametrize(
    ("case", "algorithm", "module"),
    [
        ("v0_1/ray_1.13.0_impala", "impala.impala.IMPALA", "DefaultPPOTorchRLModule"),
        ("v1_0/ray_2.2.0_marwil_tf", "marwil.marwil.MARWIL", "DefaultPPOTorchRLModule"),
        ("v1_2/ray_2.12.0_hybrid_appo", "appo.appo.APPO", "DefaultAPPOTorchRLModule"),
        ("v2_1/ray_2.54.0_tqc", "tqc.tqc.TQC", "DefaultTQCTorchRLModule"),
        ("v1_1/ray_2.39.0_mixed", "ppo.ppo.PPO", "DefaultPPOTorchRLModule"),
    ],
)
def test_the_algorithm_that_goes_on(case: str, algorithm: str, module: str, tmp_path: Path) -> None:
    made = Checkpoint.open(DATA / case / "checkpoint").migrate(tmp_path / "new", to="2.1").checkpoint
    assert made is not None
    assert made.state["algorithm_class"] == f"ray.rllib.algorithms.{algorithm}"
    assert any(str(policy["policy_class"]).endswith(f".{module}") for policy in made.policies.values())


def test_who_draws_actions_stays_one_that_does(tmp_path: Path) -> None:
    source = Checkpoint.open(DATA / "v1_1/ray_2.39.0_mixed/checkpoint")
    made = source.migrate(tmp_path / "new", to="2.1").checkpoint
    assert made is not None
    assert str(made.policies["rnd"]["policy_class"]).endswith(".RandomRLModule")
    assert made.policies["rnd"]["action_space"]["n"] == source.policies["rnd"]["action_space"]["n"]
    with pytest.raises(UnreadableFormat, match="acts at random"):
        source.export(tmp_path / "rnd.onnx", "rnd")


JUNK: list[Any] = [
    None, True, -1, 2**70, float("nan"), "x", b"", [], [[1, 2, 3]], {}, {"a": 1}, (4, 4), np.zeros(0),
    np.zeros((2, 2)), np.array("x"), Opaque("a.B", ()), [[4, [5, 5], 0]], set(),
]  # fmt: skip


@pytest.mark.parametrize(
    "make", [ppo, dqn, lambda: sac(True), lambda: sac(False)], ids=["ppo", "dqn", "sac", "box"]
)
@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_values_of_any_type_end_in_a_typed_error(make: Any, junk: Any) -> None:
    """One value after the other of a policy becomes something else; nothing but a refusal may come of it."""

    def places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield path
        if isinstance(value, dict):
            for key, item in value.items():
                yield from places(item, (*path, key))

    for *outer, last in [path for path in places(make(), ()) if path]:
        policy = inner = make()
        for key in outer:
            inner = inner[key]
        inner[last] = junk
        try:
            module = new_stack_module(policy)
            constructing.space(module.observation_space, "observation_space")
            constructing.space(module.action_space, "action_space")
            constructing.dumps(module.model_config)
        except CheckpointError:
            continue


def test_the_first_q_networks_of_the_new_stack_are_dropped_aloud() -> None:
    policy = Checkpoint.open(DATA / "v2_1/ray_2.44.1_sac/checkpoint").policies["default_policy"]
    module = new_stack_module(policy)
    assert module.inference_only
    assert {name.partition(".")[0] for name in module.weights} == {"pi_encoder", "pi"}
    assert any(line.startswith("weights/qf_encoder.net.mlp.0.weight: ") for line in module.dropped)
    assert list(module.optimizer) == ["policy"]
