"""Instances of classes that the caller lists, made of their fields: no constructor, reducer or setter runs.

An object is made by the ``__new__`` of the builtin type below its class, and its attributes are put where
they are kept, in its ``__dict__`` or slots. An enum's member is looked up. What a class pickles in another
way, or what doesn't look as its fields would, stays a record.
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections.abc import Iterable
from typing import Any

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.dtypes import NotPlainError
from ckptstore.errors import InvalidRequest

_CONTENT: tuple[type, ...] = (str, int, float, bytes, tuple)
_SKELETONS = {  # where cloudpickle puts the name and the module of a class that it writes by value
    "cloudpickle.cloudpickle._make_skeleton_class": 6,
    "cloudpickle.cloudpickle._make_skeleton_enum": 7,
}


class Classes:
    """The classes that may be made, by the names that files give them."""

    def __init__(self, listed: Iterable[type]) -> None:
        """InvalidRequest for what isn't a class, or two of one name."""
        if isinstance(listed, type):
            listed = (listed,)
        self._by_name: dict[str, type] = {}
        for cls in listed:
            if not isinstance(cls, type):
                raise InvalidRequest("classes", f"{cls!r:.80} is no class", "Pass a list of classes")
            for name in {f"{cls.__module__}.{cls.__qualname__}", f"{cls.__module__}.{cls.__name__}"}:
                if self._by_name.setdefault(name, cls) is not cls:
                    raise InvalidRequest("classes", f"two are called {name}", "Load with one at a time")
        self.kinds = frozenset(self._by_name.values())

    def find(self, callee: Opaque) -> type | None:
        """The listed class that `callee` refers to, by name or as cloudpickle has it; None for any other."""
        if callee.args is None:
            return self._by_name.get(callee.name)
        if len(callee.args) != _SKELETONS.get(callee.name):
            return None
        if callee.name.endswith("_enum"):
            _, _, name, _, module = callee.args[:5]
        else:
            _, name, _, fields = callee.args[:4]
            module = fields.get("__module__") if type(fields) is dict else None
        return self._by_name.get(f"{module}.{name}") if type(name) is str and type(module) is str else None

    def member(self, args: tuple[Any, ...]) -> Any:
        """``getattr(cls, name)`` of an enum: how Python 3.11 writes its members."""
        cls = self.find(args[0]) if len(args) == 2 and type(args[0]) is Opaque else None
        if cls is None or not issubclass(cls, enum.Enum) or type(args[1]) is not str:
            raise NotPlainError
        if args[1] not in cls.__members__:
            raise NotPlainError
        return cls.__members__[args[1]]


def make(cls: type, args: tuple[Any, ...]) -> Any:
    """An instance of `cls` without its fields, or with the content in `args`. Raises NotPlainError."""
    if issubclass(cls, enum.Enum):
        return _find_member(cls, args)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        if len(args) != len(cls._fields):
            raise NotPlainError
        return tuple.__new__(cls, args)
    try:
        for base in _CONTENT:
            if issubclass(cls, base):
                if len(args) != 1 or type(args[0]) is not base:
                    raise NotPlainError
                return _new(base)(cls, args[0])
        if args:
            raise NotPlainError
        return _new(next(base for base in (dict, list, object) if issubclass(cls, base)))(cls)
    except TypeError:  # abstract, or something else in C below it
        raise NotPlainError from None


def _new(base: Any) -> Any:
    return base.__new__


def _find_member(cls: type[enum.Enum], args: tuple[Any, ...]) -> Any:
    if len(args) != 1:
        raise NotPlainError
    value = args[0]
    for member in cls.__members__.values():
        if type(member._value_) is type(value) and member._value_ == value:
            return member
    own = getattr(cls._missing_, "__func__", None)
    if issubclass(cls, enum.Flag) and type(value) is int and own is enum.Flag._missing_.__func__:  # type: ignore[attr-defined]
        try:
            return cls(value)  # several flags together
        except ValueError:
            raise NotPlainError from None
    raise NotPlainError


def fields_of(value: Any) -> dict[str, Any]:
    """The attributes that an instance holds, whatever its class says of them."""
    found = dict(_dict_of(value) or {})
    for cls in type(value).__mro__:
        for name, slot in vars(cls).items():
            if isinstance(slot, types.MemberDescriptorType) and name not in found:
                try:
                    found[name] = slot.__get__(value, type(value))
                except AttributeError:
                    continue  # never set
    return found


def set_fields(value: Any, state: Any) -> None:
    """Put the pickled `state` of an instance where its attributes are kept. Raises NotPlainError."""
    cls = type(value)
    if isinstance(value, enum.Enum):  # everybody's
        raise NotPlainError
    if type(state) is list and dataclasses.is_dataclass(cls):  # frozen ones with slots write their values
        names = [field.name for field in dataclasses.fields(cls)]
        if len(names) != len(state):
            raise NotPlainError
        state = dict(zip(names, state, strict=True))
    parts = state if type(state) is tuple and len(state) == 2 else (state, None)
    found: dict[str, Any] = {}
    for part in parts:
        if part is not None and type(part) is not dict:
            raise NotPlainError
        found.update(part or {})
    if not all(type(name) is str for name in found):
        raise NotPlainError
    slots = {
        name: slot
        for base in reversed(cls.__mro__)
        for name, slot in vars(base).items()
        if isinstance(slot, types.MemberDescriptorType)
    }
    held = _dict_of(value)
    if held is None and not found.keys() <= slots.keys():
        raise NotPlainError
    for name, content in found.items():
        if name in slots:
            slots[name].__set__(value, content)
        elif held is not None:
            held[name] = content


def _dict_of(value: Any) -> dict[str, Any] | None:
    try:
        held = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return held if type(held) is dict else None
