"""``make torture``: everything that takes long, two parts at a time, and one sum of what was tried.

The longest matrix, every fault at every request, is sampled by a seed; `make full` runs the whole of it.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.figures import SUMS, VERDICTS

LOGS = Path(".scratch") / "torture"
SEED = os.environ.get("CKPTSTORE_SEED", "1")


class Part(NamedTuple):
    """One pytest of its own, with servers of its own."""

    name: str
    tests: tuple[str, ...]
    reaches: tuple[str, ...]
    """To what of the sum it must have added something."""
    settings: dict[str, str] = {}  # noqa: RUF012 - never changed


class Done(NamedTuple):
    """What became of a part."""

    failed: str
    """Why, in a few words; empty if it went well."""
    counts: dict[str, int]
    sums: dict[str, int]


PARTS = (
    Part("trouble that lasts", ("tests/test_trouble.py",), ("requests faulted", "reads checked")),
    Part(
        "races of processes",
        ("tests/races", "tests/test_races.py"),
        ("races run", "reads checked", "processes killed or stopped"),
        {"CKPTSTORE_RACE_SECONDS": "90"},
    ),
    Part(
        "every fault at every request, sampled",
        ("tests/test_fault_matrix.py",),
        ("requests faulted",),
        {"CKPTSTORE_SHARE": "0.07"},
    ),
    Part("power cuts", ("tests/crash/test_power.py",), ("unique crash states checked", "reads checked")),
    Part(
        "crashes, kills and failing calls",
        ("tests/crash", "--ignore=tests/crash/test_power.py"),
        ("calls failed", "processes killed or stopped"),
    ),
    Part(
        "every order, and the commit",
        ("tests/model", "tests/commit"),
        ("states of the commit protocol", "races run"),
    ),
    Part(
        "hostile files, and secrets",
        ("tests/hostile", "tests/test_secrets.py", "tests/fuzz"),
        ("hostile trees", "reads checked"),
    ),
    Part(
        "signals, forks and threads",
        ("tests/moments", "tests/test_signals.py", "tests/test_exit.py", "tests/test_fork.py"),
        ("moments struck",),
        {"CKPTSTORE_MOMENTS": "0.01"},
    ),
    Part("random lives", ("tests/test_state_machine.py",), ("reads checked",), {"CKPTSTORE_EXAMPLES": "300"}),
)
"""The longest first."""


def run(part: Part) -> Done:
    """Run one part."""
    slug = part.name.replace(",", "").replace(" ", "-")
    log, figures = LOGS / f"{slug}.log", LOGS / f"{slug}.json"
    figures.unlink(missing_ok=True)
    environment = {**os.environ, **part.settings, "CKPTSTORE_FIGURES": str(figures), "CKPTSTORE_SEED": SEED}
    began = time.monotonic()
    with open(log, "wb") as out:
        command = [sys.executable, "-m", "pytest", "-q", "-s", "--durations=10", *part.tests]
        code = subprocess.run(command, stdout=out, stderr=out, env=environment, check=False).returncode
    last = log.read_text(errors="replace").splitlines()[-1:]
    minutes = (time.monotonic() - began) / 60
    print(f"{part.name}: {' '.join(last)}; {minutes:.1f} minutes, {log}", flush=True)
    try:
        told = json.loads(figures.read_text())
    except (OSError, ValueError) as error:
        return Done(f"pytest ended with {code} and without its figures ({error})", {}, {})
    done = Done("", told["counts"], told["sums"])
    if code:
        return done._replace(failed=f"pytest ended with {code}")
    if not told["passed"]:
        return done._replace(failed="no test was run")
    if lacking := [what for what in part.reaches if not done.sums.get(what)]:
        return done._replace(failed="nothing counted as " + ", ".join(lacking))
    return done


def main(parts: Sequence[Part] = PARTS) -> int:
    """All parts, two at a time; the exit code."""
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f"{len(parts)} parts, two at a time, with seed {SEED} (CKPTSTORE_SEED)", flush=True)
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(run, parts))
    total: collections.Counter[str] = collections.Counter()
    for part, done in zip(parts, ended, strict=True):
        print(f"\n{part.name}:{f' FAILED: {done.failed}' if done.failed else ''}")
        for what, count in done.counts.items():
            print(f"{count:>12,} {what}")
        total.update(done.sums)
    print(f"\nthe sum, in {(time.monotonic() - began) / 60:.0f} minutes:")
    for what in SUMS:
        print(f"{total[what]:>12,} {what}")
    print(", ".join(f"{total[verdict]:,} {verdict}" for verdict in VERDICTS))
    failed = [part.name for part, done in zip(parts, ended, strict=True) if done.failed]
    if failed:
        print("FAILED: " + "; ".join(failed))
    return 1 if failed or any(total[verdict] for verdict in VERDICTS) else 0


if __name__ == "__main__":
    sys.exit(main())
