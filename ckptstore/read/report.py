"""What `verify` looked at and found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_SHOWN = 20  # problems that fit in one line


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` looked at and found."""

    name: str
    files: int
    """Files read."""
    bytes: int
    """Bytes read and hashed."""
    problems: tuple[str, ...] = field(default=())
    """One line for every file that is missing or changed."""
    strays: tuple[str, ...] = field(default=())
    """Paths of files that lie there and that the manifest doesn't name: no part of it, and no damage."""
    damaged: tuple[str, ...] = field(default=())
    """Paths of the files that are missing or changed."""
    sharers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a damaged file the checkpoints that have the same file, or should have the same bytes."""
    signed_for: str = ""
    """Id of the store that it was signed for; empty if nobody signed it, or no store is named there."""
    notes: tuple[str, ...] = field(default=())
    """What is no damage, and worth knowing: a later release wrote it, so that nothing was read."""
    untrusted: bool = False
    """Whether all that is wrong is that nobody who is trusted has signed it; then nothing was read."""

    @property
    def ok(self) -> bool:
        """Whether everything is as it was committed."""
        return not self.problems

    def summary(self) -> str:
        """The problems in one line, of many the first ones."""
        more = len(self.problems) - _SHOWN
        return "; ".join(self.problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
