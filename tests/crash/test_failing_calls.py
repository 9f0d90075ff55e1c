"""Every call of an operation on the disk fails once, in every way a disk can fail.

The operation must end in a typed error or, where the failure came after the commit, well; older checkpoints
stay byte for byte, nothing half is visible, and the same again works without any clean-up.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.errors import (
    CheckpointError,
    CheckpointExists,
    StoreDenied,
    StoreFull,
    StoreNotFound,
    StoreUnavailable,
)
from tests.crash.test_store_crash import (
    POLICIES,
    SCENARIOS,
    STATE,
    Scenario,
    between,
    check_readable,
    look,
    new_store,
    nothing,
    template,
    visible_steps,
)
from tests.disks import FailingCallsDisk, InterruptedDisk
from tests.figures import Figures

EXPECTED: dict[int, type[CheckpointError]] = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EROFS: StoreDenied,
    errno.EACCES: StoreDenied,
    errno.EIO: StoreUnavailable,
    errno.EINTR: StoreUnavailable,
}


def save_async(store: CheckpointStore) -> None:
    store.save_async(3, STATE, POLICIES).result()


OPERATIONS = {**SCENARIOS, "save_async": Scenario(save_async, nothing, (CheckpointExists,))}
QUICK = {("save", errno.ENOSPC), ("stage", errno.EINTR), ("delete", errno.EIO), ("tag", errno.EROFS)}


def matrix() -> Iterator[object]:
    for name, code in itertools.product(OPERATIONS, EXPECTED):
        slow = () if (name, code) in QUICK else pytest.mark.slow
        yield pytest.param(name, code, marks=slow, id=f"{name}-{errno.errorcode[code]}")


@pytest.mark.parametrize(("name", "code"), list(matrix()))
def test_every_call_fails_once(tmp_path: Path, figures: Figures, name: str, code: int) -> None:
    scenario = OPERATIONS[name]
    origin = template(tmp_path / "origin", scenario)
    before = look(origin)
    whole = tmp_path / "whole"
    shutil.copytree(origin, whole)
    scenario.operate(new_store(whole))
    expected = look(whole)
    calls = survived = 0
    for at in itertools.count():
        root = tmp_path / "failing"
        shutil.copytree(origin, root)
        disk = FailingCallsDisk(code=code, at=at)
        store = CheckpointStore(LocalBackend(str(root), disk=disk), concurrency=1)
        try:
            scenario.operate(store)
            survived += 1
        except (EXPECTED[code], StoreUnavailable):
            pass
        if not disk.failed:
            break
        calls += 1
        moment = " ".join(disk.failed[0])
        seen = look(root)
        for old in ("checkpoint_000001", "checkpoint_000002"):
            assert seen.get(old, before[old]) == before[old], moment
        assert between(before, seen, expected), f"{moment}: {sorted(seen)}"
        check_readable(root, seen, moment)
        try:
            scenario.operate(store)
        except scenario.again_fails:  # it had failed after the fact
            assert visible_steps(seen) == visible_steps(expected), moment
        assert visible_steps(look(root)) == visible_steps(expected), moment
        check_readable(root, look(root), moment)
        assert store.save(9).step == 9
        shutil.rmtree(root)
    print(f"{name} {errno.errorcode[code]}: {calls} calls failed, {survived - 1} survived it")
    figures.add("calls failed, one at a time, in every way", calls, "calls failed")
    assert calls > 20


@pytest.mark.parametrize("name", OPERATIONS)
def test_writes_that_stop_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A write may take fewer bytes than it was given: past 2 GiB, near a quota, at a signal."""
    scenario = OPERATIONS[name]
    origin = template(tmp_path / "origin", scenario)
    real, cut = os.write, 0

    def short(fd: int, data: memoryview) -> int:
        nonlocal cut
        cut += len(data) > 1000
        return real(fd, data[: min(len(data), 1000)])

    monkeypatch.setattr(os, "write", short)
    scenario.operate(new_store(origin))
    monkeypatch.undo()
    assert cut > 300 or name not in ("save", "save_async")
    check_readable(origin, look(origin), name)


