"""Writes default modules of the new API stack, with what they compute. Run by a Python with Ray 2.60.

    python make_modules.py <folder>

Makes ``<folder>/<case>/checkpoint`` (as `RLModule.save_to_path` writes it) and ``truth.npz``, as
``make_old_stack.py`` does. Weights are random, so that no bias is zero. The ones in ``tests/data/modules``
were made by this.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

FLAT, FEW = gym.spaces.Box(-1.0, 1.0, (4,), np.float32), gym.spaces.Discrete(3)
IMAGE = gym.spaces.Box(0.0, 1.0, (10, 10, 3), np.float32)
MOVE = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
PARTS = gym.spaces.Tuple([FEW, gym.spaces.Dict(b=gym.spaces.MultiDiscrete([2, 3]), a=MOVE)])
HIDDEN: dict[str, Any] = {"fcnet_hiddens": [12, 8], "fcnet_activation": "relu", "fusionnet_hiddens": [8]}
ATOMS: dict[str, Any] = {
    "num_atoms": 5,
    "v_min": -3.0,
    "v_max": 7.0,
    "double_q": True,
    "std_init": 0.5,
    "epsilon": [(0, 1.0), (10, 0.1)],
}
CONV: dict[str, Any] = {
    "conv_filters": [[4, [5, 5], 2, "same"], [6, [5, 5], 2, "valid"]],
    "conv_activation": "relu",
}

CASES: dict[str, tuple[str, Any, Any, dict[str, Any]]] = {
    "bc": ("BC", FLAT, FEW, HIDDEN),
    "bc_free_log_std": ("BC", FLAT, MOVE, {**HIDDEN, "free_log_std": True, "head_fcnet_hiddens": [5]}),
    "bc_conv": ("BC", IMAGE, MOVE, CONV),
    "appo": ("APPO", FLAT, FEW, {**HIDDEN, "vf_share_layers": True}),
    "appo_parts": ("APPO", FLAT, PARTS, {**HIDDEN, "vf_share_layers": False}),
    "dqn_atoms": ("DQN", FLAT, FEW, {**HIDDEN, **ATOMS, "dueling": False}),
    "dqn_atoms_dueling": ("DQN", FLAT, FEW, {**HIDDEN, **ATOMS, "dueling": True, "head_fcnet_hiddens": [5]}),
    "cql": ("CQL", FLAT, MOVE, HIDDEN),
    "tqc": ("TQC", FLAT, MOVE, {**HIDDEN, "n_quantiles": 5, "n_critics": 2}),
}


def module_of(name: str) -> Any:
    """The module of a case, with random weights, as a Learner has it."""
    algorithm, observation_space, action_space, model = CASES[name]
    folder = algorithm.lower()
    found = importlib.import_module(f"ray.rllib.algorithms.{folder}.torch.default_{folder}_torch_rl_module")
    defaults = DefaultModelConfig()
    module = getattr(found, f"Default{algorithm}TorchRLModule")(
        observation_space=observation_space,
        action_space=action_space,
        model_config={**defaults.__dict__, **model, "twin_q": True},
    )
    if hasattr(module, "make_target_networks"):
        module.make_target_networks()
    rng = np.random.default_rng(11)
    module.set_state(
        {
            key: (rng.normal(size=np.shape(value)) * 0.3).astype(np.float32)
            for key, value in module.get_state().items()
            if not key.endswith("_const")
        }
    )
    return module


def main(folder: Path) -> None:
    """Write all cases."""
    for name, (_, observation_space, *_) in CASES.items():
        module = module_of(name)
        whole = np.random.default_rng(5).integers(-127, 128, (100, *observation_space.shape), np.int8)
        batch = {"obs": torch.from_numpy(whole.astype(np.float32) / 127)}
        module.save_to_path(str(folder / name / "checkpoint"))
        with torch.no_grad():
            if hasattr(module, "compute_q_values") and hasattr(module, "af"):
                truth = {"logits": module.compute_q_values(batch)["qf_preds"].numpy()}
            else:
                truth = {"logits": module.forward_inference(batch)["action_dist_inputs"].numpy()}
            if hasattr(module, "compute_values"):
                truth["values"] = module.compute_values(batch).numpy()
        with open(folder / name / "truth.npz", "wb") as file:
            np.savez_compressed(file, obs=whole, **truth)
        print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
