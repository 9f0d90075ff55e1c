"""Fully connected networks of TensorFlow under torch's names: same layers, kernels transposed. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.networks.moving import refuse

_NAMES = {
    r"fc_(\d+)": "_hidden_layers.{}._model.0",
    r"fc_value_(\d+)": "_value_branch_separate.{}._model.0",
    r"fc_out": "_logits._model.0",
    r"value_out": "_value_branch._model.0",
}
_PARTS = {"kernel": "weight", "bias": "bias"}


def as_torch(policy: Mapping[str, Any], place: str) -> dict[str, Any]:
    """`policy`, written with TensorFlow, with the names and shapes that torch has.

    Its optimizers are left out. UnreadableFormat if it isn't a fully connected network whose variables
    have names.
    """
    weights = {}
    if list(policy["weights"]) == [str(index) for index in range(len(policy["weights"]))]:
        raise refuse(place, "eager TensorFlow stored its weights as a list without names")
    for name, value in policy["weights"].items():
        weights[_name(str(name), place)] = value.T if np.ndim(value) == 2 else value
    order = sorted(weights, key=lambda name: (name.partition(".")[0] != "_hidden_layers", name))
    return {**policy, "weights": {name: weights[name] for name in order}, "optimizer": {}}


def _name(name: str, place: str) -> str:
    *_, layer, part = ("", *name.split("/"))
    for pattern, known in _NAMES.items():
        if (match := re.fullmatch(pattern, layer)) and part in _PARTS:
            number = int(match[1]) - 1 if match.groups() else 0
            return f"{known.format(number)}.{_PARTS[part]}"
    raise refuse(place, f"the variable {name!r:.80} belongs to no known layer")
