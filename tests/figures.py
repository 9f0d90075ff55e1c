"""Counts what the tests of guarantees really did, and sums it up at the end of the run."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Generator, Iterable, Iterator

import pytest

from ckptstore.errors import CheckpointError
from tests import conformance

SUMS = (
    "unique crash states checked",
    "processes killed or stopped",
    "calls failed",
    "requests faulted",
    "states of the commit protocol",
    "races run",
    "reads checked",
    "hostile trees",
    "moments struck",
)
"""What counters of different tests are added up to, over all parts of `make torture`."""
VERDICTS = ("lost", "wrong", "untyped", "false-empty")
"""What must not be found, and is counted where it is."""


class Figures:
    """Named counters. Thread-safe enough: each name is counted by one test at a time."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.sums: collections.Counter[str] = collections.Counter()
        self.passed = 0
        """Tests that ran and passed."""

    def add(self, what: str, count: int, to: str | None = None) -> None:
        """Count `count` more of `what`, and of one of SUMS; 0 makes the line appear."""
        self.counts[what] += count
        if to is not None:
            assert to in SUMS, to
            self.sums[to] += count

    def judge(self, findings: Iterable[str]) -> None:
        """Count what a test found to be broken, each as text that begins with a verdict; else it is wrong."""
        for finding in findings:
            begins = finding.replace("false empty", "false-empty")
            self.sums[next((verdict for verdict in VERDICTS if begins.startswith(verdict)), "wrong")] += 1

    def broken(self) -> int:
        """How many findings there are."""
        return sum(self.sums[verdict] for verdict in VERDICTS)

    def lines(self) -> Iterator[str]:
        """One line each, in the order they were first counted."""
        for what, count in self.counts.items():
            yield f"{count:>12,} {what}"


TOTAL = Figures()


@pytest.fixture(scope="session")
def figures() -> Figures:
    """Where a test says how much it did."""
    return TOTAL


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Notes how many findings there were before the test."""
    item.stash[_BEFORE] = TOTAL.broken()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails and has not counted what it found has found one thing: that it failed."""
    report = yield
    TOTAL.passed += report.when == "call" and report.passed
    if report.failed and report.when == "call" and TOTAL.broken() == item.stash[_BEFORE]:
        told = (AssertionError, pytest.fail.Exception, CheckpointError)
        TOTAL.judge(["wrong" if call.excinfo is None or call.excinfo.errisinstance(told) else "untyped"])
    return report


_BEFORE = pytest.StashKey[int]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures of the whole run, after the tests."""
    if path := os.environ.get("CKPTSTORE_FIGURES"):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"passed": TOTAL.passed, "sums": TOTAL.sums, "counts": TOTAL.counts}, file)
    if TOTAL.counts:
        terminalreporter.section("what was tried")
        for line in TOTAL.lines():
            terminalreporter.write_line(line)
    if lines := list(conformance.table(terminalreporter.stats)):
        terminalreporter.section("conformance")
        for line in lines:
            terminalreporter.write_line(line)
