"""Every change that a save makes to the disk fails once, in every way a disk can fail.

The save must end in a typed error or, where the failure came after the commit, well; older checkpoints
stay byte for byte, nothing half is visible, and the next save works without any clean-up.
"""

from __future__ import annotations

import errno
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local import LocalBackend
from ckptstore.backends.posix import Disk
from ckptstore.errors import CheckpointError, CheckpointExists, StoreDenied, StoreFull, StoreUnavailable
from tests.crash.test_store_crash import POLICIES, STATE, Scenario, look, nothing, one_more, template

EXPECTED: dict[int, type[CheckpointError]] = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EROFS: StoreDenied,
    errno.EACCES: StoreDenied,
    errno.EIO: StoreUnavailable,
}


class FailingDisk(Disk):
    """The change number `at` fails with `code`; all others work."""

    def __init__(self, at: int, code: int) -> None:
        self.left = at
        self.code = code
        self.hit = ""

    def step(self, operation: str, path: str) -> None:
        self.left -= 1
        if self.left == -1:
            self.hit = f"{operation} {path}"
            raise OSError(self.code, "injected", path)


@pytest.mark.parametrize("code", EXPECTED, ids=errno.errorcode.get)
@pytest.mark.parametrize("replacing", [False, True], ids=["save", "replace"])
def test_every_change_fails_once(tmp_path: Path, code: int, replacing: bool) -> None:
    prepare = one_more if replacing else nothing
    origin = template(tmp_path / "origin", Scenario(lambda store: None, prepare))
    before = look(origin)
    calls = survived = 0
    for at in itertools.count():
        root = tmp_path / "failing"
        shutil.copytree(origin, root)
        disk = FailingDisk(at, code)
        store = CheckpointStore(LocalBackend(str(root), disk=disk), concurrency=1)
        try:
            store.save(3, STATE, POLICIES, if_exists="replace" if replacing else "error")
            survived += 1
        except (EXPECTED[code], StoreUnavailable):
            pass
        if not disk.hit:
            break
        calls += 1
        seen = look(root)
        for name in ("checkpoint_000001", "checkpoint_000002"):
            assert seen[name] == before[name], disk.hit
        again = CheckpointStore(root)
        assert all(report.ok for report in again.verify()), disk.hit
        try:
            store.save(3, STATE, POLICIES, if_exists="replace" if replacing else "error")
        except CheckpointExists:  # the failure came after the commit, or was that of the acknowledgement
            assert again.get(3).verify().ok, disk.hit
        assert again.get(3).state["iteration"] == 1
        assert store.save(4).step == 4
        shutil.rmtree(root)
    print(f"{errno.errorcode[code]}: {calls} calls failed, {survived - 1} saves survived it, 0 wrong")
    assert calls > 40


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
    assert "checkpoint" in str(error) or "store" in str(error), error
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
