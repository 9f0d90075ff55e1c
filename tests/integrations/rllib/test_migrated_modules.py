"""Ray's own loading of what `migrate` writes at 2.1: every live array is one that was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint
from ckptstore.errors import UnreadableFormat
from tests.integrations.rllib.test_restore import DATA
from tests.rllib_formats.corpus import cases, roots

pytestmark = pytest.mark.usefixtures("needs_ray")

ROOTS = [root for case in cases(DATA) for root in roots(case) if "heuristic" not in case.name]


def load(path: str, stored: dict[str, Any]) -> dict[str, Any]:
    """The arrays of the module that RLlib builds and loads, with its targets as a learner has them."""
    from ray.rllib.core.rl_module.rl_module import RLModule

    module = RLModule.from_checkpoint(path)
    if hasattr(module, "make_target_networks") and not module.inference_only:
        module.make_target_networks()
        module.set_state(stored)
    return dict(module.get_state())


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.relative_to(DATA).as_posix())
def test_every_live_array_is_one_that_was_written(root: Path, tmp_path: Path) -> None:
    before = Checkpoint.open(root)
    made = before.migrate(tmp_path / "new", to="2.1").checkpoint
    assert made is not None
    place = made.url.removeprefix("file://")
    for policy_id in made.policy_ids:
        inner = {"RLModule": "", "MultiRLModule": f"/{policy_id}"}.get(
            made.kind, f"/learner_group/learner/rl_module/{policy_id}"
        )
        stored = dict(made.weights(policy_id))
        live = load(place + inner, stored)
        assert live.keys() == stored.keys()
        for name, value in stored.items():
            np.testing.assert_array_equal(live[name], value, err_msg=f"{policy_id} {name}")


def test_what_ray_would_load_as_random_weights_is_refused(tmp_path: Path) -> None:
    """DQN with ``noisy=True``, whose weights have names that today's module passes over."""
    ckpt = Checkpoint.open(DATA / "v2_1/ray_2.60.0_dqn/checkpoint")

    def noisy(model: dict[str, Any]) -> dict[str, Any]:
        """Rename the weights."""
        own = model["policies"]["default_policy"]
        weights = {f"{name}_mu": value for name, value in own["weights"].items()}
        return {**model, "policies": {"default_policy": {**own, "weights": weights}}}

    with pytest.raises(UnreadableFormat, match="no place for the weights"):
        ckpt.migrate(tmp_path / "new", to="2.1", steps=[noisy])
