"""Policies that RLlib's old API stack wrote, converted, and modules, against what they computed in RLlib.

Made by ``tests/compat/make_old_stack.py`` and ``make_modules.py``: what the other golden checkpoints lack.
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
MODULES = Path(__file__).parents[1] / "data" / "modules"
CASES = sorted(path.name for path in OLD_STACK.iterdir())


def loaded(folder: Path) -> tuple[Module, dict[str, Any]]:
    """The converted module of a case, and the truth about it."""
    with np.load(folder / "truth.npz") as archive:
        truth = {name: archive[name] for name in archive.files}
    truth["obs"] = truth["obs"].astype("f4") / 127
    return new_stack_module(Checkpoint.open(folder / "checkpoint").policies["default_policy"]), truth


def test_all_kinds_are_there() -> None:
    assert {"ppo_shared", "ppo_conv", "ppo_conv_shared", "dqn_conv", "sac", "sac_discrete"} <= set(CASES)


FOLDERS = sorted([*OLD_STACK.iterdir(), *MODULES.iterdir()])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_it_computes_what_the_old_model_computed(folder: Path) -> None:
    module, truth = loaded(folder)
    logits, values = outputs(module, truth["obs"])
    assert len(truth["obs"]) == 100
    assert logits.shape == truth["logits"].shape
    assert np.abs(logits - truth["logits"]).max() < 1e-5
    if "values" in truth:
        assert np.abs(values - truth["values"]).max() < 1e-5
    # A network that gives the same whatever it sees would pass any comparison with itself.
    assert truth["logits"].std(axis=0)[0] > 0.01
