"""The power goes at every system call of real runs, and leaves whatever a file system may leave."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.crash.lives import LIVES
from tests.crash.power import KINDS, live, replay
from tests.crash.systrace import missing
from tests.figures import Figures
from tests.mutants.local import MUTANTS

if why := missing():
    pytest.skip(why, allow_module_level=True)

QUICK = {"save", "delete"}
"""Lives that every change has to survive; the rest take longer."""
MANY = {
    "fifty": (8, 40),
    "training": (24, 8),
    "at-once": (24, 8),
    "background": (24, 4),
    "save-threads": (24, 4),
}
"""Long lives: how many states of each moment are judged, and of how many one is opened."""


def lives() -> Iterator[object]:
    for name in LIVES:
        yield pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)


@pytest.fixture
def scratch() -> Iterator[str]:
    path = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield path
    shutil.rmtree(path)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("life", list(lives()))
def test_nothing_promised_is_lost(life: str, scratch: str, figures: Figures) -> None:
    recording = live(life, scratch)
    budget, every = MANY.get(life, (64, 1))
    for kind in KINDS:
        found = replay(recording, kind, os.path.join(scratch, kind), budget=budget, every=every)
        print(f"{life:14} {kind:6} {found}")
        figures.add("crash points: power cuts after a system call", found.moments)
        figures.add("unique crash states judged by their bytes", found.judged, "unique crash states checked")
        figures.add("    of which opened, read, saved into and swept", found.opened, "reads checked")
        for what in ("lost", "wrong", "untyped"):
            figures.add(f"    {what}", found.kinds[what])
        figures.judge(found.wrong)
        assert not found.wrong, "\n".join(found.wrong)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "no fsync" else pytest.mark.slow) for name in MUTANTS]
)
def test_a_broken_rule_is_noticed(name: str, scratch: str, figures: Figures) -> None:
    recording = live(MUTANTS[name].life, scratch, name)
    found = replay(recording, "posix", os.path.join(scratch, "posix"), stop_at=1)
    assert found.wrong
    print(f"{name}: {found.wrong[0]}")
    figures.add("broken rules that the power cuts noticed", 1)
