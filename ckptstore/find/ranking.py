"""Choose the best checkpoint by a metric."""

from __future__ import annotations

from collections.abc import Iterable

from ckptstore.checkpoint import Checkpoint
from ckptstore.errors import InvalidRequest
from ckptstore.format.metrics import explain_unknown, number
from ckptstore.logs import logger


def choose_best(checkpoints: Iterable[Checkpoint], metric: str, mode: str) -> Checkpoint | None:
    """The one with the best value of `metric`; of equal ones the last. None if none has a number there.

    A warning says so where none has a metric of that name, and others have: it may be misspelled.
    """
    if mode not in ("max", "min"):
        raise InvalidRequest("mode", f"{mode!r} is unknown", "Use 'max' or 'min'")
    checkpoints = list(checkpoints)
    sign = 1 if mode == "max" else -1
    ranked = [
        (sign * value, index, checkpoint)
        for index, checkpoint in enumerate(checkpoints)
        if (value := number(checkpoint.metrics, metric)) is not None
    ]
    if not ranked and (why := explain_unknown(metric, (each.metrics for each in checkpoints))):
        logger.warning("best: %s", why)
    return max(ranked)[2] if ranked else None
