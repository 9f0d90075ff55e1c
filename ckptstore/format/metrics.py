"""Metrics and other small values as a manifest keeps them: JSON, with NaN and infinities spelled out.

JSON has no NaN. A float that isn't finite is kept as ``{"$float": "nan" | "inf" | "-inf"}``, and a key of
a caller's own that begins with ``$`` gets another ``$`` in front, so the two can't be confused.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ckptstore.errors import CheckpointCorrupt, InvalidRequest

_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
MAX_DEPTH = 32
_SHOWN = 8  # names of metrics in a message
TOO_LARGE = 10**4000  # of more than 4,300 digits Python itself makes no decimal text


def encode(values: Mapping[str, Any], what: str = "metrics") -> dict[str, Any]:
    """`values` as plain JSON. Takes None, bool, int, float, str, numpy scalars, and lists and dicts of those.

    Raises InvalidRequest naming the first value that is none of them.
    """
    if not isinstance(values, Mapping):
        raise InvalidRequest(
            what, f"it is of type {type(values).__name__}", "Pass a dict of names and numbers"
        )
    return {key: _encode(value, f"{what}[{key!r}]", 0) for key, value in _items(values, what)}


def _items(values: Mapping[Any, Any], what: str) -> list[tuple[str, Any]]:
    items = []
    for key, value in values.items():
        if not isinstance(key, str):
            raise InvalidRequest(what, f"the key {key!r} is of type {type(key).__name__}", "Use str keys")
        items.append(("$" + key if key.startswith("$") else key, value))
    return items


def _encode(value: Any, what: str, depth: int) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and abs(value) < TOO_LARGE:
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return {key: _encode(item, f"{what}[{key!r}]", depth + 1) for key, item in _items(value, what)}
        if isinstance(value, (list, tuple)):
            return [_encode(item, f"{what}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise InvalidRequest(
        what,
        f"it is of type {type(value).__name__}, which a manifest can't hold",
        "Metrics are numbers, strings, and lists and dicts of those; put anything else into `state`",
    )


def decode(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What `encode` was given (tuples as lists, numpy scalars as plain numbers)."""
    return {_key(key): _decode(value, source, 0) for key, value in raw.items()}


def _key(key: str) -> str:
    return key[1:] if key.startswith("$") else key


def _decode(value: Any, source: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise CheckpointCorrupt(source, f"its metrics are nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        if value.keys() == {"$float"}:
            if not isinstance(name := value["$float"], str) or name not in _FLOATS:
                raise CheckpointCorrupt(source, f"{str(name)[:40]!r} is not a float")
            return _FLOATS[name]
        return {_key(key): _decode(item, source, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, source, depth + 1) for item in value]
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every metric and its path, as `number` takes it."""
    for name, item in values.items():
        if isinstance(item, Mapping):
            yield from flatten(item, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", item


def explain_unknown(metric: str, metrics: Iterable[Mapping[str, Any]]) -> str | None:
    """What to say of a `metric` that none of those has, whatever its value: the names there are, alike first.

    None if one has it, or none has any at all.
    """
    known = {name for values in metrics for name in (*values, *(path for path, _ in flatten(values)))}
    if not known or metric in known:
        return None
    alike = difflib.get_close_matches(metric, known, _SHOWN, 0.5)
    others = sorted(known.difference(alike))
    shown = ", ".join(map(repr, (alike + others)[:_SHOWN])) + (", ..." if len(known) > _SHOWN else "")
    return f"no checkpoint has a metric {metric!r}; there are {shown}"


def number(values: Mapping[str, Any], metric: str) -> int | float | None:
    """The number at `metric`, a name or a path of names; None if there is none, or it is NaN or infinite."""
    value: Any = values.get(metric)
    if metric not in values:
        value = values
        for name in metric.split("/"):
            value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Not math.isfinite: an int may be larger than any float.
    return None if value != value or value in (math.inf, -math.inf) else value
