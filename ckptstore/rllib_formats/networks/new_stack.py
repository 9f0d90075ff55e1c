"""Bring modules of the new API stack to the form of the newest release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.rllib_formats.networks import config, dqn, ppo, sac
from ckptstore.rllib_formats.networks.moving import CLIP, CLIP_DEFAULT, Module, refuse

_CLASSES = {
    "PPOTorchRLModule": ppo,
    "DefaultPPOTorchRLModule": ppo,
    "DQNRainbowTorchRLModule": dqn,
    "DefaultDQNTorchRLModule": dqn,
    "SACTorchRLModule": sac,
    "DefaultSACTorchRLModule": sac,
}
RENAMED = {"post_fcnet_hiddens": "head_fcnet_hiddens", "post_fcnet_activation": "head_fcnet_activation"}
"""Keys of a model config that have another name since Ray 2.38, by their old name."""
GUESSED = "the network's settings: they are the algorithm's config, as no file has the module's own"
"""What can't be told of a module that a policy wraps, where nothing beside it describes it."""
_LAYER = re.compile(
    r"((?:\w+_)?encoder\.(?:(?:actor_|critic_)?encoder\.)?(?:tokenizer\.)?net\.(?:mlp|0\.cnn))\.(\d+)\.weight\Z"
)
_TAIL = re.compile(
    r"(?:(?:\.base_encoders\.\w+)?\.net\.(?:mlp|0\.cnn)\.\d+\.(?:weight|bias)"
    r"|\.(?:fusion_layers\.\d+|output_layer)\.(?:weight|bias)|\.lstm\.(?:weight|bias)_(?:ih|hh)_l0"
    rf"|\.log_std|\.{CLIP})\Z"
)
_PLACES = {
    ppo: (re.compile(r"(?:encoder\.(?:actor_|critic_)?encoder|pi|vf)\."), ("encoder.", "pi.")),
    dqn: (re.compile(r"(?:_target_)?(?:encoder|af|vf)\."), ("encoder.", "af.")),
    sac: (re.compile(r"(?:target_)?(?:pi|qf|qf_twin)(?:_encoder)?\."), ("pi_encoder.", "pi.")),
}
"""Where the names of today's weights begin, and what there has to be."""
_HEADS = ("pi.", "vf.", "af.", "qf.", "qf_twin.")
_TARGETS = ("_target_", "target_")


def is_one(policy: Mapping[str, Any]) -> bool:
    """Whether the weights of `policy` are a module's, even if a policy of the old stack wraps the module."""
    name = str(policy.get("policy_class"))
    return name.endswith("RLModule") or any(
        str(key).startswith(("encoder.", "pi_encoder.")) for key in policy["weights"]
    )


def convert(policy: Mapping[str, Any], where: str) -> Module:
    """The module with today's names, and with the constants that newer releases add to the weights."""
    class_name, model, recorded = read_description(policy)
    name = class_name.rpartition(".")[2]
    # Without a record of the module the class is the wrapping policy's: only PPO's had one by default.
    known = _CLASSES.get(name) or (ppo if name == "PPOTorchPolicy" else None)
    if known is None:
        raise refuse(where, f"the module class {class_name:.120} isn't one of RLlib's defaults")
    settings = _settings(model, where)
    weights = dict(policy["weights"])
    _check_sizes(weights, settings, where)
    if known is ppo:
        settings["vf_share_layers"] = not any(key.startswith("encoder.critic_encoder.") for key in weights)
    extra = policy.get("extra")
    extra = extra if isinstance(extra, Mapping) else {}
    inference_only = bool(extra.get("inference_only"))
    if known is ppo and not any(key.startswith("vf.") for key in weights):
        inference_only = True
        settings["vf_share_layers"] = any(key.startswith("encoder.encoder.") for key in weights)
    dropped: list[str] = []
    optimizers = _optimizers(policy.get("optimizer") or {}, known)
    if known is sac and any(key.startswith("qf_encoder.net.") for key in weights) and not _discrete(policy):
        inference_only = True
        dropped = [
            f"weights/{key}: {sac.OTHER}" for key in weights if not key.startswith(("pi_encoder.", "pi."))
        ]
        weights = {key: value for key, value in weights.items() if key.startswith(("pi_encoder.", "pi."))}
        dropped += [f"optimizer/{name}: {sac.OTHER}" for name in optimizers if name != "policy"]
        optimizers = {name: item for name, item in optimizers.items() if name == "policy"}
    _check_places(weights, known, inference_only, where)
    return Module(
        known.CLASS,
        known.CATALOG,
        policy.get("observation_space"),
        policy.get("action_space"),
        settings,
        inference_only,
        _complete(weights),
        optimizers,
        (),
        tuple(dropped),
        () if recorded else (GUESSED,),
    )


