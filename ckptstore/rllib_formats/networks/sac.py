"""SAC: a policy network and one or two Q networks.

With discrete actions both stacks build the same networks, if the Q networks' layers are like the policy's.
With continuous ones the new stack's Q networks take observation and action through separate encoders, which
no old weights fit. Where they don't fit, the policy is converted to a module for inference, and the report
says what was dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.rllib_formats.networks import config, trunk
from ckptstore.rllib_formats.networks.moving import Module, Mover, check_chain, parameters, refuse

CLASS = "ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module.DefaultSACTorchRLModule"
CATALOG = "ray.rllib.algorithms.sac.sac_catalog.SACCatalog"

OTHER = "today's Q networks for continuous actions take observation and action apart"
_UNLIKE = "today's Q networks have the layers and the activation of the policy, and these have others"
_UNUSED = "the value head of RLlib's base network, which SAC never used"
_ALPHA = "the new stack keeps it in the Learner, which starts it anew"


def convert(policy: Mapping[str, Any], where: str) -> Module:
    """The module for `policy`, one of SAC's or CQL's."""
    model = config.sac_model(policy, where, "policy_model_config", "policy_model")
    mover = Mover(policy["weights"], where)
    shape, actions = config.observation_shape(policy, where), policy["action_space"]
    if len(shape) != 1:
        raise refuse(where, f"it observes boxes of the shape {shape}")
    outputs = config.outputs(policy, where)
    discrete = actions["space"] == "discrete"
    if not discrete and actions["space"] != "box":
        raise refuse(where, f"its actions are {actions['space']}")
    sizes = _network(mover, model, shape[0], outputs, "action_model", "pi_encoder", "pi")
    twin = mover.has("twin_q_net._logits._model.0")
    nets = {"q_net": "qf", **({"twin_q_net": "qf_twin"} if twin else {})}
    other = config.sac_model(policy, where, "q_model_config", "Q_model") if discrete else model
    alike = discrete and _alike(mover, sizes, nets, model, other)
    for old, new in nets.items():
        if alike:
            _network(mover, other, shape[0], outputs, old, f"{new}_encoder", new)
        else:
            mover.drop_unused(f"{old}.", _UNLIKE if discrete else OTHER)
    for name in ("log_alpha", "target_entropy"):
        mover.drop_unused(name, _ALPHA)
    mover.done()
    optimizer = _optimizers(policy, mover, alike, nets)
    if alike:
        mover.made = _order(mover.made, nets)
        mover.copies(
            {f"{new}{part}": f"target_{new}{part}" for new in nets.values() for part in ("_encoder", "")}
        )
    return Module(
        CLASS,
        CATALOG,
        policy["observation_space"],
        actions,
        {
            **config.DEFAULTS,
            "fcnet_hiddens": sizes,
            "fcnet_activation": config.read_activation(model, where),
            "twin_q": twin,
        },
        not alike,
        mover.made,
        optimizer,
        mover.report_renames(),
        tuple(mover.dropped),
    )


def _network(
    mover: Mover, model: Mapping[str, Any], inputs: int, outputs: int, old: str, encoder: str, head: str
) -> list[int]:
    sizes = trunk.move_dense(mover, model, inputs, f"{old}._hidden_layers", f"{encoder}.net.mlp")
    mover.clip(head)
    mover.layer(f"{old}._logits._model.0", f"{head}.net.mlp.0")
    mover.drop_unused(f"{old}._value_branch", _UNUSED)
    check_chain(mover.made, sizes[-1], [f"{head}.net.mlp.0"], mover.where)
    if mover.made[f"{head}.net.mlp.0.bias"].shape != (outputs,):
        raise refuse(mover.where, f"its network {old!r} doesn't give {outputs} numbers")
    return sizes


def _alike(
    mover: Mover,
    sizes: list[int],
    nets: Mapping[str, str],
    model: Mapping[str, Any],
    other: Mapping[str, Any],
) -> bool:
    """Whether the Q networks, not moved yet, have the hidden layers of the policy."""
    for old in nets:
        layers = [f"{old}._hidden_layers.{number}._model.0" for number in range(len(sizes) + 1)]
        found = [np.shape(mover.left[f"{layer}.weight"])[:1] for layer in layers if mover.has(layer)]
        if found != [(size,) for size in sizes]:
            return False
    return config.read_activation(other, mover.where) == config.read_activation(model, mover.where)


def _order(made: dict[str, Any], nets: Mapping[str, str]) -> dict[str, Any]:
    """The weights in the module's order: all encoders, then all heads."""
    heads = ("pi", *nets.values())
    prefixes = [f"{head}_encoder." for head in heads] + [f"{head}." for head in heads]
    return {name: value for prefix in prefixes for name, value in made.items() if name.startswith(prefix)}


def _optimizers(
    policy: Mapping[str, Any], mover: Mover, alike: bool, nets: Mapping[str, str]
) -> dict[str, Any]:
    """Optimizers by name; the old stack numbered them: policy, each Q network, alpha."""
    stored = policy.get("optimizer") or {}
    learned = {"policy": ("action_model", "pi")}
    if alike:
        learned |= {new: (old, new) for old, new in nets.items()}
    found = {}
    for number, (name, (old, new)) in enumerate(learned.items()):
        before = [weight for weight in mover.order if weight.startswith(f"{old}.")]
        after = parameters(mover.made, f"{new}_encoder.") + parameters(mover.made, f"{new}.")
        if (moved := mover.moments(stored.get(str(number)), before, after)) is not None:
            found[name] = moved
    return found
