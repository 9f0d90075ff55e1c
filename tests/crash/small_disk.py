"""One operation on a real file system that is full, or turns read-only: ``python -m tests.crash.small_disk``.

Runs in a mount namespace of its own, so the small tmpfs is nobody else's and goes with the process.
Prints one line of figures, or raises.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.errors import CheckpointError, StoreDenied, StoreFull
from tests.crash.test_failing_calls import OPERATIONS
from tests.crash.test_store_crash import (
    State,
    between,
    check_readable,
    look,
    new_store,
    template,
    visible_steps,
)
from tests.disks import InterruptedDisk

MIB = 2**20
FREES = {"delete", "prune", "gc"}
"""Operations that make room: these must work on a disk without any."""


class Trial:
    """Copies of one store on a small disk, and what the operation makes of one that has room."""

    def __init__(self, place: Path, name: str, options: str) -> None:
        self.scenario = OPERATIONS[name]
        self.origin = template(place / "origin", self.scenario)
        self.before = look(self.origin)
        whole = place / "whole"
        shutil.copytree(self.origin, whole)
        self.scenario.operate(new_store(whole))
        self.expected = look(whole)
        self.disk = place / "disk"
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", self.disk], check=True)

    def fresh(self) -> Path:
        root = self.disk / "store"
        shutil.rmtree(root, ignore_errors=True)
        return Path(shutil.copytree(self.origin, root))

    def holds(self, root: Path, moment: str) -> State:
        """Old or new, and readable with nothing made better first."""
        seen = look(root)
        for old in ("checkpoint_000001", "checkpoint_000002"):
            assert seen.get(old, self.before[old]) == self.before[old], moment
        assert between(self.before, seen, self.expected), f"{moment}: {sorted(seen)}"
        check_readable(root, seen, moment)
        return seen

    def again(self, root: Path, seen: State, moment: str) -> None:
        """Now that there is room, the same by a new process and without any clean-up."""
        try:
            self.scenario.operate(new_store(root))
        except self.scenario.again_fails:
            assert visible_steps(seen) == visible_steps(self.expected), moment
        assert visible_steps(look(root)) == visible_steps(self.expected), moment
        new_store(root).gc()
        check_readable(root, look(root), moment)
        assert not list((root / ".staging").iterdir()), moment


def full(trial: Trial, name: str, what: str) -> str:
    """`what`, "blocks" or "inodes", run out at every point of the operation."""
    refused = done = 0
    for free in [0, *(2**power for power in range(10 if what == "blocks" else 7))]:
        root = trial.fresh()
        moment = f"{name} with {free} {what} free"
        with _filled(trial.disk, what, free):
            if _refused(trial, new_store(root), StoreFull):
                refused += 1
                assert name not in FREES, f"{moment}: nothing can make room any more"
            else:
                done += 1
            seen = trial.holds(root, moment)
        trial.again(root, seen, moment)
    assert refused or name in FREES or name == "tag"
    assert done
    return f"{refused + done} disks without {what} ({refused} StoreFull)"


def _refused(trial: Trial, store: CheckpointStore, kind: type[CheckpointError]) -> bool:
    """Whether the operation ended in an error of that kind; any other goes through."""
    try:
        trial.scenario.operate(store)
    except kind:
        return True
    except OSError as error:
        # In a stage the program that writes there meets it first.
        if trial.scenario is not OPERATIONS["stage"] or error.errno not in (errno.ENOSPC, errno.EROFS):
            raise
        return True
    return False


def _free(disk: Path, what: str) -> int:
    status = os.statvfs(disk)
    return status.f_bavail if what == "blocks" else status.f_favail


@contextlib.contextmanager
def _filled(disk: Path, what: str, free: int) -> Iterator[None]:
    filler = disk / "filler"
    filler.mkdir()
    try:
        if what == "inodes":
            for index in range(_free(disk, what) - free):
                (filler / str(index)).touch()
        else:
            taken = (_free(disk, what) - free) * os.statvfs(disk).f_frsize
            with open(filler / "file", "wb") as file:
                if taken > 0:
                    os.posix_fallocate(file.fileno(), 0, taken)
        assert _free(disk, what) == free, (_free(disk, what), free)
        yield
    finally:
        shutil.rmtree(filler)


def _remount(place: Path, how: str) -> bool:
    done = subprocess.run(["mount", "-o", f"remount,{how}", place], stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def read_only(trial: Trial, name: str) -> str:
    """The disk turns read-only before each change, as ext4 does after an error."""
    refused = turned = 0
    for at in itertools.count():
        root = trial.fresh()
        turns: list[bool] = []  # it does, unless something is open for writing then

        def turn(turns: list[bool] = turns) -> None:
            turns.append(_remount(trial.disk, "ro"))

        disk = InterruptedDisk(turn, at=at)
        store = CheckpointStore(LocalBackend(str(root), disk=disk), concurrency=1)
        moment = f"{name}, read-only from change {at}"
        refused += _refused(trial, store, StoreDenied)
        if any(turns):
            turned += 1
            trial.holds(root, moment)
            assert _remount(trial.disk, "rw")
            trial.again(root, look(root), moment)
        if not disk.reached:
            break
    assert refused
    return f"{turned} disks turned read-only ({refused} StoreDenied)"


def main() -> None:
    """Run one kind of trouble on one operation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path, help="an empty directory")
    parser.add_argument("operation", choices=OPERATIONS)
    parser.add_argument("trouble", choices=("blocks", "inodes", "read-only"))
    chosen = parser.parse_args()
    trial = Trial(chosen.place, chosen.operation, "size=8m,nr_inodes=400")
    if chosen.trouble == "read-only":
        print(read_only(trial, chosen.operation))
    else:
        print(full(trial, chosen.operation, chosen.trouble))


if __name__ == "__main__":
    main()
