"""Modules that only the Learner has, such as a curiosity model, are no policies; but they travel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.describe import detail
from ckptstore.errors import CheckpointNotFound
from tests.rllib_formats.corpus import open_directory

CASE = Path(__file__).parents[1] / "data/v2_1/ray_2.52.1_icm"
ROOT = CASE / "checkpoint"
ID = "_intrinsic_curiosity_model"
NAME = f"rl_module.{ID}"


def truth() -> dict[str, Any]:
    prefix = f"weights/{ID}/"
    with np.load(CASE / "expected.npz") as archive:
        return {name[len(prefix) :]: archive[name] for name in archive.files if name.startswith(prefix)}


def check(weights: Any) -> None:
    """They are those of the live module."""
    expected = truth()
    assert list(weights) == list(expected)
    assert len(expected) == 12
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value)


@pytest.mark.parametrize(
    "part", ["", "learner_group", "learner_group/learner", "learner_group/learner/rl_module"]
)
def test_it_is_a_component_whatever_was_saved(part: str) -> None:
    ckpt = Checkpoint.open(ROOT / part)
    assert ckpt.policy_ids == ("default_policy",)
    assert list(ckpt.policies) == ["default_policy"]
    assert ID not in ckpt.policies
    assert list(ckpt.load().policies) == ["default_policy"]
    assert NAME in ckpt.components
    module = ckpt.components[NAME]
    check(module["weights"])
    assert module["policy_class"].endswith(".IntrinsicCuriosityModel")
    assert module["extra"]["learner_only"] is True
    assert bool(module["optimizer"]) == (not part.endswith("rl_module"))
    assert ckpt.weights()  # one policy, which needn't be named


def test_who_asks_for_it_as_a_policy_is_told_where_it_is() -> None:
    ckpt = Checkpoint.open(ROOT)
    with pytest.raises(KeyError):
        ckpt.policies[ID]
    for ask in (lambda: ckpt.weights(ID), lambda: ckpt.load(policy_ids=[ID])):
        with pytest.raises(CheckpointNotFound, match="it holds no policy"):
            ask()
    with pytest.raises(CheckpointNotFound, match=NAME):
        ckpt.rllib().policy(ID)


def test_it_travels(tmp_path: Path) -> None:
    ckpt = Checkpoint.open(ROOT)
    store = CheckpointStore(tmp_path / "store")
    with store.stage(1) as path:
        ckpt.download(path)
    staged = store.get(1)
    assert staged.manifest.policies == ("default_policy",)
    check(staged.components[NAME]["weights"])
    staged.verify()
    part = ckpt.download(tmp_path / "part", policy_ids=["default_policy"])
    check(Checkpoint.open(part).components[NAME]["weights"])
    made = staged.migrate(tmp_path / "plain").checkpoint
    assert made is not None
    assert made.policy_ids == ("default_policy",)
    check(made.components[NAME]["weights"])
    done = staged.migrate(tmp_path / "new", to="2.1")
    assert done.checkpoint is not None
    assert done.checkpoint.policy_ids == ("default_policy",)
    assert any(NAME in line for line in (*done.algorithm.renamed, *done.algorithm.opaque))


def test_its_bytes_are_counted_once() -> None:
    document = detail(Checkpoint.open(ROOT), {})
    sizes = {item["name"]: item["bytes"] for item in document["components"]}
    folder = ROOT / "learner_group/learner/rl_module" / ID
    assert sizes[NAME] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    everything = sum(path.stat().st_size for path in (ROOT / "learner_group").rglob("*") if path.is_file())
    [policy] = document["per_policy"]
    assert sizes["learner"] == everything - sizes[NAME] - policy["bytes"]


def test_its_optimizer_is_its_own_where_only_the_name_says_so() -> None:
    """Up to Ray 2.40 an optimizer didn't say whose it was, and its name was taken for it."""
    layout: Any = open_directory(ROOT)._layout
    assert layout._module_of(f"{ID}_default_optimizer", {"state": {}, "param_groups": []}) == ID
    assert layout._module_of("default_policy_default_optimizer", {"state": {}}) == "default_policy"
