"""Random generators and kinds of arrays come back as themselves from files of ours, by every reader."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore.codec import known
from ckptstore.codec.opaque import Opaque
from ckptstore.codec.pickles import safe
from ckptstore.errors import UnsafeContent
from ckptstore.rllib_formats.scan import scan_bytes
from tests.codec.support import READERS, cut, dumped

READ: dict[str, Callable[..., Any]] = {
    **READERS,
    "safe": lambda data, regions: safe.loads(data, own=True),
    "safe on the skeleton": lambda data, regions: _by_skeleton(data, regions),
}
readers = pytest.mark.parametrize("read", READ.values(), ids=READ.keys())
ctors: Any = getattr(np.random, "_pickle")  # noqa: B009
make_generator, make_bits = ctors.__generator_ctor, ctors.__bit_generator_ctor
make_random_state = ctors.__randomstate_ctor
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # numpy's, about matrices

BITS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def _by_skeleton(data: bytes, regions: Any) -> Any:
    from ckptstore.codec.indexed.read import skeleton

    gaps, buffers = cut(data, regions)
    return safe.loads(skeleton(gaps, regions), buffers, own=True)


def drawn(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return [generator.random(), generator.gauss(0, 1), generator.getrandbits(40)]
    if isinstance(generator, np.random.BitGenerator):
        return generator.random_raw(3).tolist()
    return [generator.random(), *generator.standard_normal(3).tolist()]


def used(generator: Any) -> Any:
    """Somewhere in the middle: half of a 64-bit number left, a Gaussian in store."""
    if isinstance(generator, np.random.Generator):
        generator.integers(10, size=3, dtype=np.uint32)
    elif isinstance(generator, random.Random):
        generator.gauss(0, 1)
    elif isinstance(generator, np.random.RandomState):
        generator.standard_normal(1)
    return generator


def of(make: Callable[[Any], Any], name: str) -> Callable[[], Any]:
    return lambda: make(getattr(np.random, name)(7))


random_of: Any = np.random
GENERATORS: dict[str, Callable[[], Any]] = {
    **{f"Generator({name})": of(np.random.Generator, name) for name in BITS},
    **{f"RandomState({name})": of(np.random.RandomState, name) for name in BITS},
    **{name: of(lambda bits: bits, name) for name in BITS},
    "of a sequence": lambda: np.random.default_rng([1, 2, 3]),
    "of an array": lambda: np.random.default_rng(np.arange(4, dtype="u4")),
    "of a large seed": lambda: np.random.default_rng(2**200),
    "of no seed": np.random.default_rng,
    "a child": lambda: np.random.default_rng(np.random.SeedSequence(5).spawn(3)[2].spawn(2)[1]),
    "legacy": lambda: np.random.Generator(random_of.RandomState(7)._bit_generator),
    "random.Random": lambda: random.Random(7),
    "random.Random of text": lambda: random.Random("seed"),
}


@readers
@pytest.mark.parametrize("name", GENERATORS)
def test_generators_go_on_with_the_same_numbers(name: str, read: Any) -> None:
    generator = used(GENERATORS[name]())
    found = read(*dumped({"g": generator, "again": generator, "beside": 1}))
    assert type(found["g"]) is type(generator)
    assert found["again"] is found["g"]
    assert drawn(found["g"]) == drawn(generator)


@readers
def test_children_are_the_same(read: Any) -> None:
    generator: Any = np.random.default_rng(3)
    if not hasattr(generator, "spawn"):
        pytest.skip("numpy before 1.25 has no spawn")
    generator.spawn(2)
    found = read(*dumped(generator))
    assert [drawn(child) for child in found.spawn(2)] == [drawn(child) for child in generator.spawn(2)]


@readers
def test_a_seed_sequence_comes_back(read: Any) -> None:
    seed = np.random.SeedSequence(3, spawn_key=(1, 2), pool_size=8)
    seed.spawn(5)
    found = read(*dumped(seed))
    assert found.state == seed.state
    assert found.generate_state(4).tolist() == seed.generate_state(4).tolist()


@readers
def test_generators_of_one_bit_generator_still_share_it(read: Any) -> None:
    bits = np.random.PCG64(3)
    one, two = read(*dumped([np.random.Generator(bits), np.random.Generator(bits)]))
    assert one.bit_generator is two.bit_generator


@pytest.mark.parametrize("name", GENERATORS)
def test_numpys_own_spelling_opens_too(name: str) -> None:
    """What a ckptstore before wrote, on numpy 1 or 2."""
    generator = used(GENERATORS[name]())
    for protocol in (2, 5):
        found = safe.loads(pickle.dumps(generator, protocol), own=True)
        assert type(found) is type(generator)
        assert drawn(found) == drawn(pickle.loads(pickle.dumps(generator)))


class Numpy1:
    """Pickles as a generator did with numpy 1.26."""

    def __init__(self, state: Any, *constructor: Any) -> None:
        self.reduced = make_generator, constructor, state

    def __reduce__(self) -> Any:
        return self.reduced


def test_numpy_1s_spelling_opens() -> None:
    generator = np.random.default_rng(3)
    for constructor in (("PCG64",), ("PCG64", make_bits)):
        found = safe.loads(pickle.dumps(Numpy1(generator.bit_generator.state, *constructor)), own=True)
        assert drawn(found) == drawn(np.random.default_rng(3))


@pytest.mark.parametrize("name", [name for name in GENERATORS if "random.Random" not in name])
def test_in_a_file_of_rllibs_they_are_described(name: str) -> None:
    generator = GENERATORS[name]()
    for data in (pickle.dumps(generator), dumped(generator)[0]):
        found = known.plain(safe.loads(data))
        assert type(found) is dict
        assert found["bit_generator"] in BITS
        if isinstance(generator, np.random.Generator):
            assert found["random"] == "Generator"


def test_a_scan_sees_no_code_in_them() -> None:
    data, _ = dumped([make() for make in [*GENERATORS.values(), *ARRAYS.values()]])
    assert {use.name for use in scan_bytes("state.pkl", data) if use.rank == "code"} == set()


# ---- arrays


def _records() -> Any:
    return np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])


def _hard() -> Any:
    return np.ma.MaskedArray(np.arange(4.0), np.arange(4) % 2 == 1, fill_value=-1, hard_mask=True)


def _strings(**how: Any) -> Any:
    kind: Any = getattr(getattr(np, "dtypes", None), "StringDType", None)
    return np.array(["a", "bbb", "é" * 1000], dtype=kind(**how) if kind else "U")


ARRAYS: dict[str, Callable[[], Any]] = {
    "masked": lambda: np.ma.masked_array([1, 2, 3], [False, True, False]),
    "masked without a mask": lambda: np.ma.masked_array(np.arange(3)),
    "masked, large": lambda: np.ma.masked_array(np.arange(100_000.0), np.arange(100_000) % 3 == 0),
    "masked, strided": lambda: np.ma.masked_greater(np.arange(12).reshape(3, 4), 5)[:, ::2],
    "masked records": lambda: np.ma.masked_array(np.zeros(2, "i4,f8"), [(False, True), (True, False)]),
    "masked objects": lambda: np.ma.masked_array(np.array([1, "x"], object), [True, False]),
    "masked, 0-d": lambda: np.ma.masked_array(3.0, True),
    "hard": _hard,
    "records": _records,
    "one field of records": lambda: _records().a,
    "matrix": lambda: np.matrix([[1, 2], [3, 4]]),
    "large matrix": lambda: np.matrix(np.arange(40_000).reshape(200, 200)),
    "strings": _strings,
    "strings, none missing": lambda: _strings(na_object=None),
    "strings, not coerced": lambda: _strings(coerce=False),
}  # fmt: skip


@readers
@pytest.mark.parametrize("name", ARRAYS)
def test_kinds_of_arrays(name: str, read: Any) -> None:
    array = ARRAYS[name]()
    found = read(*dumped({"a": array, "again": array}))
    assert found["again"] is found["a"]
    found = found["a"]
    assert type(found) is type(array)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    if isinstance(array, np.ma.MaskedArray):
        assert np.array_equal(found.mask, array.mask)
        assert (found.mask is np.ma.nomask) == (array.mask is np.ma.nomask)
        assert found.hardmask == array.hardmask
        assert repr(found.fill_value) == repr(array.fill_value)
        found, array = found.data, array.data
    assert found.tolist() == array.tolist()
    found[...] = array[...]  # writable


def test_missing_text() -> None:
    if not hasattr(np, "dtypes") or not hasattr(np.dtypes, "StringDType"):
        pytest.skip("numpy 1 has no such type")
    for missing in (None, float("nan"), "missing"):
        array = np.array(["a", missing], dtype=np.dtypes.StringDType(na_object=missing))
        found = safe.loads(dumped(array)[0], own=True)
        assert str(found.tolist()) == str(array.tolist())
        assert repr(found.dtype) == repr(array.dtype)


@readers
def test_memory_maps_are_arrays(tmp_path: Path, read: Any) -> None:
    buffer = np.memmap(tmp_path / "buffer.bin", dtype="f4", mode="w+", shape=(10_000, 4))
    buffer[:] = np.arange(40_000).reshape(10_000, 4)
    data, regions = dumped({"all": buffer, "some": buffer[5:9], "strided": buffer[:, ::2]})
    assert len(regions) == 2  # indexed as any other array
    for name, found in read(data, regions).items():
        assert type(found) is np.ndarray
        expected = {"all": buffer, "some": buffer[5:9], "strided": buffer[:, ::2]}[name]
        np.testing.assert_array_equal(found, np.asarray(expected))


def test_the_constant_of_masked_arrays() -> None:
    assert safe.loads(dumped(np.ma.masked)[0], own=True) is np.ma.masked


def test_what_a_release_before_wrote_opens(tmp_path: Path) -> None:
    """Memory maps, records and matrices as numpy spells them."""
    buffer = np.memmap(tmp_path / "buffer.bin", dtype="f4", mode="w+", shape=(4,))
    for array in (buffer, _records(), np.matrix([[1]])):
        found = safe.loads(pickle.dumps(array), own=True)
        assert type(found) is (np.ndarray if isinstance(array, np.memmap) else type(array))
        assert found.tolist() == array.tolist()


# ---- lies


class Lie:
    """Pickles as it was told."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


