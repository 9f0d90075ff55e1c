"""Sums the runs of the public conformance kit up by place: the table of ``docs/places.md``."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SUITES = {
    "tests/backends/test_objects_conformance.py": "backend",
    "tests/commit/test_register_conformance.py": "commits",
}
_NODE = re.compile(r"(?P<file>[^:]+)::(?P<kind>Test\w+)::[^\[]+(?:\[(?P<server>moto|seaweedfs|fake-gcs)\b)?")
_KINDS = {
    "TestMemory": "`memory://`",
    "TestLocal": "local disk",
    "TestServers": "{server}",
    "TestFast": "{server}, contents through obstore",
    "TestYours": "yours",
}
OUTCOMES = ("passed", "failed", "error", "skipped")


def table(stats: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """The lines of the table, from pytest's reports by outcome; none if no such suite ran."""
    counts: dict[str, collections.Counter[tuple[str, str]]] = {}
    reasons: dict[str, set[str]] = collections.defaultdict(set)
    for outcome in OUTCOMES:
        for report in stats.get(outcome, ()):
            node = _NODE.match(report.nodeid)
            if node is None or node["file"] not in SUITES:
                continue
            place = _KINDS[node["kind"]].format(server=node["server"])
            counts.setdefault(place, collections.Counter())[SUITES[node["file"]], outcome] += 1
            if outcome == "skipped":
                reasons[place].add(str(report.longrepr[-1]).removeprefix("Skipped: "))
    if counts:
        yield "| place | backend passed | commits passed | failed | skipped |"
        yield "|---|---|---|---|---|"
    for place, of in counts.items():
        failed = sum(count for (_, outcome), count in of.items() if outcome in ("failed", "error"))
        skipped = sum(count for (_, outcome), count in of.items() if outcome == "skipped")
        why = f": {'; '.join(sorted(reasons[place]))}" if skipped else ""
        passed = f"{of['backend', 'passed']} | {of['commits', 'passed']}"
        yield f"| {place} | {passed} | {failed} | {skipped}{why} |"
