"""At 2.1 every weight has its place in today's module, or it is refused: RLlib passes over the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.networks import new_stack_module

DATA = Path(__file__).parents[1] / "data"
DQN = "v2_1/ray_2.60.0_dqn"
PPO = "v2_0/ray_2.40.0_ppo"


def noisy(weights: dict[str, Any]) -> None:
    """As DQN had it from Ray 2.35 to 2.40, with ``noisy=True``."""
    for name, value in list(weights.items()):
        if not name.endswith("const"):
            del weights[name]
            weights |= {f"{name}_{part}": value for part in ("mu", "sigma", "epsilon")}


def one_target_less(weights: dict[str, Any]) -> None:
    del weights["_target_encoder.net.mlp.0.bias"]


def a_target_of_nothing(weights: dict[str, Any]) -> None:
    weights["_target_encoder.net.mlp.6.bias"] = np.zeros(2, "f4")


def no_head(weights: dict[str, Any]) -> None:
    for name in [name for name in weights if "af." in name]:
        del weights[name]


def another_head(weights: dict[str, Any]) -> None:
    weights["pi_2.net.mlp.0.weight"] = np.zeros((2, 8), "f4")


def no_policy(weights: dict[str, Any]) -> None:
    for name in [name for name in weights if name.startswith("pi.")]:
        del weights[name]


def a_normaliser(weights: dict[str, Any]) -> None:
    weights["encoder.actor_encoder.running_mean"] = np.zeros(4, "f4")


CHANGES = {
    noisy: (DQN, "no place for the weights"),
    one_target_less: (DQN, "aren't whole"),
    a_target_of_nothing: (DQN, "aren't whole"),
    no_head: (DQN, r"no weights af\."),
    another_head: (PPO, "no place for the weights"),
    no_policy: (PPO, r"no weights pi\."),
    a_normaliser: (PPO, "no place for the weights"),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_other_weights_than_todays_module_has_are_refused(change: Any, tmp_path: Path) -> None:
    name, why = CHANGES[change]
    ckpt = Checkpoint.open(DATA / name / "checkpoint")
    policy = dict(ckpt.policies["default_policy"])
    assert new_stack_module(policy).weights.keys() >= policy["weights"].keys()

    def swap(model: dict[str, Any]) -> dict[str, Any]:
        """Change the weights."""
        weights = dict(model["policies"]["default_policy"]["weights"])
        change(weights)
        own = {**model["policies"]["default_policy"], "weights": weights}
        return {**model, "policies": {"default_policy": own}}

    with pytest.raises(UnreadableFormat, match=why):
        ckpt.migrate(tmp_path / "new", to="2.1", steps=[swap])
    assert not (tmp_path / "new").exists()
