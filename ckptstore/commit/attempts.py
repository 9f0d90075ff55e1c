"""The number of a new attempt at a step: above every one that is there, whatever became of it.

Of the attempts at a step the highest committed one counts. A lower number can be free again, where gc has
forgotten the dead or where a tool has copied the living ones only, but what is committed under it would
never be seen.
"""

from __future__ import annotations

from collections.abc import Iterable

from ckptstore.backends.base import Backend
from ckptstore.commit.failures import url_of
from ckptstore.errors import InvalidRequest
from ckptstore.format.names import MAX_ATTEMPT, CheckpointName


def next_name(backend: Backend, step: int, there: Iterable[CheckpointName]) -> CheckpointName:
    """The name of an attempt at `step` above all that are `there`. InvalidRequest if none is left."""
    highest = max((name for name in there if name.step == step), default=None)
    if highest is None:
        return CheckpointName(step)
    if highest.attempt >= MAX_ATTEMPT:
        raise InvalidRequest(
            url_of(backend, highest),
            f"its number is the highest there is, so step {step} can't be saved again",
            "Save another step, or move that directory out of the store",
        )
    return CheckpointName(step, highest.attempt + 1)
