"""Interpreters beside the one that runs the tests: ``python -m tests.codec.other_pythons`` prepares them.

Each environment is an interpreter found under ~/.pyenv/versions with one generation of numpy, kept in
.scratch/compat. The tests use those that are there and skip the others.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2] / ".scratch" / "compat"
VERSIONS = Path.home() / ".pyenv" / "versions"


class Environment(NamedTuple):
    """One interpreter with one numpy; ``numpy`` is what pip is asked for."""

    python: str
    numpy: str

    @property
    def name(self) -> str:
        return f"py{self.python}-numpy{self.numpy.split('==')[-1].split('>=')[-1].split('.')[0]}"

    @property
    def executable(self) -> Path:
        return ROOT / self.name / "bin" / "python"


ENVIRONMENTS = [
    Environment("3.8", "numpy==1.24.4"),
    Environment("3.10", "numpy==1.26.4"),
    Environment("3.11", "numpy==1.26.4"),
    Environment("3.12", "numpy==1.26.4"),
    Environment("3.10", "numpy>=2"),
    Environment("3.11", "numpy>=2"),
    Environment("3.12", "numpy>=2"),
    Environment("3.13", "numpy>=2"),
]


def prepare(environment: Environment) -> str:
    """Create the environment; returns what came of it."""
    if environment.executable.exists():
        return "there"
    found = sorted(VERSIONS.glob(f"{environment.python}.*/bin/python"))
    if not found:
        return f"no interpreter {environment.python} below {VERSIONS}"
    directory = environment.executable.parents[1]
    subprocess.run([found[-1], "-m", "venv", directory], check=True)
    wanted = [environment.numpy, "cloudpickle"] + (["ml_dtypes"] if environment.python != "3.8" else [])
    subprocess.run([environment.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return "made"


def main() -> int:
    for environment in ENVIRONMENTS:
        print(f"{environment.name:20} {prepare(environment)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