def read_description(policy: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], bool]:
    """Class and model config of the module in `policy`, and whether they are the module's own record.

    A policy of the old stack that wraps a module has the algorithm's config. There the old stack's ``model``
    says nothing of the module where ``_model_config_dict`` is set beside it (Ray 2.10 to 2.37).
    """
    found, stored = str(policy.get("policy_class")), policy.get("config")
    stored = stored if isinstance(stored, Mapping) else {}
    if found.endswith("RLModule") or not isinstance(stored.get("model"), Mapping):
        return found, stored, True
    extra = policy.get("extra")
    spec = extra.get("module_spec") if isinstance(extra, Mapping) else None
    if isinstance(spec, Mapping) and isinstance(spec.get("config"), Mapping) and spec["config"]:
        return str(spec.get("class") or found), spec["config"], True
    own = stored.get("_model_config_dict") or stored.get("_model_config")
    return found, {**stored["model"], **(own if isinstance(own, Mapping) else {})}, False


def _check_places(weights: Mapping[str, Any], known: Any, inference_only: bool, where: str) -> None:
    """Refuse weights that today's module has no place for, or too few of them.

    RLlib's own loading passes over both: what it doesn't find stays random.
    """
    heads, needed = _PLACES[known]
    odd = [name for name in weights if not (heads.match(name) and _TAIL.search(name))]
    if odd:
        names = ", ".join(map(repr, odd[:3]))
        raise refuse(where, f"today's module has no place for the weights {names} ({len(odd)} in all)")
    absent = [prefix for prefix in needed if not any(name.startswith(prefix) for name in weights)]
    if absent:
        raise refuse(where, f"it has no weights {', '.join(absent)}")
    for prefix in _TARGETS:
        followed = {name[len(prefix) :] for name in weights if name.startswith(prefix)}
        kinds = {name.partition(".")[0] for name in followed}
        partners = {name for name in weights if name.partition(".")[0] in kinds}
        if followed and followed != partners and not inference_only:
            name = sorted(followed ^ partners)[0]
            raise refuse(where, f"its target networks aren't whole: {name!r} is in one of both alone")


def _check_sizes(weights: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> None:
    """Refuse a config of another network than the weights are of: its activations would be wrong, too."""
    found: dict[str, dict[int, int]] = {}
    for name, value in weights.items():
        match = _LAYER.match(name)
        if match and np.ndim(value) in (2, 4):
            found.setdefault(match[1], {})[int(match[2])] = int(np.shape(value)[0])
    for name, numbered in found.items():
        sizes = [numbered[number] for number in sorted(numbered)]
        convolutions = name.endswith("cnn")
        expected = settings["conv_filters" if convolutions else "fcnet_hiddens"]
        if convolutions and expected is None:
            continue  # RLlib's own for images of that shape
        if convolutions:
            expected = [item[0] for item in expected]
        if expected is None or list(expected) != sizes:
            raise refuse(
                where, f"its config describes layers of {expected!s:.60} where {name!r} has {sizes!s:.60}"
            )


def _discrete(policy: Mapping[str, Any]) -> bool:
    space = policy.get("action_space")
    return isinstance(space, Mapping) and space.get("space") == "discrete"


def _optimizers(stored: Mapping[str, Any], known: Any) -> dict[str, Any]:
    """The optimizers that today's Learner has, by its names: it would keep any other beside its own."""
    if known is sac:
        return {name: item for name, item in stored.items() if name in ("policy", "qf", "qf_twin", "alpha")}
    if len(stored) != 1:
        return {}
    [item] = stored.values()  # up to Ray 2.5 it had the policy's name
    return {"default_optimizer": item}


def _settings(model: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {RENAMED.get(str(key), str(key)): value for key, value in model.items() if key != "class"}
    if found.get("custom_model") or found.get("use_attention") or found.get("encoder_latent_dim"):
        raise refuse(where, "it is built with a custom model, attention or encoder_latent_dim")
    known = {key: value for key, value in found.items() if key in config.DEFAULTS or key in _LEARNING}
    for key, value in known.items():
        if isinstance(value, Opaque):
            raise refuse(where, f"its model config has an object, {value.name:.80}, for {key!r}")
    return {**config.DEFAULTS, **known}


_LEARNING = ("dueling", "double_q", "num_atoms", "v_min", "v_max", "std_init", "epsilon", "twin_q")


def _complete(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights with the constant of every head, which older releases didn't have."""
    made: dict[str, Any] = {}
    for name, value in weights.items():
        for head in _HEADS:
            constant = f"{head}{CLIP}"
            if name.startswith(head) and constant not in weights and constant not in made:
                made[constant] = np.array([CLIP_DEFAULT], np.float32)
        for target in _TARGETS:
            for head in _HEADS:
                constant = f"{target}{head}{CLIP}"
                if name.startswith(f"{target}{head}") and constant not in weights and constant not in made:
                    made[constant] = np.array([CLIP_DEFAULT], np.float32)
        made[name] = value
    return made
