"""Rename the weights of TensorFlow's fully connected networks as torch's, and transpose the kernels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.rllib_formats.networks import config
from ckptstore.rllib_formats.networks.moving import refuse

_NAMES = {
    r"fc_(\d+)": "_hidden_layers.{}._model.0",
    r"fc_value_(\d+)": "_value_branch_separate.{}._model.0",
    r"fc_out": "_logits._model.0",
    r"value_out": "_value_branch._model.0",
}
_PARTS = {"kernel": "weight", "bias": "bias"}


def as_torch(policy: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`policy`, written with TensorFlow, with torch's names and shapes and without its optimizers.

    Raises UnreadableFormat if it isn't a fully connected network.
    """
    weights = {}
    stored = policy["weights"]
    if list(stored) == [str(index) for index in range(len(stored))]:
        stored = _by_order(policy, where)
    for name, value in stored.items():
        weights[_name(str(name), where)] = value.T if np.ndim(value) == 2 else value
    order = sorted(weights, key=lambda name: (name.partition(".")[0] != "_hidden_layers", name))
    return {**policy, "weights": {name: weights[name] for name in order}, "optimizer": {}}


def _by_order(policy: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Weights that eager TensorFlow stored as a list, by their names in Keras.

    A Keras model lists its layers by their distance from the outputs, and at each distance first the one that
    leads to the logits. Every layer has a kernel and a bias.
    """
    values, model = list(policy["weights"].values()), config.old_model(policy, where)
    shared = bool(model.get("vf_share_layers"))
    hidden, rest = divmod(len(values) // 2 - 2, 1 if shared else 2)
    axes = [np.ndim(value) for value in values]
    if (
        "PPO" not in str(policy.get("policy_class"))
        or hidden < 1
        or rest
        or axes != [2, 1] * (len(axes) // 2)
    ):
        raise refuse(where, "eager TensorFlow stored its weights as a list without names")
    layers = []
    for number in range(1, hidden + 1):
        layers += [f"fc_{number}", *([] if shared else [f"fc_value_{number}"])]
    layers += ["fc_out", "value_out"]
    names = [f"{layer}/{part}" for layer in layers for part in _PARTS]
    return dict(zip(names, values, strict=True))


def _name(name: str, where: str) -> str:
    *_, layer, part = ("", *name.split("/"))
    for pattern, known in _NAMES.items():
        if (match := re.fullmatch(pattern, layer)) and part in _PARTS:
            number = int(match[1]) - 1 if match.groups() else 0
            return f"{known.format(number)}.{_PARTS[part]}"
    raise refuse(where, f"the variable {name!r:.80} belongs to no known layer")
