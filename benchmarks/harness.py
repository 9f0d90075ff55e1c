"""What the benchmarks share: contestants run in turn, medians and ratios, a Markdown table."""

from __future__ import annotations

import gc
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

MIB = 2**20


def policies(count: int, mib: float) -> dict[str, dict[str, Any]]:
    """`count` policies of `mib` MiB each: two float32 arrays of normal numbers, which don't compress."""
    numbers = np.random.default_rng(0)
    half = int(mib * MIB / 4 / 2)
    return {
        f"pol{index:03}": {
            "weights": {
                "kernel": numbers.standard_normal(half, dtype=np.float32),
                "bias": numbers.standard_normal(half, dtype=np.float32),
            }
        }
        for index in range(count)
    }


@contextmanager
def scratch() -> Iterator[str]:
    """A directory on the disk under test: below CKPTSTORE_BENCH_DIR or the working directory."""
    parent = os.environ.get("CKPTSTORE_BENCH_DIR") or os.path.join(os.getcwd(), ".scratch")
    os.makedirs(parent, exist_ok=True)
    path = tempfile.mkdtemp(prefix="bench-", dir=parent)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def in_turn(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each contestant says it took, after one round that doesn't count.

    Each round is one of each, in an order of its own: a disk that was worn out by one slows the next.
    """
    took: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    shuffle = random.Random(0).shuffle
    for round_ in range(rounds + 1):
        shuffle(order)
        for name, run in order:
            gc.collect()
            os.sync()  # nobody pays for what another left in the page cache
            seconds = run()
            if round_:
                took[name].append(seconds)
    return took


@contextmanager
def clock(result: list[float]) -> Iterator[None]:
    """Appends the seconds the block took."""
    started = time.perf_counter()
    yield
    result.append(time.perf_counter() - started)


def timed(run: Callable[[], object]) -> float:
    """Seconds `run` takes."""
    result: list[float] = []
    with clock(result):
        run()
    return result[0]


def table(title: str, took: Mapping[str, list[float]], size: int, note: str = "") -> str:
    """A Markdown table with medians, extremes, throughput and the ratio to the first row."""
    base = statistics.median(next(iter(took.values())))
    lines = [
        f"### {title}",
        "",
        "| what | median s | min-max s | MiB/s | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, values in took.items():
        median = statistics.median(values)
        lines.append(
            f"| {name} | {median:.3f} | {min(values):.3f}-{max(values):.3f} "
            f"| {size / MIB / median:.0f} | {median / base:.2f} |"
        )
    return "\n".join([*lines, "", *([note, ""] if note else [])])


def versions(*packages: str) -> str:
    """One line naming what was measured and where."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} absent")
    return (
        f"Python {platform.python_version()}, {', '.join(found)}; Linux {platform.release()}, "
        f"{os.cpu_count()} cores"
    )
