"""Convert networks of RLlib's old API stack to modules of the new one, weight by weight.

RLlib's default networks compute the same on both stacks; they differ in the names of the weights and in a
few weights that the old stack made but never used. A network is converted if every one of its weights is
accounted for, and refused otherwise, with the name of what isn't known: a guess would give a policy that
acts, but acts wrongly. `forward` says what a module computes, for files that other programs run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import CheckpointError, UnreadableFormat
from ckptstore.rllib_formats.networks import config, dqn, families, new_stack, ppo, sac, tensorflow
from ckptstore.rllib_formats.networks.forward import Network, network
from ckptstore.rllib_formats.networks.moving import CLIP, Module, refuse
from ckptstore.rllib_formats.networks.normal import find_filter, normal_of

_CONVERTERS = {"PPO": ppo.convert, "DQN": dqn.convert, "SAC": sac.convert}

__all__ = ["Module", "Network", "find_network", "new_stack_module"]


def new_stack_module(policy: Mapping[str, Any], where: str = "policy") -> Module:
    """The default RLModule that computes the same as `policy`, which is in the model of ``docs/model.md``.

    Weights of a module stay as they are. Errors begin with `where`. Raises UnreadableFormat, naming what
    isn't understood, if any weight, layer or setting isn't one of RLlib's own.
    """
    if not isinstance(policy.get("weights"), Mapping):
        raise UnreadableFormat(where, "it has no weights", "Migrate a whole checkpoint")
    try:
        return _convert(policy, where)
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The config comes from a file, so any value in it may be of any type.
        what = f"{type(error).__name__}: {error!s:.100}"
        raise refuse(where, f"its config or spaces aren't as RLlib writes them ({what})") from error


def find_network(policy: Mapping[str, Any], filter: Any = None, where: str = "policy") -> Network:
    """What `policy`, which is in the model of ``docs/model.md``, computes in one step, filter included.

    `filter` is the algorithm's observation filter for this policy, as in the model; without one, the policy's
    own connector is taken. Raises UnreadableFormat as `new_stack_module` does, and if the config asks for a
    filter that the checkpoint doesn't hold.
    """
    module = new_stack_module(policy, where)
    if module.network == "none":
        raise UnreadableFormat(where, "it acts at random, without a network", "Draw actions from its space")
    clips = any(str(name).endswith(f".{CLIP}") for name in policy["weights"])
    found = filter if filter is not None else find_filter(policy)
    config = policy.get("config")
    asked = config.get("observation_filter") if isinstance(config, Mapping) else None
    if found is None and asked is not None and str(asked) != "NoFilter":
        raise UnreadableFormat(
            where,
            f"its observations went through a {asked!s:.40}, which only the algorithm's checkpoint holds",
            "Export the policy from that checkpoint",
        )
    return network(module, normal_of(found, where), clips=clips, where=where)


def _convert(policy: Mapping[str, Any], where: str) -> Module:
    class_name = str(policy.get("policy_class"))
    if not policy["weights"]:
        if families.acts_at_random(class_name):
            return _convert_random(policy)
        why = f"it is of the class {class_name:.120} and has no weights, so nothing says how it acts"
        remedy = "Migrate it to 1.1, or leave it out in a step of your own"
        raise UnreadableFormat(where, why, remedy)
    if new_stack.is_one(policy):
        return new_stack.convert(policy, where)
    found = families.of_policy(class_name)
    if found is None or families.FAMILIES[found[0]].network not in _CONVERTERS:
        raise refuse(
            where, f"it is of the class {class_name:.120}, which isn't RLlib's for {', '.join(_KNOWN)}"
        )
    algorithm, framework = found
    family = families.FAMILIES[algorithm]
    if framework != "Torch":
        policy = tensorflow.as_torch(policy, family.network, where)
    policy, dropped = _without_curiosity(policy)
    module = _CONVERTERS[family.network](policy, where)
    if algorithm == "APPO":
        module = new_stack.with_targets(module)
    return module._replace(
        class_name=family.module, catalog_class=family.catalog, dropped=(*module.dropped, *dropped)
    )


def _without_curiosity(policy: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """`policy` without the networks that its exploration has put beside its own, and what to say of them.

    They choose no action, and have an optimizer of their own.
    """
    settings = policy.get("config")
    explored = settings.get("exploration_config") if isinstance(settings, Mapping) else None
    kind = explored.get("type") if isinstance(explored, Mapping) else None
    kind = kind.name if isinstance(kind, Opaque) else kind
    if str(kind).rpartition(".")[2] != "Curiosity":
        return policy, []
    beside = [name for name in policy["weights"] if str(name).startswith("_curiosity_")]
    own = {name: value for name, value in policy["weights"].items() if name not in beside}
    return {**policy, "weights": own}, [f"weights/{name}: {_CURIOSITY}" for name in beside]


_CURIOSITY = "of its exploration, which on the new stack is a module of its own"


_KNOWN = ("PPO", "APPO", "IMPALA", "A2C", "A3C", "PG", "MARWIL", "BC", "DQN", "SimpleQ", "SAC", "CQL")


def _convert_random(policy: Mapping[str, Any]) -> Module:
    family = families.FAMILIES["random"]
    spaces = policy.get("observation_space"), policy.get("action_space")
    return Module(family.module, family.catalog, *spaces, dict(config.DEFAULTS), False, {}, {}, (), ())
