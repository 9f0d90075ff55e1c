"""What grows, and how: time to save and load as there are more policies, or larger ones, or more checkpoints.

    python -m benchmarks.growth [--server seaweedfs|sink] [--rounds 5] [--smoke] [--only policies,mib,kept]

On a local disk, or on a server of `benchmarks.buckets`, whose `many` is there what `kept` is here. Beside it,
without digests: one pickle for each policy, synced, and two of these read; or bodies put and got by boto3.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np

from benchmarks import buckets
from benchmarks.buckets import PACKAGES, SERVERS, keep_in_memory
from benchmarks.harness import grown, in_turn, log_time, scratch, versions
from benchmarks.local import Bench
from benchmarks.peers import peers, touch, unpickled
from ckptstore import CheckpointStore

Took = dict[str, list[float]]
Measure = Callable[[int, float], Took]
"""Saves and loads with so many policies of so many MiB."""


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
            "open and load 2": lambda: log_time(lambda: touch(loaded())),
            "pickles saved": lambda: bench.save_peer(pickle),
            "2 pickles loaded": lambda: log_time(lambda: touch(unpickled(directory, bench.two))),
        },
        rounds,
        bench.size,
    )
    for leftover in os.listdir(root):
        shutil.rmtree(os.path.join(root, leftover))
    return took


def by_policies(measure: Measure, where: str, counts: tuple[int, ...]) -> None:
    """More policies of one MiB."""
    rows: dict[float, Took] = {number: measure(number, 1) for number in counts}
    print(grown(f"Growth with policies of 1 MiB, {where}", "policies", rows), flush=True)


def by_mib(measure: Measure, where: str, sizes: tuple[float, ...]) -> None:
    """Ten policies, larger ones."""
    rows = {mib: measure(10, mib) for mib in sizes}
    print(grown(f"Growth with the size of 10 policies, {where}", "MiB per policy", rows), flush=True)


def by_kept(root: str, where: str, rounds: int, counts: tuple[int, ...]) -> None:
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
            seconds = log_time(lambda: store.save(at, {"i": 1}, policies))
            store.delete(at)
            return seconds

        found: dict[str, Callable[[], object]] = {
            "latest()": lambda: CheckpointStore(url, create=False).latest(),
            "checkpoints()": lambda: CheckpointStore(url, create=False).checkpoints(),
        }
        rows[number] = in_turn(
            {"save": save, **{name: partial(log_time, find) for name, find in found.items()}}, rounds, 2**20
        )
    print(grown(f"Growth with checkpoints kept, {where}", "checkpoints", rows))


def main() -> None:
    """Run and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=sorted(SERVERS), help="a local disk without it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run, not how fast")
    parser.add_argument("--only", default="policies,mib,kept")
    arguments = parser.parse_args()
    small, rounds = arguments.smoke, 1 if arguments.smoke else arguments.rounds
    started = time.monotonic()
    print(f"{versions(*(PACKAGES if arguments.server else ('ckptstore', 'numpy')))}\n")
    wanted = arguments.only.split(",")
    with contextlib.ExitStack() as stack:
        if arguments.server:
            keep_in_memory()
            server = stack.enter_context(SERVERS[arguments.server]())
            where = f"{server.name}, median of {rounds}"

            def measure(policies: int, mib: float) -> Took:
                return buckets.Bench(server, policies, mib, rounds).growing()
        else:
            root = stack.enter_context(scratch())
            where = f"local disk, median of {rounds}"

            def measure(policies: int, mib: float) -> Took:
                return measured(root, policies, mib, rounds)

        if "policies" in wanted:
            by_policies(measure, where, (3, 5) if small else (10, 100, 1000))
        if "mib" in wanted:
            by_mib(measure, where, (0.1, 0.2) if small else (0.1, 1, 10, 100))
        if "kept" in wanted and not arguments.server:
            by_kept(root, where, rounds, (3, 5) if small else (10, 100, 1000))
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
