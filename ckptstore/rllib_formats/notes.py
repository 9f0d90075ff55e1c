"""What a reader has to tell about what it read. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["absent", "inferred", "migrated", "mismatch", "missing", "skipped"]
"""What is absent was never written, on purpose; what is missing should be there."""


class Note(NamedTuple):
    """One thing that was not simply read and handed over."""

    kind: Kind
    path: str
    """The file or directory it is about, relative to the checkpoint."""
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.text}"
