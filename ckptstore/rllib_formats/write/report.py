"""Reports: what became of each field of a policy, or of the algorithm, in another version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ckptstore.format.layout import Item


class PolicyReport(NamedTuple):
    """Every field of one policy is in at least one of these lists, as ``a/path/into/it``.

    Lines of `renamed` read "old -> new", lines of `dropped` "path: why".
    """

    carried: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    """Objects, classes and functions that were kept as descriptions of themselves."""

    def with_dropped(self, lines: Iterable[str]) -> PolicyReport:
        """A copy of the report with more lines in `dropped`."""
        return self._replace(dropped=tuple(sorted({*self.dropped, *lines})))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {field: list(values) for field, values in self._asdict().items()}


class Reporter:
    """Collects the lines of one report."""

    def __init__(self) -> None:
        self.carried: list[str] = []
        self.renamed: list[str] = []
        self.dropped: list[str] = []
        self.opaque: list[str] = []

    def report(self) -> PolicyReport:
        """The report of what was collected, sorted."""
        opaque = set(self.opaque)
        kept = (set(self.carried) - opaque, set(self.renamed), set(self.dropped), opaque)
        return PolicyReport(*(tuple(sorted(lines)) for lines in kept))


class LaidOut(NamedTuple):
    """The files of a checkpoint in another version, not yet written."""

    kind: str
    items: list[Item]
    policies: Mapping[str, PolicyReport]
    algorithm: PolicyReport
    notes: tuple[str, ...] = ()
