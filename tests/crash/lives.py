"""What a store goes through, one process after another, while somebody takes notes.

    python -m tests.crash.lives prepare|<number> LIFE BASE [MUTANT]

`BASE` is a directory that holds the store and what lies around it. Each operation announces itself
and its end by a mark (:data:`tests.crash.systrace.MARK`), so that the notes tell what was promised when.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from tests.crash.systrace import MARK
from tests.disks import InterruptedDisk

STORE = "store"
"""Name of the store's directory below `BASE`."""

_notes = os.open(os.devnull, os.O_WRONLY)
_numbers = iter(range(1_000_000))


def mark(**what: object) -> None:
    """Say something to whoever takes notes."""
    os.write(_notes, MARK + json.dumps(what).encode())


class Doing:
    """One operation: what it makes and takes, as far as it has come."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.took: list[str] = []


@contextlib.contextmanager
def doing(
    makes: Iterable[int] = (), takes: Iterable[str] = (), tags: dict[str, str] | None = None
) -> Iterator[Doing]:
    """An operation that makes checkpoints of the steps `makes`, and ends those named in `takes`."""
    number, done = f"{os.getpid()}.{next(_numbers)}", Doing()
    mark(begin=number, makes=list(makes), takes=list(takes), tags=tags or {})
    yield done
    mark(end=number, made=done.made, took=done.took)


# ---- What is saved


def state(step: int, text: str = "", count: int = 3) -> dict[str, Any]:
    """The state saved at `step`. It names what else was saved, so that a reader knows what to expect."""
    return {"step": step, "text": text, "count": count, "x": np.arange(step * 3, dtype=np.float64)}


def policies(step: int, text: str = "", count: int = 3) -> dict[str, Any]:
    """Small ones, and one that is written in several pieces."""
    return {
        f"pol{index}": {
            "weights": {
                "w": np.full((80_000 if index == 1 and count < 10 else 30,), step + index, np.float32),
                "b": np.frombuffer(f"{text:8.8}{index:8}".encode(), np.uint8).copy(),
            }
        }
        for index in range(count)
    }


def save(store: CheckpointStore, step: int, text: str = "", count: int = 3, replaces: str = "") -> Checkpoint:
    """Save, and say so."""
    with doing([step], [replaces] if replaces else []) as done:
        saved = store.save(
            step,
            state(step, text, count),
            policies(step, text, count),
            if_exists="replace" if replaces else "error",
        )
        done.made, done.took = [saved.name], [replaces] if replaces else []
    return saved


def delete(store: CheckpointStore, name: str) -> None:
    with doing(takes=[name]) as done:
        store.delete(name)
        done.took = [name]


def tag(store: CheckpointStore, name: str, which: str) -> None:
    with doing(tags={name: which}):
        store.tag(name, which)


def prune(store: CheckpointStore, keep: int) -> None:
    with doing(takes=store.prune(keep, dry_run=True)) as done:
        done.took = store.prune(keep)


def gc(store: CheckpointStore) -> None:
    with doing():
        store.gc()


# ---- Processes that die


def dying(base: str, operation: str, count: int = 1) -> CheckpointStore:
    """A store whose process ends when it comes to this change, as SIGKILL would end it."""
    disk = InterruptedDisk(lambda: os._exit(9), operation, at=count - 1)
    return CheckpointStore(LocalBackend(f"{base}/{STORE}", disk), concurrency=1)


# ---- Lives


Process = Callable[[str], object]
"""What one process does below `BASE`."""


class Life(NamedTuple):
    """A store's life: what it starts from, and the processes that follow."""

    before: Process
    processes: tuple[Process, ...]


def plain(base: str) -> CheckpointStore:
    """A store as a new process opens it, with one file in flight at a time."""
    return CheckpointStore(f"{base}/{STORE}", concurrency=1)


def threaded(base: str) -> CheckpointStore:
    return CheckpointStore(f"{base}/{STORE}", concurrency=4)


def nothing(base: str) -> None:
    pass


def two(base: str) -> None:
    """Two older checkpoints, tagged."""
    store = plain(base)
    for step in (1, 2):
        tag(store, f"old{step}", save(store, step).name)


def six(base: str) -> None:
    two(base)
    for step in (3, 4, 5, 6):
        save(plain(base), step)


