"""Digests of memory that did not change since the last save, without hashing it in full again. Pure.

Comparing an unchanged policy with its file takes the BLAKE3 of all its bytes, save after save. XXH3 of 128
bits is four times as fast, and finds accidents only: so it says which digest is meant and never becomes
one. It is keyed by a number that no other process knows, and nothing of it is written anywhere
(``docs/decisions/012-seen-before.md``).
"""

from __future__ import annotations

import secrets

from ckptstore.format.digest import digest
from ckptstore.read.spot_checks import TURNS, Turn

_WORTH_IT = 2**16  # bytes: fewer are hashed as fast as looked up


class Seen:
    """What the last save found unchanged, by a quick fingerprint: at most one entry for each of its parts."""

    def __init__(self) -> None:
        self._key = secrets.randbits(64)
        self._before: dict[tuple[int, bytes], str] = {}
        self._now: dict[tuple[int, bytes], str] = {}
        self.saves = secrets.randbits(16)
        """Counts the saves; from anywhere, so that processes that save only once don't all read the same."""
        self._handed: dict[str, int] = {}

    def next(self) -> None:
        """Another save begins: what the last one that compared anything did not find is forgotten."""
        self.saves += 1
        if self._now:  # a save to which all was handed over says nothing of what is in memory
            self._before, self._now = self._now, {}

    def next_turn(self, key: str) -> Turn | None:
        """What is to be read of the file `key`, handed over once more; None at first: nobody looks at it."""
        count = self._handed[key] = self._handed.get(key, -1) + 1
        return Turn(count % TURNS, TURNS) if count else None

    def same(self, data: memoryview, expected: str) -> bool:
        """Whether `expected` is the digest of `data`; lets other threads run while it hashes much."""
        if len(data) < _WORTH_IT:
            return digest(data) == expected
        from xxhash import xxh3_128_digest  # here, so that reading what RLlib wrote needs no such package

        mark = len(data), xxh3_128_digest(data, self._key)
        if self._before.get(mark) != expected:
            # Both of one look: were they of memory that changes in between, a fingerprint would stand for
            # bytes that were never compared, and the next save would take them for the ones in the store.
            private = bytes(data)
            if digest(private) != expected:
                return False
            mark = len(private), xxh3_128_digest(private, self._key)
        self._now[mark] = expected
        return True
