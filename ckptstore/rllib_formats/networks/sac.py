"""SAC: a policy network and one or two Q networks.

With discrete actions both stacks build the same networks. With continuous ones the new stack's Q networks
take observation and action through separate encoders, which no old weights fit: the policy is converted to a
module for inference, and the report says what was dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.rllib_formats.networks import config, trunk
from ckptstore.rllib_formats.networks.moving import Module, Mover, check_chain, parameters, refuse

CLASS = "ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module.DefaultSACTorchRLModule"
CATALOG = "ray.rllib.algorithms.sac.sac_catalog.SACCatalog"

OTHER = "today's Q networks for continuous actions take observation and action apart"
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
    if discrete:
        other = config.sac_model(policy, where, "q_model_config", "Q_model")
        for old, new in nets.items():
            if _network(mover, other, shape[0], outputs, old, f"{new}_encoder", new) != sizes:
                raise refuse(where, "its Q networks have layers of other sizes than its policy")
        if config.read_activation(other, where) != config.read_activation(model, where):
            raise refuse(where, "its Q networks have another activation than its policy")
    else:
        for old in nets:
            mover.drop_unused(f"{old}.", OTHER)
    for name in ("log_alpha", "target_entropy"):
        mover.drop_unused(name, _ALPHA)
    mover.done()
    optimizer = _optimizers(policy, mover, discrete, nets)
    made = _order(mover.made, nets) if discrete else mover.made
    if discrete:
        mover.made = made
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
        not discrete,
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


def _order(made: dict[str, Any], nets: Mapping[str, str]) -> dict[str, Any]:
    """The weights in the module's order: all encoders, then all heads."""
    heads = ("pi", *nets.values())
    prefixes = [f"{head}_encoder." for head in heads] + [f"{head}." for head in heads]
    return {name: value for prefix in prefixes for name, value in made.items() if name.startswith(prefix)}


def _optimizers(
    policy: Mapping[str, Any], mover: Mover, discrete: bool, nets: Mapping[str, str]
) -> dict[str, Any]:
    """Optimizers by name; the old stack numbered them: policy, each Q network, alpha."""
    stored = policy.get("optimizer") or {}
    learned = {"policy": ("action_model", "pi")}
    if discrete:
        learned |= {new: (old, new) for old, new in nets.items()}
    found = {}
    for number, (name, (old, new)) in enumerate(learned.items()):
        before = [weight for weight in mover.order if weight.startswith(f"{old}.")]
        after = parameters(mover.made, f"{new}_encoder.") + parameters(mover.made, f"{new}.")
        if (moved := mover.moments(stored.get(str(number)), before, after)) is not None:
            found[name] = moved
    return found
