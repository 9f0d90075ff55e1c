"""What writing one policy (or the algorithm) in another layout did to each of its fields. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ckptstore.format.layout import Item


class PolicyReport(NamedTuple):
    """Every field of one policy is in at least one of these, as ``a/path/into/it``.

    ``renamed`` has "old -> new", ``dropped`` has "path: why".
    """

    carried: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    """Objects, classes and functions that were kept as records, not as what they were."""

    def with_dropped(self, lines: Iterable[str]) -> PolicyReport:
        """The same report with more that was dropped."""
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
        """What was collected, sorted."""
        opaque = set(self.opaque)
        kept = (set(self.carried) - opaque, set(self.renamed), set(self.dropped), opaque)
        return PolicyReport(*(tuple(sorted(lines)) for lines in kept))


class Laid(NamedTuple):
    """A checkpoint laid out, not yet written."""

    kind: str
    items: list[Item]
    policies: Mapping[str, PolicyReport]
    algorithm: PolicyReport
    notes: tuple[str, ...] = ()
