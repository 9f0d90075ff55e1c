"""What `repair` mended, and what it could not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RepairReport:
    """One damaged checkpoint: what was mended, or with a dry run would be, and what can't be."""

    name: str
    """Its URL."""
    mended: Mapping[str, str]
    """Path of a damaged file to the URLs that its bytes come from."""
    lost: Mapping[str, str]
    """Path of a damaged file to why it stays as it is."""
    notes: tuple[str, ...] = field(default=())
    """What may be no damage: a save without a manifest may still be writing it."""

    @property
    def ok(self) -> bool:
        """Whether nothing stays damaged."""
        return not self.lost
