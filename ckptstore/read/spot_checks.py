"""Compare files with their digests: all of a file, or the share of it whose turn it is."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ckptstore.backends.base import Backend
from ckptstore.format.digest import digest
from ckptstore.format.parts import PART_BYTES, FileParts, Part

TURNS = 16
"""Everything has been read once after so many saves, however much it is."""


class Turn(NamedTuple):
    """Which of `of` shares of all bytes is to be read; ``Turn(0, 1)`` is everything."""

    number: int
    of: int

    @classmethod
    def of_save(cls, save: int, size: int, freely: int) -> Turn:
        """That of the save numbered `save`, where `size` bytes lie and `freely` of them cost nothing."""
        shares = min(TURNS, max(1, -(-size // freely)))
        return cls(save % shares, shares)

    def includes(self, path: str, offset: int) -> bool:
        """Whether what begins there in the file `path` is to be read: a checksum deals it all out evenly."""
        return zlib.crc32(f"{offset}:{path}".encode()) % self.of == self.number


EVERYTHING = Turn(0, 1)


def find_damage(backend: Backend, key: str, known: FileParts, turn: Turn = EVERYTHING) -> str | None:
    """What is wrong with the file `key`, which should be as `known` says, in the share that is read."""
    for run in _runs(known.parts):
        if turn.includes(known.path, run[0].offset) and (why := _compare(backend, key, run)):
            return why
    return None


def _runs(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Neighbouring parts together, to be read with one request each: most files are one."""
    run: list[Part] = []
    for part in parts:
        if run and part.offset + part.length - run[0].offset > PART_BYTES:
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _compare(backend: Backend, key: str, run: Sequence[Part]) -> str | None:
    """What is wrong with these bytes. Read a second time if they differ: damage in transit rarely repeats."""
    start, stop = run[0].offset, run[-1].offset + run[-1].length
    wrong = None
    for _ in range(2):
        try:
            data = memoryview(backend.read(key, start, stop))
        except FileNotFoundError:
            return "it is missing"
        except EOFError:
            return "it is cut short"
        except TimeoutError:
            raise  # no answer is no damage
        except OSError as error:
            return f"it can't be read ({error.strerror or error})"
        wrong = next((part for part in run if digest(_of(data, start, part)) != part.digest), None)
        if wrong is None:
            return None
    assert wrong is not None
    return f"the digest of bytes {wrong.offset} to {wrong.offset + wrong.length} does not match"


def _of(data: memoryview, start: int, part: Part) -> memoryview:
    return data[part.offset - start : part.offset - start + part.length]
