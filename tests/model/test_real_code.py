"""Every order of requests of the real protocol, and proof that each of its rules is needed."""

from __future__ import annotations

import pytest

from tests.figures import Figures
from tests.model.world import Body, deleter, explore, reader, sweeper, writer

CASES: dict[str, tuple[dict[str, Body], int]] = {
    "two writers": ({"W1": writer("error"), "W2": writer("error")}, 0),
    "two writers, a lost request": ({"W1": writer("error"), "W2": writer("error")}, 1),
    "writer and deleter": ({"W1": writer("error"), "D": deleter()}, 1),
    "replacing writer": ({"W1": writer("error"), "W2": writer("replace")}, 0),
    "writer and sweep": ({"W1": writer("error"), "G": sweeper()}, 1),
}

LONG: dict[str, tuple[dict[str, Body], int]] = {
    "two writers and deleter": ({"W1": writer("error"), "W2": writer("error"), "D": deleter()}, 0),
    "replacing writer, a lost request": ({"W1": writer("error"), "W2": writer("replace")}, 1),
    "replacing writer and deleter": ({"W1": writer("error"), "W2": writer("replace"), "D": deleter()}, 0),
    "writer, deleter, reader": ({"W1": writer("error"), "D": deleter(), "R": reader()}, 1),
    "writer, deleter, sweep": ({"W1": writer("error"), "D": deleter(), "G": sweeper()}, 0),
    "writer and sweep, two lost requests": ({"W1": writer("error"), "G": sweeper()}, 2),
    "two writers and sweep": ({"W1": writer("error"), "W2": writer("error"), "G": sweeper()}, 0),
    "three writers": ({"W1": writer("error"), "W2": writer("error"), "W3": writer("error")}, 0),
}

STATES = "states that orders of requests led to, each judged"


@pytest.mark.parametrize("case", CASES)
def test_every_order_keeps_every_promise(case: str, figures: Figures) -> None:
    actors, faults = CASES[case]
    states = explore(actors, faults=faults)
    print(f"{case}: {states} states")
    figures.add(STATES, states, "states of the commit protocol")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", LONG)
def test_every_order_of_more_actors(case: str, figures: Figures) -> None:
    actors, faults = LONG[case]
    states = explore(actors, faults=faults, limit=1_000_000)
    print(f"{case}: {states} states")
    figures.add(STATES, states, "states of the commit protocol")