def _many(base: str) -> None:
    save(plain(base), 1, count=50)


def _stage(base: str) -> None:
    """A framework that writes files as it likes: one links to one of its own, one has two names."""
    with open(f"{base}/weights", "wb") as file:
        file.write(b"weights" * 1000)
    with doing([3]) as done:
        with plain(base).stage(3) as path:
            os.mkdir(f"{path}/deep")
            for name in ("a", "deep/b"):
                with open(f"{path}/{name}", "wb") as file:
                    file.write(name.encode() * 5000)
            os.link(f"{base}/weights", f"{path}/deep/linked")
            os.link(f"{path}/a", f"{path}/deep/again")
        assert path.checkpoint is not None
        done.made = [path.checkpoint.name]


def _in_background(base: str) -> None:
    with threaded(base) as store, doing([3]) as done:
        done.made = [store.save_async(3, state(3), policies(3)).result().name]


def _at_once(base: str) -> None:
    """Two savers, a tag and a delete in one process."""
    store = threaded(base)
    calls: list[Callable[[], object]] = [
        lambda: save(threaded(base), 7),
        lambda: save(store, 8),
        lambda: tag(plain(base), "champion", "checkpoint_000002"),
        lambda: delete(plain(base), "checkpoint_000003"),
    ]
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _rollback(base: str) -> None:
    store = plain(base)
    with doing(
        takes=["checkpoint_000003", "checkpoint_000004", "checkpoint_000005", "checkpoint_000006"]
    ) as it:
        it.took = store.rollback(2)
    save(store, 3, "again")


def _copy(base: str) -> None:
    origin = CheckpointStore(f"{base}/origin")
    with doing([4, 5]) as done:
        done.made = [ckpt.name for ckpt in origin.copy_to(plain(base))]


def _two_and_an_origin(base: str) -> None:
    two(base)
    origin = CheckpointStore(f"{base}/origin")
    for step in (4, 5):
        origin.save(step, state(step), policies(step))


def _training(base: str) -> None:
    store = threaded(base)
    for step in range(3, 7):
        save(store, step, count=2)
        prune(store, 3)
    tag(store, "champion", "checkpoint_000005")
    save(store, 6, "retried", 2, replaces="checkpoint_000006")
    gc(store)


def _dies_deleting(base: str) -> None:
    """The checkpoint is in the trash, which nobody knows to have been synced."""
    delete(dying(base, "fsync_dir"), "checkpoint_000004")


LIVES = {
    "first": Life(nothing, (lambda base: save(plain(base), 1),)),
    "save": Life(two, (lambda base: save(plain(base), 3),)),
    "save-threads": Life(two, (lambda base: save(threaded(base), 3, count=8),)),
    "replace": Life(six, (lambda base: save(plain(base), 6, "again", replaces="checkpoint_000006"),)),
    "stage": Life(two, (_stage,)),
    "background": Life(two, (_in_background,)),
    "delete": Life(six, (lambda base: delete(plain(base), "checkpoint_000004"),)),
    "prune": Life(six, (lambda base: prune(plain(base), 1),)),
    "tag": Life(two, (lambda base: tag(plain(base), "old2", "checkpoint_000001"),)),
    "rollback": Life(six, (_rollback,)),
    "copy": Life(_two_and_an_origin, (_copy,)),
    "at-once": Life(six, (_at_once,)),
    "training": Life(two, (_training,)),
    "gc": Life(
        six,
        (
            lambda base: save(dying(base, "fsync", 3), 7),
            lambda base: save(dying(base, "rename_noreplace"), 7),
            _dies_deleting,
            lambda base: gc(plain(base)),
        ),
    ),
    "fifty": Life(
        _many,
        (
            lambda base: save(threaded(base), 2, count=50),
            lambda base: save(threaded(base), 2, "again", 50, replaces="checkpoint_000002"),
            lambda base: prune(plain(base), 1),
        ),
    ),
}

if __name__ == "__main__":
    what, life, place, *mutant = sys.argv[1:]
    if what == "prepare":
        LIVES[life].before(place)
    else:
        if mutant:
            from tests.mutants.local import MUTANTS

            MUTANTS[mutant[0]].apply()
        LIVES[life].processes[int(what)](place)
