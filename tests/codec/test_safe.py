"""Plain data come back exactly as pickle gives them; everything else becomes a record of what it was."""

from __future__ import annotations

import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import pathlib
import pickle
import pickletools
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles.safe import globals_in, loads
from ckptstore.errors import UnsafeContent
from tests.codec.support import same

PICKLERS = {"C": pickle.dumps, "Python": pickle._dumps}  # type: ignore[attr-defined]
everywhere = pytest.mark.parametrize(
    "dumps",
    [
        pytest.param(lambda v, d=dumps, p=protocol: d(v, p), id=f"{name}-{protocol}")
        for name, dumps in PICKLERS.items()
        for protocol in range(6)
    ],
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=300)
    | st.text(st.characters(codec=None, categories=["Cs", "Cc", "L"]), max_size=5)
    | st.binary(max_size=300)
    | st.binary(max_size=9).map(bytearray)
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.timedeltas()
    | st.times()
    | st.dates()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.sampled_from([Ellipsis, NotImplemented, range(3), range(9, -2, -4), slice(1, None)])
)
simple_keys: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9) | st.uuids()
)
keys = simple_keys | st.tuples(simple_keys, simple_keys) | st.frozensets(st.integers(), max_size=3)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=5)
        | st.dictionaries(keys, inner, max_size=5).map(OrderedDict)
        | st.dictionaries(keys, inner, max_size=5).map(lambda d: defaultdict(list, d))
        | st.lists(inner, max_size=5).map(lambda v: deque(v, 9))
        | st.dictionaries(keys, st.integers(), max_size=5).map(Counter)
        | st.sets(keys, max_size=5)
        | st.frozensets(keys, max_size=5)
    ),
    max_leaves=20,
)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, deque):
        return type(a) is type(b) and a.maxlen == b.maxlen and _alike(list(a), list(b))
    if isinstance(a, defaultdict) and a.default_factory is not b.default_factory:
        return False
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(_alike(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, complex):
        return repr(a) == repr(b)
    return same(a, b)


@settings(deadline=None, max_examples=300)
@given(plain, st.sampled_from([*PICKLERS]), st.integers(0, 5))
def test_plain_data_are_what_pickle_gives(value: Any, pickler: str, protocol: int) -> None:
    data = PICKLERS[pickler](value, protocol)
    expected = pickle.loads(data)
    assert _alike(loads(data), expected)
    assert _alike(loads(memoryview(data)), expected)
    assert _alike(loads(pickletools.optimize(data)), expected)


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(
        hnp.scalar_dtypes() | hnp.array_dtypes() | hnp.nested_dtypes(max_leaves=4),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        fill=st.nothing(),
    ),
    st.integers(0, 5),
    st.booleans(),
)
def test_arrays_that_numpy_pickled_are_what_pickle_gives(a: Any, protocol: int, fortran: bool) -> None:
    a = np.asfortranarray(a) if fortran else a
    data = pickle.dumps([a, a.dtype, a.T], protocol)
    expected = pickle.loads(data)
    found = loads(data)
    for x, y in ((found[0], expected[0]), (found[2], expected[2])):
        assert (x.dtype, x.shape, x.flags.writeable) == (y.dtype, y.shape, y.flags.writeable)
        assert x.strides == y.strides or not x.size
        assert x.tobytes() == y.tobytes()
    assert found[1] == expected[1]


