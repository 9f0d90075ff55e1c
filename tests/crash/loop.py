"""The crash loop: die at every change, look, and do it again."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from typing import NamedTuple

from ckptstore.commit.local.catalog import DirectoryCatalog
from ckptstore.errors import CheckpointExists, CheckpointGone
from ckptstore.testing import Crash, CrashingDisk, PowerCutDisk
from tests.crash.world import Broken, Operation, State, catalog, copy_of, leftovers, state

Start = Callable[[str, CrashingDisk], DirectoryCatalog]


class Scenario(NamedTuple):
    """One operation on a store, and the states between which it leads."""

    name: str
    operation: Operation
    between: Callable[[State, State], list[State]] = lambda old, new: [old, new]
    """What may be seen at any instant, given the state before and after."""


class Outcome(NamedTuple):
    """What one loop saw."""

    changes: int
    """Changes that the undisturbed operation makes, each of which was a moment of death."""
    states: int
    """States looked at."""
    kinds: dict[str, int]
    """Of those, how many showed which set of checkpoints."""


def lose_all(round_: int) -> None:
    """Of the names that were not synced, none survives a power cut."""


def lose_some(round_: int, seed: int = 0) -> random.Random:
    """Each may survive or not."""
    return random.Random(seed * 1000 + round_)


def lose_none(round_: int) -> Callable[[], bool]:
    """All survive, and only bytes are lost."""
    return lambda: False


Lose = Callable[[int], Callable[[], bool] | random.Random | None]


def run(
    scenario: Scenario,
    template: str,
    scratch: str,
    *,
    start: Start = catalog,
    kind: type[CrashingDisk] = CrashingDisk,
    lose: Lose = lose_all,
    again: bool = True,
) -> Outcome:
    """Crash `scenario` at every change; Broken if a state shows what it must not.

    With a PowerCutDisk the power goes at that moment too. It also goes after the last round, in which
    nothing crashes: what was acknowledged has to survive that. Without `again` it only looks, and
    does not repeat the operation.
    """
    with copy_of(template, os.path.join(scratch, "plain")) as root:
        before = state(root)
        scenario.operation(catalog(root))
        after = state(root)
    allowed = scenario.between(before, after)
    kinds: dict[str, int] = {}
    for k in itertools.count():
        disk = kind(k, scratch) if issubclass(kind, PowerCutDisk) else kind(k)
        with copy_of(template, os.path.join(scratch, "crashed")) as root:
            alive = lives(scenario.operation, start(root, disk))
            disk.drop()
            if isinstance(disk, PowerCutDisk):
                disk.cut(lose(k))
            moment = f"{scenario.name}: died at change {k}, {disk.changes[-1] if disk.changes else 'none'}"
            try:
                seen = state(root)
            except Broken as error:
                raise Broken(f"{moment}: {error}") from error
            if seen not in ([after] if alive else allowed):
                raise Broken(f"{moment}: shows {sorted(seen)}")
            kinds[", ".join(sorted(seen))] = kinds.get(", ".join(sorted(seen)), 0) + 1
            if again:
                repeat(scenario, root, after, moment)
        if alive:
            return Outcome(len(disk.changes), k + 1, kinds)
    raise AssertionError("unreachable")


def lives(operation: Operation, store: DirectoryCatalog) -> bool:
    """Run it; False if the process died of it."""
    try:
        operation(store)
    except Crash:
        return False
    return True


def repeat(scenario: Scenario, root: str, after: State, moment: str) -> None:
    """The same once more, by a new process and without clean-up, then a sweep."""
    store = catalog(root)
    try:
        scenario.operation(store)
    except (CheckpointExists, CheckpointGone):
        if state(root) != after:
            raise
    settled = state(root)
    if {name.partition("-")[0] for name in settled} != {name.partition("-")[0] for name in after}:
        raise Broken(f"{moment}: repeated, it shows {sorted(settled)}")
    store.sweep(None)
    if state(root) != settled:
        raise Broken(f"{moment}: the sweep changed what is committed")
    if strays := leftovers(root):
        raise Broken(f"{moment}: the sweep left {strays}")
