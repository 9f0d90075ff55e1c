"""Walk decoded data: dicts, lists, tuples, arrays of objects and `Opaque` records, with cycles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque

_LEAVES = frozenset((str, int, float, bool, type(None), bytes, complex))
"""Kinds that hold nothing: most containers hold only these, and are passed over without a call each."""

_LOOK_AGAIN = 32
"""A container of fewer leaves is looked at again each time it turns up: cheaper than noting it."""


def rewrite(value: Any, convert: Callable[[Opaque], Any]) -> Any:
    """`value` with every record replaced by what `convert` makes of it, innermost first.

    Lists and dicts are changed in place, so whatever was shared stays shared; a record that contains
    itself is seen as it is. A dict key is replaced only by what can be a key; members of sets stay.
    Recursive; the decoders bound how deep the data are nested.
    """
    return _Rewriter(convert).visit(value)


def _holds_only_leaves(value: Any) -> bool:
    if not _LEAVES.issuperset(map(type, value)):  # of a dict: its keys
        return False
    return not isinstance(value, dict) or _LEAVES.issuperset(map(type, value.values()))


class _Rewriter:
    def __init__(self, convert: Callable[[Opaque], Any]) -> None:
        self.convert = convert
        self.done: dict[int, Any] = {}
        self.alive: list[Any] = []  # an id stays taken only as long as its object lives

    def visit(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._objects(value) if value.dtype.hasobject and value.dtype.names is None else value
        if not isinstance(value, (dict, list, tuple, Opaque)):
            return value
        key = id(value)
        if key in self.done:
            return self.done[key]
        if not isinstance(value, Opaque) and _holds_only_leaves(value):
            if len(value) >= _LOOK_AGAIN:
                self.alive.append(value)
                self.done[key] = value
            return value
        self.alive.append(value)
        self.done[key] = value
        if isinstance(value, dict):
            self._entries(value)
            return value
        if isinstance(value, list):
            value[:] = [self.visit(item) for item in value]
            return value
        if isinstance(value, tuple):
            self.done[key] = result = self._tuple(value)
            return result
        self._inside(value)
        self.done[key] = result = self.convert(value)
        return result

    def _entries(self, value: dict[Any, Any]) -> None:
        if not any(isinstance(key, (Opaque, tuple)) for key in value):
            for key, item in value.items():
                value[key] = self.visit(item)
            return
        entries = [(self._key(key), self.visit(item)) for key, item in value.items()]
        if len({key for key, _ in entries}) < len(entries):  # two different keys became equal
            entries = [(key, item) for key, (_, item) in zip(value, entries, strict=True)]
        value.clear()
        value.update(entries)

    def _key(self, key: Any) -> Any:
        result = self.visit(key)
        try:
            hash(result)
        except TypeError:
            return key
        return result

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        items = [self.visit(item) for item in value]
        return tuple(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value

    def _inside(self, item: Opaque) -> None:
        if item.args is not None:
            item.args = self._tuple(item.args)
        if item.kwargs is not None:
            self.visit(item.kwargs)
        item.state = self.visit(item.state)
        if item.items is not None:
            item.items = [self.visit(entry) for entry in item.items]
        if item.entries is not None:
            item.entries = [(name, self.visit(entry)) for name, entry in item.entries]

    def _objects(self, value: Any) -> Any:
        if id(value) in self.done:
            return value
        self.alive.append(value)
        self.done[id(value)] = value
        for index in np.ndindex(value.shape):
            value[index] = self.visit(value[index])
        return value
