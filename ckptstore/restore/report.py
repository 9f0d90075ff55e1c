"""What a restore did."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """Something that doesn't fit: where, what the target has, what the checkpoint has."""

    path: str
    here: str
    there: str

    def __str__(self) -> str:
        return f"{self.path or 'the target'}: here {self.here}, there {self.there}"


class RestoreReport(NamedTuple):
    """What `Checkpoint.restore` did, by path: keys with slashes between, such as ``model/0.weight``."""

    loaded: tuple[str, ...]
    """What the target has now, or the tree that came back."""
    missing: tuple[str, ...]
    """What the target has and the checkpoint hasn't: left as it was."""
    unexpected: tuple[str, ...]
    """What the checkpoint has and the target didn't ask for."""
    cast: tuple[Difference, ...]
    """What has another type in the checkpoint, and was converted."""
    different: tuple[Difference, ...]
    """What doesn't fit in another way: left as it was."""
    kept: tuple[str, ...]
    """Functions, classes and the like, which are the target's own: a checkpoint's aren't run."""
