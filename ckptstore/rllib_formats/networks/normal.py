"""The filter that observations of the old API stack pass before they reach the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ckptstore.codec import npy
from ckptstore.codec.pickles.budget import DEFAULT, Meter
from ckptstore.errors import UnreadableFormat

_SMALL = 1e-6  # RLlib adds it to every deviation


class Normal(NamedTuple):
    """``(obs - mean) / deviation``, clipped to [-limit, limit] if there is a limit."""

    mean: Any
    """float64, of the shape of an observation."""
    deviation: Any
    limit: float | None


def normal_of(stored: Any, where: str) -> Normal | None:
    """A policy's filter, from the algorithm's `filters` in the model; None if it changes nothing."""
    if stored is None:
        return None
    kind = stored.get("filter") if isinstance(stored, Mapping) else stored
    if isinstance(kind, str) and kind == "NoFilter":
        return None
    try:
        return _normal(stored)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UnreadableFormat(
            where,
            f"its observations went through a filter that isn't known here ({kind!s:.60}: "
            f"{type(error).__name__} {error!s:.60})",
            "Export its weights (npz, safetensors, json) and filter observations yourself",
        ) from error


def find_filter(policy: Mapping[str, Any]) -> Any:
    """The filter among a policy's connectors, for `normal_of`; None if there is none.

    Ray 2.3 to 2.60 keep one with every policy of the old stack, as a list with an item for each part of an
    observation.
    """
    connectors = policy.get("connectors")
    agent = connectors.get("agent") if isinstance(connectors, Mapping) else None
    items = agent[1] if isinstance(agent, (list, tuple)) and len(agent) == 2 else ()
    for item in items if isinstance(items, (list, tuple)) else ():
        if isinstance(item, (list, tuple)) and len(item) == 2 and item[0] in _CONNECTORS:
            params = item[1] if isinstance(item[1], Mapping) else {}
            return {**params, "filter": "MeanStdFilter"}
    return None


_CONNECTORS = ("MeanStdObservationFilterAgentConnector", "ConcurrentMeanStdObservationFilterAgentConnector")


def _normal(stored: Mapping[str, Any]) -> Normal:
    if str(stored["filter"]) not in ("MeanStdFilter", "ConcurrentMeanStdFilter"):
        raise ValueError("an unknown kind")
    if "rs" in stored:  # up to Ray 2.0
        stats = stored["rs"]
        pushes, mean, squares = stats["_n"], stats["_M"], stats["_S"]
    else:
        stats = stored["running_stats"]
        if isinstance(stats, (list, tuple)):  # as connectors have it
            [stats] = stats
            meter = Meter(DEFAULT, 0)
            stats = {
                key: npy.npy_base64(value, meter) if isinstance(value, str) else value
                for key, value in stats.items()
            }
        pushes, mean = stats["num_pushes"], stats["mean_array"]
        squares = stats.get("sum_sq_diff_array", stats.get("std_array"))  # before Ray 2.41 the second
    mean, squares = np.asarray(mean, np.float64), np.asarray(squares, np.float64)
    if mean.shape != squares.shape:
        raise ValueError("mean and deviation differ in shape")
    variance = squares / (int(pushes) - 1) if int(pushes) > 1 else np.square(mean)
    deviation = np.sqrt(variance) + _SMALL
    limit = stored.get("clip")
    return Normal(
        mean if stored["demean"] else np.zeros_like(mean),
        deviation if stored["destd"] else np.ones_like(mean),
        float(limit) if limit else None,
    )
