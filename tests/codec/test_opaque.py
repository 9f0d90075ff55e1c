"""Records of objects behave like values: they compare, hash, copy, pickle and print, cycles included."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from tests.codec.support import dumped


def _full() -> Opaque:
    record = Opaque("m.C", (1, "x", [2]))
    record.kwargs = {"k": np.arange(3)}
    record.state = {
        "self": record,
        "nan": float("nan"),
        "set": {Opaque("m.E", (1,))},
        "array": np.array([np.nan]),
    }
    record.items = [1, record]
    record.entries = [([], record)]
    return record


def test_equality_is_by_content_and_survives_cycles() -> None:
    assert _full() == _full()
    other = _full()
    other.state["array"][0] = 1
    assert _full() != other
    assert Opaque("m.C") != Opaque("m.C", ())
    assert Opaque("m.C") != "m.C"


@pytest.mark.parametrize(
    "change",
    [
        lambda r: setattr(r, "name", "m.D"),
        lambda r: setattr(r, "args", (1, "x", [3])),
        lambda r: setattr(r, "kwargs", None),
        lambda r: r.state.pop("nan"),
        lambda r: r.state.update(nan=1.0),
        lambda r: r.state.update(set={Opaque("m.E", (2,))}),
        lambda r: r.items.append(1),
        lambda r: r.entries.pop(),
    ],
)
def test_each_field_counts(change: Any) -> None:
    other = _full()
    change(other)
    assert _full() != other


def test_keys_find_their_equals() -> None:
    assert {Opaque("m.Color", (1,)): "red"}[Opaque("m.Color", (1,))] == "red"
    assert hash(Opaque("m.C", ([1],))) == hash(Opaque("m.C", ([1],)))
    assert len({Opaque("m.Color", (i,)) for i in range(100)}) == 100
    assert len({hash(Opaque("m.Color", (i,))) for i in range(100)}) == 100


def test_a_record_that_is_its_own_key_can_be_compared() -> None:
    def build() -> Opaque:
        record = Opaque("m.C", ())
        record.state = {record: record}
        return record

    assert build() == build()


def test_deep_records_compare_without_recursion() -> None:
    def build(depth: int) -> Opaque:
        record = Opaque("m.C", ())
        for _ in range(depth):
            outer = Opaque("m.C", ())
            outer.state = record
            record = outer
        return record

    assert build(100_000) == build(100_000)
    assert build(100_000) != build(99_999)


def test_pickled_and_copied_records_are_records_again() -> None:
    original = _full()
    for protocol in range(2, 6):
        back = pickle.loads(pickle.dumps(original, protocol))
        assert back == original
        assert back.state["self"] is back
        assert safe.loads(pickle.dumps(original, protocol)) == original
    assert copy.deepcopy(original) == original
    assert safe.loads(dumped(original)[0]) == original


def test_a_pickled_record_names_only_itself() -> None:
    """Whoever pickles what was decoded must not bring it back to life."""
    names = {use.name for use in safe.globals_in(pickle.dumps(Opaque("os.system", ("true",))))}
    assert names == {"ckptstore.codec.opaque.Opaque"}


def test_the_printed_form_is_short() -> None:
    assert repr(Opaque("m.C")) == "<Opaque m.C>"
    assert repr(Opaque("m.C", (1, ("a",), [None]))) == "<Opaque m.C(1, ('a',), [None])>"
    assert len(repr(_full())) < 400
    wide = Opaque("n" * 10_000, tuple(range(10_000)))
    wide.state = dict.fromkeys(range(100), "y" * 10000)
    wide.entries = [(1 << 100_000, np.zeros(1_000_000))]
    assert len(repr(wide)) < 600
    deep: Any = None
    for _ in range(100_000):
        deep = [Opaque("m.C", (deep,))]
    assert len(repr(Opaque("m.C", (deep,)))) < 400


def test_many_records_are_small() -> None:
    assert not hasattr(Opaque("m.C"), "__dict__")
    assert sys.getsizeof(Opaque("m.C")) < 130