MT: Any = np.random.MT19937(1).state
PHILOX: Any = np.random.Philox(1).state
PCG: Any = np.random.PCG64(1).state
SEED: Any = np.random.SeedSequence(3).__reduce__()
WORDS: Any = random.Random(1).getstate()[1]


def changed(given: Any, /, **fields: Any) -> Any:
    return {**given, **fields}


def inner(given: Any, /, **fields: Any) -> Any:
    return {**given, "state": {**given["state"], **fields}}


KEY = MT["state"]["key"]
STATES: list[tuple[type, Any]] = [
    *((np.random.MT19937, inner(MT, pos=pos)) for pos in (625, 10**6, -1, 2**70, 1.5, None, np.arange(2))),
    *((np.random.MT19937, inner(MT, key=key)) for key in (KEY[:600], np.zeros(624), [1] * 624, None)),
    (np.random.MT19937, {}),
    (np.random.MT19937, []),
    (np.random.MT19937, changed(MT, bit_generator="PCG64")),
    (np.random.MT19937, changed(MT, state=3)),
    *((np.random.Philox, changed(PHILOX, buffer_pos=pos)) for pos in (5, -1, 2**40)),
    *((np.random.Philox, inner(PHILOX, key=np.zeros(n, k))) for n, k in ((1, "u8"), (3, "u8"), (2, "f8"))),
    (np.random.Philox, changed(PHILOX, buffer=np.zeros(3, "u8"))),
    *((np.random.PCG64, inner(PCG, state=number)) for number in (2**128, -1, "1", 10**5000)),
    (np.random.PCG64, changed(PCG, has_uint32=7)),
    (np.random.PCG64, changed(PCG, uinteger=2**32)),
    (np.random.SFC64, PCG),
]


