"""Read an indexed pickle with its arrays handed in.

The skeleton is the pickle with each array's bytes cut out and the opcode before them replaced by
NEXT_BUFFER, a few KB for a file of any size. The caller supplies the arrays' memory: private,
memory-mapped, or fetched by range.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from ckptstore.codec.indexed.regions import BYTEARRAY8, Region, length_opcode
from ckptstore.errors import CheckpointCorrupt

_NEXT_BUFFER, _READONLY_BUFFER = b"\x97", b"\x98"


def skeleton(gaps: Sequence[bytes | memoryview], regions: Sequence[tuple[int, int]]) -> bytes:
    """The pickle that refers to `regions` instead of holding them.

    `gaps` are the bytes of the file before, between and after the regions: one more than regions.
    `regions` are (offset, length) in bytes. Nothing about them is believed: they must be ordered and
    disjoint, lie where the gaps' sizes say, and each must follow an opcode that announces bytes of that
    very length. Raises CheckpointCorrupt otherwise: such an index belongs to another file.
    """
    if len(gaps) != len(regions) + 1:
        raise _misfit(f"{len(regions)} regions need {len(regions) + 1} gaps, not {len(gaps)}")
    pieces: list[bytes] = []
    end = 0
    for gap, region in zip(gaps, regions, strict=False):
        offset, length = Region(*region)
        if offset != end + len(gap):
            raise _misfit(f"no array of {length} bytes lies at byte {offset}")
        opcode = length_opcode(gap, length)
        if not opcode:
            raise _misfit(f"no opcode announces {length} bytes at byte {offset}")
        pieces.append(bytes(gap[:-opcode]))
        pieces.append(_NEXT_BUFFER if gap[-opcode] == BYTEARRAY8 else _NEXT_BUFFER + _READONLY_BUFFER)
        end = offset + length
    pieces.append(bytes(gaps[-1]))
    return b"".join(pieces)


def load_trusted(skeleton: bytes, buffers: Sequence[bytes | bytearray | memoryview]) -> object:
    """Unpickle a skeleton with the arrays in `buffers`, in order. **Runs whatever code the file names.**

    Arrays that were writable when saved come back writable: they are views of `buffers`, and a
    read-only buffer is copied first. Raises what unpickling raises.
    """
    return pickle.loads(
        skeleton,
        buffers=[bytearray(data) if memoryview(data).readonly else data for data in buffers],
    )


def _misfit(why: str) -> CheckpointCorrupt:
    return CheckpointCorrupt("index of array data", why)
