"""Counts what the tests of guarantees really did, and sums it up at the end of the run."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterator

import pytest

from tests import conformance


class Figures:
    """Named counters. Thread-safe enough: each name is counted by one test at a time."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()

    def add(self, what: str, count: int) -> None:
        """Count `count` more of `what`; 0 makes the line appear."""
        self.counts[what] += count

    def lines(self) -> Iterator[str]:
        """One line each, in the order they were first counted."""
        for what, count in self.counts.items():
            yield f"{count:>12,} {what}"


TOTAL = Figures()


@pytest.fixture(scope="session")
def figures() -> Figures:
    """Where a test says how much it did."""
    return TOTAL


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the whole run, after the tests."""
    if path := os.environ.get("CKPTSTORE_FIGURES"):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(TOTAL.counts, file)
    if TOTAL.counts:
        terminalreporter.section("what was tried")
        for line in TOTAL.lines():
            terminalreporter.write_line(line)
    if lines := list(conformance.table(terminalreporter.stats)):
        terminalreporter.section("conformance")
        for line in lines:
            terminalreporter.write_line(line)
