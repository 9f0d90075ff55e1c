"""What grows, and how: time to save and load on a local disk as there are more policies, or larger ones, or
more checkpoints.

    python -m benchmarks.growth [--rounds 5] [--smoke] [--only policies,mib,kept]

Beside it, one pickle for each policy, synced, and two of these read back, without digests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np

from benchmarks.harness import grown, in_turn, scratch, timed, versions
from benchmarks.local import Bench
from benchmarks.peers import peers, touch, unpickled
from ckptstore import CheckpointStore

Took = dict[str, list[float]]


def measured(root: str, policies: int, mib: float, rounds: int) -> Took:
    """Saves and loads with so many policies of so many MiB."""
    bench = Bench(root, policies, mib, rounds)
    changed = bench.changing()
    ours = bench.saved()
    pickle = peers()["pickle"]
    directory = bench.directory()
    os.mkdir(directory)
    pickle.save(directory, bench.data)

    def loaded() -> object:
        found = CheckpointStore(os.path.dirname(ours.url.removeprefix("file://")), create=False).latest()
        assert found is not None
        return found.load(policy_ids=bench.two).policies

    took = in_turn(
        {
            "save": bench.save_ours,
            "save, 2 changed": partial(changed, False),
            "save, 2 changed, others handed over": partial(changed, True),
            "open and load 2": lambda: timed(lambda: touch(loaded())),
            "pickles saved": lambda: bench.save_peer(pickle),
            "2 pickles loaded": lambda: timed(lambda: touch(unpickled(directory, bench.two))),
        },
        rounds,
    )
    for leftover in os.listdir(root):
        shutil.rmtree(os.path.join(root, leftover))
    return took


def by_policies(root: str, rounds: int, counts: tuple[int, ...]) -> None:
    """More policies of one MiB."""
    rows: dict[float, Took] = {number: measured(root, number, 1, rounds) for number in counts}
    print(grown(f"Growth with policies of 1 MiB, local disk, median of {rounds}", "policies", rows))


def by_mib(root: str, rounds: int, sizes: tuple[float, ...]) -> None:
    """Ten policies, larger ones."""
    rows = {mib: measured(root, 10, mib, rounds) for mib in sizes}
    print(grown(f"Growth of 10 policies, local disk, median of {rounds}", "MiB per policy", rows))


def by_kept(root: str, rounds: int, counts: tuple[int, ...]) -> None:
    """More checkpoints in one store; each find opens it anew."""
    url, step = os.path.join(root, "many"), count()
    policies = {"p": {"weights": {"w": np.ones(9)}}}
    rows: dict[float, Took] = {}
    store = CheckpointStore(url)
    for number in counts:
        for _ in range(number - len(store.checkpoints())):
            store.save(next(step), {"i": 1}, policies)

        def save() -> float:
            at = next(step)
            seconds = timed(lambda: store.save(at, {"i": 1}, policies))
            store.delete(at)
            return seconds

        found: dict[str, Callable[[], object]] = {
            "latest()": lambda: CheckpointStore(url, create=False).latest(),
            "checkpoints()": lambda: CheckpointStore(url, create=False).checkpoints(),
        }
        rows[number] = in_turn(
            {"save": save, **{name: partial(timed, find) for name, find in found.items()}}, rounds
        )
    print(grown(f"Growth with checkpoints kept, local disk, median of {rounds}", "checkpoints", rows))


def main() -> None:
    """Run and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run, not how fast")
    parser.add_argument("--only", default="policies,mib,kept")
    arguments = parser.parse_args()
    small, rounds = arguments.smoke, 1 if arguments.smoke else arguments.rounds
    started = time.monotonic()
    print(f"{versions('ckptstore', 'numpy')}\n")
    for name in arguments.only.split(","):
        with scratch() as root:
            if name == "policies":
                by_policies(root, rounds, (3, 5) if small else (10, 100, 1000))
            elif name == "mib":
                by_mib(root, rounds, (0.1, 0.2) if small else (0.1, 1, 10, 100))
            else:
                by_kept(root, rounds, (3, 5) if small else (10, 100, 1000))
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
