"""From the networks of RLlib's old API stack to the modules of the new one, weight by weight. Pure.

RLlib's default networks compute the same on both stacks; they differ in how weights are called and in a few
that the old stack made and never used. A network is converted if every one of its weights is accounted for,
and refused by name otherwise: a guess would be a policy that acts, and acts wrongly. What a module computes
is said in `forward`, for files in formats that other programs run.
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


def new_stack_module(policy: Mapping[str, Any], place: str = "policy") -> Module:
    """The default RLModule that computes what `policy`, in the model of ``docs/model.md``, computes.

    Weights that are a module's already are carried. `place` begins errors. UnreadableFormat, naming what
    isn't understood, if any weight, layer or setting isn't one of RLlib's own.
    """
    if not isinstance(policy.get("weights"), Mapping) or not policy["weights"]:
        raise UnreadableFormat(place, "it has no weights", "Migrate a whole checkpoint")
    try:
        return _convert(policy, place)
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A config is whatever its file says, and any of its values may be of any type.
        what = f"{type(error).__name__}: {error!s:.100}"
        raise refuse(place, f"its config or spaces aren't as RLlib writes them ({what})") from error


def find_network(policy: Mapping[str, Any], filter: Any = None, place: str = "policy") -> Network:
    """What `policy`, in the model of ``docs/model.md``, computes in one step, behind its observation filter.

    `filter` is the algorithm's for this policy, as the model has it; without one, it is the policy's own
    connector if there is one. Raises UnreadableFormat as `new_stack_module` does, and where a filter is asked
    for that isn't to be found.
    """
    module = new_stack_module(policy, place)
    clips = any(str(name).endswith(f".{CLIP}") for name in policy["weights"])
    found = filter if filter is not None else find_filter(policy)
    config = policy.get("config")
    asked = config.get("observation_filter") if isinstance(config, Mapping) else None
    if found is None and asked is not None and str(asked) != "NoFilter":
        raise UnreadableFormat(
            place,
            f"its observations went through a {asked!s:.40}, which only the algorithm's checkpoint holds",
            "Export it from there",
        )
    return network(module, normal_of(found, place), clips=clips, place=place)


def _convert(policy: Mapping[str, Any], place: str) -> Module:
    if new_stack.is_one(policy):
        return new_stack.convert(policy, place)
    algorithm, framework = _algorithm_and_framework(policy, place)
    if framework != "Torch":
        policy = tensorflow.as_torch(policy, place)
    return _CONVERTERS[algorithm](policy, place)


def _algorithm_and_framework(policy: Mapping[str, Any], place: str) -> tuple[str, str]:
    """Algorithm and framework, as the class's name has them."""
    name = str(policy.get("policy_class")).rpartition(".")[2].removesuffix("_traced")
    for algorithm in _CONVERTERS:
        for framework in _FRAMEWORKS:
            if name == f"{algorithm}{framework}Policy":
                return algorithm, framework
    raise refuse(
        place, f"the policy class {policy.get('policy_class')!s:.120} is none of {', '.join(_CONVERTERS)}'s"
    )
