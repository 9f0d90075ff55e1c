"""Records of well-known classes: what each kind of pickle says, as plain data."""

from __future__ import annotations

import base64
import io
import pickle
import zlib
from typing import Any

import numpy as np
import pytest

from ckptstore.codec import known, trees
from ckptstore.codec import npy as npbytes
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.budget import DEFAULT, Budget, Meter
from ckptstore.errors import UnsafeContent


def record(name: str, *args: Any, **fields: Any) -> Opaque:
    """A record with some of its fields set."""
    item = Opaque(name, args)
    for key, value in fields.items():
        setattr(item, key, value)
    return item


def old_version(*parts: Any) -> Opaque:
    inner = record("packaging.version._Version", *parts)
    return record("packaging.version.Version", state={"_version": inner, "_key": ()})


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (old_version(0, (1, 1), None, None, None, None), "1.1"),
        (
            old_version(0, (2, 0, 1), ("dev", 3), ("rc", 1), ("post", 2), ("local", 5)),
            "2.0.1rc1.post2.dev3+local.5",
        ),
        (old_version(1, (1,), None, None, None, None), "1!1"),
        (record("packaging.version.Version", state=(0, (1, 1), None, None, None, None)), "1.1"),
        (
            record("packaging.version.Version", state=(0, (2, 1), ("a", 1), ("post", 2), ("dev", 3), None)),
            "2.1a1.post2.dev3",
        ),
        (
            record(
                "packaging.version.Version", state=(None, {"_epoch": 0, "_release": (1, 0), "_pre": ("b", 2)})
            ),
            "1.0b2",
        ),
        (record("packaging.version.Version", "1.1"), "1.1"),
    ],
)
def test_versions_in_every_layout(item: Opaque, text: str) -> None:
    assert known.plain(item) == text


@pytest.mark.parametrize(
    "state", [None, {}, (1, 2), {"_version": 3}, (0, None, None, None, None, None), (0, ("x",), 1, 1, 1, 1)]
)
def test_a_version_that_makes_no_sense_stays_a_record(state: Any) -> None:
    item = record("packaging.version.Version", state=state)
    assert known.plain(item) is item


def test_the_installed_packaging_reads_too() -> None:
    packaging = pytest.importorskip("packaging.version")
    assert (
        known.plain(safe.loads(pickle.dumps(packaging.Version("1.2rc3.post4.dev5+a.6"))))
        == "1.2rc3.post4.dev5+a.6"
    )


@pytest.mark.parametrize("make", [lambda: np.random.default_rng(3), lambda: np.random.RandomState(3)])
def test_random_generators_keep_their_state(make: Any) -> None:
    generator = make()
    generator.random(5)
    value = known.plain(safe.loads(pickle.dumps(generator)))
    assert value["random"] == type(generator).__name__
    again: Any
    if value["random"] == "Generator":
        bits: Any = np.random.PCG64()
        bits.state = {key: item for key, item in value.items() if key != "random"}
        again = np.random.Generator(bits)
    else:
        again = np.random.RandomState()
        again.set_state({key: item for key, item in value.items() if key != "random"})
    assert again.random() == generator.random()


def test_spaces_of_gym_and_gymnasium() -> None:
    low, high = np.zeros(2, "f4"), np.ones(2, "f4")
    for package in ("gym", "gymnasium"):
        box = record(
            f"{package}.spaces.box.Box",
            state={"dtype": np.dtype("f4"), "_shape": (2,), "low": low, "high": high, "_np_random": None},
        )
        discrete = record(f"{package}.spaces.discrete.Discrete", state={"n": np.int64(3)})
        both = record(f"{package}.spaces.dict.Dict", state={"spaces": {"a": box, "b": discrete}})
        many = record(f"{package}.spaces.tuple.Tuple", state={"spaces": (discrete,)})
        custom = record(f"{package}.spaces.repeated.Repeated", state={"max_len": 4, "child_space": discrete})
        value = known.plain([both, many, custom])
        np.testing.assert_equal(
            value[0]["spaces"]["a"],
            {"space": "box", "low": low, "high": high, "shape": (2,), "dtype": "float32"},
        )
        three = {"space": "discrete", "n": 3, "start": 0}
        assert value[0]["spaces"]["b"] == three
        assert value[1] == {"space": "tuple", "spaces": (three,)}
        assert value[2] == {"space": "repeated", "max_len": 4, "child_space": three}


def test_batches_filters_and_wrappers_of_tensorflow() -> None:
    batch = record(
        "ray.rllib.policy.sample_batch.SampleBatch", entries=[("obs", np.ones(2))], state={"time_major": None}
    )
    whole = record(
        "ray.rllib.policy.sample_batch.MultiAgentBatch", state={"policy_batches": {"p": batch}, "count": 2}
    )
    stat = record("ray.rllib.utils.filter.RunningStat", state={"num_pushes": 3})
    mean = record("ray.rllib.utils.filter.MeanStdFilter", state={"shape": (4,), "running_stats": stat})
    value = known.plain({"batch": whole, "filter": mean})
    np.testing.assert_equal(value["batch"]["sample_batches"]["p"]["sample_batch"], {"obs": np.ones(2)})
    assert value["filter"] == {"filter": "MeanStdFilter", "shape": (4,), "running_stats": {"num_pushes": 3}}

    call = record(
        "functools.partial",
        Opaque("tensorflow.python.ops.resource_variable_ops.ResourceVariable"),
        state=(
            Opaque("tensorflow.python.ops.resource_variable_ops.ResourceVariable"),
            (),
            {"initial_value": np.ones(3)},
            None,
        ),
    )
    variable = record("functools.partial()", call)
    wrapper = record("tensorflow.python.trackable.data_structures.ListWrapper", [variable])
    (array,) = known.plain(wrapper)
    np.testing.assert_array_equal(array, np.ones(3))
    other = record(
        "functools.partial()", record("functools.partial", state=(Opaque("os.system"), ("true",), {}, None))
    )
    assert known.plain(other) is other
    disguised = (Opaque("os.system"), (), {"initial_value": np.ones(1)}, None)
    other = record("functools.partial()", record("functools.partial", state=disguised))
    assert known.plain(other) is other


