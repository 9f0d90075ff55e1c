"""ONNX files of stored policies, run by onnxruntime, against what the live algorithms computed."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.app import root as cli
from ckptstore.errors import InvalidRequest, UnreadableFormat
from ckptstore.export import onnx as onnxfile
from ckptstore.rllib_formats.networks import find_network, new_stack_module
from ckptstore.rllib_formats.networks.forward import Numbers, network
from ckptstore.rllib_formats.networks.normal import find_filter, normal_of
from tests.export.truth import DATA, UNKNOWN, Truth, difference, run_onnx, truths

GRAPH: Any = onnxfile._Graph

TRUTHS = list(truths(DATA))


def gaussian() -> Checkpoint:
    return Checkpoint.open(DATA / "old_stack/ppo_gaussian/checkpoint")


def test_the_golden_checkpoints_have_networks_of_every_kind() -> None:
    names = " ".join(truth.name for truth in TRUTHS)
    for kind in (
        "lstm",
        "sac",
        "dqn",
        "conv",
        "filter",
        "gaussian",
        "tf1",
        "modules",
        "msgpack",
        "ray_2.0.1",
    ):
        assert kind in names
    assert sum(truth.logits is not None for truth in TRUTHS) > 20


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.name)
def test_the_file_computes_what_the_live_policy_did(truth: Truth, tmp_path: Path) -> None:
    if any(name in truth.name for name in UNKNOWN):
        with pytest.raises(UnreadableFormat):
            difference(truth, "onnx", run_onnx, tmp_path)
        assert not list(tmp_path.iterdir())
        return
    found = difference(truth, "onnx", run_onnx, tmp_path)
    assert found is None or found < 1e-5


def test_states_of_an_lstm_go_round(tmp_path: Path) -> None:
    Checkpoint.open(DATA / "old_stack/ppo_lstm/checkpoint").export(tmp_path / "lstm.onnx")
    obs = np.ones((3, 4), "f4")
    inputs = {item.name: item for item in onnx.load(tmp_path / "lstm.onnx").graph.input}
    cells = inputs["state_in_h"].type.tensor_type.shape.dim[1].dim_value
    first = run_onnx(
        tmp_path / "lstm.onnx",
        {"obs": obs, **{f"state_in_{part}": np.zeros((3, cells), "f4") for part in "hc"}},
    )
    states = {f"state_in_{part}": first[f"state_out_{part}"] for part in "hc"}
    second = run_onnx(tmp_path / "lstm.onnx", {"obs": obs, **states})
    assert np.abs(second["action_dist_inputs"] - first["action_dist_inputs"]).max() > 1e-4


def test_it_says_where_it_is_from(tmp_path: Path) -> None:
    checkpoint = gaussian()
    checkpoint.export(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    told = {item.key: item.value for item in model.metadata_props}
    assert told["checkpoint_id"] == checkpoint.id
    assert told["policy"] == "default_policy"
    assert told["action_distribution"] == "DiagGaussian"
    assert json.loads(told["action_space"])["space"] == "box"
    assert model.producer_name == "ckptstore"
    assert [item.version for item in model.opset_import] == [onnxfile.OPSET]
    assert {item.name for item in model.graph.initializer} >= {"pi.net.mlp.0.weight", "pi.net.mlp.0.bias"}
    checkpoint.export(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("case", ["dqn_plain", "dqn_conv", "ppo_lstm", "ppo_free_log_std"])
@pytest.mark.parametrize("opset", onnxfile.OPSETS)
def test_every_opset(case: str, opset: int) -> None:
    policy = Checkpoint.open(DATA / "old_stack" / case / "checkpoint").rllib().policy("default_policy")
    data, off = onnxfile.dumps(find_network(policy), {"policy": "p"}, "here", opset=opset)
    assert off < 1e-5
    assert onnx.load_from_string(data).opset_import[0].version == opset


def test_an_unknown_opset() -> None:
    policy = gaussian().rllib().policy("default_policy")
    for opset in (True, 1, 12, 99):
        with pytest.raises(InvalidRequest, match="13 to 21"):
            onnxfile.dumps(find_network(policy), {"policy": "p"}, "here", opset=opset)


@pytest.mark.parametrize("step", ["active", "affine", "lstm", "combine_dueling", "convolve", "normal"])
def test_a_file_that_computes_otherwise_is_not_written(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {"lstm": "ppo_lstm", "combine_dueling": "dqn_conv", "convolve": "ppo_conv"}
    root = (
        DATA / "v1_1/ray_2.10.0_filter"
        if step == "normal"
        else DATA / "old_stack" / cases.get(step, "ppo_shared")
    )
    right: Any = getattr(GRAPH, step)

    def wrong(self: Any, x: str, *rest: Any) -> Any:
        if step == "lstm":
            h, _ = right(self, x, *rest)
            return h, h
        if step == "combine_dueling":
            return x
        return right(self, self.add("Neg", [x]), *rest)

    monkeypatch.setattr(GRAPH, step, wrong)
    with pytest.raises(UnreadableFormat, match="doesn't compute what the weights do"):
        Checkpoint.open(root / "checkpoint").export(tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_frozen_batch_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def frozen(self: Any, name: str, shape: tuple[int, ...]) -> Any:
        return onnx.helper.make_tensor_value_info(name, 1, [1, *shape])

    monkeypatch.setattr(GRAPH, "describe_value", frozen)
    with pytest.raises(UnreadableFormat, match="batch of 7"):
        gaussian().export(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"config": {"model": {"custom_model": "mine"}}}, "custom_model='mine'"),
        ({"policy_class": "my.Policy"}, "my.Policy"),
        ({"observation_space": {"space": "dict", "spaces": {}}}, "dict"),
        ({"weights": {}}, "no weights"),
    ],
)
def test_what_is_not_rllibs_own_is_named(
    change: dict[str, Any], match: str, monkeypatch: Any, tmp_path: Path
) -> None:
    checkpoint = gaussian()
    policy = {**checkpoint.rllib().policy("default_policy"), **change}
    monkeypatch.setattr(type(checkpoint.rllib()), "policy", lambda *_: policy)
    with pytest.raises(UnreadableFormat, match=match) as caught:
        checkpoint.export(tmp_path / "x.onnx")
    assert "npz" in caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers(value: float, monkeypatch: Any, tmp_path: Path) -> None:
    checkpoint = gaussian()
    policy = checkpoint.rllib().policy("default_policy")
    policy["weights"]["_logits._model.0.bias"][:] = value
    monkeypatch.setattr(type(checkpoint.rllib()), "policy", lambda *_: policy)
    with pytest.raises(UnreadableFormat, match="finite"):
        checkpoint.export(tmp_path / "x.onnx")


def test_a_filter_that_is_elsewhere(monkeypatch: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(DATA / "v1_1/ray_2.10.0_filter/checkpoint")
    state = checkpoint.rllib().state()
    contents = type(checkpoint.rllib())
    monkeypatch.setattr(contents, "state", lambda *_, **__: {**state, "filters": {}})
    policy = checkpoint.rllib().policy("default_policy")
    checkpoint.export(tmp_path / "connected.onnx")
    (tmp_path / "connected.onnx").unlink()
    monkeypatch.setattr(contents, "policy", lambda *_, **__: {**policy, "connectors": {}})
    with pytest.raises(UnreadableFormat, match="only the algorithm's checkpoint holds"):
        checkpoint.export(tmp_path / "x.onnx")
    odd = {"default_policy": {"filter": "MyFilter"}}
    monkeypatch.setattr(contents, "state", lambda *_, **__: {**state, "filters": odd})
    with pytest.raises(UnreadableFormat, match="MyFilter"):
        checkpoint.export(tmp_path / "x.onnx")
    monkeypatch.undo()
    connectors: dict[str, Any] = {"env_to_module_connector/MeanStdFilter": {}}
    modules = Checkpoint.open(DATA / "v2_0/ray_2.40.0_ppo/checkpoint")
    state = modules.rllib().state()
    monkeypatch.setattr(contents, "state", lambda *_, **__: {**state, "connectors": connectors})
    with pytest.raises(UnreadableFormat, match="MeanStdFilter"):
        modules.export(tmp_path / "x.onnx")


def test_a_policys_own_connector_has_the_same_filter() -> None:
    source = Checkpoint.open(DATA / "v1_1/ray_2.10.0_filter/checkpoint").rllib()
    normal = normal_of(source.state()["filters"]["default_policy"], "here")
    own = normal_of(find_filter(source.policy("default_policy")), "here")
    assert normal is not None
    assert own is not None
    assert normal.mean.std() > 0
    np.testing.assert_array_equal(own.mean, normal.mean)
    np.testing.assert_array_equal(own.deviation, normal.deviation)
    for connectors in (
        None,
        {},
        {"agent": 3},
        {"agent": ("Pipeline", None)},
        {"agent": ("Pipeline", [3, ("a",)])},
    ):
        assert find_filter({"connectors": connectors}) is None


def test_what_is_not_rllibs_at_all(tmp_path: Path) -> None:
    weights = {"w": np.zeros((2, 2), "f4")}
    made = CheckpointStore(tmp_path / "store").save(1, {}, {"pol": {"weights": weights}})
    with pytest.raises(UnreadableFormat) as caught:
        made.export(tmp_path / "x.onnx")
    assert "npz" in caught.value.remedy


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InvalidRequest, match=r"ckptstore\[onnx\]"):
        gaussian().export(tmp_path / "x.onnx")


def test_the_command_tells_the_difference(tmp_path: Path) -> None:
    place = str(DATA / "old_stack/ppo_gaussian/checkpoint")
    done = CliRunner().invoke(cli, ["export", place, str(tmp_path / "x.onnx"), "--json"])
    assert done.exit_code == 0, done.output
    assert 0 < json.loads(done.stdout)["difference"] < 1e-5
    again = CliRunner().invoke(cli, ["export", place, str(tmp_path / "y.bin"), "--format", "onnx"])
    assert "of the weights in a trial" in again.output
    onnx.load(tmp_path / "y.bin")


def module(**weights: Any) -> dict[str, Any]:
    """SAC of the new stack, with other weights."""
    [truth] = [truth for truth in TRUTHS if "ray_2.44.1_sac" in truth.name]
    policy = Checkpoint.open(truth.root).rllib().policy(truth.policy_id)
    return {**policy, "weights": {**policy["weights"], **weights}}


def test_a_weight_of_no_known_layer() -> None:
    find_network(module())
    with pytest.raises(UnreadableFormat, match=r"pi\.gate"):
        find_network(module(**{"pi.gate": np.ones(1, "f4")}))
    find_network(module(**{"target_qf.net.mlp.0.gate": np.ones(1, "f4")}))


def test_modules_of_the_new_stack_bound_the_logarithm_of_deviations(tmp_path: Path) -> None:
    bias = np.zeros_like(module()["weights"]["pi.net.mlp.2.bias"])
    bias[len(bias) // 2 :] = 50
    acting = find_network(module(**{"pi.net.mlp.2.bias": bias}))
    data, _ = onnxfile.dumps(acting, {"policy": "p"}, "here")
    (tmp_path / "x.onnx").write_bytes(data)
    obs = np.zeros((4, *acting.inputs["obs"]), "f4")
    found = run_onnx(tmp_path / "x.onnx", {"obs": obs})["action_dist_inputs"]
    assert (found[:, len(bias) // 2 :] == 20).all()
    assert np.abs(found[:, : len(bias) // 2]).max() < 5


def test_a_filter_of_numbers_known() -> None:
    stats = {"num_pushes": 3, "mean_array": np.array([1.0, 2.0]), "sum_sq_diff_array": np.array([8.0, 0.0])}
    stored = {"filter": "MeanStdFilter", "demean": True, "destd": True, "clip": 10.0, "running_stats": stats}
    normal = normal_of(stored, "here")
    assert normal is not None
    made = Numbers({}, "here").normal(np.array([[5.0, 2.0], [1.0, 3.0]]), normal)
    np.testing.assert_allclose(made, np.array([[4 / (2 + 1e-6), 0], [0, 10]]), rtol=1e-12)
    plain = normal_of({**stored, "demean": False, "destd": False, "clip": None}, "here")
    assert plain is not None
    assert Numbers({}, "here").normal(np.array([[5.0, 2.0]]), plain).tolist() == [[5.0, 2.0]]
    assert normal_of({"filter": "NoFilter"}, "here") is None


HOSTILE: list[tuple[str, tuple[str, ...], Any]] = [
    ("ppo_conv", ("config", "model", "conv_filters"), [[16, [10**9, 10**9], 1]] * 3),
    ("ppo_conv", ("config", "model", "conv_filters"), [[16, [5, 5], 0], [32, [5, 5], -1]]),
    ("ppo_conv", ("observation_space", "shape"), (10**5, 10**5, 3)),
    ("ppo_gaussian", ("observation_space", "shape"), (10**15,)),
    ("ppo_gaussian", ("observation_space", "shape"), (-4,)),
    ("ppo_gaussian", ("action_space", "shape"), (10**15,)),
    ("ppo_gaussian", ("config", "observation_filter"), np.zeros(3)),
    ("ppo_gaussian", ("weights", "_logits._model.0.bias"), np.array(["a"])),
    ("ppo_lstm", ("weights", "lstm.weight_hh_l0"), np.zeros((0, 0), "f4")),
]


@pytest.mark.parametrize(("case", "path", "value"), HOSTILE, ids=lambda item: str(item)[:40])
def test_nothing_of_a_hostile_size_or_kind_is_computed_with(
    case: str, path: tuple[str, ...], value: Any
) -> None:
    policy = Checkpoint.open(DATA / "old_stack" / case / "checkpoint").rllib().policy("default_policy")
    inner = policy = copy.deepcopy(policy)
    for key in path[:-1]:
        inner = inner[key]
    assert path[-1] in inner
    inner[path[-1]] = value
    with pytest.raises(UnreadableFormat):
        find_network(policy)


@pytest.mark.parametrize(
    "filter", [3, {"filter": np.zeros(3)}, {"filter": "MeanStdFilter"}, {}, {"filter": None}]
)
def test_a_filter_that_is_none(filter: Any) -> None:
    policy = gaussian().rllib().policy("default_policy")
    with pytest.raises(UnreadableFormat, match="filter"):
        find_network(policy, filter)


@pytest.mark.parametrize("stride", [1, 0, -1])
def test_kernels_that_only_the_config_of_a_module_claims(stride: int) -> None:
    policy = Checkpoint.open(DATA / "old_stack/ppo_conv/checkpoint").rllib().policy("default_policy")
    made = new_stack_module(policy)
    network(made, where="here")
    filters = [list(item) for item in made.model_config["conv_filters"]]
    filters[-1][2] = stride
    if stride == 1:
        filters[-1][1] = [10**5, 10**5]
    with pytest.raises(UnreadableFormat, match=r"has the shape|strides"):
        network(made._replace(model_config={**made.model_config, "conv_filters": filters}), where="here")
