"""``make torture``: everything that takes long, two parts at a time, and one sum of what was tried.

The longest matrix, every fault at every request, is sampled by a seed; `make full` runs the whole of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

LOGS = Path(".scratch") / "torture"
SEED = os.environ.get("CKPTSTORE_SEED", "1")


class Part(NamedTuple):
    """One pytest of its own, with servers of its own."""

    name: str
    tests: tuple[str, ...]
    settings: dict[str, str] = {}  # noqa: RUF012 - never changed


PARTS = (
    Part("power cuts, crashes and failing calls", ("tests/crash",)),
    Part(
        "every fault at every request, sampled", ("tests/test_fault_matrix.py",), {"CKPTSTORE_SHARE": "0.2"}
    ),
    Part("trouble that lasts", ("tests/test_trouble.py",)),
    Part("every order, and the commit", ("tests/model", "tests/commit")),
    Part("races of processes", ("tests/races", "tests/test_races.py"), {"CKPTSTORE_RACE_SECONDS": "90"}),
    Part("random lives", ("tests/test_state_machine.py",), {"CKPTSTORE_EXAMPLES": "300"}),
)
"""The longest first."""


def run(part: Part) -> tuple[bool, dict[str, int]]:
    """Run one part; whether it went well, and what it counted."""
    slug = part.name.replace(",", "").replace(" ", "-")
    log, figures = LOGS / f"{slug}.log", LOGS / f"{slug}.json"
    figures.unlink(missing_ok=True)
    environment = {**os.environ, **part.settings, "CKPTSTORE_FIGURES": str(figures), "CKPTSTORE_SEED": SEED}
    began = time.monotonic()
    with open(log, "wb") as out:
        command = [sys.executable, "-m", "pytest", "-q", "-s", *part.tests]
        code = subprocess.run(command, stdout=out, stderr=out, env=environment, check=False).returncode
    last = log.read_text(errors="replace").splitlines()[-1:]
    minutes = (time.monotonic() - began) / 60
    print(f"{part.name}: {' '.join(last)}; {minutes:.1f} minutes, {log}", flush=True)
    counts = json.loads(figures.read_text()) if figures.exists() else {}
    return code == 0, counts


def main() -> int:
    """All parts, two at a time."""
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f"{len(PARTS)} parts, two at a time, with seed {SEED} (CKPTSTORE_SEED)", flush=True)
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(run, PARTS))
    print(f"\nwhat was tried, in {(time.monotonic() - began) / 60:.0f} minutes")
    for part, (well, counts) in zip(PARTS, done, strict=True):
        print(f"{part.name}:{'' if well else ' FAILED'}")
        for what, count in counts.items():
            print(f"{count:>12,} {what}")
    return 0 if all(well for well, _ in done) else 1


if __name__ == "__main__":
    sys.exit(main())
