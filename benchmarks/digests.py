"""Which digest: throughput of the candidates on one and two threads, median of 7, 16 parts of 16 MiB.

python -m benchmarks.digests
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from blake3 import blake3
from xxhash import xxh3_128_digest

from benchmarks.harness import MIB, log_time, versions

PARTS = [np.random.default_rng(index).bytes(16 * MIB) for index in range(16)]
CANDIDATES: dict[str, Callable[[bytes], object]] = {
    "blake3": lambda data: blake3(data).digest(),
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
    "sha3_256": lambda data: hashlib.sha3_256(data).digest(),
    "xxh3_128": xxh3_128_digest,
}


def rate(hash_part: Callable[[bytes], object], threads: int) -> float:
    """MiB/s over all parts."""
    with ThreadPoolExecutor(threads) as pool:
        seconds = [log_time(lambda: list(pool.map(hash_part, PARTS))) for _ in range(7)]
    return len(PARTS) * 16 / statistics.median(seconds)


def main() -> None:
    """Run and print Markdown."""
    print(f"{versions('blake3', 'xxhash')}\n\n| digest | 1 thread MiB/s | 2 threads MiB/s |\n|---|---|---|")
    for name, hash_part in CANDIDATES.items():
        print(f"| {name} | {rate(hash_part, 1):.0f} | {rate(hash_part, 2):.0f} |")


if __name__ == "__main__":
    main()
