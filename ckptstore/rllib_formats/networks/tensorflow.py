"""Rename the weights of TensorFlow's fully connected networks as torch's, and transpose the kernels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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


def as_torch(policy: Mapping[str, Any], network: str, where: str) -> dict[str, Any]:
    """`policy`, written with TensorFlow, with torch's names and shapes and without its optimizers.

    `network` is PPO, DQN or SAC. Raises UnreadableFormat if it isn't a fully connected network, or if nothing
    tells its layers apart.
    """
    stored = policy["weights"]
    if list(stored) == [str(index) for index in range(len(stored))]:
        names = _ORDERS[network](policy, len(stored), where)
        if names is None or len(names) != len(stored):
            raise refuse(where, "eager TensorFlow stored its weights as a list without names")
        stored = dict(zip(names, stored.values(), strict=True))
    else:
        stored = {_name(str(name), where): value for name, value in stored.items()}
    weights = {name: np.transpose(value) if np.ndim(value) == 2 else value for name, value in stored.items()}
    order = sorted(weights, key=lambda name: (name.partition(".")[0] != "_hidden_layers", name))
    return {**policy, "weights": {name: weights[name] for name in order}, "optimizer": {}}


# Weights that eager TensorFlow stored as a list. A Keras model lists its layers by their distance from the
# outputs, and at each distance first the one that leads to the first output. Every layer has a kernel and a
# bias.


def _list_ppo(policy: Mapping[str, Any], count: int, where: str) -> list[str] | None:
    shared = bool(config.old_model(policy, where).get("vf_share_layers"))
    hidden, rest = divmod(count // 2 - 2, 1 if shared else 2)
    if hidden < 1 or rest or count % 2:
        return None
    layers = []
    for number in range(hidden):
        layers += [f"_hidden_layers.{number}", *([] if shared else [f"_value_branch_separate.{number}"])]
    return _kernels([*layers, "_logits", "_value_branch"])


def _list_dqn(policy: Mapping[str, Any], count: int, where: str) -> list[str] | None:
    """The base network, then the stream of the advantages, then the one of the value."""
    model, settings = config.old_model(policy, where), policy["config"]
    hiddens, dueling = settings.get("hiddens") or [], bool(settings.get("dueling"))
    if not model.get("vf_share_layers") or not hiddens or settings.get("noisy"):
        return None  # two branches of the same sizes, in an order that isn't known
    layers = [f"_hidden_layers.{number}" for number in range(len(model.get("fcnet_hiddens") or ()))]
    layers.append("_value_branch")
    for stream, letter in (("advantage_module", "A"), ("value_module", "V"))[: 1 + dueling]:
        layers += [f"{stream}.dueling_{letter}_{number}" for number in range(len(hiddens))]
        layers.append(f"{stream}.{letter}")
    return _kernels(layers)


def _list_sac(policy: Mapping[str, Any], count: int, where: str) -> list[str] | None:
    """The policy, one or two Q networks, and the logarithm of alpha."""
    settings = policy["config"]
    layers = []
    nets = ["q_net", *(["twin_q_net"] if settings.get("twin_q") else [])]
    for net, key in (("action_model", "policy_model_config"), *((net, "q_model_config") for net in nets)):
        model = config.sac_model(policy, where, key)
        if not model["vf_share_layers"]:
            return None
        hidden = [f"{net}._hidden_layers.{number}" for number in range(len(model["fcnet_hiddens"] or ()))]
        layers += [*hidden, f"{net}._logits", f"{net}._value_branch"]
    return [*_kernels(layers), "log_alpha"]


_ORDERS: dict[str, Callable[[Mapping[str, Any], int, str], list[str] | None]] = {
    "PPO": _list_ppo,
    "DQN": _list_dqn,
    "SAC": _list_sac,
}


def _kernels(layers: list[str]) -> list[str]:
    return [f"{layer}._model.0.{part}" for layer in layers for part in _PARTS.values()]


def _name(name: str, where: str) -> str:
    *_, layer, part = ("", *name.split("/"))
    for pattern, known in _NAMES.items():
        if (match := re.fullmatch(pattern, layer)) and part in _PARTS:
            number = int(match[1]) - 1 if match.groups() else 0
            return f"{known.format(number)}.{_PARTS[part]}"
    raise refuse(where, f"the variable {name!r:.80} belongs to no known layer")
