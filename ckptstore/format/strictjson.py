"""JSON as manifests use it: duplicate keys and NaN refused, types checked, sizes bounded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from ckptstore.errors import CheckpointCorrupt, InvalidRequest, UnreadableFormat

T = TypeVar("T")
MAX_BYTES = 256 * 2**20
"""Of a manifest or ``parts.json``; more is not even read."""
KNOWN = frozenset[str]()
"""What a file of schema 2 may require of its reader, by name, and this one knows."""
MAX_SMALL_BYTES = 2**20
"""Of what else we write: ``store.json``, tags, probes."""


def dumps(value: object) -> str:
    """Compact ASCII JSON with sorted keys; equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def loads(data: bytes, source: str) -> dict[str, Any]:
    """The JSON object in `data`; CheckpointCorrupt naming `source` if it is anything else."""
    if len(data) > MAX_BYTES:
        raise CheckpointCorrupt(source, f"{len(data)} bytes of JSON are more than the {MAX_BYTES} allowed")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constants,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(source, f"not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointCorrupt(source, "the JSON is not an object")
    return value


def newer(raw: Mapping[str, Any], newest: int) -> str:
    """Why `raw` isn't for this release: its schema is above `newest`, or it requires more; else empty."""
    version, requires = raw.get("schema_version"), raw.get("requires")
    if isinstance(version, int) and version > newest:
        return f"schema {version} is newer than {newest}"
    if isinstance(requires, list) and (unknown := {str(item) for item in requires} - KNOWN):
        return f"it requires {', '.join(sorted(unknown))[:80]}, which this release doesn't know"
    return ""


def load_fields(data: bytes, source: str, newest: int) -> Fields:
    """The fields of the JSON object in `data`, of schema `newest` or older; UnreadableFormat if newer."""
    raw = loads(data, source)
    if why := newer(raw, newest):
        raise UnreadableFormat(source, why, "Upgrade ckptstore")
    return Fields(raw, source)


def readable(data: bytes, what: str) -> bytes:
    """`data`, about to be written as `what`; InvalidRequest if `loads` would not take that much."""
    if len(data) > MAX_BYTES:
        why = f"it would have {len(data)} bytes, where {MAX_BYTES} are the most that is read"
        raise InvalidRequest(what, why, "Save fewer arrays, files, labels or metrics in one checkpoint")
    return data


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object holds a key twice")
    return result


def _no_constants(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is out of range")
    return number


class Fields:
    """Takes typed fields out of a parsed object, and refuses what is left over."""

    def __init__(self, raw: dict[str, Any], source: str) -> None:
        self._left = dict(raw)
        self._source = source

    def take(self, key: str, kind: type[T], check: Callable[[T], bool] | None = None) -> T:
        """The value of `key`, which must be a `kind` (a bool is not an int) and pass `check`."""
        if key not in self._left:
            raise CheckpointCorrupt(self._source, f"the field {key!r} is missing")
        value = self._left.pop(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointCorrupt(
                self._source, f"the field {key!r} is of type {type(value).__name__}, not {kind.__name__}"
            )
        if check is not None and not check(value):
            raise CheckpointCorrupt(self._source, f"the field {key!r} holds {str(value)[:80]!r}")
        return value

    def take_strings(self, key: str) -> tuple[str, ...]:
        """The value of `key`: a list of strings."""
        return tuple(self.take(key, list, lambda value: all(isinstance(item, str) for item in value)))

    def take_optional(self, key: str, kind: type[T]) -> T | None:
        """The value of `key`, or None where it is null."""
        if self._left.get(key, self) is None:
            del self._left[key]
            return None
        return self.take(key, kind)

    def has(self, key: str) -> bool:
        """Whether there is such a field, not yet taken."""
        return key in self._left

    def finish(self) -> None:
        """Refuse fields nobody took, in a file that may hold no more than its readers know."""
        if self._left:
            raise CheckpointCorrupt(self._source, f"unknown fields {sorted(self._left)[:5]}")


def is_size(value: object) -> bool:
    """Whether `value` can be a size or offset in bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
