"""Policies that RLlib's old API stack wrote, converted, against what its own models computed.

Made by ``tests/compat/make_old_stack.py`` with Ray 2.60: what the other golden checkpoints lack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.rllib_formats.networks import Module, new_stack_module
from tests.networks.forward import outputs

OLD_STACK = Path(__file__).parents[1] / "data" / "old_stack"
CASES = sorted(path.name for path in OLD_STACK.iterdir())


def loaded(case: str) -> tuple[Module, dict[str, Any]]:
    """The converted module of a case, and the truth about it."""
    with np.load(OLD_STACK / case / "truth.npz") as archive:
        truth = {name: archive[name] for name in archive.files}
    truth["obs"] = truth["obs"].astype("f4") / 127
    return new_stack_module(
        Checkpoint.open(OLD_STACK / case / "checkpoint").policies["default_policy"]
    ), truth


def test_all_kinds_are_there() -> None:
    assert {"ppo_shared", "ppo_conv", "ppo_conv_shared", "dqn_conv", "sac", "sac_discrete"} <= set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_the_old_model_computed(case: str) -> None:
    module, truth = loaded(case)
    logits, values = outputs(module, truth["obs"])
    assert len(truth["obs"]) == 100
    assert logits.shape == truth["logits"].shape
    assert np.abs(logits - truth["logits"]).max() < 1e-5
    if "values" in truth:
        assert np.abs(values - truth["values"]).max() < 1e-5
    # A network that gives the same whatever it sees would pass any comparison with itself.
    assert truth["logits"].std(axis=0)[0] > 0.01
