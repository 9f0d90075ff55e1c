"""Fully connected networks of TensorFlow under torch's names: same layers, kernels transposed. Pure."""

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


def as_torch(policy: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`policy`, written with TensorFlow, with the names and shapes that torch has.

    Its optimizers are left out. UnreadableFormat if it isn't a fully connected network.
    """
    weights = {}
    stored = policy["weights"]
    if list(stored) == [str(index) for index in range(len(stored))]:
        stored = _by_order(policy, place)
    for name, value in stored.items():
        weights[_name(str(name), place)] = value.T if np.ndim(value) == 2 else value
    order = sorted(weights, key=lambda name: (name.partition(".")[0] != "_hidden_layers", name))
    return {**policy, "weights": {name: weights[name] for name in order}, "optimizer": {}}


def _by_order(policy: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Weights that eager TensorFlow stored as a list, under the names that they had in Keras.

    A Keras model lists its layers by their distance from the outputs, and of those of one distance the
    logits' first. Every layer has a kernel and a bias.
    """
    values, model = list(policy["weights"].values()), config.old_model(policy, place)
    shared = bool(model.get("vf_share_layers"))
    hidden, rest = divmod(len(values) // 2 - 2, 1 if shared else 2)
    axes = [np.ndim(value) for value in values]
    if (
        "PPO" not in str(policy.get("policy_class"))
        or hidden < 1
        or rest
        or axes != [2, 1] * (len(axes) // 2)
    ):
        raise refuse(place, "eager TensorFlow stored its weights as a list without names")
    layers = []
    for number in range(1, hidden + 1):
        layers += [f"fc_{number}", *([] if shared else [f"fc_value_{number}"])]
    layers += ["fc_out", "value_out"]
    names = [f"{layer}/{part}" for layer in layers for part in _PARTS]
    return dict(zip(names, values, strict=True))


def _name(name: str, place: str) -> str:
    *_, layer, part = ("", *name.split("/"))
    for pattern, known in _NAMES.items():
        if (match := re.fullmatch(pattern, layer)) and part in _PARTS:
            number = int(match[1]) - 1 if match.groups() else 0
            return f"{known.format(number)}.{_PARTS[part]}"
    raise refuse(place, f"the variable {name!r:.80} belongs to no known layer")
