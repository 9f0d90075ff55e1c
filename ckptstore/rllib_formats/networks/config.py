"""Translate a model config of the old API stack into one of the new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.rllib_formats.networks.moving import CLIP_DEFAULT, refuse

_INITIALIZERS = tuple(
    f"{layer}_{part}_initializer{end}"
    for layer in ("fcnet", "conv", "head_fcnet", "lstm", "fusionnet")
    for part in ("kernel", "bias")
    for end in ("", "_kwargs")
)

DEFAULTS: dict[str, Any] = {
    "fcnet_hiddens": [256, 256],
    "fcnet_activation": "tanh",
    "fcnet_use_layernorm": False,
    "conv_filters": None,
    "conv_activation": "relu",
    "head_fcnet_hiddens": [],
    "head_fcnet_activation": "relu",
    "head_fcnet_use_layernorm": False,
    "free_log_std": False,
    "log_std_clip_param": CLIP_DEFAULT,
    "vf_share_layers": True,
    "use_lstm": False,
    "max_seq_len": 20,
    "lstm_cell_size": 256,
    "lstm_use_prev_action": False,
    "lstm_use_prev_reward": False,
    "fusionnet_hiddens": [256, 256],
    "fusionnet_activation": "tanh",
    **dict.fromkeys(_INITIALIZERS),
}
"""Every field of RLlib's DefaultModelConfig: a release that adds one still finds the others."""

# Names that both stacks resolve to the same function, by one and the same RLlib helper.
ACTIVATIONS = ("relu", "tanh", "swish", "silu", "elu", "linear")
# Settings that give networks which are not known here.
_FOREIGN = (
    "custom_model",
    "custom_action_dist",
    "custom_preprocessor",
    "use_attention",
    "encoder_latent_dim",
)


def old_model(policy: Mapping[str, Any], where: str, key: str = "model") -> Mapping[str, Any]:
    """The old model config `key` of the policy; refused if its network isn't one of RLlib's own."""
    config = policy.get("config")
    model = config.get(key) if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping):
        raise refuse(where, f"its config doesn't describe the network ({key!r} is missing)")
    for name in _FOREIGN:
        if model.get(name):
            raise refuse(where, f"it is built with {name}={model[name]!r:.80}")
    return model


def sac_model(policy: Mapping[str, Any], where: str, *keys: str) -> Mapping[str, Any]:
    """The model config of one of SAC's networks, under the first of `keys` that exists, made whole.

    Unlike ``model``, it holds only what the user has set: the rest are RLlib's defaults.
    """
    found = policy.get("config")
    for key in keys:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return {**_OLD_DEFAULTS, **old_model(policy, where, key)}
    return {**_OLD_DEFAULTS, **old_model(policy, where, keys[0])}


_OLD_DEFAULTS: dict[str, Any] = {
    "fcnet_hiddens": [256, 256],
    "fcnet_activation": "tanh",
    "post_fcnet_hiddens": [],
    "post_fcnet_activation": "relu",
    "vf_share_layers": True,
}
"""Of RLlib's MODEL_DEFAULTS, what says how fully connected layers are built."""


def activation(value: Any, where: str) -> str:
    """An activation's name; "linear" for none."""
    if value is None:
        return "linear"
    if not isinstance(value, str) or value.lower() not in ACTIVATIONS:
        raise refuse(where, f"its activation is {value!r:.80}")
    return value.lower()


def step(name: str) -> int:
    """How many modules one layer takes: one, or two with an activation that is a module."""
    return 1 if name == "linear" else 2


def read_activation(model: Mapping[str, Any], where: str) -> str:
    """The one activation of an old fully connected network's hidden layers."""
    return activation(
        model.get("fcnet_activation" if model.get("fcnet_hiddens") else "post_fcnet_activation"), where
    )


def observation_shape(policy: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The shape of what the network observes."""
    space = policy.get("observation_space")
    if not isinstance(space, Mapping) or space.get("space") != "box":
        raise refuse(where, f"it observes {_kind(space)}, not a box")
    return tuple(int(size) for size in space["shape"])


def outputs(policy: Mapping[str, Any], where: str) -> int:
    """How many numbers the distribution over the policy's actions is made of."""
    return _outputs(policy.get("action_space"), where, _DEEPEST)


def _outputs(space: Any, where: str, depth: int) -> int:
    kind = space.get("space") if isinstance(space, Mapping) else None
    if isinstance(space, Mapping):
        if kind == "discrete":
            return int(space["n"])
        if kind in ("multi_discrete", "multi-discrete") and np.ndim(space["nvec"]) == 1:
            return int(np.sum(space["nvec"]))
        if kind == "box" and np.dtype(space["dtype"]).kind == "f" and len(space["shape"]) == 1:
            return 2 * int(space["shape"][0])
        if kind in COMPOSED and space["spaces"] and depth:
            inner = space["spaces"].values() if isinstance(space["spaces"], Mapping) else space["spaces"]
            return sum(_outputs(item, where, depth - 1) for item in inner)
    raise refuse(where, f"its actions are {_kind(space)}")


COMPOSED = ("tuple", "dict")
"""Spaces of several parts: the distribution's inputs are those of the parts, one after the other."""
_DEEPEST = 10  # parts within parts


def _kind(space: Any) -> str:
    if not isinstance(space, Mapping):
        return "in a space that isn't in the checkpoint"
    return (
        f"{space.get('space')!s:.40} {space.get('shape', '')!s:.40} {space.get('dtype', '')!s:.20}".rstrip()
    )
