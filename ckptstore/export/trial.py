"""Compares what a file computes with what the weights compute, on random observations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ckptstore.errors import UnreadableFormat
from ckptstore.rllib_formats.networks.forward import LARGEST, Network, Numbers

Arrays = Mapping[str, Any]

BATCHES = (1, 7, 64)
"""Of more sizes than one: a file may have frozen the size that it was made with. Of large images fewer."""
TOLERANCE = 1e-4
"""Beyond this part of the largest number that comes out, it isn't rounding of float32 any more."""


def largest_difference(network: Network, run: Callable[[Arrays], Arrays], place: str) -> float:
    """Between `run`, which is the file, and the weights, over all outputs.

    Raises UnreadableFormat if it is more than rounding, or if what comes out isn't a number.
    """
    numbers, largest = Numbers(network.weights, place), 0.0
    random = np.random.default_rng(0)
    one = max(math.prod(shape) for shape in network.inputs.values())
    for batch in [batch for batch in BATCHES if batch * one <= LARGEST] or [1, 2]:
        given = {
            name: random.standard_normal((batch, *shape)).astype(np.float32)
            for name, shape in network.inputs.items()
        }
        if network.normal is not None:  # observations as the filter has seen them
            obs = given["obs"] * network.normal.deviation + network.normal.mean
            given["obs"] = obs.astype(np.float32)
        expected = network.run(numbers, given)
        try:
            found = run(given)
        except Exception as error:  # whatever the runtime raises
            raise _otherwise(place, f"with a batch of {batch}: {error!s:.100}") from error
        for name, truth in expected.items():
            if not np.isfinite(truth).all():
                raise UnreadableFormat(
                    place, f"its {name} aren't finite numbers", "Export an older checkpoint"
                )
            if found[name].shape != truth.shape:
                raise _otherwise(place, f"{name} of the shape {found[name].shape}, not {truth.shape}")
            difference = float(np.abs(found[name] - truth).max())
            if not difference <= TOLERANCE * max(1.0, float(np.abs(truth).max())):
                raise _otherwise(place, f"{name} differ by {difference:.3g}")
            largest = max(largest, difference)
    return largest


def _otherwise(place: str, why: str) -> UnreadableFormat:
    return UnreadableFormat(
        place,
        f"the file that was made computes something else than the weights ({why}), so it wasn't written",
        "Export its weights (npz, safetensors, json), and please report this",
    )
