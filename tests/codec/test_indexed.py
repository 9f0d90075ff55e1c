"""What is dumped comes back the same by every way of reading, and regions lie where they are said to."""

from __future__ import annotations

import array
import ctypes
import gc
import io
import mmap
import pickle
import sys
import time
from collections import OrderedDict
from typing import Any

import cloudpickle
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckptstore.codec.indexed import write as indexed
from ckptstore.codec.indexed.regions import Region
from ckptstore.codec.indexed.write import ALIGNMENT
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.errors import InvalidRequest
from tests.codec.support import READERS, dumped, same

LARGE = 70_000  # bytes; what the C pickler writes by itself begins at 65,536
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())


def _readonly(a: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    a.flags.writeable = False
    return a


def _arrays(n: int) -> dict[str, np.ndarray[Any, Any]]:
    """One of each sort, of about ``n`` elements."""
    base = np.arange(4 * n, dtype="f4")
    structured = np.zeros(n, dtype=[("a", "<i4"), ("b", ">f8", (2,)), ("c", [("d", "S3"), ("e", "M8[ms]")])])
    structured["a"] = np.arange(n)
    return {
        "plain": base[:n].copy(),
        "strided": base[::4],
        "reversed": base[::-1],
        "strided, read-only": _readonly(base[::2]),
        "broadcast": np.broadcast_to(np.float64(3), (n,)),
        "Fortran": np.asfortranarray(np.arange(4.0 * n).reshape(4, n)),
        "transposed": np.arange(6 * n).reshape(2, n, 3).transpose(2, 0, 1),
        "read-only": _readonly(np.arange(n, dtype="i8")),
        "Fortran, read-only": _readonly(np.asfortranarray(np.ones((3, n)))),
        "big-endian": np.arange(n, dtype=">u4"),
        "datetime64": np.arange(n).astype("M8[25us]"),
        "timedelta64": np.arange(n).astype("m8[D]"),
        "no unit": np.zeros(n, "m8"),
        "bool": np.arange(n) % 3 == 0,
        "complex": np.arange(n) * 1j,
        "half": np.arange(n, dtype="f2"),
        "long double": np.arange(n, dtype="g") / 3,
        "text": np.array(["é", "long text", ""] * (n // 3 + 1)),
        "bytes": np.array([b"a", b"bcd"] * n),
        "void": np.zeros(n, "V5"),
        "bfloat16": np.arange(n).astype(ml_dtypes.bfloat16),
        "float8": np.ones(n, ml_dtypes.float8_e4m3fn),
        "int4": np.ones(n, ml_dtypes.int4),
        "structured": structured,
        "aligned": np.zeros(n, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        "overlapping fields": np.zeros(
            n, np.dtype({"names": ["x", "y"], "formats": ["u4", "u1"], "offsets": [0, 2], "itemsize": 9})
        ),
        "records": np.zeros(n, np.dtype((np.record, [("a", "i4")]))),
        "negative NaN": np.full(n, np.array(0xFFC01234, "u4").view("f4")),
    }


EMPTY = {
    "0-size": np.zeros((0, 3), "f4"),
    "0-size, Fortran": np.zeros((3, 0, 2), order="F"),
    "0-size, read-only": _readonly(np.zeros((2, 0))),
    "int8 of nothing": np.zeros(0, "b"),
    "0-d": np.array(2.5),
    "0-d, read-only": _readonly(np.array(7, "u2")),
    "nothing in an item": np.zeros(3, "V0"),
}
SMALL = _arrays(7)
BIG = _arrays(LARGE)


@readers
@pytest.mark.parametrize("name", [*EMPTY, *SMALL])
def test_small_arrays_come_back(name: str, read: Any) -> None:
    original = {**EMPTY, **SMALL}[name]
    data, regions = dumped([original])
    assert regions == []
    assert same(read(data, regions), [original])


@readers
@pytest.mark.parametrize("name", BIG)
def test_large_arrays_come_back_and_are_indexed(name: str, read: Any) -> None:
    original = BIG[name]
    data, regions = dumped({"x": original, "y": 1})
    ((offset, length),) = regions
    assert length == original.nbytes
    assert offset % ALIGNMENT == 0
    assert data[offset : offset + length] == original.tobytes("A" if original.flags.f_contiguous else "C")
    assert same(read(data, regions), {"x": original, "y": 1})


@readers
def test_objects_in_arrays_come_back(read: Any) -> None:
    original = np.empty((2, 2), object)
    original[0, 0], original[0, 1], original[1, 0] = [1, "x"], None, np.arange(3)
    original[1, 1] = np.array(5)
    for array_ in (original, np.asfortranarray(original), np.empty((0, 3), object)):
        data, regions = dumped(array_)
        assert same(read(data, regions), array_)


@readers
@pytest.mark.parametrize(
    "scalar",
    [
        np.float32(1.5),
        np.float64(-0.0),
        np.float16(3),
        np.bool_(True),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.longlong(5),
        np.longdouble("0.1"),
        np.complex64(1 + 2j),
        np.clongdouble(1j),
        np.str_("é\0"),
        np.bytes_(b"a\0"),
        np.datetime64("2020-01-01T00:00:01", "s"),
        np.datetime64("NaT", "s"),
        np.timedelta64(3, "h"),
        np.void(b"abc"),
        np.array([(1, 2.5)], [("a", "i4"), ("b", ">f8")])[0],
        np.zeros(1, np.dtype((np.record, [("a", "i4")])))[0],
        np.array(0x7F801234, "u4").view("f4")[()],  # a signalling NaN with a payload
        ml_dtypes.bfloat16(1.5),
    ],
    ids=lambda s: f"{type(s).__name__}",
)
def test_scalars_come_back(scalar: Any, read: Any) -> None:
    data, regions = dumped({"s": scalar, "t": scalar})
    assert b"_core" not in data  # numpy 1.24 has no such module
    assert same(read(data, regions), {"s": scalar, "t": scalar})


@readers
@pytest.mark.parametrize("dtype", ["<f4", ">i2", "M8[ns]", "U3", "O", [("a", "i4", (2,)), ("b", "V3")], "?"])
def test_dtypes_come_back(dtype: Any, read: Any) -> None:
    data, regions = dumped([np.dtype(dtype), np.dtype(dtype)])
    assert same(read(data, regions), [np.dtype(dtype)] * 2)


class Kept(np.ndarray[Any, Any]):
    """A subclass with a constructor that unpickling must not call."""

    note: str

    def __new__(cls, a: Any, note: str) -> Kept:
        made: Kept = np.asarray(a).view(cls)
        made.note = note
        return made

    def __reduce__(self) -> Any:
        reduced: Any = super().__reduce__()
        make, args, state = reduced
        return make, args, (*state, self.note)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[:-1])
        self.note = state[-1]


def test_subclasses_keep_their_class_and_stay_records_when_read_safely() -> None:
    original = Kept(np.arange(3), "n")
    data, _ = dumped(original)
    assert b"_core" not in data
    back = pickle.loads(data)
    assert type(back) is Kept
    assert back.note == "n"
    assert back.tolist() == [0, 1, 2]
    record = safe.loads(data)
    assert record.name.endswith(".Kept")
    assert record.state[-1] == "n"


def test_masked_arrays_come_back_by_pickle() -> None:
    original = np.ma.masked_array([1.0, 2.0], mask=[True, False])
    back = pickle.loads(dumped(original)[0])
    assert back.mask.tolist() == [True, False]


def test_random_states_come_back_by_pickle() -> None:
    state, generator = np.random.RandomState(3), np.random.default_rng(3)
    state.random_sample(3)
    expected: Any = (list(state.get_state(legacy=True))[1], generator.bit_generator.state)
    data, _ = dumped((state, generator))
    a, b = pickle.loads(data)
    assert np.array_equal(a.get_state()[1], expected[0])
    assert b.bit_generator.state == expected[1]
    assert a.random_sample() == state.random_sample()
    if hasattr(b, "spawn"):
        # Children come from the seed sequence, for which numpy 1's own form has no place.
        assert b.spawn(1)[0].random() == generator.spawn(1)[0].random()


@readers
def test_the_same_array_is_written_once(read: Any) -> None:
    original = np.arange(LARGE)
    data, regions = dumped([original, {"again": original}])
    assert len(regions) == 1
    back = read(data, regions)
    assert back[0] is back[1]["again"]


@readers
def test_many_arrays_between_other_large_values(read: Any) -> None:
    """Frames, bytes and str of 64 KiB arrive as writes of their own; none of them may be padded."""
    original = {
        "bytes": b"b" * 100_000,
        "bytearray": bytearray(100_001),
        "str": "é" * 50_001,
        "many": [f"{i}-{'x' * 40}" for i in range(5_000)],
        "a": [np.full(LARGE + i, i, "u1") for i in range(80)],  # every remainder of 64
        "b": b"b" * 65_536,
        "none": np.zeros(0),
    }
    data, regions = dumped(original)
    assert [length for _, length in regions] == [LARGE + i for i in range(80)]
    assert all(offset % ALIGNMENT == 0 for offset, _ in regions)
    assert same(read(data, regions), original)


def test_buffers_that_others_made_are_not_indexed() -> None:
    class Owner:
        def __reduce_ex__(self, protocol: Any) -> Any:
            return bytearray, (pickle.PickleBuffer(bytearray(b"q" * LARGE)),)

    mine = np.zeros(LARGE, "u1")
    data, regions = dumped(
        [pickle.PickleBuffer(b"p" * LARGE), Owner(), mine, pickle.PickleBuffer(b"r" * LARGE)]
    )
    assert len(regions) == 1
    offset, length = regions[0]
    assert data[offset : offset + length] == bytes(LARGE)
    assert pickle.loads(data)[:2] == [b"p" * LARGE, bytearray(b"q" * LARGE)]


def test_array_data_are_passed_on_without_a_copy() -> None:
    original = np.arange(LARGE)
    seen: list[int] = []

    def write(data: Any) -> None:
        if isinstance(data, memoryview) and data.nbytes == original.nbytes:
            seen.append(np.frombuffer(data, "u1").__array_interface__["data"][0])

    indexed.dump([original, np.asfortranarray(original.reshape(7, -1))], write)
    assert seen[0] == original.__array_interface__["data"][0]
    assert len(seen) == 2


def test_copies_of_strided_arrays_are_let_go_after_writing() -> None:
    """They add up to the size of the checkpoint otherwise."""
    import tracemalloc

    base = np.zeros((2, 1_000_000), "u1")
    arrays = [base[:, i::2] for i in (0, 1) for _ in range(20)]
    tracemalloc.start()
    indexed.dump(arrays, lambda data: None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_arrays_are_let_go_when_dump_returns() -> None:
    """Without waiting for the garbage collector, which may be switched off while training."""
    original = np.arange(5)
    view = np.frombuffer(bytearray(LARGE), "u1")
    before = sys.getrefcount(original), sys.getrefcount(view)
    gc.disable()
    try:
        dumped([original, view])
        assert (sys.getrefcount(original), sys.getrefcount(view)) == before
    finally:
        gc.enable()


def test_what_is_given_to_write_may_be_reused_at_once() -> None:
    written = bytearray()

    def write(data: bytes | memoryview) -> None:
        written.extend(data)
        if isinstance(data, memoryview) and not data.readonly and data.nbytes == LARGE:
            data[:] = bytes(LARGE)

    indexed.dump([np.ones(LARGE, "u1"), 5], write)
    assert same(pickle.loads(written), [np.ones(LARGE, "u1"), 5])


class Offers:
    """Shares its memory by one protocol and has no pickling of its own."""

    def __init__(self, a: np.ndarray[Any, Any]) -> None:
        self._a = a


class OffersArray(Offers):
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return self._a


class OffersDlpack(Offers):
    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._a.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self._a.__dlpack_device__()


class TensorOfItsLibrary(OffersDlpack):
    """As jax and TensorFlow have them: a tensor by all signs, and a way of its own to be pickled."""

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)

    def __reduce__(self) -> Any:
        return TensorOfItsLibrary, (self._a,)


class Declines(OffersArray):
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        raise RuntimeError("not now")


class OwnPickling(OffersArray):
    def __getstate__(self) -> Any:
        return {"_a": self._a}


@pytest.mark.parametrize("kind", [OffersArray, OffersDlpack, TensorOfItsLibrary])
def test_objects_that_share_their_memory_become_arrays(kind: Any) -> None:
    original = np.arange(LARGE)
    data, regions = dumped(kind(original))
    assert len(regions) == 1
    np.testing.assert_array_equal(safe.loads(data), original)  # numpy 1 lends them read-only by DLPack


def test_memoryviews_and_maps_become_arrays() -> None:
    shared: Any = np.arange(6, dtype="i2").reshape(2, 3)
    view = memoryview(shared)
    assert same(pickle.loads(dumped(view)[0]), np.arange(6, dtype="i2").reshape(2, 3))
    with mmap.mmap(-1, 10) as mapped:
        assert same(pickle.loads(dumped(mapped)[0]), np.zeros(10, "u1"))


def test_objects_with_their_own_pickling_keep_it() -> None:
    back = pickle.loads(
        dumped([OwnPickling(np.arange(3)), Declines(np.arange(3)), array.array("d", [1.5])])[0]
    )
    assert [type(x).__name__ for x in back] == ["OwnPickling", "Declines", "array"]
    assert type(pickle.loads(dumped(ctypes.c_int(3))[0])) is ctypes.c_int


class Text(str):
    __slots__ = ()


class Raw(bytes):
    __slots__ = ()


class Number(np.float64):
    def __reduce__(self) -> Any:
        return Number, (float(self),)


class Rows(list):  # type: ignore[type-arg]
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return np.zeros(3)


def test_subclasses_of_plain_types_stay_what_they_are() -> None:
    original = [Text("a"), Raw(b"b"), bytearray(b"c"), Number(1.5), Rows([1])]
    back = pickle.loads(dumped(original)[0])
    assert back == original
    assert [type(x) for x in back] == [Text, Raw, bytearray, Number, Rows]


def test_whatever_cloudpickle_holds_can_be_saved() -> None:
    scale = 3

    class Local:
        def double(self, x: Any) -> Any:
            return x * scale

    data, regions = dumped({"f": lambda x: x * scale, "c": Local, "i": Local(), "w": np.ones(LARGE)})
    assert len(regions) == 1
    back = pickle.loads(data)
    assert back["f"](5) == back["i"].double(5) == back["c"]().double(5) == 15
    seen = safe.loads(data)
    assert all(isinstance(seen[k], Opaque) for k in "fci")
    assert same(seen["w"], np.ones(LARGE))


@readers
def test_cycles_come_back(read: Any) -> None:
    original: dict[str, Any] = {"a": np.arange(LARGE), "l": []}
    original["l"].append(original)
    original["l"].append(original["l"])
    back = read(*dumped(original))
    assert back["l"][0] is back
    assert back["l"][1] is back["l"]


def iter_nothing() -> Any:
    yield from ()


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"a": [1, {"q": (0, sys.stderr.buffer)}]}, "state['a'][1]['q'][1]"),
        ({"a": iter_nothing()}, "state['a']"),
        ([OwnPickling(sys.stderr.buffer)], "state[0]._a"),  # type: ignore[arg-type]
        ({frozenset({1}): sys.stderr.buffer}, "state[<frozenset>]"),
    ],
    ids=["nested", "generator", "attribute", "odd key"],
)
def test_what_cannot_be_pickled_is_named(state: Any, path: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        dumped(state)
    assert caught.value.what == path
    assert caught.value.__cause__ is not None
    assert type(eval(path.replace("<frozenset>", "frozenset({1})"), {"state": state})).__name__ in str(
        caught.value
    )


def test_nesting_beyond_what_pickle_can_do_is_named() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        dumped({"deep": deep})


def test_what_write_raises_comes_through() -> None:
    def write(data: object) -> None:
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full") as caught:
        indexed.dump(np.zeros(LARGE), write)
    assert type(caught.value) is OSError


def test_dump_holds_its_shape_without_numpy_types() -> None:
    original = OrderedDict(a=1, b=[True, None, 2**80, -1.5, "é", b"x", {1, 2}, (), frozenset("a")])
    assert pickle.loads(dumped(original)[0]) == original


def test_a_gibibyte_costs_next_to_nothing() -> None:
    big = np.empty(1 << 30, "u1")
    start = time.process_time()
    regions = indexed.dump({"big": big}, lambda data: None)
    assert time.process_time() - start < 0.5
    assert regions == [Region(regions[0].offset, 1 << 30)]


def test_small_objects_cost_little_more_than_cloudpickle() -> None:
    objects = [Offers(np.arange(0)) if i % 100 == 0 else {"a": i, "b": str(i)} for i in range(50_000)]

    def seconds(run: Any) -> float:
        took = []
        for _ in range(3):
            start = time.process_time()
            run()
            took.append(time.process_time() - start)
        return min(took)

    ours = seconds(lambda: indexed.dump(objects, lambda data: None))
    theirs = seconds(lambda: cloudpickle.dump(objects, io.BytesIO(), protocol=5))
    assert ours < 3 * theirs


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_array_comes_back(data: Any) -> None:
    dtype = data.draw(
        st.one_of(
            hnp.scalar_dtypes(),
            hnp.array_dtypes(allow_subarrays=True),
            hnp.nested_dtypes(max_leaves=5),
        )
    )
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    original = np.zeros(shape, dtype)
    if original.nbytes:
        content = data.draw(st.binary(min_size=original.nbytes, max_size=original.nbytes))
        original = np.frombuffer(bytearray(content), dtype.base).reshape(original.shape)
    if original.dtype.kind == "U":  # arbitrary bytes are no characters
        original = np.zeros(original.shape, original.dtype)
    index = tuple(
        slice(None, None, data.draw(st.sampled_from([1, 2, -1]), label="step")) for _ in original.shape
    )
    original = original[index].transpose(data.draw(st.permutations(range(original.ndim))))
    file, regions = dumped([original])
    for read in READERS.values():
        back = read(file, regions)[0]
        assert back.dtype == original.dtype
        assert back.shape == original.shape
        assert back.tobytes() == original.tobytes()
