"""RLlib's algorithms by the network that they train: who has whose, and today's classes for it."""

from __future__ import annotations

from typing import NamedTuple

_ALGORITHMS = "ray.rllib.algorithms"


class Family(NamedTuple):
    """What an algorithm of today trains a network with."""

    network: str
    """Whose network it is: PPO, BC, DQN, SAC, or none (it acts without one)."""
    module: str
    """The dotted name of the module's class."""
    catalog: str | None
    algorithm: str | None
    learner: str | None


def _family(network: str, name: str, module: str, catalog: str, algorithm: str = "") -> Family:
    folder, kind = (algorithm or name).lower(), algorithm or name
    return Family(
        network,
        f"{_ALGORITHMS}.{name.lower()}.torch.default_{name.lower()}_torch_rl_module.{module}",
        f"{_ALGORITHMS}.{catalog.lower()}.{catalog.lower()}_catalog.{catalog}Catalog",
        f"{_ALGORITHMS}.{folder}.{folder}.{kind}",
        f"{_ALGORITHMS}.{folder}.torch.{folder}_torch_learner.{kind}TorchLearner",
    )


_MARWIL = _family("PPO", "PPO", "DefaultPPOTorchRLModule", "PPO", "MARWIL")
FAMILIES: dict[str, Family] = {
    "PPO": _family("PPO", "PPO", "DefaultPPOTorchRLModule", "PPO"),
    "IMPALA": _family("PPO", "PPO", "DefaultPPOTorchRLModule", "PPO", "IMPALA"),
    "APPO": _family("PPO", "APPO", "DefaultAPPOTorchRLModule", "PPO"),
    "MARWIL": _MARWIL,
    "BC": _family("BC", "BC", "DefaultBCTorchRLModule", "BC")._replace(
        algorithm=f"{_ALGORITHMS}.bc.bc.BC",
        learner=_MARWIL.learner,  # BC is MARWIL without its advantages, and has no Learner of its own
    ),
    "DQN": _family("DQN", "DQN", "DefaultDQNTorchRLModule", "DQN"),
    "SAC": _family("SAC", "SAC", "DefaultSACTorchRLModule", "SAC"),
    "CQL": _family("SAC", "CQL", "DefaultCQLTorchRLModule", "SAC"),
    "TQC": _family("SAC", "TQC", "DefaultTQCTorchRLModule", "TQC"),
    "random": Family(
        "none", "ray.rllib.examples.rl_modules.classes.random_rlm.RandomRLModule", None, None, None
    ),
}
"""By the algorithm's name in the newest RLlib."""

_FORMER = {
    "Impala": "IMPALA",
    "VTrace": "IMPALA",
    "AsyncPPO": "APPO",
    "A2C": "PPO",
    "A3C": "PPO",
    "PG": "PPO",
    "SimpleQ": "DQN",
}
"""Who goes on with the networks of algorithms that were renamed or removed."""
_FRAMEWORKS = ("Torch", "TF1", "TF2", "TF")
_MODULES = {
    "PPOTorchRLModule": "PPO",
    "DefaultPPOTorchRLModule": "PPO",
    "APPOTorchRLModule": "APPO",
    "DefaultAPPOTorchRLModule": "APPO",
    "MARWILTorchRLModule": "MARWIL",
    "BCTorchRLModule": "BC",
    "DefaultBCTorchRLModule": "BC",
    "DQNRainbowTorchRLModule": "DQN",
    "DefaultDQNTorchRLModule": "DQN",
    "SACTorchRLModule": "SAC",
    "DefaultSACTorchRLModule": "SAC",
    "CQLTorchRLModule": "CQL",
    "DefaultCQLTorchRLModule": "CQL",
    "DefaultTQCTorchRLModule": "TQC",
}
"""Whose default module a class is, or once was."""
NETWORKS = {family.module: family.network for family in FAMILIES.values()}
"""The network of today's modules."""
_RANDOM = ("RandomPolicy", "RandomRLModule")


def of_policy(class_name: str) -> tuple[str, str] | None:
    """The algorithm and the framework of a policy class of the old stack; None if it isn't RLlib's own.

    RLlib itself stores the bare names of its own classes, and looks them up among them.
    """
    name = class_name.rpartition(".")[2].removesuffix("_traced").removesuffix("_eager")
    for framework in _FRAMEWORKS:
        algorithm = name.removesuffix(f"{framework}Policy")
        known = _FORMER.get(algorithm, algorithm)
        if algorithm != name and known in FAMILIES and _is_rllibs(class_name):
            return known, framework
    return None


def of_module(class_name: str) -> str | None:
    """The algorithm whose default module has the class; None if it isn't one of RLlib's defaults."""
    found = _MODULES.get(class_name.rpartition(".")[2])
    return found if _is_rllibs(class_name) else None


def of_algorithm(class_name: str | None) -> str | None:
    """The algorithm of today that goes on where an algorithm's class left off; None for unknown ones."""
    name = str(class_name).rpartition(".")[2]
    known = _FORMER.get(name, name)
    return known if known in FAMILIES and _is_rllibs(str(class_name)) else None


def acts_at_random(class_name: str) -> bool:
    """Whether the class is one of RLlib's that draw actions and have no network."""
    return class_name.rpartition(".")[2] in _RANDOM and class_name.startswith("ray.rllib.")


def _is_rllibs(class_name: str) -> bool:
    return "." not in class_name or class_name.startswith("ray.rllib.")
