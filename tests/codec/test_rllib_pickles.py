"""Checkpoints that RLlib wrote are decoded without RLlib, and their weights are the live algorithm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.safe import globals_in, loads

CASE = Path(__file__).parents[1] / "data" / "rllib_1_0_ppo_multi5"
POLICIES = [f"pol{i}" for i in range(5)]


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_are_the_live_ones(policy: str) -> None:
    state = loads((CASE / "checkpoint" / "policies" / policy / "policy_state.pkl").read_bytes())
    with np.load(CASE / "expected.npz") as file:
        prefix = f"weights/{policy}/"
        truth = {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}
    assert set(state["weights"]) == set(truth)
    for name, array in truth.items():
        assert type(state["weights"][name]) is np.ndarray
        assert state["weights"][name].dtype == array.dtype
        np.testing.assert_array_equal(state["weights"][name], array)


def test_the_algorithm_is_data_and_records() -> None:
    data = (CASE / "checkpoint" / "algorithm_state.pkl").read_bytes()
    state = loads(data)
    assert state["algorithm_class"] == Opaque("ray.rllib.algorithms.ppo.ppo.PPO")
    assert state["worker"]["policy_ids"]
    mapping: Any = state["worker"]["policy_mapping_fn"]
    assert isinstance(mapping, Opaque)
    assert mapping.args is not None
    assert mapping.state is not None
    assert "ray.rllib.algorithms.ppo.ppo.PPO" in {use.name for use in globals_in(data)}


def test_decoding_again_gives_the_same() -> None:
    data = (CASE / "checkpoint" / "algorithm_state.pkl").read_bytes()
    record = Opaque("whole", (0,))
    record.state = loads(data)
    again = Opaque("whole", (0,))
    again.state = loads(data)
    assert record == again
