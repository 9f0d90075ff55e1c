"""Every fuzz target on its seeds, on what fuzzing ever found, and on a few thousand plain mutations.

The long, coverage-guided runs are ``make fuzz``; what they find comes to ``finds/<target>/`` and stays.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

FINDS = Path(__file__).parent / "finds"


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_understood(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert any(target.run(seed) for seed in seeds), "no seed gets through: the target tries nothing"


@pytest.mark.parametrize(
    "path", sorted(FINDS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_what_was_found_stays_fixed(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    target, random_ = TARGETS[name], random.Random(name)
    seeds = list(target.seeds())
    refused = 0
    for _ in range(1000):
        refused += not target.run(mutated(random_.choice(seeds), random_.choice(seeds), random_))
    assert refused, "nothing was refused: the mutations change nothing"


def mutated(data: bytes, other: bytes, random_: random.Random) -> bytes:
    """A few random edits: bits, runs, cuts, and pieces of `other`."""
    out = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        place = random_.randrange(len(out) + 1)
        kind = random_.randrange(5)
        if kind == 0 and out:
            out[place % len(out)] ^= 1 << random_.randrange(8)
        elif kind == 1 and out:
            out[place % len(out)] = random_.choice(b"\x00\xff\x7f\x80.(R}]t\x93\x81b")
        elif kind == 2:
            del out[place : place + random_.randint(1, 20)]
        elif kind == 3:
            start = random_.randrange(len(other) + 1)
            out[place:place] = other[start : start + random_.randint(1, 60)]
        else:
            out[place:place] = bytes(random_.randrange(256) for _ in range(random_.randint(1, 8)))
    return bytes(out)
