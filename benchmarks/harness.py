"""What the benchmarks share: contestants run in turn, medians and ratios, a Markdown table."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import re
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ckptstore.read.memory import fresh

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


def in_turn(contestants: Mapping[str, Callable[[], float]], rounds: int, size: int) -> dict[str, list[float]]:
    """Seconds that each contestant says it took, after one round that doesn't count.

    Each round is one of each, in an order of its own: a disk that was worn out by one slows the next.
    They move `size` bytes, and find free memory for thrice that.
    """
    took: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    shuffle = random.Random(0).shuffle
    for round_ in range(rounds + 1):
        shuffle(order)
        for name, run in order:
            gc.collect()
            os.sync()  # nobody pays for what another left in the page cache
            free(3 * size)
            seconds = run()
            if round_:
                took[name].append(seconds)
    return took


def free(size: int) -> None:
    """Have the kernel hold `size` bytes of free memory that are free indeed.

    A virtual machine may give what was free for two seconds back to its host, and whoever touches it next
    waits for the host to find it again: 2 s per GiB were seen where 0.05 are usual, by turns at any
    contestant's expense.
    """
    np.frombuffer(fresh(size), np.uint8)[::4096] = 1


def forget(root: str) -> str:
    """Have the next reader of files below `root` go to the disk; returns how that was done, in words.

    What lies beneath a virtual machine keeps a cache of its own, which nothing here empties.
    """
    os.sync()  # dirty pages stay
    if os.access("/proc/sys/vm/drop_caches", os.W_OK):
        with open("/proc/sys/vm/drop_caches", "w") as caches:
            caches.write("3")
        return "Before each, the kernel drops all its caches"
    for folder, _, files in os.walk(root):
        for name in files:
            fd = os.open(os.path.join(folder, name), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    return "Before each, the kernel is told to drop the files' pages"


def from_disk() -> int:
    """Bytes that this process has had read from a disk so far, mapped ones included."""
    with open("/proc/self/io") as counts:
        return int(re.findall(r"^read_bytes: (\d+)", counts.read(), re.MULTILINE)[0])


class Costs:
    """Processor seconds of this process, by who spent them."""

    def __init__(self) -> None:
        self._spent: dict[str, list[float]] = {}

    def log_time(self, name: str, run: Callable[[], object]) -> float:
        """Seconds `run` takes; its processor time counts as that of `name`."""
        before = _cpu()
        seconds = log_time(run)
        self._spent.setdefault(name, []).append(_cpu() - before)
        return seconds

    def show(self, title: str, took: Mapping[str, list[float]], size: int) -> None:
        """Print the table, and what each spent without the round that doesn't count; then begin anew."""
        print(table(title, took, size))
        per_gib = {name: statistics.median(self._spent[name][1:]) / (size / 2**30) for name in took}
        print("CPU s/GiB: " + ", ".join(f"{name} {value:.2f}" for name, value in per_gib.items()) + "\n")
        self._spent.clear()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def parser(doc: str | None, policies: int, mib: float) -> argparse.ArgumentParser:
    """The arguments that benchmarks of policies have in common, with their defaults."""
    found = argparse.ArgumentParser(description=doc)
    found.add_argument("--policies", type=int, default=policies)
    found.add_argument("--mib", type=float, default=mib)
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--smoke", action="store_true", help="tiny sizes: does it run, not how fast")
    return found


@contextmanager
def clock(result: list[float]) -> Iterator[None]:
    """Appends the seconds the block took."""
    started = time.perf_counter()
    yield
    result.append(time.perf_counter() - started)


def log_time(run: Callable[[], object]) -> float:
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


def grown(title: str, what: str, rows: Mapping[float, Mapping[str, list[float]]]) -> str:
    """A Markdown table of medians: a row for each size of `what`, a column for each contestant."""
    names = list(next(iter(rows.values())))
    lines = [f"### {title}", "", f"| {' | '.join([what, *(f'{name} s' for name in names)])} |"]
    lines.append("|---" * (1 + len(names)) + "|")
    for size, took in rows.items():
        medians = (f"{statistics.median(took[name]):.4f}" for name in names)
        lines.append(f"| {' | '.join([f'{size:g}', *medians])} |")
    return "\n".join([*lines, ""])


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
