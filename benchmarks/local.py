"""Local disk: what it costs to save and to load, beside other ways to do it, in one run.

    python -m benchmarks.local [--policies 100] [--mib 10] [--rounds 5] [--smoke] [--only save,cold,...]

Contestants take turns and every round is one of each. Every save is durable when its clock stops, and every
load has touched every page. ckptstore's figures include its digests; the others have none.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.harness import (
    MIB,
    forget,
    from_disk,
    in_turn,
    log_time,
    parser,
    policies,
    scratch,
    table,
    versions,
)
from benchmarks.peers import Data, Peer, peers, touch
from ckptstore import Checkpoint, CheckpointStore

OURS = "**ckptstore**"


class Bench:
    """One set of policies in one scratch directory."""

    def __init__(self, root: str, count: int, mib: float, rounds: int) -> None:
        self.root = root
        self.data: Data = policies(count, mib)
        self.rounds = rounds
        self.size = sum(array.nbytes for policy in self.data.values() for array in policy["weights"].values())
        self.shape = f"{count} policies x {mib:g} MiB, median of {rounds}"
        self.two = list(self.data)[count // 2 : count // 2 + 2]
        self._names = iter(range(10**9))

    def directory(self) -> str:
        """A new name."""
        return os.path.join(self.root, f"d{next(self._names)}")

    def change_two(self) -> None:
        """Another value in each of two policies."""
        for policy_id in self.two:
            for array in self.data[policy_id]["weights"].values():
                array[-1] += 1

    # ---- Saving

    def save_peer(self, peer: Peer) -> float:
        """Seconds to save all, durably, in a new directory."""
        directory = self.directory()
        os.mkdir(directory)
        seconds = log_time(lambda: peer.save(directory, self.data))
        shutil.rmtree(directory)
        return seconds

    def save_ours(self) -> float:
        """The same, in a new store."""
        directory = self.directory()
        store = CheckpointStore(directory)
        seconds = log_time(lambda: store.save(1, {"iteration": 1}, self.data))
        shutil.rmtree(directory)
        return seconds

    def saves(self) -> None:
        """Everything saved, and two of all changed."""
        changed = self.changing()
        contestants: dict[str, Callable[[], float]] = {OURS: self.save_ours}
        contestants[f"{OURS}, 2 of {len(self.data)} changed"] = partial(changed, False)
        contestants[f"{OURS}, 2 of {len(self.data)} changed, the others handed over"] = partial(changed, True)
        contestants |= {name: partial(self.save_peer, peer) for name, peer in peers().items()}
        print(table(f"Durable save, {self.shape}", in_turn(contestants, self.rounds, self.size), self.size))

    def changing(self) -> Callable[[bool], float]:
        """A function that saves all with two changed, the others handed over or not, and says how long."""
        store = CheckpointStore(self.directory())
        parent = store.save(0, {"iteration": 0}, self.data)
        step = iter(range(1, 10**9))

        def changed(handed: bool) -> float:
            nonlocal parent
            self.change_two()
            lazy = {policy_id: parent.stored(policy_id) for policy_id in self.data} if handed else {}
            given = {**self.data, **lazy, **{policy_id: self.data[policy_id] for policy_id in self.two}}
            number = next(step)
            seconds = log_time(lambda: store.save(number, {"iteration": 1}, given))
            parent = store.get(number)
            store.prune(keep=1)
            return seconds

        return changed

    def asynchronous(self) -> None:
        """How long the trainer waits."""
        target = {name: np.ones_like(array) for name, array in self._flat()}
        store = CheckpointStore(self.directory())
        step = iter(range(10**9))
        for _ in range(2):
            store.save_async(next(step), {}, self.data).result()

        def copy() -> None:
            for name, array in self._flat():
                np.copyto(target[name], array)

        def blocked() -> float:
            for policy in self.data.values():
                policy["weights"]["kernel"][-1] += 1  # all of them changed
            seconds = log_time(lambda: store.save_async(next(step), {}, self.data))
            store.wait()
            store.prune(keep=1)
            return seconds

        took = in_turn(
            {"one memcpy into memory already touched": lambda: log_time(copy), OURS: blocked},
            self.rounds,
            self.size,
        )
        print(table(f"save_async returns, {self.shape}", took, self.size))

    def _flat(self) -> list[tuple[str, np.ndarray]]:
        return [
            (f"{policy_id}/{name}", array)
            for policy_id, policy in self.data.items()
            for name, array in policy["weights"].items()
        ]

    # ---- Loading

    def loads(self, cold: bool = False) -> None:
        """Everything into memory, from the page cache or the disk."""
        contestants: dict[str, Callable[[], object]] = {}
        for name, peer in peers().items():
            directory = self.directory()
            os.mkdir(directory)
            peer.save(directory, self.data)
            contestants[name] = partial(peer.load, directory)
        ckpt = self.saved()
        ours: dict[str, Callable[[], object]] = {
            f"{OURS}, verified": lambda: ckpt.load().policies,
            f"{OURS}, mmap=True": lambda: ckpt.load(mmap=True).policies,
        }
        self.show_reading("Load", cold, {**ours, **contestants}, self.size)

    def show_reading(
        self, title: str, cold: bool, contestants: dict[str, Callable[[], object]], size: int
    ) -> None:
        """The table; and beneath it, whether cold was cold and warm was warm."""
        how = "Files are in the page cache"
        shares: dict[str, list[float]] = {name: [] for name in contestants}

        def read(name: str) -> float:
            nonlocal how
            if cold:
                how = forget(self.root)
            before = from_disk()
            seconds = log_time(lambda: touch(contestants[name]()))
            shares[name].append((from_disk() - before) / size)
            return seconds

        took = in_turn({name: partial(read, name) for name in contestants}, self.rounds, size)
        counted = ", ".join(f"{name} {statistics.median(share[1:]):.0%}" for name, share in shares.items())
        note = f"{how}. Read from the disk, of the size of the data: {counted}."
        print(table(f"{title}, {'cold' if cold else 'warm'}, {self.shape}", took, size, note))

    def saved(self) -> Checkpoint:
        """A checkpoint of all."""
        directory = self.directory()
        CheckpointStore(directory).save(1, {"iteration": 1}, self.data)
        return CheckpointStore(directory, create=False).get(1)

    def part(self, cold: bool = False) -> None:
        """Two policies of all, and opening alone."""
        ckpt = self.saved()
        root = ckpt.url.removeprefix("file://")
        paths = [f"{root}/policies/{policy_id}/policy_state.pkl" for policy_id in self.two]

        def raw() -> object:
            found = []
            for path in paths:
                found.append(np.empty(os.path.getsize(path), np.uint8))
                with open(path, "rb", buffering=0) as file:
                    assert file.readinto(found[-1].data) == len(found[-1])
            return dict(enumerate(found))

        def opened() -> Checkpoint:
            found = CheckpointStore(os.path.dirname(root), create=False).latest()
            assert found is not None
            return found

        def opened_only() -> object:
            assert opened().policy_ids
            return {}

        contestants: dict[str, Callable[[], object]] = {
            "the same bytes, raw": raw,
            f"{OURS}, verified": lambda: ckpt.load(policy_ids=self.two).policies,
            f"{OURS}, verified, opened anew": lambda: opened().load(policy_ids=self.two).policies,
            f"{OURS}, opened only": opened_only,
        }
        size = self.size * 2 // len(self.data)
        self.show_reading(f"2 of {len(self.data)} policies", cold, contestants, size)
        if cold:
            return
        read, there = partial_read(root)
        print(f"A fresh process reads {read} of {there} bytes for it ({read / there:.2%}).\n")

    # ---- Memory

    def memory(self) -> None:
        """Most bytes held above the state."""
        store = CheckpointStore(self.directory())
        store.save(0, {"iteration": 0}, {"warm": {"weights": np.zeros(MIB)}})
        ckpt = self.saved()
        part = self.size * 2 // len(self.data)
        loaded = peak(lambda: ckpt.load(policy_ids=self.two))  # first, while nothing was freed yet
        rows = [
            ("save", peak(lambda: store.save(1, {}, self.data)), self.size),
            ("save_async, to its end", peak(lambda: store.save_async(2, {}, self.data).result()), self.size),
            (f"load of 2 of {len(self.data)}", loaded, part),
        ]
        print("### Peak memory above what was there\n\n| what | MiB | of the data it moves |\n|---|---|---|")
        for name, most, size in rows:
            print(f"| {name} | {most / MIB:.0f} | {most / size:.2f} |")
        print()


def resident() -> int:
    """Bytes of memory this process holds that no file backs."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel tells no RssAnon")


