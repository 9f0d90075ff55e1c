"""Bring modules of the new API stack to the form of the newest release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.rllib_formats.networks import config, families, sac
from ckptstore.rllib_formats.networks.families import FAMILIES
from ckptstore.rllib_formats.networks.moving import CLIP, CLIP_DEFAULT, Module, parameters, refuse

RENAMED = {"post_fcnet_hiddens": "head_fcnet_hiddens", "post_fcnet_activation": "head_fcnet_activation"}
"""Keys of a model config that have another name since Ray 2.38, by their old name."""
GUESSED = "the network's settings: they are the algorithm's config, as no file has the module's own"
"""What can't be told of a module that a policy wraps, where nothing beside it describes it."""
_LAYER = re.compile(
    r"((?:\w*_)?encoder(?:s\.\d+)?\.(?:(?:actor_|critic_)?encoder\.)?(?:tokenizer\.)?net\.(?:mlp|0\.cnn))"
    r"\.(\d+)\.weight\Z"
)
_NORMS = {
    "fcnet_use_layernorm": re.compile(
        r"((?:\w*_)?encoder(?:s\.\d+)?\.(?:(?:actor_|critic_)?encoder\.)?(?:tokenizer\.)?net\.mlp)\.(\d+)\.weight\Z"
    ),
    "head_fcnet_use_layernorm": re.compile(
        r"((?:_target_|target_|_old_)?(?:pi|vf|af|qf|qf_twin|_pi_head|qf_heads\.\d+)\.net\.mlp)\.(\d+)\.weight\Z"
    ),
}
"""The layers that a setting puts LayerNorms between."""
_TAIL = re.compile(
    r"(?:(?:\.base_encoders\.\w+)?\.net\.(?:mlp|0\.cnn)\.\d+\.(?:weight|bias)"
    r"|\.(?:fusion_layers\.\d+|output_layer)\.(?:weight|bias)|\.lstm\.(?:weight|bias)_(?:ih|hh)_l0"
    rf"|\.log_std|\.{CLIP})\Z"
)
_PPO, _SAC = r"encoder\.(?:actor_|critic_)?encoder|pi", r"pi(?:_encoder)?"
_PLACES = {
    "PPO": (re.compile(rf"(?:{_PPO}|vf)\."), ("encoder.", "pi.")),
    "APPO": (re.compile(rf"(?:(?:_old_)?(?:{_PPO})|vf)\."), ("encoder.", "pi.")),
    "BC": (re.compile(r"_(?:encoder|pi_head)\."), ("_encoder.", "_pi_head.")),
    "DQN": (re.compile(r"(?:_target_)?(?:encoder|af|vf)\."), ("encoder.", "af.")),
    "SAC": (
        re.compile(rf"(?:{_SAC}|(?:target_)?(?:qf|qf_twin)(?:_encoder)?)\."),
        ("pi_encoder.", "pi."),
    ),
    "TQC": (
        re.compile(rf"(?:{_SAC}|(?:target_)?qf_(?:encoders|heads)\.\d+)\."),
        ("pi_encoder.", "pi."),
    ),
}
"""Where the names of today's weights begin, and what there has to be."""
_HEADS = re.compile(
    r"((?:_target_|target_|_old_)?(?:pi|vf|af|qf|qf_twin|_pi_head|qf_heads\.\d+))\.(?:net|log_std)\b"
)
_TARGETS = ("_target_", "target_", "_old_")
_RAINBOW = ".DQNRainbowTorchRLModule"
"""DQN's up to Ray 2.40: it took the mean of a distribution's logits over actions, today's over atoms."""
_FORMER_TARGETS = ("old_encoder.", "old_pi.")  # APPO's, up to Ray 2.33
_FIRST_Q = ("qf_encoder.net.", "qf_encoders.0.net.")  # of observation and action as one


def is_one(policy: Mapping[str, Any]) -> bool:
    """Whether the weights of `policy` are a module's, even if a policy of the old stack wraps the module."""
    name = str(policy.get("policy_class"))
    return name.endswith("RLModule") or any(
        str(key).startswith(("encoder.", "pi_encoder.", "_encoder.")) for key in policy["weights"]
    )


