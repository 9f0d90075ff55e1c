"""What stands in the pipelines of the new stack's env runners besides RLlib's default connectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SLOTS = ("env_to_module_connector", "module_to_env_connector")
"""The two pipelines of an env runner, by their directories, which are also the words of RLlib's config."""

_DEFAULT = frozenset(
    {
        "AddObservationsFromEpisodesToBatch",
        "AddStatesFromEpisodesToBatch",
        "AddTimeDimToBatchAndZeroPad",
        "AgentToModuleMapping",
        "BatchIndividualItems",
        "GetActions",
        "ListifyDataForVectorEnv",
        "ModuleToAgentUnmapping",
        "NormalizeAndClipActions",
        "NumpyToTensor",
        "RemoveSingleTsTimeRankFromBatch",
        "TensorToNumpy",
        "UnBatchToIndividualItems",
    }
)


def is_default(name: str) -> bool:
    """Whether RLlib itself puts connectors of the class called `name` into its pipelines, in any release."""
    return name.rpartition(".")[2] in _DEFAULT


def list_connectors(kwargs: Mapping[str, Any]) -> list[tuple[Any, Any, Any]] | None:
    """Class, args and kwargs of each connector in a pipeline's arguments, which hold them since Ray 2.44."""
    found = kwargs.get("connectors")
    if not isinstance(found, (list, tuple)):
        return None
    return [item for item in found if isinstance(item, tuple) and len(item) == 3]