def peak(run: Callable[[], object]) -> int:
    """Most bytes held above those before during `run`, sampled every millisecond."""
    before = most = resident()
    stop = threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.001):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = run()
    stop.set()
    watcher.join()
    del kept
    return most - before


READER = """
import sys
from ckptstore import CheckpointStore
def read_bytes():
    return int(open("/proc/self/io").read().split()[1])
CheckpointStore(sys.argv[1], create=False)
import ckptstore.codec.pickles.safe, ckptstore.checkpoint
before = read_bytes()
loaded = CheckpointStore(sys.argv[1], create=False).latest().load(policy_ids=["pol001", "pol002"])
assert len(loaded.policies) == 2
print(read_bytes() - before)
"""


def partial_read(checkpoint: str) -> tuple[int, int]:
    """Bytes that a fresh process reads to load 2 policies, and the bytes there are."""
    size = Checkpoint.open(checkpoint).manifest.size
    command = [sys.executable, "-c", READER, os.path.dirname(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout), size


def main() -> None:
    """Run and print Markdown."""
    wanted = parser(__doc__, policies=100, mib=10)
    wanted.add_argument("--only", default="save,async,load,cold,part,part-cold,memory")
    arguments = wanted.parse_args()
    if arguments.smoke:
        arguments.policies, arguments.mib, arguments.rounds = 20, 0.5, 1
    started = time.monotonic()
    if arguments.only == "memory-alone":
        with scratch() as root:
            Bench(root, arguments.policies, arguments.mib, 1).memory()
        return
    known = sorted({package for peer in peers().values() for package in peer.packages})
    print(f"{versions('ckptstore', 'numpy', 'blake3', *known)}\n")
    with scratch() as root:
        bench = Bench(root, arguments.policies, arguments.mib, arguments.rounds)
        # In a process of its own: memory that was used before and is used again would not show.
        fresh = ["--only", "memory-alone", "--policies", str(arguments.policies), "--mib", str(arguments.mib)]
        sections: dict[str, Callable[[], object]] = {
            "save": bench.saves,
            "async": bench.asynchronous,
            "load": bench.loads,
            "cold": partial(bench.loads, True),
            "part": bench.part,
            "part-cold": partial(bench.part, True),
            "memory": lambda: subprocess.run([sys.executable, "-m", "benchmarks.local", *fresh], check=True),
        }
        for name in arguments.only.split(","):
            sys.stdout.flush()
            sections[name]()
            for leftover in os.listdir(root):
                shutil.rmtree(os.path.join(root, leftover))
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
