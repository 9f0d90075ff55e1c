"""An index that lies about its file is refused; an honest one opens it whatever memory is handed in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ckptstore.codec.indexed.read import load_trusted, skeleton
from ckptstore.codec.pickles import safe
from ckptstore.errors import CheckpointCorrupt
from tests.codec.support import cut, dumped, python_loads

N = 70_000
READONLY = np.arange(N, dtype="u2")
READONLY.flags.writeable = False
STATE = {"a": np.arange(N, dtype="f4"), "b": READONLY, "c": b"c" * N, "d": np.ones((3, N)).T}
DATA, REGIONS = dumped(STATE)
GAPS, BUFFERS = cut(DATA, REGIONS)


def test_the_skeleton_is_what_lies_between() -> None:
    pickled = skeleton(GAPS, REGIONS)
    assert len(pickled) < 2 * N  # of which N are the bytes, which are no array
    assert len(pickled) < len(DATA) - sum(length for _, length in REGIONS) + len(REGIONS)


def test_a_file_without_arrays_is_its_own_skeleton() -> None:
    data, regions = dumped({"a": 1})
    assert skeleton([data], regions) == data


@pytest.mark.parametrize("load", [load_trusted, safe.loads], ids=["trusted", "safe"])
@pytest.mark.parametrize("hand_in", [bytearray, bytes, lambda b: memoryview(bytes(b))])
def test_arrays_are_as_writable_as_they_were(load: Any, hand_in: Any) -> None:
    back = load(skeleton(GAPS, REGIONS), [hand_in(b) for b in BUFFERS])
    assert {k: back[k].flags.writeable for k in "abd"} == {"a": True, "b": False, "d": True}
    assert all(np.array_equal(back[k], np.asarray(STATE[k])) for k in "abd")


@pytest.mark.parametrize("load", [load_trusted, safe.loads], ids=["trusted", "safe"])
def test_writable_memory_is_used_in_place(load: Any) -> None:
    memory = [bytearray(b) for b in BUFFERS]
    back = load(skeleton(GAPS, REGIONS), memory)
    back["a"][0] = 99
    assert np.frombuffer(memory[0], "f4")[0] == 99


def test_frames_stay_true() -> None:
    """The Python unpickler, unlike the C one, fails when an opcode straddles the end of a frame."""
    many = [[f"{i}-{j}" for j in range(3000)] + [np.full(N, i, "u1")] for i in range(8)]
    data, regions = dumped(many)
    gaps, buffers = cut(data, regions)
    back = python_loads(skeleton(gaps, regions), buffers)
    assert [row[:-1] for row in back] == [row[:-1] for row in many]
    assert all((row[-1] == i).all() for i, row in enumerate(back))


def _moved(index: int, offset: int = 0, length: int = 0) -> list[tuple[int, int]]:
    regions: list[tuple[int, int]] = list(REGIONS)
    regions[index] = (regions[index][0] + offset, regions[index][1] + length)
    return regions


@pytest.mark.parametrize(
    "regions",
    [
        _moved(0, offset=1),
        _moved(0, offset=-1),
        _moved(0, offset=-REGIONS[0].offset - 1),
        _moved(0, length=1),
        _moved(0, length=-1),
        _moved(0, length=-REGIONS[0].length),
        _moved(0, length=-2 * REGIONS[0].length),
        _moved(1, offset=64),
        _moved(2, length=2**70),
        [*REGIONS[:1], *REGIONS[:1], *REGIONS[2:]],
        [REGIONS[1], REGIONS[0], REGIONS[2]],
        [(0, len(DATA)), *REGIONS[1:]],
        REGIONS[:2],
        [*REGIONS, REGIONS[2]],
        [],
    ],
)
def test_lies_about_regions_are_refused(regions: list[tuple[int, int]]) -> None:
    # Read as somebody would who trusts the index: the gaps are cut where it says.
    gaps, end = [], 0
    for offset, length in regions:
        gaps.append(DATA[max(end, 0) : max(offset, 0)])
        end = offset + length
    gaps.append(DATA[max(end, 0) :])
    for pieces in (GAPS, gaps):
        if len(pieces) == len(regions) + 1 and not regions:
            continue  # the whole file as one gap is no lie
        if pieces is gaps and regions == REGIONS[:2]:
            continue  # neither is an index that leaves an array out
        with pytest.raises(CheckpointCorrupt):
            skeleton(pieces, regions)


def test_a_region_inside_of_other_content_is_refused() -> None:
    """Bytes of 64 KiB are a write of their own as well; no opcode of an array stands before their middle."""
    at = DATA.index(b"c" * N)
    regions = sorted([*REGIONS, (at + 64, N - 64)])
    with pytest.raises(CheckpointCorrupt):
        skeleton(cut(DATA, regions)[0], regions)  # type: ignore[arg-type]


def test_too_few_buffers_are_refused() -> None:
    from ckptstore.errors import UnsafeContent

    with pytest.raises(UnsafeContent, match="buffers"):
        safe.loads(skeleton(GAPS, REGIONS), BUFFERS[:2])
