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


_SHOWN = 5
"""So many of each kind of problem are named."""


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
        """What keeps a strict restore from beginning: of each kind the first, and how many more there are."""
        return [
            *_first([str(each) for each in self.different], "more don't fit"),
            *_first([f"{path}: not in the checkpoint" for path in self.missing], "more aren't in it"),
            *_first([f"{path}: only in the checkpoint" for path in self.unexpected], "more are only there"),
            *_first([str(each) for each in self.cast], "more are of another type"),
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


def _first(lines: list[str], rest: str) -> list[str]:
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"{more} {rest}"]
