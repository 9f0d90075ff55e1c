"""Convert networks of RLlib's old API stack to modules of the new one, weight by weight.

RLlib's default networks compute the same on both stacks; they differ in the names of the weights and in a
few weights that the old stack made but never used. A network is converted if every one of its weights is
accounted for, and refused otherwise, with the name of what isn't known: a guess would give a policy that
acts, but acts wrongly. `forward` says what a module computes, for files that other programs run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptstore.errors import CheckpointError, UnreadableFormat
from ckptstore.rllib_formats.networks import dqn, new_stack, ppo, sac, tensorflow
from ckptstore.rllib_formats.networks.forward import Network, network
from ckptstore.rllib_formats.networks.moving import CLIP, Module, refuse
from ckptstore.rllib_formats.networks.normal import find_filter, normal_of

_CONVERTERS = {"PPO": ppo.convert, "DQN": dqn.convert, "SAC": sac.convert}
_FRAMEWORKS = ("Torch", "TF1", "TF2", "TF")

__all__ = ["Module", "Network", "find_network", "new_stack_module"]


def new_stack_module(policy: Mapping[str, Any], where: str = "policy") -> Module:
    """The default RLModule that computes the same as `policy`, which is in the model of ``docs/model.md``.

    Weights of a module stay as they are. Errors begin with `where`. Raises UnreadableFormat, naming what
    isn't understood, if any weight, layer or setting isn't one of RLlib's own.
    """
    if not isinstance(policy.get("weights"), Mapping) or not policy["weights"]:
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
    if new_stack.is_one(policy):
        return new_stack.convert(policy, where)
    algorithm, framework = _algorithm_and_framework(policy, where)
    if framework != "Torch":
        policy = tensorflow.as_torch(policy, where)
    return _CONVERTERS[algorithm](policy, where)


def _algorithm_and_framework(policy: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The algorithm and the framework in the name of the policy's class."""
    name = str(policy.get("policy_class")).rpartition(".")[2].removesuffix("_traced")
    for algorithm in _CONVERTERS:
        for framework in _FRAMEWORKS:
            if name == f"{algorithm}{framework}Policy":
                return algorithm, framework
    raise refuse(
        where,
        f"its policy class, {policy.get('policy_class')!s:.120}, isn't one for {', '.join(_CONVERTERS)}",
    )