SIGNALS = """
import signal, sys
from pathlib import Path
from tests.crash.test_failing_calls import OPERATIONS
from tests.crash.test_store_crash import new_store
came = 0
def count(*_):
    global came
    came += 1
signal.signal(signal.SIGALRM, count)
signal.setitimer(signal.ITIMER_REAL, 0.00003, 0.00003)
OPERATIONS[sys.argv[2]].operate(new_store(Path(sys.argv[1])))
signal.setitimer(signal.ITIMER_REAL, 0)
assert came > 3, came
"""


@pytest.mark.parametrize("name", ["save", "replace", "stage", "gc", "save_async"])
def test_signals_all_the_time(tmp_path: Path, name: str) -> None:
    """Thousands a second, so that calls that can be interrupted are."""
    origin = template(tmp_path / "origin", OPERATIONS[name])
    whole = tmp_path / "whole"
    shutil.copytree(origin, whole)
    OPERATIONS[name].operate(new_store(whole))
    subprocess.run([sys.executable, "-c", SIGNALS, str(origin), name], check=True, timeout=120)
    assert look(origin).keys() == look(whole).keys()
    check_readable(origin, look(origin), name)


@pytest.mark.parametrize("removed", [False, True], ids=["moved", "removed"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_root_that_vanishes_in_the_middle(
    tmp_path: Path, figures: Figures, name: str, removed: bool
) -> None:
    """As when a disk is unmounted: nothing is made in its place, and what comes back is whole."""
    scenario = OPERATIONS[name]
    origin = template(tmp_path / "origin", scenario)
    before = look(origin)
    root = tmp_path / "vanishing"
    whole = tmp_path / "whole"
    shutil.copytree(origin, whole)
    scenario.operate(new_store(whole))
    expected = look(whole)
    for at in itertools.count():
        shutil.copytree(origin, root)
        away = root.with_name(f"away{at}")

        def vanish(away: Path = away) -> None:
            root.rename(away)
            if removed:  # what other threads make there meanwhile may stay: it has no name
                shutil.rmtree(away, ignore_errors=True)

        disk = InterruptedDisk(vanish, at=at)
        store = CheckpointStore(LocalBackend(str(root), disk=disk), concurrency=1)
        # In a stage the program that writes there meets it first.
        with contextlib.suppress(CheckpointError, *([FileNotFoundError] if name == "stage" else [])):
            scenario.operate(store)
        if not disk.reached:
            break
        figures.add("roots that vanished in the middle", 1)
        assert not root.exists(), "something was made where the store was"
        for call in (store.latest, store.checkpoints, partial(store.save, 9), store.gc, store.tags):
            with pytest.raises(StoreNotFound):
                call()
        assert not root.exists(), "something was made where the store was"
        if not removed:
            away.rename(root)
            seen = look(root)
            assert between(before, seen, expected), f"change {at}: {sorted(seen)}"
            check_readable(root, seen, f"change {at}")
            assert store.save(9).step == 9
            shutil.rmtree(root)
    assert at > 5 or name == "tag"


FULL = """
import resource, signal, sys
import numpy as np
from ckptstore import CheckpointStore
from ckptstore.errors import StoreFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = CheckpointStore(sys.argv[1])
first = store.save(1, {"x": np.zeros(1000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    store.save(2, {"x": np.zeros(1_000_000)})
except StoreFull as error:
    assert "ulimit" in str(error), error
else:
    raise SystemExit("it was saved")
assert store.latest() == first and first.verify().ok
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.save(2, {"x": np.zeros(1_000_000)})
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=True, timeout=120)
    assert [ckpt.step for ckpt in CheckpointStore(tmp_path).checkpoints()] == [1, 2]
    assert not list((tmp_path / ".staging").iterdir())
