"""Accidents to the files of a store: bits, cuts, swaps within and between checkpoints, lost files."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import CheckpointCorrupt
from tests.hostile.trial import META, Trial

NAMES = [
    "checkpoint_000001-r1",
    "checkpoint_000007",
    "checkpoint_0000000",
    "checkpoint_1",
    "checkpoint_000001-r0",
]
FILES = ["bit", "cut", "grown", "zeros", "empty", "swap", "gone", "copied"]


def damage(root: Path, random_: random.Random) -> str:
    """One accident; says which."""
    kind = random_.choice([*FILES, "moved", "swapped trees"])
    if kind == "moved":
        [one] = random_.sample(sorted(root.glob("checkpoint_*")), 1)
        name = random_.choice([name for name in NAMES if not (root / name).exists()])
        one.rename(root / name)
        return f"{one.name} is {name}"
    if kind == "swapped trees":
        one, two = random_.sample(sorted(root.glob("checkpoint_*")), 2)
        place = random_.choice(["", META, "policies", "policies/pol0", "components"])
        if (one / place).exists() and (two / place).exists():
            (one / place).rename(root / "aside")
            (two / place).rename(one / place)
            (root / "aside").rename(two / place)
        return f"{place or 'all'} of {one.name} and {two.name} swapped"
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    path, other = random_.choice(paths), random_.choice(paths)
    data, at = path.read_bytes(), random_.randrange(path.stat().st_size or 1)
    if kind == "bit" and data:
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << random_.randrange(8)]) + data[at + 1 :])
    elif kind == "cut":
        path.write_bytes(data[:at])
    elif kind == "grown":
        path.write_bytes(data + b"\0" + data[at:])
    elif kind == "zeros":
        path.write_bytes(data[:at] + bytes(len(data) - at))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "gone":
        path.unlink()
    else:
        path.write_bytes(other.read_bytes())
        if kind == "swap":
            other.write_bytes(data)
    return f"{kind} {path.relative_to(root)}"


@pytest.mark.parametrize(
    "rounds", [25, pytest.param(1500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_rot_and_swaps(trial: Trial, rounds: int) -> None:
    random_ = random.Random(rounds)
    survived = 0
    for _ in range(rounds):
        root = trial.fresh()
        what = [damage(root, random_) for _ in range(random_.randint(1, 3))]
        try:
            survived += bool(trial.looks(root))
            trial.changes(root)
        except BaseException:
            print(f"damage: {what}")
            raise
    assert survived > rounds // 2, "what was not hit is still read"


@pytest.mark.parametrize("kind", ["empty", "cut"])
def test_a_manifest_cut_to_the_size_of_a_tombstone_is_reported(trial: Trial, kind: str) -> None:
    """Whatever way one looks: by itself, as the newest, in the list and in the report."""
    root = trial.fresh()
    manifest = root / "checkpoint_000003" / META / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[: 0 if kind == "empty" else 300])
    store = CheckpointStore(root)
    latest = store.latest()
    assert latest is not None
    assert (latest.step, [skip.name for skip in latest.skipped]) == (2, ["checkpoint_000003"])
    assert [checkpoint.step for checkpoint in store.checkpoints()] == [1, 2]
    assert [report.ok for report in store.verify()] == [True, True, False]
    with pytest.raises(CheckpointCorrupt, match="manifest"):
        store.get(3)
