"""`migrate` to 2.1: the tree that RLlib's new API stack restores, read back here without Ray.

With Ray itself: ``tests/compat/test_ray_new_stack.py``.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint
from ckptstore.cli.app import root as command_line
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.errors import InvalidRequest
from ckptstore.rllib_formats.networks import new_stack_module
from ckptstore.rllib_formats.write import constructors as constructing
from ckptstore.rllib_formats.write.constructors import Call, Named
from tests.rllib_formats.corpus import cases, roots

DATA = Path(__file__).parents[1] / "data"
GOLDEN = [root for case in cases(DATA) for root in roots(case)]
MULTI = DATA / "v0_1/ray_1.13.0_multi/checkpoint"
MODULES = "learner_group/learner/rl_module"


@pytest.mark.parametrize("root", GOLDEN, ids=lambda root: root.relative_to(DATA).as_posix())
def test_it_reads_back(root: Path, tmp_path: Path) -> None:
    before = Checkpoint.open(root)
    done = before.migrate(tmp_path / "store", to="2.1")
    assert done.checkpoint is not None
    after = Checkpoint.open(done.checkpoint.url)
    assert (after.version, after.policy_ids) == ("2.1", before.policy_ids)
    assert after.verify().ok
    for policy_id in before.policy_ids:
        module = new_stack_module(before.policies[policy_id])
        weights = after.weights(policy_id)
        assert list(weights) == list(module.weights)
        for name, value in module.weights.items():
            np.testing.assert_array_equal(weights[name], value)
        policy = after.policies[policy_id]
        assert policy["policy_class"] == module.class_name
        assert policy["config"]["fcnet_hiddens"] == module.model_config["fcnet_hiddens"]
        assert (
            policy["observation_space"]["shape"] == before.policies[policy_id]["observation_space"]["shape"]
        )
        if after.kind == "Algorithm":
            assert policy["optimizer"].keys() == module.optimizer.keys()
    if before.kind == "Algorithm":
        assert after.state["iteration"] == before.state["iteration"]


def test_what_has_no_place_is_set_aside(tmp_path: Path) -> None:
    done = Checkpoint.open(MULTI).migrate(tmp_path / "store", to="2.1")
    assert done.checkpoint is not None
    with open(tmp_path / "store" / done.checkpoint.name / "algorithm_state.pkl", "rb") as file:
        aside = pickle.load(file)["ckptstore"]["aside"]
    assert aside.keys() >= {"config", "policies/cat/config"}
    report = done.policies["cat"]
    assert any(line.startswith("weights/_logits") for line in report.renamed)
    assert "config" in (*report.opaque, *(line.partition(" ")[0] for line in report.renamed))
    fields = {*report.carried, *report.opaque}
    fields |= {line.partition(" -> ")[0].partition("/")[0] for line in report.renamed}
    fields |= {line.partition(":")[0].partition("/")[0] for line in report.dropped}
    fields = {field.partition(" ")[0].partition("/")[0] for field in fields}
    present = {
        name for name, value in Checkpoint.open(MULTI).policies["cat"].items() if value not in (None, {})
    }
    assert present <= fields


def test_a_filter_is_not_forgotten_silently(tmp_path: Path) -> None:
    done = Checkpoint.open(DATA / "v1_1/ray_2.10.0_filter/checkpoint").migrate(tmp_path / "store", to="2.1")
    assert any(note.startswith("filters:") for note in done.notes)
    plain = Checkpoint.open(DATA / "v1_1/ray_2.50.1_msgpack_multi/checkpoint")
    assert not any(
        note.startswith("filters:")
        for note in plain.migrate(tmp_path / "other", to="2.1", dry_run=True).notes
    )


def test_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["migrate", str(MULTI), str(tmp_path / "store"), "--to", "2.1", "--json"]
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["to"] == "2.1"
    heuristic = str(DATA / "heuristic/checkpoint")
    refused = CliRunner().invoke(command_line, ["migrate", heuristic, str(tmp_path / "none"), "--to", "2.1"])
    assert refused.exit_code == 6


@pytest.mark.parametrize("policy_id", ["metadata.json", "class_and_ctor_args.pkl", "../up", "a/b", ""])
def test_ids_that_are_no_directories_of_their_own(policy_id: str, tmp_path: Path) -> None:
    def rename(model: dict[str, Any]) -> dict[str, Any]:
        return {**model, "policies": {policy_id: model["policies"]["cat"]}}

    with pytest.raises(InvalidRequest):
        Checkpoint.open(MULTI).migrate(tmp_path / "store", to="2.1", steps=[rename])
    assert [path.name for path in tmp_path.iterdir()] == []


VALUES: list[Any] = [
    None, True, False, 0, -1, 255, 2**70, -(2**70), 0.5, float("inf"), "é", "", b"x", bytearray(b"y"), (),
    (1, "a"), [], [[1], {}], {"a": {"b": (1.5, None)}}, np.float32(0.5), np.int64(3), np.True_,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_as_python_unpickles_them(value: Any) -> None:
    assert pickle.loads(constructing.dumps(value)) == value
    assert safe.loads(constructing.dumps(value)) == value


def test_arrays_and_calls() -> None:
    array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    found = pickle.loads(constructing.dumps({"a": array}))["a"]
    assert found.flags.writeable
    np.testing.assert_array_equal(found, array)
    call = Call(Named("fractions", "Fraction"), (1, 3))
    assert str(pickle.loads(constructing.dumps(call))) == "1/3"
    assert pickle.loads(constructing.dumps(Named.parse("collections.OrderedDict"))).__name__ == "OrderedDict"


def test_what_no_constructor_takes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="model_config/custom"):
        constructing.dumps({"model_config": {"custom": Opaque("x.Y", ())}})
    with pytest.raises(InvalidRequest, match="graph"):
        constructing.space({"space": "graph"}, "policies/a/observation_space")


def test_no_line_is_read(tmp_path: Path) -> None:
    """RLlib unpickles from files of pyarrow, which have no `readline`."""
    done = Checkpoint.open(MULTI).migrate(tmp_path / "store", to="2.1").checkpoint
    assert done is not None
    for path in (tmp_path / "store" / done.name).rglob("*.pkl"):
        text = path.read_bytes()
        assert b"\nnumpy\n" not in text
        if path.name == "class_and_ctor_args.pkl":
            assert text.startswith(b"\x80\x05")
            names = [op.name for op, _, _ in __import__("pickletools").genops(text)]
            assert "STACK_GLOBAL" in names
            assert "GLOBAL" not in names
