"""G1, G2, G3: whatever moment the process or the power goes, old checkpoints stay and new ones are whole."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckptstore.testing import PowerCutDisk
from tests.crash.loop import Lose, Outcome, Scenario, lives, lose_all, lose_none, lose_some, repeat, run
from tests.crash.scenarios import ALL, DELETE, REPLACE, SAVE
from tests.crash.world import catalog, copy_of, save, state
from tests.disks import FailingDisk, InterruptedDisk
from tests.figures import Figures

POWER = {"lose-all": lose_all, "lose-some": lose_some, "lose-none": lose_none}


DIED = "changes at which a process stopped or the power went, and what it left was looked at"


def _report(outcome: Outcome, figures: Figures) -> None:
    print(f"{outcome.changes} changes, {outcome.states} states looked at: {outcome.kinds}")
    figures.add(DIED, outcome.states)
    assert outcome.states == outcome.changes + 1
    assert outcome.changes > 10


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_the_process_dies_at_every_change(
    scenario: Scenario, templates: dict[str, str], tmp_path: Path, figures: Figures
) -> None:
    template = templates.get(scenario.name, templates[""])
    _report(run(scenario, template, str(tmp_path)), figures)


@pytest.mark.parametrize("lose", POWER.values(), ids=POWER)
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_the_power_goes_at_every_change(
    scenario: Scenario, lose: Lose, templates: dict[str, str], tmp_path: Path, figures: Figures
) -> None:
    template = templates.get(scenario.name, templates[""])
    _report(run(scenario, template, str(tmp_path), kind=PowerCutDisk, lose=lose), figures)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_the_power_takes_twenty_other_choices(
    scenario: Scenario, templates: dict[str, str], tmp_path: Path, figures: Figures
) -> None:
    template = templates.get(scenario.name, templates[""])
    for seed in range(1, 21):
        lose = functools.partial(lose_some, seed=seed)
        _report(run(scenario, template, str(tmp_path), kind=PowerCutDisk, lose=lose), figures)


@pytest.mark.parametrize("scenario", [DELETE, REPLACE], ids=lambda scenario: scenario.name)
def test_a_sweep_finishes_what_a_dead_process_began_and_then_the_power_goes(
    scenario: Scenario, templates: dict[str, str], tmp_path: Path, figures: Figures
) -> None:
    """The dead one may have moved a checkpoint to the trash and not have synced that."""
    states = 0
    for k in itertools.count():
        for after in (*range(0, 24, 3), None):
            with copy_of(templates[""], str(tmp_path / "store")) as root:
                disk = PowerCutDisk(k, str(tmp_path))
                alive = lives(scenario.operation, catalog(root, disk))
                disk.drop()
                disk.restart(after)
                lives(lambda store: store.sweep(None), catalog(root, disk))
                disk.drop()
                disk.cut(lose_some(states))
                state(root)
                states += 1
        if alive:
            break
    figures.add(DIED, states)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("scenario", [SAVE, REPLACE, DELETE], ids=lambda scenario: scenario.name)
def test_a_real_process_is_killed_at_every_change(
    scenario: Scenario, templates: dict[str, str], tmp_path: Path, figures: Figures
) -> None:
    with copy_of(templates[""], str(tmp_path / "plain")) as root:
        before = state(root)
        scenario.operation(catalog(root))
        after = state(root)
    for k in itertools.count():
        with copy_of(templates[""], str(tmp_path / "killed")) as root:
            child = os.fork()
            if not child:
                try:
                    disk = InterruptedDisk(lambda: os.kill(os.getpid(), signal.SIGKILL), at=k)
                    scenario.operation(catalog(root, disk))
                finally:
                    os._exit(0)
            status = os.waitpid(child, 0)[1]
            assert state(root) in scenario.between(before, after)
            repeat(scenario, root, after, f"killed at change {k}")
        if not os.WIFSIGNALED(status):
            break
    assert k > 10
    figures.add("processes killed at a change", k, "processes killed or stopped")


_SAVE_FOR_EVER = """
import itertools, sys
from tests.crash.world import catalog, save
store = catalog(sys.argv[1])
for step in itertools.count(10):
    print(save(store, step), flush=True)
    save(store, step, "replace", "again")
    store.delete(store.names()[-1], lambda: None) if step % 3 == 0 else None
"""


def test_a_process_that_saves_for_ever_is_killed_at_random(templates: dict[str, str], tmp_path: Path) -> None:
    with copy_of(templates[""], str(tmp_path / "store")) as root:
        old = state(root)
        for round_ in range(5):
            worker = subprocess.Popen(
                [sys.executable, "-c", _SAVE_FOR_EVER, root], stdout=subprocess.PIPE, text=True
            )
            assert worker.stdout is not None
            with worker, worker.stdout:
                acknowledged = worker.stdout.readline().strip()
                time.sleep(0.013 * round_ + 0.005)
                worker.kill()
            seen = state(root)
            assert {name: seen.get(name) for name in old} == old
            assert acknowledged in seen or f"{acknowledged}-r1" in seen
            store = catalog(root)
            store.sweep(None)
            for name in store.names():
                if name.step >= 10:
                    store.delete(name, lambda: None)
            assert state(root) == old


def test_a_save_that_fails_leaves_nothing(templates: dict[str, str], tmp_path: Path) -> None:
    """Not a crash but an error at every change: the same bytes as before, and no leftovers."""
    for k in itertools.count():
        with copy_of(templates[""], str(tmp_path / "store")) as root:
            old, disk = state(root), FailingDisk(code=errno.ENOSPC, at=k, spare=("unlink", "rmdir"))
            try:
                save(catalog(root, disk), 3)
            except OSError:
                assert {name: files for name, files in state(root).items() if name in old} == old
                if state(root) == old:
                    assert os.listdir(f"{root}/.staging") == []
                    save(catalog(root), 3)
            assert len(state(root)) == 3
            if not disk.reached:
                break
