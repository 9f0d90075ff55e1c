"""Decoding what RLlib wrote, without running any of it, beside `pickle.load` on the same files.

    python -m benchmarks.decode [--policies 100] [--mib 10.24] [--objects 200000] [--rounds 5] [--smoke]

A checkpoint of large arrays, as policies are, and one of small objects, as replay buffers and metrics are.
Files are in the page cache for both, and both hold all they have loaded until the clock stops: memory that is
freed at once is used again, which flatters whoever allocates less.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import MIB, in_turn, log_time, parser, policies, scratch, table, versions
from ckptstore import Checkpoint


def write(root: str, state: Mapping[str, Any], policies: Mapping[str, Any]) -> int:
    """A directory as Ray 2.1 wrote it; returns the size of its pickles in bytes."""
    files: dict[str, Any] = {"algorithm_state.pkl": {**state, "worker": {"policy_ids": list(policies)}}}
    files |= {f"policies/{name}/policy_state.pkl": policy for name, policy in policies.items()}
    size = 0
    for path, value in files.items():
        place = os.path.join(root, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            pickle.dump(value, file, protocol=5)
            size += file.tell()
    return size


def small(count: int) -> dict[str, Any]:
    """A replay buffer in which `count` objects lie: a fifth of them dicts, a fifth of them arrays."""
    random = np.random.default_rng(0)
    steps = [
        {"obs": row, "reward": float(index), "t": index, "episode": f"episode {index // 200}"}
        for index, row in enumerate(random.standard_normal((count // 5, 4), dtype=np.float32))
    ]
    return {"local_replay_buffer": steps, "training_iteration": 7}


def paths(root: str) -> Iterator[str]:
    for directory, _, names in os.walk(root):
        yield from (os.path.join(directory, name) for name in sorted(names))


def unpickled(root: str) -> float:
    """Every file through `pickle.load`: it runs whatever they say."""

    held = []

    def run() -> None:
        for path in paths(root):
            with open(path, "rb") as file:
                held.append(pickle.load(file))

    return log_time(run)


def ours(root: str) -> float:
    """State and every policy through `Checkpoint.open`."""

    held = []

    def run() -> None:
        ckpt = Checkpoint.open(root)
        held.append(ckpt.state)
        assert ckpt.state["iteration"] == 7
        for policy_id in ckpt.policy_ids:
            held.append(ckpt.weights(policy_id))
            assert set(held[-1]) == {"kernel", "bias"}

    return log_time(run)


def main() -> None:
    """Run and print Markdown."""
    wanted = parser(__doc__, policies=100, mib=10.24)
    wanted.add_argument("--objects", type=int, default=200_000)
    arguments = wanted.parse_args()
    if arguments.smoke:
        arguments.policies, arguments.mib, arguments.objects, arguments.rounds = 5, 0.5, 1000, 1
    started = time.monotonic()
    print(f"{versions('ckptstore', 'numpy')}\n")
    large = {"training_iteration": 7}, policies(arguments.policies, arguments.mib)
    several = small(arguments.objects), policies(1, 0.1)
    for what, (state, held) in {
        f"{arguments.policies} policies of {arguments.mib:g} MiB": large,
        f"{arguments.objects:,} small objects": several,
    }.items():
        with scratch() as root:
            size = write(root, state, held)
            took = in_turn(
                {
                    "pickle.load": partial(unpickled, root),
                    "ckptstore, safe": partial(ours, root),
                },
                arguments.rounds,
                size,
            )
            print(table(f"Decode {what}, median of {arguments.rounds}", took, size, f"{size / MIB:.1f} MiB"))
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