def test_specs_as_objects_and_as_named_tuples() -> None:
    name = "ray.rllib.policy.policy.PolicySpec"
    fields = {
        "policy_class": Opaque("x.P"),
        "observation_space": None,
        "action_space": None,
        "config": {"lr": 1},
    }
    assert known.plain(record(name, state=fields)) == fields
    assert known.plain(record(name, *fields.values())) == fields
    odd = record(name, 1, 2)
    assert known.plain(odd) is odd


def test_keys_are_replaced_where_that_leaves_a_key() -> None:
    name = "ray.rllib.utils.nested_dict.StrKey"
    space = record("gym.spaces.discrete.Discrete", state={"n": 2})
    value = known.plain({record(name, "a"): 1, (record(name, "b"), record(name, "c")): 2, space: 3, "d": 4})
    assert list(value) == ["a", ("b", "c"), space, "d"]
    both = known.plain({"a": 1, record(name, "a"): 2})
    assert sorted(both.values()) == [1, 2]


def test_unknown_records_and_references_stay() -> None:
    reference = Opaque("ray.rllib.utils.filter.MeanStdFilter")
    unknown = record("somewhere.Version", state=(0, (1,), None, None, None, None))
    assert known.plain([reference, unknown]) == [reference, unknown]


def test_shared_and_circular_values_stay_so() -> None:
    shared: list[Any] = [old_version(0, (1,), None, None, None, None)]
    loop: dict[str, Any] = {"shared": (shared, 1), "again": shared}
    loop["self"] = loop
    function = record("cloudpickle._make_function", "code")
    function.state = {"globals": {"me": function}, "shared": shared}
    loop["function"] = function
    value = known.plain(loop)
    assert value["self"] is value
    assert value["again"] == ["1"]
    assert value["shared"][0] is value["again"]
    assert value["function"].state["globals"]["me"] is value["function"]
    objects = np.empty(1, dtype=object)
    objects[0] = old_version(0, (1,), None, None, None, None)
    assert known.plain(objects)[0] == "1"


def test_deep_values_end_in_a_typed_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnsafeContent, match="deep"):
        known.plain(deep)
    while deep:
        deep = deep[0]  # freeing it at once would recurse in C


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "array", [np.arange(4, dtype="f4"), np.zeros((2, 0)), np.asfortranarray(np.eye(3)), np.array(1.5)]
)
def test_arrays_of_space_json(array: Any) -> None:
    text = base64.b64encode(zlib.compress(npy(array))).decode()
    result = npbytes.npy_base64(text, Meter(DEFAULT, 0))
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        npy(np.arange(4))[:-1],
        npy(np.arange(4)) + b"x",
        npy(np.arange(4)).replace(b"'<i8'", b"'|O8'"),
        npy(np.arange(4)).replace(b"(4,)", b"(9,)"),
        npy(np.arange(4)).replace(b"'descr'", b"'dexcr'"),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    ],
)
def test_arrays_that_are_none(data: bytes) -> None:
    with pytest.raises(UnsafeContent):
        npbytes.npy(data)


def test_headers_of_absurd_length_are_not_parsed() -> None:
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (0,)}".ljust(2**20)
    with pytest.raises(UnsafeContent, match="claims 1048576 bytes"):
        npbytes.npy(b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header)


def test_inflating_ends() -> None:
    bomb = base64.b64encode(zlib.compress(bytes(2**24), 9))
    with pytest.raises(UnsafeContent, match="more than"):
        npbytes.npy_base64(bomb, Meter(DEFAULT, 0), max_bytes=2**20)
    small = Meter(Budget(bytes=3 * 2**19, per_input_byte=0), 0)
    half = base64.b64encode(zlib.compress(npy(np.zeros(2**16))))
    npbytes.npy_base64(half, small)
    npbytes.npy_base64(half, small)
    with pytest.raises(UnsafeContent, match="more memory"):
        npbytes.npy_base64(half, small)
    for text in ("", "!!!", base64.b64encode(b"no zlib")):
        with pytest.raises(UnsafeContent):
            npbytes.npy_base64(text, Meter(DEFAULT, 0))


def test_rewriting_visits_each_record_once() -> None:
    seen: list[str] = []

    def note(item: Opaque) -> Any:
        seen.append(item.name)
        return item

    inner = Opaque("inner", ())
    outer = record("outer", inner, inner, items=[inner], entries=[("k", inner)], kwargs={"k": inner})
    trees.rewrite([outer, outer, {"a": inner}], note)
    assert seen == ["inner", "outer"]
