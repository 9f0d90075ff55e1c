"""Opens modules with RLlib's own API and prints what they compute. Run by a Python with Ray, not by pytest.

    python ray_modules.py jobs.json

A job names a ``kind`` ("RLModule", "MultiRLModule"), a ``path``, ``obs`` (a batch) and, of a MultiRLModule, a
``module``. The answer has logits (of DQN: Q values) and, where there is a value function, values.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule


class Fallback(logging.Handler):
    """RLlib says in a warning that it built another class than the one stored."""

    def emit(self, record: logging.LogRecord) -> None:
        if "Could not restore original class" in record.getMessage():
            raise AssertionError(record.getMessage())


def taken(module: Any, path: Path) -> None:
    """RLlib takes what it finds and passes over the rest; here every weight must be there and be taken."""
    with open(path, "rb") as file:
        stored = pickle.load(file)
    if hasattr(module, "make_target_networks") and not module.inference_only:
        module.make_target_networks()  # as a Learner does
        module.set_state(stored)
    state = module.get_state()
    assert list(state) == list(stored), sorted(state.keys() ^ stored.keys()) or "another order"
    for name, value in stored.items():
        np.testing.assert_array_equal(state[name], value)


def repeat(state: Any, count: int) -> Any:
    """A state for `count` observations; policy and values have one each where they share no layers."""
    if isinstance(state, dict):
        return {key: repeat(value, count) for key, value in state.items()}
    return state[None].repeat(count, *([1] * state.dim()))


def compute(module: Any, obs: Any) -> dict[str, Any]:
    """Logits and values for a batch of observations."""
    batch: dict[str, Any] = {Columns.OBS: torch.from_numpy(np.asarray(obs, np.float32))}
    stateful = module.is_stateful()
    if stateful:
        start = module.get_initial_state()
        batch[Columns.OBS] = batch[Columns.OBS][:, None]  # one step of time
        batch[Columns.STATE_IN] = repeat(start, len(obs))
    with torch.no_grad():
        if hasattr(module, "compute_q_values") and hasattr(module, "af"):
            return {"logits": module.compute_q_values(batch)["qf_preds"].tolist(), "values": None}
        made = module.forward_inference(batch)
        if Columns.ACTION_DIST_INPUTS not in made:  # it draws actions
            return {"logits": None, "values": None, "actions": np.asarray(made[Columns.ACTIONS]).tolist()}
        out = made[Columns.ACTION_DIST_INPUTS]
        values: Any = None
        if hasattr(module, "vf") and hasattr(module, "compute_values"):
            values = module.compute_values(batch)
    if stateful:
        out, values = out[:, 0], values[:, 0]
    return {"logits": out.tolist(), "values": None if values is None else values.tolist()}


def main(path: str) -> None:
    """Answer all jobs in the file."""
    logging.getLogger("ray.rllib").addHandler(Fallback())
    logging.getLogger("ray.rllib.utils.checkpoints").addHandler(Fallback())
    with open(path) as file:
        jobs = json.load(file)
    answers = []
    for job in jobs:
        try:
            if job["kind"] == "MultiRLModule":
                module = MultiRLModule.from_checkpoint(job["path"])[job["module"]]
            else:
                module = RLModule.from_checkpoint(job["path"])
            taken(module, Path(job["path"], job.get("module", ""), "module_state.pkl"))
            answers.append({**compute(module, job["obs"]), "class": type(module).__name__})
        except Exception as error:  # noqa: BLE001 - every job gets an answer
            answers.append({"error": f"{type(error).__name__}: {error}"})
    print("ANSWER" + json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
