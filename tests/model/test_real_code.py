"""Every order of requests of the real protocol, and proof that each of its rules is needed."""

from __future__ import annotations

import pytest

from tests.model.world import Body, deleter, explore, sweeper, writer

CASES: dict[str, tuple[dict[str, Body], int]] = {
    "two writers": ({"W1": writer("error"), "W2": writer("error")}, 0),
    "two writers, a lost request": ({"W1": writer("error"), "W2": writer("error")}, 1),
    "writer and deleter": ({"W1": writer("error"), "D": deleter()}, 1),
    "replacing writer": ({"W1": writer("error"), "W2": writer("replace")}, 0),
    "writer and sweep": ({"W1": writer("error"), "G": sweeper()}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_every_order_keeps_every_promise(case: str) -> None:
    actors, faults = CASES[case]
    states = explore(actors, faults=faults)
    print(f"{case}: {states} states")
