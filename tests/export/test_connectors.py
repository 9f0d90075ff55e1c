"""Connectors of the new stack before an exported network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.codec import npy
from ckptstore.codec.pickles.budget import DEFAULT, Meter
from ckptstore.errors import UnreadableFormat
from ckptstore.export.formats import network_of
from tests.export.truth import DATA, run_onnx

CASES = ["v2_0/ray_2.34.0_filter", "v2_1/ray_2.54.0_filter"]
PATH = "env_to_module_connector/MeanStdFilter"


@pytest.mark.parametrize("name", CASES)
def test_a_filter_of_the_new_stack_is_the_first_step(name: str, tmp_path: Path) -> None:
    ckpt = Checkpoint.open(DATA / name / "checkpoint")
    done = ckpt.export(tmp_path / "policy.onnx")
    assert len(done.unproven) == 1
    [stats] = ckpt.state["connectors"][PATH][None]["running_stats"]
    mean = npy.npy_base64(stats["mean_array"], Meter(DEFAULT, 0))
    squares = npy.npy_base64(stats.get("sum_sq_diff_array", stats.get("std_array")), Meter(DEFAULT, 0))
    obs = np.random.default_rng(0).uniform(-1, 1, (100, 3)).astype("f4")
    x = np.clip((obs - mean) / (np.sqrt(squares / (stats["num_pushes"] - 1)) + 1e-6), -10, 10)
    weights = dict(ckpt.weights())
    hidden = sorted(
        key for key in weights if key.startswith("encoder.") and "critic" not in key and "weight" in key
    )
    for key in hidden:
        x = np.tanh(x @ weights[key].T + weights[key.replace("weight", "bias")])
    truth = x @ weights["pi.net.mlp.0.weight"].T + weights["pi.net.mlp.0.bias"]
    found = run_onnx(tmp_path / "policy.onnx", {"obs": obs})["action_dist_inputs"]
    assert np.abs(found[:, : truth.shape[1]] - truth).max() < 1e-5


def _replace_state(contents: Any, state: dict[str, Any]) -> None:
    contents.state = lambda: state


class Changed:
    """A checkpoint whose state says something else."""

    def __init__(self, name: str, change: Any) -> None:
        self._ckpt = Checkpoint.open(DATA / name / "checkpoint")
        self.name = self._ckpt.name
        self._contents: Any = self._ckpt.rllib()
        state = copy.deepcopy(dict(self._contents.state()))
        change(state)
        _replace_state(self._contents, state)

    def rllib(self) -> Any:
        return self._contents


def another_before_it(state: dict[str, Any]) -> None:
    state["extra"]["pipelines"]["env_to_module_connector"].insert(0, {"class": "mine.Scale"})


def of_several_agents(state: dict[str, Any]) -> None:
    state["connectors"][PATH] = {"a": state["connectors"][PATH][None]}


def unlisted(state: dict[str, Any]) -> None:
    del state["extra"]["pipelines"]


@pytest.mark.parametrize("change", [another_before_it, of_several_agents, unlisted], ids=lambda c: c.__name__)
def test_a_filter_that_is_not_alone_is_refused(change: Any) -> None:
    with pytest.raises(UnreadableFormat, match="MeanStdFilter, and not through that alone"):
        network_of(Changed(CASES[0], change), "default_policy")  # type: ignore[arg-type]


def test_other_connectors_are_named_as_not_part_of_the_file() -> None:
    def only_mine(state: dict[str, Any]) -> None:
        del state["connectors"][PATH]
        state["extra"]["pipelines"]["env_to_module_connector"] = [{"class": "mine.Scale"}]

    network = network_of(Changed(CASES[0], only_mine), "default_policy")  # type: ignore[arg-type]
    assert any("Scale" in line for line in network.module.unproven)
