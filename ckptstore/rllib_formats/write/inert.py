"""Turn decoded data into data that pickle without naming a class of any library.

Reading leaves an `Opaque` record for every object, class and function. A pickle of such a record would
name ckptstore, so a dict is written that says the same in plain words::

    {"__opaque__": "ray.rllib.algorithms.callbacks.DefaultCallbacks"}
    {"__opaque__": "ray.cloudpickle.cloudpickle._make_function", "args": (...), "state": ...}

RLlib would take such a dict for the value itself. So where RLlib would read it, it is set aside under the
path that it had.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import pathlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.errors import InvalidRequest

MARK = "__opaque__"
_LEAVES = (
    type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes, bytearray, range,
    slice, np.generic, np.dtype, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
    decimal.Decimal, fractions.Fraction, pathlib.PurePath, uuid.UUID,
)  # fmt: skip
_FIELDS = ("args", "kwargs", "state", "items", "entries")


def describe(value: Any, path: str) -> Any:
    """A copy of `value` with a dict for every record; shared and circular parts stay shared and circular.

    Raises InvalidRequest, naming the path, if it holds an object that is neither plain data nor a record.
    """
    return _Describer().visit(value, path)


def clean(value: Any, path: str, aside: dict[str, Any]) -> Any:
    """A copy of `value` without the records in it, each of which moves to `aside` under its own path.

    Of a dict the entry moves. A list or tuple with a record anywhere in it moves as a whole, since its other
    items would mean something else at other positions. None if `value` itself has to move.
    """
    if isinstance(value, dict) and not is_space(value) and not any(isinstance(k, Opaque) for k in value):
        result = {}
        for key, item in value.items():
            inner = f"{path}/{key}"
            if _is_plain(item):
                result[key] = describe(item, inner)
            elif isinstance(item, dict) and not is_space(item):
                result[key] = clean(item, inner, aside)
            else:
                aside[inner] = describe(item, inner)
        return result
    if _is_plain(value):
        return describe(value, path)
    aside[path] = describe(value, path)
    return None


def is_space(value: Any) -> bool:
    """Whether it describes a space, where RLlib would expect an object."""
    return isinstance(value, dict) and isinstance(value.get("space"), str)


def holds_record(value: Any) -> bool:
    """Whether `value` holds a record of an object anywhere, or the dict for one."""
    return any(isinstance(item, Opaque) or (isinstance(item, dict) and MARK in item) for item in _walk(value))


def _is_plain(value: Any) -> bool:
    """Whether `value` holds no record and no description of a space."""
    return not any(isinstance(item, Opaque) or is_space(item) for item in _walk(value))


def _walk(value: Any) -> Iterator[Any]:
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, dict):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, (list, tuple, set, frozenset, collections.deque)):
            pending += item
        elif isinstance(item, np.ndarray) and item.dtype == object:
            pending += item.ravel().tolist()


class _Describer:
    def __init__(self) -> None:
        self.done: dict[int, Any] = {}
        self.alive: list[Any] = []

    def visit(self, value: Any, path: str) -> Any:
        if isinstance(value, _LEAVES):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value, path)
        if id(value) in self.done:
            return self.done[id(value)]
        self.alive.append(value)
        if isinstance(value, Opaque):
            return self._record(value, path)
        if isinstance(value, dict):
            return self._dict(value, path)
        if isinstance(value, list):
            result: Any = self._keep(value, [])
            result += [self.visit(item, f"{path}/{index}") for index, item in enumerate(value)]
            return result
        if isinstance(value, tuple):
            return self._keep(
                value, tuple(self.visit(item, f"{path}/{index}") for index, item in enumerate(value))
            )
        if isinstance(value, collections.deque):
            items = [self.visit(item, f"{path}/{index}") for index, item in enumerate(value)]
            return self._keep(value, collections.deque(items, value.maxlen))
        if isinstance(value, (set, frozenset)):
            if any(isinstance(item, Opaque) for item in value):  # a dict can't be a member
                return self._keep(value, [self.visit(item, path) for item in value])
            return self._keep(value, type(value)(self.visit(item, path) for item in value))
        raise InvalidRequest(
            path,
            f"it is of type {type(value).__name__}, which is not plain data",
            "Use arrays, numbers, text and containers of them",
        )

    def _keep(self, value: Any, result: Any) -> Any:
        self.done[id(value)] = result
        return result

    def _dict(self, value: Mapping[Any, Any], path: str) -> Any:
        kind = collections.OrderedDict if isinstance(value, collections.OrderedDict) else dict
        result: Any = self._keep(value, kind())
        for key, item in value.items():
            name = key.name if isinstance(key, Opaque) else key
            result[self.visit(name, path)] = self.visit(item, f"{path}/{name}")
        return result

    def _record(self, value: Opaque, path: str) -> Any:
        result: dict[str, Any] = self._keep(value, {MARK: value.name})
        for field in _FIELDS:
            if (part := getattr(value, field)) is not None:
                result[field] = self.visit(part, f"{path}/{field}")
        return result

    def _array(self, value: np.ndarray[Any, Any], path: str) -> Any:
        if not value.dtype.hasobject:
            return value.view(np.ndarray)
        if value.dtype.names is not None:
            raise InvalidRequest(path, "it is a table of Python objects", "Use a dict of columns")
        if id(value) not in self.done:
            self.alive.append(value)
            result = self._keep(value, np.empty(value.shape, object))
            for index in np.ndindex(value.shape):
                result[index] = self.visit(value[index], path)
        return self.done[id(value)]
