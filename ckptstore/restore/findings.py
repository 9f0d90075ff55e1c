"""What comparing a target with a checkpoint has found so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ckptstore.restore.report import Difference, RestoreReport


class Change(NamedTuple):
    """One live object to be changed in place, and how to undo that."""

    path: str
    apply: Callable[[], object]
    snapshot: Callable[[], Callable[[], object]]
    """Copies what the object holds now; what it returns puts that back."""
    last: bool = False
    """Random generators come last: loading the others may draw from them."""


class Findings:
    """Collected while everything is compared; nothing is changed meanwhile."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.loaded: list[str] = []
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.cast: list[Difference] = []
        self.different: list[Difference] = []
        self.kept: list[str] = []

    def problems(self) -> list[str]:
        """What keeps a strict restore from beginning."""
        return [
            *map(str, self.different),
            *(f"{path}: not in the checkpoint" for path in self.missing),
            *(f"{path}: only in the checkpoint" for path in self.unexpected),
            *map(str, self.cast),
        ]

    def report(self, left: list[str]) -> RestoreReport:
        """What was done; `left` are names at the top of the checkpoint that nobody asked for."""
        return RestoreReport(
            tuple(self.loaded),
            tuple(self.missing),
            (*self.unexpected, *left),
            tuple(self.cast),
            tuple(self.different),
            tuple(self.kept),
        )
