"""The power goes while a trainer saves, on a file system of its own: ``python -m tests.crash.images``.

The trainer is stopped, the file that its file system lies in is copied as it is at that moment, and the copy
mounted. What the kernel still held in memory is not in there. Runs in a mount namespace of its own, so the
mounts and their loop devices go with the process. Prints the number of cuts, or raises.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ckptstore import CheckpointStore

SIZES = {"ext4": "128M", "xfs": "300M", "btrfs": "128M"}
"""File systems, each with about the smallest size that it can be made with."""
POLICIES = 6
TAGGED = 7
"""Each of so many checkpoints is tagged."""
_STEPS = 300
_KEEP = 4


def policies(step: int) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """At `step`: one policy changes in each, the others are linked from one checkpoint to the next."""
    return {
        f"pol{i}": {"weights": {"w": np.full(50_000, step - (step - i) % POLICIES, np.int64)}}
        for i in range(POLICIES)
    }


def train(root: Path, *, sync: bool) -> None:
    """Save, tag and prune, and say so when each has returned."""
    if not sync:
        os.fsync = lambda fd: None
    store = CheckpointStore(root)
    for step in range(1, _STEPS + 1):
        checkpoint = store.save(step, {"i": step}, policies(step))
        print("saved", step, flush=True)
        if step % TAGGED == 0:
            store.tag("champion", checkpoint)
            print("tagged", step, flush=True)
        store.prune(keep=_KEEP)
        print("pruned", step, flush=True)


def check(root: Path, said: dict[str, int]) -> None:
    """Everything that was said is there, whole, and the store works on."""
    store = CheckpointStore(root, create=False)
    steps = [checkpoint.step for checkpoint in store.checkpoints()]
    assert steps
    assert steps[-1] in (said["saved"], said["saved"] + 1), (steps, said)
    assert all(step in steps for step in range(max(1, steps[-1] - _KEEP + 2), steps[-1])), (steps, said)
    assert all(step % TAGGED == 0 for step in steps if step <= said["pruned"] - _KEEP), (steps, said)
    for checkpoint in store.checkpoints():
        assert checkpoint.verify().ok, checkpoint
        loaded = checkpoint.load()
        assert loaded.state == {"i": checkpoint.step}
        for policy_id, policy in policies(checkpoint.step).items():
            assert np.array_equal(loaded.policies[policy_id]["weights"]["w"], policy["weights"]["w"])
    if said["tagged"]:
        assert store.get("tag:champion").step >= said["tagged"], said
    store.gc()
    assert store.save(_STEPS + 1, {"i": 0}, policies(_STEPS + 1)).verify().ok


def formatted(image: Path, kind: str) -> Path:
    """`image`, made: an empty file system of that kind."""
    subprocess.run(["truncate", "-s", SIZES[kind], image], check=True)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stdout=subprocess.DEVNULL)
    return image


@contextlib.contextmanager
def mounted(image: Path, place: Path, options: str = "loop") -> Iterator[None]:
    """`image` as a file system at `place`."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", options, image, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def copy_at_once(image: Path, copy: Path) -> None:
    """A copy of `image` as it was at one moment, though the kernel may be writing to it."""
    for _ in range(50):
        copy.unlink(missing_ok=True)  # a loop device of the one before may linger, and know its blocks
        subprocess.run(["cp", "--sparse=always", image, copy], check=True)
        # A block that changed between its two readings would differ: all were so in between.
        if subprocess.run(["cmp", "-s", image, copy], check=False).returncode == 0:
            return
    raise TimeoutError(f"{image} keeps changing")


def cut(place: Path, kind: str, count: int, trainer: list[str]) -> int:
    """Cut the power up to `count` times, as long as the trainer trains; how often it was."""
    image, copy, log = formatted(place / "image", kind), place / "copy", place / "log"
    chance, cuts = random.Random(8), 0
    with (
        mounted(image, place / "disk"),
        log.open("w") as out,
        subprocess.Popen([*trainer, str(place / "disk/store")], stdout=out) as child,
    ):
        try:
            while cuts < count and child.poll() is None:
                time.sleep(chance.uniform(0.2, 1.0))
                child.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # now it has
                said = {"saved": 0, "tagged": 0, "pruned": 0}
                said.update((word, int(step)) for word, step in map(str.split, log.read_text().splitlines()))
                if said["saved"]:
                    copy_at_once(image, copy)
                    # It has the UUID of what is mounted: XFS wants to be told that this is meant.
                    with mounted(copy, place / "cut", "loop,nouuid" if kind == "xfs" else "loop"):
                        check(place / "cut/store", said)
                    cuts += 1
                child.send_signal(signal.SIGCONT)
        finally:
            child.kill()
    return cuts


def main() -> None:
    """Cut the power, or be the trainer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path, help="an empty directory; the store, for the trainer")
    parser.add_argument("--kind", choices=SIZES, help="be no trainer: cut the power, on this file system")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--without-sync", action="store_true", help="the trainer never syncs")
    chosen = parser.parse_args()
    if chosen.kind is None:
        train(chosen.place, sync=not chosen.without_sync)
        return
    trainer = [sys.executable, "-m", "tests.crash.images", *["--without-sync"] * chosen.without_sync]
    print(cut(chosen.place, chosen.kind, chosen.count, trainer))


if __name__ == "__main__":
    main()
