"""Make what trainers report into metrics that a manifest can hold: no value costs the checkpoint."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ckptstore.errors import InvalidRequest
from ckptstore.format import metrics

_MAX_DEPTH = metrics.MAX_DEPTH


def simplify(values: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """`values` as numbers, text, and lists and dicts of those; and what had to be left out, by its path.

    A tensor or array of one element is its number, a date its ISO text, a duration its seconds; a key that
    isn't text becomes text, the parts of a tuple joined by ``/``. InvalidRequest if `values` isn't a dict.
    """
    if not isinstance(values, Mapping):
        why = f"it is of type {type(values).__name__}"
        raise InvalidRequest("metrics", why, "Pass a dict of names and numbers")
    left_out: list[str] = []
    return _simplify_dict(values, "metrics", 0, left_out), left_out


class _LeftOut(Exception):
    pass


def _simplify_dict(values: Mapping[Any, Any], where: str, depth: int, left_out: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}[{key!r:.80}]"
        name = _name(key)
        if name is None or name in found:
            left_out.append(path)
            continue
        try:
            found[name] = _simplify(value, path, depth, left_out)
        except _LeftOut:
            left_out.append(path)
    return found


def _simplify(value: Any, where: str, depth: int, left_out: list[str]) -> Any:
    value = _scalar(value)
    if value is None or isinstance(value, (bool, str)):
        return value if not isinstance(value, str) else str(value)
    if isinstance(value, int):
        if abs(value) >= metrics.TOO_LARGE:
            raise _LeftOut
        return int(value)
    if isinstance(value, float):
        return float(value)
    if depth >= _MAX_DEPTH:
        raise _LeftOut
    if isinstance(value, Mapping):
        return _simplify_dict(value, where, depth + 1, left_out)
    if isinstance(value, (list, tuple)):
        # One that can't be kept takes the list along: the others would stand in its place.
        return [_simplify(item, f"{where}[{index}]", depth + 1, left_out) for index, item in enumerate(value)]
    raise _LeftOut


def _scalar(value: Any) -> Any:
    """The plain value that `value` stands for, if it is one; else `value`."""
    if isinstance(value, enum.Enum):
        return _scalar(value.value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (decimal.Decimal, fractions.Fraction)):
        return float(value)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return str(value)
    if not callable(getattr(value, "item", None)) or not hasattr(value, "dtype"):
        return value
    try:  # what has one element, of numpy, torch, jax and others; anything else refuses, each in its own way
        return _scalar(value.item())
    except Exception as error:
        raise _LeftOut from error


def _name(key: Any) -> str | None:
    """`key` as the name of a metric; None if it can't be one."""
    if isinstance(key, str):
        return str(key)
    if isinstance(key, tuple):
        parts = [_name(part) for part in key]
        return None if not parts or None in parts else "/".join(filter(None, parts))
    try:
        plain = _scalar(key)
    except _LeftOut:
        return None
    return str(plain) if plain is None or isinstance(plain, (bool, int, float, str)) else None