@pytest.mark.parametrize("index", range(len(STATES)))
def test_a_state_that_lies_makes_no_generator(index: int) -> None:
    kind, state = STATES[index]
    for lie in (
        Lie(kind, (np.random.SeedSequence(1),), state),
        Lie(make_bits, (kind,), (state, None)),
        Lie(make_bits, (kind.__name__,), state),
        Lie(make_random_state, (kind.__name__,), state),
        Numpy1(state, kind.__name__),
    ):
        found = safe.loads(pickle.dumps({"v": lie, "beside": 1}), own=True)
        assert isinstance(found["v"], Opaque)
        assert found["beside"] == 1


@pytest.mark.parametrize(
    "lie",
    [
        Lie(random.Random, (), (3, (*WORDS[:-1], 625), None)),
        Lie(random.Random, (), (3, (*WORDS[:-1], -1), None)),
        Lie(random.Random, (), (3, WORDS[:-1], None)),
        Lie(random.Random, (), (2, WORDS, None)),
        Lie(random.Random, (), (3, (2**32, *WORDS[1:]), None)),
        Lie(random.Random, (), (3, WORDS, "x")),
        Lie(random.Random, (1,), (3, WORDS, None)),
        Lie(np.random.Generator, ("PCG64",)),
        Lie(np.random.Generator, ()),
        Lie(SEED[0], SEED[1], (3, 0, None, 10**9, ())),
        Lie(SEED[0], SEED[1], (3, -1, None, 4, ())),
        Lie(SEED[0], SEED[1], (-3, 0, None, 4, ())),
        Lie(SEED[0], SEED[1], (2**100_000, 0, None, 4, ())),
        Lie(SEED[0], SEED[1], (np.zeros(10**5, "u4"), 0, None, 4, ())),
        Lie(np.ma.MaskedArray, (np.zeros(3), np.zeros(4, bool), None, False, True, 0, None, True, False)),
        Lie(np.ma.MaskedArray, (np.zeros(3), np.zeros(3), None, False, True, 0, None, True, False)),
        Lie(np.ma.MaskedArray, (np.zeros(3), np.ma.nomask, "O", False, True, 0, None, True, False)),
        Lie(np.ma.MaskedArray, ("abc", np.ma.nomask, None, False, True, 0, None, True, False)),
        Lie(np.ma.MaskedArray, (np.zeros(3),)),
    ],
)
def test_a_call_that_lies_makes_nothing(lie: Lie) -> None:
    found = safe.loads(pickle.dumps({"v": lie, "beside": 1}), own=True)
    assert isinstance(found["v"], Opaque)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (np.matrix, (1, (2, 2), np.dtype("f8"), False, bytes(24))),
        (np.matrix, (1, (2, 2, 2), np.dtype("f8"), False, bytes(64))),  # what numpy itself refuses
        (np.recarray, (1, (2**40,), np.dtype("f8"), False, bytes(8))),
        (np.memmap, (1, (-1,), np.dtype("f8"), False, bytes(8))),
        (np.memmap, "state"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(kind: Any, state: Any) -> None:
    with pytest.raises(UnsafeContent):
        safe.loads(pickle.dumps(Lie(*np.matrix([[1]]).__reduce__()[:1], (kind, (0,), b"b"), state)), own=True)


def test_many_of_one_state_are_bounded() -> None:
    state = np.random.MT19937(1).state
    data = pickle.dumps([Lie(np.random.MT19937, (np.random.SeedSequence(1),), state) for _ in range(60_000)])
    with pytest.raises(UnsafeContent, match="more memory"):
        safe.loads(data, own=True)