def convert(policy: Mapping[str, Any], where: str) -> Module:
    """The module with today's names, and with the constants that newer releases add to the weights."""
    class_name, model, recorded = read_description(policy)
    # Without a record of the module the class is the wrapping policy's, whose default module it was.
    wrapping = None if recorded else families.of_policy(class_name)
    known = families.of_module(class_name) or (wrapping[0] if wrapping else None)
    if known is None:
        raise refuse(where, f"the module class {class_name:.120} isn't one of RLlib's defaults")
    family = FAMILIES[known]
    settings = _settings(model, where)
    if class_name.endswith(_RAINBOW) and settings.get("dueling") and settings.get("num_atoms", 1) != 1:
        raise refuse(where, "it is dueling with num_atoms, which up to Ray 2.40 computed something else")
    weights = {_rename(name, known): value for name, value in policy["weights"].items()}
    renamed = [
        f"weights/{name} -> weights/{new}"
        for name in policy["weights"]
        if (new := _rename(name, known)) != name
    ]
    settings |= find_unbuilt(weights, settings)
    _check_sizes(weights, settings, where)
    _check_norms(weights, settings, where)
    if family.network == "PPO":
        settings["vf_share_layers"] = not any(key.startswith("encoder.critic_encoder.") for key in weights)
    extra = policy.get("extra")
    extra = extra if isinstance(extra, Mapping) else {}
    inference_only = bool(extra.get("inference_only"))
    if family.network == "PPO" and not any(key.startswith("vf.") for key in weights):
        inference_only = True
        settings["vf_share_layers"] = any(key.startswith("encoder.encoder.") for key in weights)
    dropped: list[str] = []
    optimizers = _optimizers(policy.get("optimizer") or {}, family.network)
    if len(optimizers) == 1 and family.network != "SAC":
        [(optimizer, item)] = optimizers.items()
        optimizers = {optimizer: without_targets(item, list(policy["weights"]))}
        if _count_parameters(optimizers[optimizer]) != len(parameters(weights)):
            optimizers, dropped = {}, [f"optimizer/{optimizer}: it isn't over the weights of this module"]
    if family.network == "SAC" and any(key.startswith(_FIRST_Q) for key in weights) and not _discrete(policy):
        inference_only = True
        dropped = [
            f"weights/{key}: {sac.OTHER}" for key in weights if not key.startswith(("pi_encoder.", "pi."))
        ]
        weights = {key: value for key, value in weights.items() if key.startswith(("pi_encoder.", "pi."))}
        dropped += [f"optimizer/{name}: {sac.OTHER}" for name in optimizers if name != "policy"]
        optimizers = {name: item for name, item in optimizers.items() if name == "policy"}
    _check_places(weights, known, inference_only, where)
    return Module(
        family.module,
        family.catalog,
        policy.get("observation_space"),
        policy.get("action_space"),
        settings,
        inference_only,
        _order(_complete(weights), known),
        optimizers,
        tuple(renamed),
        tuple(dropped),
        () if recorded else (GUESSED,),
    )


def with_targets(module: Module) -> Module:
    """APPO's `module` with its target networks, as copies of what they follow."""
    copies = {
        f"_old_{name}": value
        for part in ("encoder.", "pi.")
        for name, value in module.weights.items()
        if name.startswith(part)
    }
    return module._replace(weights={**module.weights, **copies})


def without_targets(item: Mapping[str, Any], weights: list[str]) -> Mapping[str, Any]:
    """An optimizer without APPO's target networks, which it had as parameters from Ray 2.10 to 2.33."""
    kept = [number for number, name in enumerate(weights) if not name.startswith(_FORMER_TARGETS)]
    groups = list(item.get("param_groups") or ())
    if len(kept) == len(weights) or len(groups) != 1 or len(groups[0]["params"]) != len(weights):
        return item
    moments = {new: item["state"][old] for new, old in enumerate(kept) if old in item["state"]}
    return {"state": moments, "param_groups": [{**groups[0], "params": list(range(len(kept)))}]}


def _rename(name: str, known: str) -> str:
    return f"_{name}" if known == "APPO" and name.startswith(_FORMER_TARGETS) else name


def _order(weights: dict[str, Any], known: str) -> dict[str, Any]:
    """The weights in the order of the module's own, where older releases had another one."""
    if known != "APPO":
        return weights
    return dict(sorted(weights.items(), key=lambda item: item[0].startswith("_old_pi.")))


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


def _check_places(weights: Mapping[str, Any], known: str, inference_only: bool, where: str) -> None:
    """Refuse weights that today's module has no place for, or too few of them.

    RLlib's own loading passes over both: what it doesn't find stays random.
    """
    heads, needed = _PLACES[known if known in _PLACES else FAMILIES[known].network]
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


def find_unbuilt(weights: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, bool]:
    """The settings for LayerNorms that the writing release passed over, as the weights tell, set to False.

    A model config takes any key, and Ray 2.60 has some that earlier releases didn't know.
    """
    return {
        key: False
        for key, layers in _NORMS.items()
        if settings.get(key)
        and not any(layers.match(name) and np.ndim(value) == 1 for name, value in weights.items())
    }


def _check_norms(weights: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> None:
    """Refuse LayerNorms in other places than after each layer that has an activation."""
    for key, layers in _NORMS.items():
        found: dict[str, dict[int, int]] = {}
        for name, value in weights.items():
            if match := layers.match(name):
                found.setdefault(match[1], {})[int(match[2])] = np.ndim(value)
        for name, numbered in found.items():
            linear = sorted(number for number, size in numbered.items() if size == 2)
            hidden = linear if key == "fcnet_use_layernorm" else linear[:-1]
            expected = {number + 1 for number in hidden} if settings.get(key) else set()
            if set(numbered) - set(linear) != expected:
                raise refuse(where, f"its LayerNorms in {name!r} aren't where today's module has them")


def _discrete(policy: Mapping[str, Any]) -> bool:
    space = policy.get("action_space")
    return isinstance(space, Mapping) and space.get("space") == "discrete"


def _count_parameters(optimizer: Any) -> int:
    """How many weights a torch optimizer trains."""
    groups = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
    return sum(len(group["params"]) for group in groups) if isinstance(groups, (list, tuple)) else 0


def _optimizers(stored: Mapping[str, Any], network: str) -> dict[str, Any]:
    """The optimizers that today's Learner has, by its names: it would keep any other beside its own."""
    if network == "SAC":
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


_LEARNING = (
    *("dueling", "double_q", "num_atoms", "v_min", "v_max", "std_init", "epsilon", "twin_q"),
    *("n_quantiles", "n_critics", "top_quantiles_to_drop_per_net"),
)


def _complete(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights with the constant of every head, which older releases didn't have."""
    made: dict[str, Any] = {}
    for name, value in weights.items():
        match = _HEADS.match(name)
        constant = f"{match[1]}.{CLIP}" if match else name
        if name.endswith(".log_std"):  # of the head itself, so it is before the constant
            made[name] = value
        if constant not in weights and constant not in made:
            made[constant] = np.array([CLIP_DEFAULT], np.float32)
        made[name] = value
    return made
