"""Local disk: a durable save beside raw writes and plain pickles, its memory, and what a partial read costs.

    python -m benchmarks.local [--policies 100] [--mib 10] [--rounds 5] [--smoke]

Contestants take turns in one run. Every one is durable when its clock stops; ckptstore's save includes
its digests, the others have none.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from benchmarks.harness import MIB, in_turn, policies, scratch, table, timed, versions
from ckptstore import CheckpointStore


def raw_write(root: str, data: dict[str, dict[str, Any]]) -> float:
    """One file, every array written to it, one fsync: the least that durable can cost."""
    path = os.path.join(root, "raw")

    def run() -> None:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        for policy in data.values():
            for array in policy["weights"].values():
                view = memoryview(array).cast("B")
                while len(view):
                    view = view[os.write(fd, view) :]
        os.fsync(fd)
        os.close(fd)

    seconds = timed(run)
    os.unlink(path)
    return seconds


def pickles(root: str, data: dict[str, dict[str, Any]]) -> float:
    """A pickle per policy, each synced: what a careful trainer writes by hand."""
    directory = os.path.join(root, "pickles")
    os.mkdir(directory)

    def run() -> None:
        for name, policy in data.items():
            with open(os.path.join(directory, name), "wb") as file:
                pickle.dump(policy, file, protocol=5)
                file.flush()
                os.fsync(file.fileno())

    seconds = timed(run)
    shutil.rmtree(directory)
    return seconds


def ours(root: str, data: dict[str, dict[str, Any]]) -> float:
    """`CheckpointStore.save`, from the call to its return."""
    path = os.path.join(root, "store")
    store = CheckpointStore(path)
    seconds = timed(lambda: store.save(1, {"iteration": 1}, data))
    shutil.rmtree(path)
    return seconds


def resident() -> int:
    """Bytes of memory this process holds that no file backs."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel tells no RssAnon")


def memory(root: str, data: dict[str, dict[str, Any]]) -> int:
    """Most bytes held above the state during a save, sampled every millisecond."""
    store = CheckpointStore(os.path.join(root, "store"))
    store.save(0, {"iteration": 0}, {"warm": {"weights": np.zeros(MIB)}})
    before = most = resident()
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.001):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    store.save(1, {"iteration": 1}, data)
    stop.set()
    watcher.join()
    return most - before


READER = """
import sys
from ckptstore import CheckpointStore
def read_bytes():
    return int(open("/proc/self/io").read().split()[1])
CheckpointStore(sys.argv[1], create=False)
import ckptstore.codec.safe, ckptstore.checkpoint
before = read_bytes()
loaded = CheckpointStore(sys.argv[1], create=False).latest().load(policy_ids=["pol001", "pol002"])
assert len(loaded.policies) == 2
print(read_bytes() - before)
"""


def partial_read(root: str, data: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Bytes that a fresh process reads to load 2 policies, and the bytes there are."""
    path = os.path.join(root, "partial")
    size = CheckpointStore(path).save(1, {"iteration": 1}, data).manifest.size
    done = subprocess.run([sys.executable, "-c", READER, path], capture_output=True, text=True, check=True)
    shutil.rmtree(path)
    return int(done.stdout), size


def main() -> None:
    """Run and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=100)
    parser.add_argument("--mib", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run, not how fast")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.policies, arguments.mib, arguments.rounds = 20, 0.5, 1
    data = policies(arguments.policies, arguments.mib)
    size = sum(array.nbytes for policy in data.values() for array in policy["weights"].values())
    started = time.monotonic()
    print(f"{versions('ckptstore', 'numpy', 'blake3')}\n")
    with scratch() as root:
        took = in_turn(
            {
                "raw write + fsync": lambda: raw_write(root, data),
                "pickle per policy + fsync": lambda: pickles(root, data),
                "ckptstore": lambda: ours(root, data),
            },
            arguments.rounds,
        )
        shape = f"{arguments.policies} policies x {arguments.mib:g} MiB"
        print(table(f"Durable save, {shape}, median of {arguments.rounds}", took, size))
        print(f"Memory above the state during a save: {memory(root, data) / MIB:.1f} MiB\n")
        read, there = partial_read(root, data)
        print(
            f"Loading 2 of {arguments.policies} policies reads {read} of {there} bytes ({read / there:.2%})\n"
        )
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
