"""Each broken rule still finds what it breaks: the harnesses that run them take long to say so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.mutants import local, races

APPLIED = [(module.__name__, name) for module in (local, races) for name in module.MUTANTS]


@pytest.mark.parametrize(("module", "name"), APPLIED)
def test_it_can_be_applied(module: str, name: str) -> None:
    """In a process of its own, which is broken afterwards."""
    lines = (
        f"from {module} import MUTANTS",
        f"mutant = MUTANTS[{name!r}]",
        "getattr(mutant, 'apply', mutant)()",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120)
