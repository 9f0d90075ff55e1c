"""Values as people read them, and as JSON that every parser takes."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ckptstore.errors import InvalidRequest
from ckptstore.printable import clean

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def format_size(count: int) -> str:
    """`count` bytes, for people: ``512 B``, ``1.5 KiB``."""
    value = float(count)
    for unit in _UNITS:
        if value < 1023.95 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """``1 file``, ``2 files``; `plural` is for nouns that take more than an s."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str, flag: str, *, bare: bool = False) -> float:
    """Seconds in ``90m``, ``12h`` or ``7d``; with `bare` also in a number alone. `flag` is for errors."""
    unit = _SECONDS.get(text[-1:], 0)
    number = text[:-1] if unit else text
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", number) or not (unit or bare):
        raise InvalidRequest(
            f"{flag} {text}", "it isn't a length of time", "Write for example 90m, 12h or 7d"
        )
    seconds = float(number) * (unit or 1)
    if seconds > datetime.timedelta.max.total_seconds():
        raise InvalidRequest(f"{flag} {text}", "it is too long", "Write for example 7d")
    return seconds


def format_time(created: str | None) -> str:
    """An ISO 8601 time, for people: to the minute, without its zone. Empty for None."""
    return (created or "")[:16].replace("T", " ")


def format_value(item: object) -> str:
    """A metric, for a table."""
    if isinstance(item, bool) or item is None:
        return {True: "yes", False: "no", None: ""}[item]
    return f"{item:.6g}" if isinstance(item, float) else clean(item)


def to_json_value(item: Any) -> Any:
    """`item` in JSON's types. Floats that JSON lacks become the strings "nan", "inf" and "-inf"."""
    if isinstance(item, float) and not math.isfinite(item):
        return str(item)
    if isinstance(item, Mapping):
        return {str(key): to_json_value(inner) for key, inner in item.items()}
    if isinstance(item, (list, tuple)):
        return [to_json_value(inner) for inner in item]
    return item


def find_metric(metrics: Mapping[str, Any], name: str) -> Any:
    """The metric called `name`, or at the path ``a/b/c``, of any type; None if there is none."""
    if name in metrics:
        return metrics[name]
    found: Any = metrics
    for part in name.split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return None if isinstance(found, Mapping) else found


def parse_storage_options(pairs: Iterable[str], flag: str = "--storage-option") -> dict[str, Any]:
    """``KEY=VALUE`` pairs as a dict; dots in a key nest, and ``true`` and ``false`` are booleans.

    Values may be secrets: no error repeats one.
    """
    options: dict[str, Any] = {}
    for number, pair in enumerate(pairs, 1):
        key, separator, text = pair.partition("=")
        *outer, last = key.split(".")
        if not separator or not all((*outer, last)):
            raise InvalidRequest(
                f"{flag} number {number}", "it isn't KEY=VALUE", "Write for example anon=true"
            )
        target = options
        for name in outer:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise InvalidRequest(f"{flag} {key}", f"{name} already has a value", "Give one of them")
        if last in target:
            raise InvalidRequest(f"{flag} {key}", "it is given twice", "Give it once")
        target[last] = {"true": True, "false": False}.get(text, text)
    return options
