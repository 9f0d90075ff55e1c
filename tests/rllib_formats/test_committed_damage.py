"""What RLlib wrote, committed to a store and then damaged: every 64th byte flipped, and cut there."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import CheckpointError
from tests.rllib_formats import corpus
from tests.rllib_formats.test_golden import DATA, GOLDEN
from tests.stores import unlinked

EVERY = 64


def chosen(cases: list[Path], count: int) -> list[Path]:
    """Of the algorithms the smallest of each folder, and then the smallest of the rest."""
    listings = {case: corpus.listing(corpus.roots(case)[0]) for case in cases}
    algorithms = [
        case for case in cases if not any(path.startswith("policy_state") for path in listings[case])
    ]
    algorithms.sort(key=lambda case: sum(listings[case].values()))
    first = {case.parent: case for case in reversed(algorithms)}.values()
    return [*sorted(first), *(case for case in algorithms if case not in first)][:count]


def everything(store: CheckpointStore) -> dict[str, Any]:
    """All that the checkpoint holds, each file decoded."""
    ckpt = store.get(1)
    return {
        "state": repr(ckpt.state),
        "policies": {name: repr(ckpt.policies[name]) for name in ckpt.policy_ids},
        "weights": {name: ckpt.weights(name) for name in ckpt.policy_ids},
        "components": {name: repr(ckpt.components[name]) for name in ckpt.components},
    }


def damages(data: bytes, every: int) -> Iterator[tuple[str, bytes]]:
    """`data` with one bit flipped, and without its end, at every so many bytes."""
    for at in range(0, len(data), every):
        bit = 1 << at // every % 8
        yield "flipped", data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        yield "cut", data[:at]


def damage(case: Path, place: Path, every: int) -> Counter[str]:
    """Commit the case, damage each of its files in every way, and count what came of it."""
    store = CheckpointStore(place)
    with store.stage(step=1) as path:
        for root in corpus.roots(case)[:1]:
            shutil.copytree(root, path, dirs_exist_ok=True)
    whole = everything(store)
    count: Counter[str] = Counter()
    for file in sorted(path for path in (place / "checkpoint_000001").rglob("*") if path.is_file()):
        data = unlinked(file)
        for kind, broken in damages(data, every):
            file.write_bytes(broken)
            count[kind] += 1
            try:
                found = everything(store)
            except CheckpointError:
                count["refused"] += 1
                continue
            # It was not among what is decoded: then what was read is right, and verifying tells.
            np.testing.assert_equal(found, whole)
            assert not store.get(1).check().ok, (file, kind)
            count["right, and told by verify"] += 1
        file.write_bytes(data)
    assert everything(store)["state"] == whole["state"]
    return count


@pytest.mark.parametrize("case", chosen(GOLDEN, 2), ids=lambda case: case.relative_to(DATA).as_posix())
def test_damage_of_a_committed_checkpoint_is_never_silent(case: Path, tmp_path: Path) -> None:
    count = damage(case, tmp_path, 64 * EVERY)
    assert count["refused"] + count["right, and told by verify"] == count["flipped"] + count["cut"]
    assert count["refused"] > 0


@pytest.mark.slow
def test_damage_at_every_64th_byte_of_ten_is_never_silent(tmp_path: Path) -> None:
    """Of the golden ones, or with CKPTSTORE_CORPUS of those in that folder."""
    folder = os.environ.get("CKPTSTORE_CORPUS")
    count: Counter[str] = Counter()
    cases = chosen(corpus.cases(Path(folder)) if folder else GOLDEN, 10)
    for case in cases:
        count += damage(case, tmp_path / case.parent.name / case.name, EVERY)
    print(f"{len(cases)} checkpoints: {dict(count)}, 0 silent differences")
