"""Compare two checkpoints: their policies, arrays and configs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ckptstore.codec.opaque import Opaque
from ckptstore.rllib_formats.model import class_name


class Comparable(Protocol):
    """What `diff` needs of a checkpoint, whichever program wrote it."""

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Ids of its policies."""

    def weights(self, policy_id: str) -> Mapping[str, Any]:
        """Name to array of one of them."""


class ArrayDifference(NamedTuple):
    """One array that differs, or that only one side has."""

    policy_id: str
    name: str
    before: str
    """Dtype and shape on the left, such as "float32 (16, 4)"; empty if the left has no such array."""
    after: str
    l2: float | None
    """Euclidean norm of the difference; None where the two can't be subtracted."""
    largest: float | None
    """Largest absolute difference of an element."""


class ConfigDifference(NamedTuple):
    """One key of the config whose values differ; `MISSING` where a side has no such key."""

    key: str
    before: Any
    after: Any


MISSING = "(missing)"


@dataclass(frozen=True)
class Difference:
    """Everything `diff` found; empty fields mean equal."""

    only_before: tuple[str, ...]
    """Policies that only the left has."""
    only_after: tuple[str, ...]
    arrays: tuple[ArrayDifference, ...]
    config: tuple[ConfigDifference, ...]

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.only_before or self.only_after or self.arrays or self.config)


def diff(
    before: Comparable,
    after: Comparable,
    *,
    policy_ids: Iterable[str] | None = None,
    configs: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
) -> Difference:
    """Compare the policies that both have (of `policy_ids` if given), and `configs` if given."""
    left, right = set(before.policy_ids), set(after.policy_ids)
    if policy_ids is not None:
        left, right = left & set(policy_ids), right & set(policy_ids)
    arrays: list[ArrayDifference] = []
    for policy_id in sorted(left & right):
        arrays += diff_weights(policy_id, before.weights(policy_id), after.weights(policy_id))
    return Difference(
        tuple(sorted(left - right)),
        tuple(sorted(right - left)),
        tuple(arrays),
        tuple(diff_config(*configs)) if configs else (),
    )


def diff_weights(
    policy_id: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[ArrayDifference]:
    """The arrays that differ, in name order. NaN equals NaN and -0.0 equals 0.0; another dtype differs.

    `l2` and `largest` are computed in float64: a difference that is too small for it gives 0.0.
    """
    found = []
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name), after.get(name)
        if a is None or b is None or a.shape != b.shape:
            found.append(ArrayDifference(policy_id, name, _spell(a), _spell(b), None, None))
            continue
        if a.dtype != b.dtype or not _equal(a, b):
            l2, largest = _distance(a, b)
            found.append(ArrayDifference(policy_id, name, _spell(a), _spell(b), l2, largest))
    return found


def diff_config(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ConfigDifference]:
    """The keys whose values differ; keys of nested dicts are joined with ``/``.

    A class equals its own dotted name, which is all that MessagePack keeps of it.
    """
    found: list[ConfigDifference] = []
    for key in sorted(before.keys() | after.keys(), key=str):
        a, b = before.get(key, MISSING), after.get(key, MISSING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [item._replace(key=f"{key}/{item.key}") for item in diff_config(a, b)]
        elif not _same(_by_name(a), _by_name(b)):
            found.append(ConfigDifference(str(key), a, b))
    return found


def _spell(array: Any) -> str:
    return "" if array is None else f"{array.dtype} {array.shape}"


def _equal(a: Any, b: Any) -> bool:
    return a.tobytes() == b.tobytes() or bool(np.all((a == b) | ((a != a) & (b != b))))


def _distance(a: Any, b: Any) -> tuple[float | None, float | None]:
    try:
        kind = np.complex128 if "c" in {a.dtype.kind, b.dtype.kind} else np.float64
        x, y = a.astype(kind), b.astype(kind)
    except (TypeError, ValueError):
        return None, None  # texts or records
    both_nan = np.isnan(x) & np.isnan(y)
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.abs(np.where(both_nan | (x == y), 0, x - y)).ravel()
        return float(np.linalg.norm(delta)), float(delta.max(initial=0.0))


def _by_name(value: Any) -> Any:
    return class_name(value) if isinstance(value, Opaque) and value.is_reference else value


def _same(a: Any, b: Any) -> bool:
    # Records compare all that they hold: NaN equals NaN, 1 equals 1.0, and a list differs from a tuple.
    return Opaque("", (a,)) == Opaque("", (b,))
