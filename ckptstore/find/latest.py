"""The newest checkpoint, and the one of a step: while others commit and delete, neither goes back.

A listing may be old by the time that what it names is read. So a look that misses something it preferred
is made again, with a new listing, until one is complete: what was listed and is gone may have been replaced,
and its successor is in a listing made now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ckptstore.checkpoint import Checkpoint, Skipped
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, CheckpointUntrusted, UnreadableFormat
from ckptstore.find.survey import MAX_TRIES, Survey, log_skipped, restless
from ckptstore.format.manifest import Manifest
from ckptstore.format.names import CheckpointName

T = TypeVar("T")


def find_latest(survey: Survey, verified: bool) -> Checkpoint | None:
    """The newest committed checkpoint that is whole; None if nothing is committed.

    Raises CheckpointCorrupt if checkpoints are committed and none is whole, CheckpointUntrusted if that is
    only for want of trust, UnreadableFormat if a later release wrote the newest.
    """
    skipped: list[Skipped] = []

    def look(listed: list[CheckpointName]) -> tuple[Checkpoint | None, bool]:
        skipped.clear()
        absent: list[CheckpointName] = []
        gone = False
        for name in reversed(listed):
            manifest = survey.fetch_whole(name, skipped, absent, verified)
            if manifest is not None:
                skipped.extend(survey.find_lost(absent))
                return survey.checkpoint(name, manifest, skipped), gone
            if skipped and skipped[-1].newer:  # to pass it over would take its run back to an older one
                return None, gone
            gone = gone or not skipped or skipped[-1].name != str(name)
        skipped.extend(survey.find_lost(absent))
        return None, gone

    found = _look_until_stable(survey, look)
    log_skipped(skipped, survey.url)
    if found is None and skipped and skipped[-1].newer:
        raise UnreadableFormat(f"{survey.url}/{skipped[-1].name}", skipped[-1].reason, "Upgrade ckptstore")
    if found is None and skipped:
        reasons = "; ".join(f"{skip.name}: {skip.reason}" for skip in skipped)
        if all(skip.untrusted for skip in skipped):
            remedy = "Pass the key that signed them, or read without trusted_keys; none has to be removed"
            raise CheckpointUntrusted(survey.url, f"no checkpoint is whole and trusted: {reasons}", remedy)
        remedy = "Copy one from elsewhere, or remove the damaged ones to begin anew"
        raise CheckpointCorrupt(survey.url, f"no checkpoint is whole: {reasons}", remedy)
    return found


def find_step(survey: Survey, step: int) -> tuple[CheckpointName, Manifest]:
    """The visible checkpoint of `step`; CheckpointNotFound if there is none."""

    def look(listed: list[CheckpointName]) -> tuple[tuple[CheckpointName, Manifest] | None, bool]:
        mine = [name for name in listed if name.step == step]
        for name in reversed(mine):
            manifest = survey.fetch(name)
            if manifest is not None:
                return (name, manifest), name != mine[-1]
        return None, bool(mine)

    found = _look_until_stable(survey, look)
    if found is None:
        raise CheckpointNotFound(
            f"{survey.url} step {step}", "no committed checkpoint has it", "See `ckptstore ls`"
        )
    return found


def _look_until_stable(survey: Survey, look: Callable[[list[CheckpointName]], tuple[T, bool]]) -> T:
    """`look` at listings until it doesn't tell that something it preferred was listed and not there."""
    listed = survey.names()
    for _ in range(MAX_TRIES):
        result, gone = look(listed)
        if not gone:
            return result
        again = survey.names()
        if set(again) <= set(listed):
            return result
        listed = again
    raise restless(survey.url)
