"""Every order of requests of the real protocol, and proof that each of its rules is needed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.figures import Figures
from tests.model.actors import deleter, reader, sweeper
from tests.model.world import Body, committed_at, explore, writer

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
}

W, R = writer("error"), writer("replace")
HISTORIES: dict[str, tuple[dict[str, Body], dict[str, Any]]] = {
    "only -r1 is left, replaced": ({"W1": R}, {"objects": committed_at(1), "faults": 1, "lags": 1}),
    "only -r1 is left, saved and replaced": ({"W1": W, "W2": R}, {"objects": committed_at(1)}),
    "only -r2 is left, replaced and deleted": ({"W1": R, "D": deleter()}, {"objects": committed_at(2)}),
    "-r1 and -r3 are left": ({"W1": R, "D": deleter()}, {"objects": committed_at(1, 3)}),
    "replaced again and again, for months": ({"W1": writer("replace", times=4)}, {"ages": 2}),
    "replaced twice, a deleter, for months": (
        {"W1": writer("replace", times=2), "D": deleter()},
        {"ages": 1},
    ),
}
LONG_HISTORIES: dict[str, tuple[dict[str, Body], dict[str, Any]]] = {
    "two writers, one asleep for months": ({"W1": writer("replace", times=2), "W2": W}, {"ages": 1}),
    "only -r1 is left, two replace it": ({"W1": R, "W2": R}, {"objects": committed_at(1)}),
    "two replace, for months": ({"W1": writer("replace", times=2), "W2": R}, {"ages": 1}),
    "replaced, a lost request, for months": ({"W1": writer("replace", times=2)}, {"ages": 2, "faults": 1}),
}

STATES = "states that orders of requests led to, each judged"


def count_states(case: str, figures: Figures, actors: dict[str, Body], **how: Any) -> None:
    """Explore, which judges each state, and say how many there were."""
    states = explore(actors, **how)
    print(f"{case}: {states} states")
    figures.add(STATES, states, "states of the commit protocol")


@pytest.mark.parametrize("case", CASES)
def test_every_order_keeps_every_promise(case: str, figures: Figures) -> None:
    actors, faults = CASES[case]
    count_states(case, figures, actors, faults=faults)


@pytest.mark.parametrize("case", HISTORIES)
def test_every_history_keeps_every_promise(case: str, figures: Figures) -> None:
    """Lower numbers are free: gc has forgotten what had them, or a tool has copied only what lives."""
    actors, history = HISTORIES[case]
    count_states(case, figures, actors, **history)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", LONG_HISTORIES)
def test_every_history_of_more_actors(case: str, figures: Figures) -> None:
    actors, history = LONG_HISTORIES[case]
    count_states(case, figures, actors, **history, limit=1_000_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", LONG)
def test_every_order_of_more_actors(case: str, figures: Figures) -> None:
    actors, faults = LONG[case]
    count_states(case, figures, actors, faults=faults, limit=1_000_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_first_orders_of_three_writers(figures: Figures) -> None:
    """More than a million states since each looks once more before it commits."""
    actors = {name: writer("error") for name in ("W1", "W2", "W3")}
    count_states("three writers, begun", figures, actors, limit=200_000, whole=False)
