"""Fill dicts and sets with keys from an untrusted file.

Hashing is the one thing that Python does by itself with decoded data, and a file can make it slow or
deadly: a tuple that holds the one before twice, sixty times over, takes 2**60 steps; a million keys with
one hash take 10**12 comparisons; a tuple nested deeply enough overflows the C stack. So keys other than
the plainest are looked at before they are hashed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.budget import Budget, Meter
from ckptstore.errors import UnsafeContent

_FAST = frozenset((str, bytes, bool, float, type(None)))
_HASH_MODULUS = 2**61 - 1  # smaller ints are their own hash and can't be made to collide
_CROWD = 100  # keys of one dict that may share a hash
_DEEPEST = 500
_NODE = 64  # charged for looking at one part of a key; it is time that this limits, not memory


class Containers:
    """Fills the dicts and sets of one pickle."""

    def __init__(self, meter: Meter, budget: Budget) -> None:
        self.charge = meter.charge
        self._most_nodes = budget.key_nodes
        # Only of large ones, by id; the container is kept so that its id stays taken.
        self._crowds: dict[int, tuple[Any, dict[int, int]]] = {}

    def put_entries(self, target: dict[Any, Any], entries: Iterable[tuple[Any, Any]]) -> None:
        """Set items of a dict. Raises UnsafeContent for a key that can't be hashed in reasonable time."""
        for key, value in entries:
            if type(key) not in _FAST and (type(key) is not int or abs(key) >= _HASH_MODULUS):
                self._check(target, key)
            target[key] = value

    def put_members(self, target: set[Any], members: Iterable[Any]) -> None:
        """Add to a set. Raises as :meth:`put_entries`."""
        for member in members:
            if type(member) not in _FAST and (type(member) is not int or abs(member) >= _HASH_MODULUS):
                self._check(target, member)
            target.add(member)

    def _check(self, target: Any, key: Any) -> None:
        todo = [(key, 0)]
        nodes = 0
        while todo:
            value, depth = todo.pop()
            nodes += 1
            kind = type(value)
            if kind is tuple or kind is frozenset:
                todo.extend((part, depth + 1) for part in value)
            elif kind is Opaque:
                nodes += len(value.args or ())
            elif kind is int:
                nodes += value.bit_length() >> 6
            if nodes + len(todo) > self._most_nodes or depth > _DEEPEST:
                raise UnsafeContent("pickle", "a dict key or set member that is too large to hash")
        self.charge(_NODE * nodes)
        if len(target) >= _CROWD:
            _, crowd = self._crowds.setdefault(id(target), (target, {}))
            code = hash(key)
            crowd[code] = crowd.get(code, 0) + 1
            if crowd[code] > _CROWD:
                raise UnsafeContent("pickle", "too many keys with the same hash")