@everywhere
@pytest.mark.parametrize(
    "value",
    [
        np.float32(1.5),
        np.bool_(False),
        np.str_("x"),
        np.datetime64("2020", "Y"),
        np.longdouble(1) / 3,
        np.array([(1, b"x")], "i4,S2")[0],
        np.dtype("f4"),
        np.dtype(">M8[25s]"),
        np.dtype([("a", "i4"), (("title", "b"), "f8", (2, 3))]),
        np.dtype({"names": ["x"], "formats": ["u1"], "offsets": [3], "itemsize": 9}),
        np.array([1, "a", None, [2]], object),
        np.asfortranarray(np.array([[1, None], [{}, ()]], object)),
        np.arange(6, dtype=">i4").reshape(2, 3).T,
        np.array(3.5),
        np.zeros((0, 3)),
        np.array(["a", "bcd"]),
        np.arange(3).astype(ml_dtypes.bfloat16),
        np.zeros(2, ml_dtypes.float8_e5m2),
        np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]).view(np.ndarray),
        pathlib.PurePosixPath("/a/b"),
        pathlib.PureWindowsPath("c:/a"),
        pathlib.Path("a/b"),
        datetime.timezone(datetime.timedelta(hours=2), "X"),
        datetime.datetime(2020, 1, 1, 12, fold=1),
        decimal.Decimal("NaN"),
        "\ud800",
        "line\nbreak\\u0041\0",
        -(2**31),
        2**31,
        -(256**255),
        256**300,
        1e400,
        b"\xff" * 300,
        "é" * 300,
        list(range(3000)),
        {i: i for i in range(3000)},
        set(range(3000)),
    ],
    ids=lambda v: f"{type(v).__name__}",
)
def test_single_values(value: Any, dumps: Any) -> None:
    data = dumps([value, value])
    expected = pickle.loads(data)
    if isinstance(value, decimal.Decimal):
        assert repr(loads(data)) == repr(expected)
    else:
        assert _alike(loads(data), expected)


def test_arrays_of_numpy_1_and_2_read_alike() -> None:
    a = np.arange(6.0).reshape(2, 3)
    for value in (a, a.T, a[:, ::2], np.float32(2)):
        data = pickle.dumps(value, 2)
        new = data.replace(b"numpy.core", b"numpy._core")
        old = new.replace(b"numpy._core", b"numpy.core")
        assert old != new
        assert same(loads(old), loads(new))


def test_numpys_scalars_by_every_name() -> None:
    for name, value in (("bool_", True), ("bool", True), ("int64", 5), ("float32", 1.5), ("str_", "x")):
        data = (
            b"\x80\x04\x8c\x05numpy\x8c"
            + bytes([len(name)])
            + name.encode()
            + b"\x93"
            + pickle.dumps((value,))[11:-1]
        )
        assert loads(data + b"R.") == value


@everywhere
def test_sharing_and_cycles_are_kept(dumps: Any) -> None:
    inner = [1]
    tree: dict[str, Any] = {"a": inner, "b": inner, "t": (inner,), "d": deque()}
    tree["self"] = tree
    tree["d"].append(tree)
    tree["o"] = objects = np.empty(1, object)
    objects[0] = tree
    back = loads(dumps(tree))
    assert back["a"] is back["b"] is back["t"][0]
    assert back["self"] is back
    assert back["d"][0] is back
    assert back["o"][0] is back


class Thing:
    a: Any

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Slotted:
    __slots__ = ("a", "b")


class Listing(list):  # type: ignore[type-arg]
    pass


class Mapping(dict):  # type: ignore[type-arg]
    pass


