"""Metrics never cost a checkpoint: numbers of any library are kept, the rest is left out and said."""

from __future__ import annotations

import datetime
import decimal
import enum
import logging
import math
import pathlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptstore import CheckpointStore, InvalidRequest
from ckptstore.format import metrics
from ckptstore.format.plain_metrics import simplify


class Tensor:
    """As much of a tensor of torch's or jax's as a metric needs."""

    dtype = "bfloat16"

    def __init__(self, *values: float) -> None:
        self.values = values

    def item(self) -> float:
        if len(self.values) != 1:
            raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")
        return self.values[0]


class Phase(enum.Enum):
    WARM = "warm"
    HOT = 2


class Chatty(str):
    """As Ray 2.20's metrics call their keys."""


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (Tensor(1.5), 1.5),
        (np.array([1.5]), 1.5),
        (np.array([[2]]), 2),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.datetime64("2026-01-01"), "2026-01-01"),
        (datetime.date(2026, 1, 1), "2026-01-01"),
        (datetime.datetime(2026, 1, 1, 12), "2026-01-01T12:00:00"),
        (datetime.timedelta(minutes=1), 60.0),
        (decimal.Decimal("0.5"), 0.5),
        (pathlib.PurePosixPath("a/b"), "a/b"),
        (Phase.WARM, "warm"),
        (Phase.HOT, 2),
        (Chatty("x"), "x"),
        ({0: 1.0, 1: 2.0}, {"0": 1.0, "1": 2.0}),
        ({("a", 1): 2}, {"a/1": 2}),
        ({None: 1, True: 2}, {"None": 1, "True": 2}),
        ([Tensor(1.0), (2,)], [1.0, [2]]),
        (math.inf, math.inf),
    ],
)
def test_values_of_all_kinds_are_kept(value: Any, kept: Any) -> None:
    store = CheckpointStore("memory://metrics-kept")
    found = store.save(1, metrics={"x": value}, if_exists="replace").metrics
    assert found == {"x": kept}
    assert type(found["x"]) is type(kept)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(64),
        Tensor(1.0, 2.0),
        object(),
        {1, 2},
        b"x",
        1j,
        print,
        [1, object()],
        10**5000,
        np.array([]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cant_be_kept_is_left_out_and_said(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore("memory://metrics-left-out")
    with caplog.at_level(logging.WARNING, "ckptstore"):
        saved = store.save(
            1, {"s": 1}, metrics={"loss": 1.5, "bad": value, "deep": {"also": value}}, if_exists="replace"
        )
    assert saved.metrics == {"loss": 1.5, "deep": {}}
    assert saved.state == {"s": 1}
    [said] = [record.getMessage() for record in caplog.records]
    assert "metrics['bad']" in said
    assert "metrics['deep']['also']" in said


def test_two_keys_of_one_name() -> None:
    found, left_out = simplify({0: "a", "0": "b"})
    assert found == {"0": "a"}
    assert left_out == ["metrics['0']"]


def test_what_holds_itself_ends() -> None:
    loop: dict[str, Any] = {"x": 1}
    loop["self"] = loop
    found, left_out = simplify(loop)
    assert found["self"]["self"]["x"] == 1
    assert len(left_out) == 1


def test_what_is_no_dict_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="dict of names"):
        CheckpointStore("memory://metrics-refused").save(1, metrics=5)  # type: ignore[arg-type]


keys = st.text(max_size=3) | st.integers() | st.floats() | st.tuples(st.integers(), st.text(max_size=2))
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary() | st.dates()
)
plain = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(keys, plain, max_size=4))
def test_the_manifest_takes_whatever_is_kept(values: dict[Any, Any]) -> None:
    found, _ = simplify(values)
    # As text, for NaN is not equal to itself.
    assert str(metrics.decode(metrics.encode(found), "m")) == str(found)
