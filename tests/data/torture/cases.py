"""What a part of `make torture` may come to; run by ``tests/test_torture.py``, each in a pytest of its own."""

from __future__ import annotations

import os
import signal

import pytest

from ckptstore.errors import CheckpointCorrupt
from tests.figures import Figures


def test_good(figures: Figures) -> None:
    figures.add("states of one test", 7, "unique crash states checked")
    figures.add("reads of one test", 2, "reads checked")
    figures.add("what is not summed", 9)


def test_counts_what_it_found(figures: Figures) -> None:
    figures.judge(["lost: a step", "false empty", "false-empty: a bucket", "backward"])
    pytest.fail("found something")


def test_counts_and_forgets_to_fail(figures: Figures) -> None:
    figures.add("states of one test", 1, "unique crash states checked")
    figures.judge(["lost"])


def test_asserts() -> None:
    raise AssertionError


def test_typed_error() -> None:
    raise CheckpointCorrupt("here", "damaged")


def test_untyped_error() -> None:
    raise KeyError("here")


def test_skipped() -> None:
    pytest.skip("there is no strace")


@pytest.mark.xfail(reason="known")
def test_expected() -> None:
    raise AssertionError


def test_dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