class Color(enum.Enum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")


class Keywords:
    def __new__(cls, *args: Any, **kwargs: Any) -> Keywords:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (1,), {"k": 2}


class WithSetter:
    def __reduce__(self) -> Any:
        return WithSetter, (), {"x": 1}, None, None, set_fields


def set_fields(obj: Any, state: Any) -> None:
    raise AssertionError("must not run")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_objects_become_records(protocol: int) -> None:
    slotted = Slotted()
    slotted.a = 1  # type: ignore[attr-defined]
    listing, mapping = Listing([1, 2]), Mapping(a=[1])
    listing.note = "n"  # type: ignore[attr-defined]
    value = [Thing(a=1), slotted, listing, mapping, Color.RED, Pair(1, 2), Thing, len]
    thing, slots, rows, entries, color, pair, cls, function = loads(pickle.dumps(value, protocol))
    assert (thing.name, thing.args, thing.state) == (f"{__name__}.Thing", (), {"a": 1})
    assert slots.state == (None, {"a": 1})
    assert (rows.items, rows.state) == ([1, 2], {"note": "n"})
    assert entries.entries == [("a", [1])]
    assert color == Opaque(f"{__name__}.Color", (1,))
    assert pair.args == (1, 2)
    assert cls == Opaque(f"{__name__}.Thing")
    assert cls.is_reference
    assert function == Opaque("builtins.len")


@pytest.mark.parametrize("protocol", [0, 1])
def test_objects_of_the_old_protocols_become_records(protocol: int) -> None:
    thing, listing = loads(pickle.dumps([Thing(a=1), Listing([1])], protocol))
    assert (thing.name, thing.args, thing.state) == (f"{__name__}.Thing", (), {"a": 1})
    assert listing.args[1] == [1]


def test_keyword_arguments_are_kept() -> None:
    assert loads(pickle.dumps(Keywords(), 4)).kwargs == {"k": 2}
    assert loads(pickle.dumps(Keywords(), 2)).args is not None


def test_state_setters_leave_their_state_on_the_record() -> None:
    record = loads(pickle.dumps([WithSetter()], 5))[0]
    assert (record.name, record.state) == (f"{__name__}.WithSetter", {"x": 1})


def test_functions_by_value_keep_their_code() -> None:
    import cloudpickle

    scale = 7
    record = loads(cloudpickle.dumps(lambda x: x * scale))
    assert record.name == "cloudpickle.cloudpickle._make_function"
    code = record.args[0]
    assert code.name == "cloudpickle.cloudpickle._builtin_type()"
    assert code.args[0] == Opaque("cloudpickle.cloudpickle._builtin_type", ("CodeType",))
    assert any(isinstance(arg, bytes) and arg for arg in code.args)
    assert record.state[1]["__name__"] == "<lambda>"


def test_keys_that_become_records_still_work() -> None:
    back = loads(pickle.dumps({Color.RED: 1, (Color.RED, 2): 3, frozenset([Color.RED]): 4}))
    red = Opaque(f"{__name__}.Color", (1,))
    assert back == {red: 1, (red, 2): 3, frozenset([red]): 4}
    assert loads(pickle.dumps({Color.RED})) == {red}


def test_unknown_factories_stay_records() -> None:
    record = loads(pickle.dumps(defaultdict(set_fields, a=1)))  # type: ignore[arg-type]
    assert record.name == "collections.defaultdict"
    assert record.args == (Opaque(f"{__name__}.set_fields"),)
    assert record.entries == [("a", 1)]


def test_attributes_of_an_ordered_dict_are_kept() -> None:
    value = OrderedDict(w=1)
    value._metadata = {"": 1}  # type: ignore[attr-defined]
    back = loads(pickle.dumps(value))
    assert back == value
    assert back._metadata == {"": 1}


def test_persistent_ids_become_records() -> None:
    import io

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", obj.a) if isinstance(obj, Thing) else None

    file = io.BytesIO()
    Pickler(file, 2).dump([Thing(a=5)])
    assert loads(file.getvalue()) == [Opaque("persistent_id", (("storage", 5),))]
    assert loads(b"P17\n.") == Opaque("persistent_id", ("17",))


def test_extension_codes_become_records() -> None:
    copyreg.add_extension(__name__, "Thing", 200)
    try:
        data = pickle.dumps(Thing, 2)
    finally:
        copyreg.remove_extension(__name__, "Thing", 200)
    assert loads(data) == Opaque("copyreg.extension.200")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"(S'it\\'s \\x41\\101\\n'\nI01\nI-7\nL12L\nF1.5\nt.", ("it's AA\n", True, -7, 12, 1.5)),
        (b"U\x03\xffab.", b"\xffab"),
        (b"T\x02\x00\x00\x00ab.", "ab"),
        (b"(lp5\ng5\na.", None),
        (b"(dp1\nS'a'\nI1\ns.", {"a": 1}),
        (b"(i__builtin__\nset\n.", set()),
        (b"(c__builtin__\nlist\no.", []),
        (b"(I1\nI2\n1I3\n.", 3),
        (b"I3\n(0.", 3),
        (b"I3\n2\x86.", (3, 3)),
        (b"c__builtin__\nxrange\n(I0\nI3\nI1\ntR.", range(3)),
        (b"c__builtin__\nbytearray\n(X\x03\x00\x00\x00a\xc3\xa9Vlatin-1\ntR.", bytearray(b"a\xe9")),
    ],
)
def test_old_text_forms(data: bytes, value: Any) -> None:
    back = loads(data)
    if value is None:
        assert back[0] is back
    else:
        assert back == value
        assert type(back) is type(value)


