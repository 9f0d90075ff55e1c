"""Compare what a file computes with what the weights compute, on random observations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.networks.forward import LARGEST, Network, Numbers

Arrays = Mapping[str, Any]
Live = Callable[[Arrays], Arrays]
"""Asks RLlib's own network for some of the outputs, by their names."""

BATCHES = (1, 7, 64)
"""Sizes of batches: several, as a file may have frozen the size that it was made with."""
TOLERANCE = 1e-4
"""The largest difference, as a part of the largest output, that rounding of float32 can explain."""


def largest_difference(
    network: Network, run: Callable[[Arrays], Arrays], where: str, live: Live | None = None
) -> float:
    """The largest difference between `run`, which runs the file, and the weights, over all outputs.

    With `live`, which asks RLlib's own network, its outputs are compared as well: those of the weights come
    from the same description of the network as the file. Raises UnreadableFormat if a difference is more than
    rounding, or if an output isn't a finite number.
    """
    numbers, largest = Numbers(network.weights, where), 0.0
    random = np.random.default_rng(0)
    one = max(math.prod(shape) for shape in network.inputs.values())
    for batch in [batch for batch in BATCHES if batch * one <= LARGEST] or [1, 2]:  # large images: fewer
        given = {
            name: random.standard_normal((batch, *shape)).astype(np.float32)
            for name, shape in network.inputs.items()
        }
        if network.normal is not None:  # observations of the size that the filter has seen
            obs = given["obs"] * network.normal.deviation + network.normal.mean
            given["obs"] = obs.astype(np.float32)
        expected = network.run(numbers, given)
        try:
            found = run(given)
        except Exception as error:  # whatever the runtime raises
            raise _refuse(where, f"with a batch of {batch}: {error!s:.100}") from error
        theirs = live(given) if live is not None else {}
        for name, truth in [*expected.items(), *theirs.items()]:
            if not np.isfinite(truth).all():
                raise UnreadableFormat(
                    where, f"its outputs {name} aren't finite numbers", "Export an older checkpoint"
                )
            if found[name].shape != truth.shape:
                raise _refuse(where, f"{name} has the shape {found[name].shape}, not {truth.shape}")
            difference = float(np.abs(found[name] - truth).max())
            if not difference <= TOLERANCE * max(1.0, float(np.abs(truth).max())):
                raise _refuse(where, f"{name} differs by {difference:.3g}")
            largest = max(largest, difference)
    return largest


def _refuse(where: str, why: str) -> UnreadableFormat:
    return UnreadableFormat(
        where,
        f"the file doesn't compute what the weights do ({why}), so it wasn't written",
        "Export its weights (npz, safetensors, json), and please report this",
    )
