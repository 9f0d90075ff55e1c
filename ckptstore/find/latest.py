"""The newest checkpoint that is whole; while others commit and delete, it never goes back."""

from __future__ import annotations

from ckptstore.checkpoint import Checkpoint, Skipped
from ckptstore.errors import CheckpointCorrupt
from ckptstore.find.survey import Survey, log_skipped
from ckptstore.format.names import CheckpointName


def find_latest(survey: Survey, url: str, verified: bool) -> Checkpoint | None:
    """The newest committed checkpoint that is whole; None if nothing is committed.

    Raises CheckpointCorrupt if checkpoints are committed and none is whole.
    """
    skipped: list[Skipped] = []

    def look(listed: list[CheckpointName]) -> tuple[Checkpoint | None, bool]:
        skipped.clear()
        gone = False
        for name in reversed(listed):
            manifest = survey.fetch_whole(name, skipped, verified)
            if manifest is not None:
                return survey.checkpoint(name, manifest, skipped), gone
            gone = gone or not skipped or skipped[-1].name != str(name)
        return None, gone

    found = survey.look_until_stable(look)
    log_skipped(skipped, url)
    if found is None and skipped:
        raise CheckpointCorrupt(
            url,
            "no checkpoint is whole: " + "; ".join(f"{skip.name}: {skip.reason}" for skip in skipped),
            "Copy one from elsewhere, or remove the damaged ones to begin anew",
        )
    return found