def test_torn_buffers_of_other_writers_are_kept() -> None:
    buffers: list[Any] = []
    value = {"a": np.arange(5), "r": pickle.PickleBuffer(b"raw")}
    data = pickle.dumps(value, 5, buffer_callback=buffers.append)
    back = loads(data, [b.raw() for b in buffers])
    assert same(back["a"], np.arange(5))
    assert bytes(back["r"]) == b"raw"


def test_what_a_pickle_would_import_and_call() -> None:
    class Harm:
        def __reduce__(self) -> Any:
            import os

            return os.system, ("echo harm",)

    data = pickle.dumps([np.arange(3), Harm()], 4)
    uses = globals_in(data)
    import os

    assert (f"{os.system.__module__}.system", True) in [(use.name, use.called) for use in uses]
    assert (f"{os.system.__module__}.system", False) in [(use.name, use.called) for use in uses]
    assert all(0 <= use.position <= len(data) for use in uses)
    assert uses == sorted(uses, key=lambda use: use.position)


def test_scanning_needs_no_buffers() -> None:
    data = pickle.dumps([np.arange(3)], 5, buffer_callback=lambda b: None)
    assert "_frombuffer" in {use.name.rpartition(".")[2] for use in globals_in(data)}


def test_missing_ml_dtypes_gives_a_record_and_not_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tests.codec.support import dumped

    original = np.arange(3).astype(ml_dtypes.bfloat16)
    files = [dumped([original, 1])[0], pickle.dumps([original, 1])]
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    for data in files:
        record, one = loads(data)
        assert isinstance(record, Opaque)
        assert one == 1


def test_small_objects_are_read_fast_enough() -> None:
    import time

    data = pickle.dumps([{"a": i, "b": (1.5, None), "c": str(i)} for i in range(20_000)], 5)

    def seconds(run: Any) -> float:
        took = []
        for _ in range(3):
            start = time.process_time()
            run(data)
            took.append(time.process_time() - start)
        return min(took)

    assert seconds(loads) < 40 * seconds(pickle.loads)  # about 7; the machine may be busy


def test_two_hundred_thousand_objects_fit_the_budget() -> None:
    data = pickle.dumps([[] for _ in range(200_000)] + [uuid.UUID(int=i) for i in range(2000)], 5)
    assert len(loads(data)) == 202_000


def test_fractions_keep_their_terms() -> None:
    assert loads(b"cfractions\nFraction\n(S'-3/4'\ntR.") == fractions.Fraction(-3, 4)
    assert loads(b"cfractions\nFraction\n(I-3\nI4\ntR.") == fractions.Fraction(-3, 4)
    with pytest.raises(UnsafeContent):  # Fraction itself takes this, and 1e999999999 with all its digits
        loads(b"cfractions\nFraction\n(S'1e9'\ntR.")


def test_a_newer_protocol_is_refused() -> None:
    with pytest.raises(UnsafeContent, match="protocol 6"):
        loads(b"\x80\x06N.")
