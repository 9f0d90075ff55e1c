"""Whatever a save acknowledges opens, by every reader and in every store that it is copied to, equal."""

from __future__ import annotations

import dataclasses
import enum
import os
import pickle
import tempfile
import uuid
from collections import OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckptstore import Checkpoint, CheckpointStore


@dataclasses.dataclass
class Schedule:
    """What trainers keep beside weights."""

    step: Any
    rest: Any


class Phase(enum.Enum):
    WARM_UP = "warm up"
    TRAIN = 2


# Plain enough to compare: NaN is tried with the numbers of numpy, whose bytes are compared.
text = st.text(max_size=20)
keys = st.one_of(
    text, st.integers(), st.tuples(text, st.integers()), st.booleans(), st.none(), st.binary(max_size=9)
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**64, max_value=2**300),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    text,
    st.binary(max_size=50),
    st.sampled_from([Phase.WARM_UP, Phase.TRAIN, PurePosixPath("a/b"), uuid.UUID(int=7), len, Schedule]),
    st.datetimes(),
    st.timedeltas(),
    st.decimals(allow_nan=False).map(Decimal),
    st.fractions().map(Fraction),
    st.frozensets(text, max_size=4),
    st.sets(st.integers(), max_size=4),
    st.builds(bytearray, st.binary(max_size=9)),
    st.builds(range, st.integers(0, 9), st.integers(10, 19)),
)
dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.datetime64_dtypes(endianness="="),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(endianness="?"),
    hnp.array_dtypes(),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """Any type and shape, and any way to lie in memory; some are large enough to be stored by themselves."""
    array = draw(hnp.arrays(draw(dtypes), draw(shapes)))
    how = draw(
        st.sampled_from(["as is", "large", "transposed", "reversed", "strided", "read only", "scalar"])
    )
    if how == "large" and array.size:
        return np.resize(array, (3, 100_000 // max(array.itemsize, 1) + 7))
    if how == "transposed":
        return array.T
    if how == "reversed" and array.ndim:
        return array[::-1]
    if how == "strided" and array.ndim:
        return array[::2]
    if how == "scalar" and array.size:
        return array.reshape(-1)[0]
    array.setflags(write=how != "read only")
    return array


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(Schedule, inner, inner),
        st.dictionaries(text, inner, max_size=3).map(OrderedDict),
        st.dictionaries(text, inner, max_size=3).map(lambda found: defaultdict(list, found)),
        st.lists(inner, max_size=3).map(deque),
        inner.map(lambda value: [value, {"again": value}]),  # the same object twice
    )


values = st.recursive(st.one_of(plain, arrays()), nested, max_leaves=8)


def same(a: Any, b: Any) -> bool:
    """Equal in type and content, arrays by their bytes."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Schedule):
        return same(vars(a), vars(b))
    return bool(a == b)


def read_all(checkpoint: Checkpoint, expected: Any) -> None:
    """By default, trusted, and as any program that knows pickle."""
    assert checkpoint.check().ok
    checkpoint.load()
    trusted = checkpoint.load(trusted=True)
    found = [trusted.state, trusted.policies["p"]]
    with checkpoint.as_directory() as directory:
        for name in ("algorithm_state.pkl", "policies/p/policy_state.pkl"):
            with open(os.path.join(directory, name), "rb") as file:
                found.append(pickle.load(file))
    assert all(map(same, found, [expected, {"weights": expected}] * 2))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(values, st.sampled_from(["save", "save_async"]), st.sampled_from(["disk", "memory"]))
def test_it_opens(value: Any, how: str, where: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        urls = [directory, f"memory://{uuid.uuid4().hex}/run"]
        first, second = map(CheckpointStore, urls if where == "disk" else reversed(urls))
        what: dict[str, Any] = {"state": value, "policies": {"p": {"weights": value}}}
        read_all(first.save(1, **what) if how == "save" else first.save_async(1, **what).result(), value)
        first.copy_to(second)
        read_all(second.get(1), value)
