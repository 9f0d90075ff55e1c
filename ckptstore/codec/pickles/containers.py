"""Fill dicts and sets with keys from an untrusted file.

Hashing is the one thing that Python does by itself with decoded data, and a file can make it slow or
deadly: a tuple that holds the one before twice, sixty times over, takes 2**60 steps; a million keys with
one hash take 10**12 comparisons; a tuple nested deeply enough overflows the C stack. So keys other than
the plainest are looked at before they are hashed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import Budget, Meter
from ckptstore.codec.pickles.classes import fields_of
from ckptstore.errors import UnsafeContent

_FAST = frozenset((str, bytes, bool, float, type(None)))
_HASH_MODULUS = 2**61 - 1  # smaller ints are their own hash and can't be made to collide
_CROWD = 100  # keys of one dict that may share a hash


class Containers:
    """Fills the dicts and sets of one pickle."""

    def __init__(self, meter: Meter, budget: Budget, size: int, kinds: frozenset[type] = frozenset()) -> None:
        """`kinds` are classes of the caller's, whose instances have a hash of their own making."""
        self._kinds = kinds
        self.charge = meter.charge
        self._unhashable = 0
        self._deepest = budget.depth
        self._nodes_left = budget.key_nodes + size  # each part of an honest key takes a byte of the file
        # Only of large ones, by id; the container is kept so that its id stays taken.
        self._crowds: dict[int, tuple[Any, dict[int, int]]] = {}

    def put_entries(self, target: dict[Any, Any], entries: Iterable[tuple[Any, Any]]) -> None:
        """Set items of a dict. Raises UnsafeContent for a key that can't be hashed in reasonable time."""
        for key, value in entries:
            if type(key) not in _FAST and (type(key) is not int or abs(key) >= _HASH_MODULUS):
                key = self._check(target, key)
            target[key] = value

    def put_members(self, target: set[Any], members: Iterable[Any]) -> None:
        """Add to a set. Raises as :meth:`put_entries`."""
        for member in members:
            if type(member) not in _FAST and (type(member) is not int or abs(member) >= _HASH_MODULUS):
                member = self._check(target, member)
            target.add(member)

    def _check(self, target: Any, key: Any) -> Any:
        """`key`, or what stands for it if it can't be hashed. Raises UnsafeContent if that takes too long."""
        todo = [(key, 0)]
        while todo:
            value, depth = todo.pop()
            kind = type(value)
            self._nodes_left -= 1
            if kind is np.ndarray:
                return self._stand_in(key)
            if kind in self._kinds:
                todo.extend((part, depth + 1) for part in fields_of(value).values())
            if kind is frozenset or isinstance(value, tuple):
                todo.extend((part, depth + 1) for part in value)
            elif kind is Opaque:
                self._nodes_left -= len(value.args or ())
            elif kind is int:
                self._nodes_left -= value.bit_length() >> 6
            if self._nodes_left < len(todo) or depth > self._deepest:
                raise UnsafeContent("pickle", "a dict key or set member that is too large to hash")
        if self._kinds:
            _try_hash(key)
        if len(target) >= _CROWD:
            _, crowd = self._crowds.setdefault(id(target), (target, {}))
            code = hash(key)
            crowd[code] = crowd.get(code, 0) + 1
            if crowd[code] > _CROWD:
                raise UnsafeContent("pickle", "too many keys with the same hash")
        return key

    def _stand_in(self, key: Any) -> Opaque:
        """A record that is equal to itself alone, as a tensor is: one tensor may be as long as another.

        What is keyed by tensors, such as the state of an optimizer, has arrays there.
        """
        self._unhashable += 1
        kind = type(key)
        return Opaque(f"{kind.__module__}.{kind.__qualname__}", (self._unhashable, key))


def _try_hash(key: Any) -> None:
    """UnsafeContent for whatever a hash of the caller's making raises."""
    try:
        hash(key)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise UnsafeContent("pickle", f"a key that can't be hashed: {error!r:.200}") from error
