"""Check how deeply a decoded value is nested, without recursion."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import UnsafeContent

_DICTS = frozenset((dict, OrderedDict, defaultdict, Counter))
_ROWS = frozenset((list, tuple, set, frozenset, deque))
_HOLDERS = _DICTS | _ROWS | {Opaque, np.ndarray}


def check_depth(value: Any, most: int) -> None:
    """Raise UnsafeContent if some part of `value` lies more than `most` levels below it.

    A part that is reached by several ways counts by the shortest, so cycles have a depth too.
    """
    level = [value] if type(value) in _HOLDERS else []
    seen = {id(value)}
    depth = 0
    while level:
        depth += 1
        if depth > most:
            raise UnsafeContent("pickle", f"nested more than {most} levels deep")
        below: list[Any] = []
        for holder in level:
            parts = _parts(holder)
            if _HOLDERS.isdisjoint(map(type, parts)):  # nearly always, and several times as fast
                continue
            for part in parts:
                if type(part) in _HOLDERS and id(part) not in seen:
                    seen.add(id(part))
                    below.append(part)
        level = below


def _parts(holder: Any) -> Any:
    kind = type(holder)
    if kind in _ROWS:
        return holder
    if kind is dict:
        return holder.values() if all(map(_is_str, holder)) else [*holder.values(), *holder]
    if kind in _DICTS:
        return [*holder.values(), *holder, *getattr(holder, "__dict__", {}).values()]
    if kind is Opaque:
        parts = [holder.state]
        if holder.args:
            parts += holder.args
        for more in (holder.kwargs, holder.items, holder.entries):
            if more:
                parts.append(more)
        return parts
    return list(holder.flat) if holder.dtype.hasobject else ()


def _is_str(key: Any) -> bool:
    return type(key) is str
