"""What stands in for an object that reading must not create: a record of how it was described.

The safe decoder calls nothing that a file names. Where a pickle says "import this, call it with that",
it leaves an :class:`Opaque` that holds the name and everything the file would have handed over, so
nothing is lost and nothing has run.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ckptstore.printable import clean

_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_REPR_CHARACTERS = 200
_FIELDS = ("args", "kwargs", "state", "items", "entries")


class Opaque:
    """An object, class or function that a file names, kept as plain data.

    ``name`` is "module.qualname" as the file spells it. ``args`` is None for a bare reference (a class
    or function that is mentioned, not called), else the tuple of arguments; ``kwargs`` the keyword
    arguments. ``state`` is what would have gone to ``__setstate__`` or into ``__dict__``. ``items`` are
    what would have been appended or added, ``entries`` the (key, value) pairs that would have been set.

    If the file calls something that is itself the result of a call, ``name`` ends in ``()`` and the
    first of ``args`` is the record of what was called. A persistent id is ``persistent_id`` with the id
    as its only argument.

    Two records are equal if all they hold is equal (NaN equals NaN here, arrays are compared by type,
    shape and bytes), cycles included. The hash follows what does not change later: the name and the plain
    arguments. Records pickle and copy; unpickling one gives a record again, never the object.
    """

    __slots__ = ("args", "entries", "items", "kwargs", "name", "state")

    name: str
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None
    state: Any
    items: list[Any] | None
    entries: list[tuple[Any, Any]] | None

    def __init__(self, name: str, args: tuple[Any, ...] | None = None) -> None:
        self.name = name
        self.args = args
        self.kwargs = None
        self.state = None
        self.items = None
        self.entries = None

    @property
    def is_reference(self) -> bool:
        """True for a class or function that is only mentioned, not called."""
        return self.args is None

    def __hash__(self) -> int:
        return hash((self.name, _plain_only(self.args)))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Opaque):
            return NotImplemented
        return _same(self, other)

    def __repr__(self) -> str:
        return clean(_Brief().show(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Arguments that may lead back here travel in the state, which is pickled after this object has
        # been noted; plain ones go first because the hash needs them while sets are being filled.
        plain = self.args is not None and all(type(arg) in _SCALARS for arg in self.args)
        state = {field: getattr(self, field) for field in _FIELDS if getattr(self, field) is not None}
        if plain:
            del state["args"]
        return Opaque, ((self.name, self.args) if plain else (self.name,)), state or None

    def __setstate__(self, state: dict[str, Any]) -> None:
        for field in _FIELDS:
            if field in state:
                setattr(self, field, state[field])


def _plain_only(args: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """The part of ``args`` that is hashable and never changes (zero for NaN, which equals itself here)."""
    if args is None:
        return None
    return tuple((arg if arg == arg else 0) if type(arg) in _SCALARS else type(arg).__name__ for arg in args)


# Comparing dict keys and set members calls == again, from inside a comparison. The pairs that are being
# compared further up are taken as equal, or two records that contain themselves would never end.
_comparing = threading.local()


def _same(a: Any, b: Any) -> bool:
    assumed: set[tuple[int, int]] | None = getattr(_comparing, "pairs", None)
    outermost = assumed is None
    if assumed is None:
        assumed = _comparing.pairs = set()
    try:
        return _compare([(a, b)], assumed)
    finally:
        if outermost:
            del _comparing.pairs


def _compare(todo: list[tuple[Any, Any]], assumed: set[tuple[int, int]]) -> bool:
    """Compare pair by pair with a list instead of recursion: decoded data may be nested deeply."""
    while todo:
        a, b = todo.pop()
        if a is b:
            continue
        kind = type(a)
        if kind is not type(b):
            # 1 == 1.0 stays true, as it is for any plain value.
            if isinstance(a, _SCALARS) and isinstance(b, _SCALARS) and a == b:
                continue
            return False
        if kind in _SCALARS:
            if a == b or (a != a and b != b):
                continue
            return False
        pair = (id(a), id(b))
        if pair in assumed:
            continue
        assumed.add(pair)
        if kind is Opaque:
            if a.name != b.name:
                return False
            todo.extend((getattr(a, field), getattr(b, field)) for field in _FIELDS)
        elif isinstance(a, np.ndarray):
            if a.dtype != b.dtype or a.shape != b.shape:
                return False
            if a.dtype.hasobject:
                todo.extend(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
            elif a.tobytes() != b.tobytes():
                return False
        elif isinstance(a, dict):
            if len(a) != len(b):
                return False
            for key, value in a.items():
                if key not in b:
                    return False
                todo.append((value, b[key]))
        elif isinstance(a, (list, tuple)):
            if len(a) != len(b):
                return False
            todo.extend(zip(a, b, strict=True))
        elif not bool(np.all(a == b)):
            return False
    return True


class _Brief:
    """Writes a record in at most a few hundred characters, however large or circular it is."""

    def __init__(self) -> None:
        self.room = _REPR_CHARACTERS
        self.open: set[int] = set()

    def show(self, value: Any) -> str:
        if self.room <= 0 or len(self.open) > 4 or id(value) in self.open:
            return "..."
        if isinstance(value, (str, bytes)) and len(value) > 40:
            return self._took(f"<{type(value).__name__} of length {len(value)}>")
        if isinstance(value, int) and value.bit_length() > 128:
            return self._took(f"<int of {value.bit_length()} bits>")
        if isinstance(value, np.ndarray):
            return self._took(f"<array {value.dtype} {value.shape}>")
        self.open.add(id(value))
        try:
            if isinstance(value, Opaque):
                return self._opaque(value)
            if type(value) in (tuple, list):
                inner = self._row(value)
                if type(value) is list:
                    return f"[{inner}]"
                return f"({inner},)" if len(value) == 1 else f"({inner})"
            if isinstance(value, dict):
                shown = [f"{self.show(k)}: {self.show(v)}" for k, v in list(value.items())[:6]]
                return "{" + ", ".join(shown + ["..."] * (len(value) > 6)) + "}"
            if type(value) in _SCALARS:
                return self._took(repr(value))
            return self._took(f"<{type(value).__name__}>")
        finally:
            self.open.discard(id(value))

    def _opaque(self, value: Opaque) -> str:
        name = self._took(value.name if len(value.name) <= 80 else value.name[:77] + "...")
        if value.args is None:
            return f"<Opaque {name}>"
        parts = [self._row(value.args)] if value.args else []
        parts += [
            f"{field}={self.show(getattr(value, field))}"
            for field in _FIELDS[1:]
            if getattr(value, field) is not None
        ]
        return f"<Opaque {name}({', '.join(parts)})>"

    def _row(self, values: Any) -> str:
        return ", ".join([self.show(value) for value in values[:6]] + ["..."] * (len(values) > 6))

    def _took(self, text: str) -> str:
        self.room -= len(text)
        return text
