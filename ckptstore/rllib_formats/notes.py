"""Notes on a checkpoint that was read: what was inferred, migrated, missing or skipped."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ckptstore.printable import clean

Kind = Literal["absent", "inferred", "migrated", "mismatch", "missing", "skipped"]
"""An "absent" part was left out on purpose; a "missing" one should be there."""


class Note(NamedTuple):
    """One thing that the caller can't tell from the values alone."""

    kind: Kind
    path: str
    """The file or directory it is about, relative to the checkpoint."""
    text: str

    def __str__(self) -> str:
        return clean(f"{self.kind}: {self.path}: {self.text}")
