"""Every kind of value: equal by default, with `classes`, with `trusted`, or a record that the save told of.

None comes back as something else in silence, and a plain `pickle.load` gives them all.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import enum
import fractions
import functools
import logging
import operator
import pathlib
import pickle
import random
import re
import types
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore, InvalidRequest, Opaque

Outcome = Literal["default", "classes", "trusted"]


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int
    b: str = "b"


@dataclasses.dataclass
class Config:
    lr: float
    sizes: list[int]


class Point(NamedTuple):
    x: Any
    y: Any


class Phase(enum.Enum):
    WARM_UP = "warm up"


class Level(enum.IntEnum):
    LOW = 1


class Can(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Plain:
    def __init__(self, name: Any) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Name(str):
    __slots__ = ()


class Registry(dict):  # type: ignore[type-arg]
    pass


class Reduced:
    """Has a way of its own to be pickled, which only runs if it is trusted."""

    def __init__(self, a: int) -> None:
        self.a = a

    def __reduce__(self) -> Any:
        return Reduced, (self.a,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reduced) and other.a == self.a

    __hash__ = None  # type: ignore[assignment]


CLASSES = [Frozen, Config, Point, Phase, Level, Can, Plain, Name, Registry, Reduced]


def aliases() -> Any:
    shared = [1]
    return [shared, shared, {"k": shared}]


def cycle() -> Any:
    made: list[Any] = [1]
    made.append({"me": made})
    return made


def nested() -> Any:
    made: Any = 0
    for _ in range(200):
        made = [made]
    return made


def attributes() -> Any:
    made: Any = OrderedDict(a=1)
    made._metadata = {"version": 1}
    return made


def readonly() -> Any:
    made = np.arange(3)
    made.flags.writeable = False
    return made


VALUES: dict[str, tuple[Callable[[], Any], Outcome]] = {
    # Scalars
    "None": (lambda: None, "default"),
    "bool": (lambda: [True, False], "default"),
    "int": (lambda: [0, -1, 2**63, -(2**300)], "default"),
    "a very long int": (lambda: 10**400, "default"),
    "float": (lambda: [0.0, -0.0, 1e300, float("inf")], "default"),
    "nan": (lambda: float("nan"), "default"),
    "complex": (lambda: 1 + 2j, "default"),
    "str": (lambda: ["", "é", "\ud800", "x" * 100_000], "default"),
    "bytes": (lambda: [b"", b"\0\xff", b"x" * 100_000], "default"),
    "bytearray": (lambda: bytearray(b"abc"), "default"),
    "Decimal": (lambda: [Decimal("1.10"), Decimal("NaN")], "default"),
    "Fraction": (lambda: fractions.Fraction(1, 3), "default"),
    "date": (lambda: datetime.date(2026, 12, 1), "default"),
    "time": (lambda: datetime.time(1, 2, 3, 4), "default"),
    "datetime": (lambda: datetime.datetime(2026, 12, 1, 2, 3), "default"),
    "datetime, aware": (lambda: datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC), "default"),
    "timedelta": (lambda: datetime.timedelta(1, 2, 3), "default"),
    "timezone": (lambda: datetime.timezone(datetime.timedelta(hours=2), "here"), "default"),
    "UUID": (lambda: uuid.UUID(int=7), "default"),
    "path": (lambda: pathlib.Path("a/b"), "default"),
    "pure path": (lambda: [pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("c:/d")], "default"),
    "range": (lambda: range(1, 9, 2), "default"),
    "slice": (lambda: slice(1, None, 2), "default"),
    "Ellipsis": (lambda: [Ellipsis, NotImplemented], "default"),
    # Containers
    "list": (lambda: [1, [2, [3]]], "default"),
    "tuple": (lambda: (1, (2, (3,)), ()), "default"),
    "dict": (lambda: {"a": {"b": 1}}, "default"),
    "set": (lambda: {1, "a", (2,)}, "default"),
    "frozenset": (lambda: frozenset({1, 2}), "default"),
    "OrderedDict": (lambda: OrderedDict(b=1, a=2), "default"),
    "OrderedDict with attributes": (attributes, "default"),
    "defaultdict": (lambda: defaultdict(list, a=[1]), "default"),
    "defaultdict of a lambda": (lambda: defaultdict(lambda: 0, a=1), "trusted"),
    "Counter": (lambda: Counter("aab"), "default"),
    "deque": (lambda: deque([1, 2], 5), "default"),
    "int keys": (lambda: {1: "a", -5: "b"}, "default"),
    "tuple keys": (lambda: {(1, "a"): 1, ((2,), None): 2}, "default"),
    "keys of every type": (
        lambda: {None: 1, True: 2, 2.5: 3, b"x": 4, 1j: 5, frozenset({1}): 6, Decimal(7): 7, "s": 8},
        "default",
    ),
    "aliases": (aliases, "default"),
    "a cycle": (cycle, "default"),
    "depth": (nested, "default"),
    # Arrays
    "array": (lambda: np.arange(6.0).reshape(2, 3), "default"),
    "large array": (lambda: np.arange(100_000), "default"),
    "Fortran": (lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)), "default"),
    "strided": (lambda: np.arange(10)[::3], "default"),
    "read-only": (readonly, "default"),
    "0-d": (lambda: np.array(2.5), "default"),
    "empty": (lambda: np.zeros((0, 3)), "default"),
    "big-endian": (lambda: np.arange(3, dtype=">i4"), "default"),
    "text": (lambda: np.array(["é", "xyz"]), "default"),
    "bytes of fixed length": (lambda: np.array([b"a", b"bc"]), "default"),
    "datetime64": (lambda: np.arange(3).astype("M8[ms]"), "default"),
    "structured": (lambda: np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]), "default"),
    "objects": (lambda: np.array([1, "x", None, [1]], object), "default"),
    "objects of a class": (lambda: np.array([Frozen(1)], object), "classes"),
    "bfloat16": (lambda: np.arange(3).astype(ml_dtypes.bfloat16), "default"),
    "masked": (lambda: np.ma.masked_array([1, 2], [False, True]), "default"),
    "records": (lambda: np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "default"),
    "numpy scalars": (lambda: [np.float32(1.5), np.int64(-1), np.bool_(True), np.str_("é")], "default"),
    "numpy times": (lambda: np.datetime64("2026-12-01"), "default"),
    "long double": (lambda: np.longdouble("0.1"), "default"),
    "dtype": (lambda: [np.dtype("f4"), np.dtype(">M8[us]"), np.dtype([("a", "i4")])], "default"),
    "array.array": (lambda: array.array("d", [1, 2]), "trusted"),
    # Random generators
    "Generator": (lambda: np.random.default_rng(3), "default"),
    "RandomState": (lambda: np.random.RandomState(3), "default"),
    "bit generator": (lambda: np.random.Philox(3), "default"),
    "random.Random": (lambda: random.Random(3), "default"),
    # Classes and objects
    "dataclass": (lambda: Config(0.1, [1]), "classes"),
    "frozen dataclass": (lambda: Frozen(1), "classes"),
    "dataclass as a key": (lambda: {Frozen(1): 1}, "classes"),
    "named tuple": (lambda: Point(1, [2]), "classes"),
    "enum": (lambda: Phase.WARM_UP, "classes"),
    "int enum": (lambda: Level.LOW, "classes"),
    "flag": (lambda: Can.READ | Can.WRITE, "classes"),
    "enum as a key": (lambda: {Phase.WARM_UP: 1}, "classes"),
    "object": (lambda: Plain("x"), "classes"),
    "subclass of str": (lambda: Name("x"), "classes"),
    "subclass of dict": (lambda: Registry(a=1), "classes"),
    "object in a set": (lambda: {Plain("x")}, "classes"),
    "object deep down": (lambda: {"a": [{"b": (1, Plain("x"))}]}, "classes"),
    "object with a reducer": (lambda: Reduced(3), "trusted"),
    "class": (lambda: Plain, "trusted"),
    "builtin class": (lambda: [int, collections.OrderedDict], "trusted"),
    "type of a scalar": (lambda: np.float32, "trusted"),
    "function": (lambda: operator.add, "trusted"),
    "function of numpy": (lambda: np.mean, "trusted"),
    "ufunc": (lambda: np.add, "trusted"),
    "partial": (lambda: functools.partial(operator.add, 1), "trusted"),
    "namespace": (lambda: types.SimpleNamespace(a=1), "trusted"),
    "zone": (lambda: datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), "trusted"),
    "pattern": (lambda: re.compile("a+"), "trusted"),
    "exception": (lambda: ValueError("x"), "trusted"),
    "UserDict": (lambda: collections.UserDict(a=1), "trusted"),
    "property of a trainer": (lambda: operator.itemgetter(1), "trusted"),
}  # fmt: skip


def same(a: Any, b: Any, seen: set[tuple[int, int]] | None = None) -> bool:
    """Equal in type and in all they hold."""
    seen = set() if seen is None else seen
    if (id(a), id(b)) in seen:
        return True
    seen.add((id(a), id(b)))
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ma.MaskedArray,)):
        return same(a.data, b.data) and bool(np.array_equal(a.mask, b.mask))
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape or a.flags.writeable != b.flags.writeable:
            return False
        if a.dtype.hasobject:
            return all(same(x, y) for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
        return bool(a.tobytes() == b.tobytes())
    if isinstance(a, np.random.Generator):
        return str(a.bit_generator.state) == str(b.bit_generator.state)
    if isinstance(a, np.random.RandomState):
        return str(a.get_state()) == str(b.get_state())
    if isinstance(a, np.random.BitGenerator):
        return str(a.state) == str(b.state)
    if isinstance(a, random.Random):
        return bool(a.getstate() == b.getstate())
    if isinstance(a, dict):
        return (
            list(a) == list(b)
            and all(type(x) is type(y) for x, y in zip(a, b, strict=True))
            and all(same(a[key], b[key], seen) for key in a)
            and getattr(a, "__dict__", None) == getattr(b, "__dict__", None)
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y, seen) for x, y in zip(a, b, strict=True))
    if isinstance(a, deque):
        return a.maxlen == b.maxlen and list(a) == list(b)
    if isinstance(a, (functools.partial, BaseException, operator.itemgetter)):
        return repr(a) == repr(b)
    return bool(a == b) or (a != a and b != b)


def holds_record(value: Any, deep: int = 0) -> bool:
    if isinstance(value, Opaque):
        return True
    if deep > 20:
        return False
    if isinstance(value, dict):
        return any(holds_record(item, deep + 1) for pair in value.items() for item in pair)
    if isinstance(value, np.ndarray):
        return value.dtype.hasobject and holds_record(value.ravel().tolist(), deep + 1)
    return isinstance(value, (list, tuple, set)) and any(holds_record(item, deep + 1) for item in value)


def plainly(checkpoint: Checkpoint) -> Any:
    with checkpoint.as_directory() as directory, open(f"{directory}/algorithm_state.pkl", "rb") as file:
        return pickle.load(file)["v"]


def test_there_are_many() -> None:
    assert len(VALUES) >= 70


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", VALUES)
def test_it_comes_back_or_is_told_of(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, outcome = VALUES[name]
    value = make()
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}/run")
    with caplog.at_level(logging.WARNING, "ckptstore"):
        saved = store.save(1, {"v": value, "beside": 1})
    told = [record.getMessage() for record in caplog.records if "records (Opaque)" in record.getMessage()]
    found = saved.state["v"]
    assert saved.state["beside"] == 1
    if outcome == "default":
        assert same(found, value)
        assert told == []
    else:
        assert holds_record(found)
        assert len(told) == 1
        assert "state['v']" in told[0]
    listed = saved.load(classes=CLASSES).state["v"]
    assert holds_record(listed) if outcome == "trusted" else same(listed, value)
    if name != "defaultdict of a lambda":
        assert same(saved.load(trusted=True).state["v"], value)
        assert same(plainly(saved), value)
    else:
        assert saved.load(trusted=True).state["v"] == plainly(saved) == value
    if outcome != "default":
        with pytest.raises(InvalidRequest, match=r"state\['v'\].*Opaque"):
            store.save(2, {"v": value, "beside": 1}, opaque="error")
        assert [each.step for each in store.checkpoints()] == [1]
    else:
        store.save(2, {"v": value, "beside": 1}, opaque="error")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("name", [name for name, (_, outcome) in VALUES.items() if outcome == "default"])
def test_a_scan_of_what_comes_back_finds_data(name: str, store: CheckpointStore) -> None:
    saved = store.save(1, {"v": VALUES[name][0]()})
    assert {use.rank for use in saved.scan()} <= {"data"}


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(f"memory://{uuid.uuid4().hex}/run")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "Opaque" in record.getMessage()]


def test_it_is_said_once_with_its_path(store: CheckpointStore, caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {
        "state": {"a": {"deep": [0, Plain(1)]}, 7: Phase.WARM_UP},
        "policies": {"p": {"config": Config(1, [])}},
        "components": {"c": (Frozen(1),)},
    }
    for step in range(3):
        store.save(step, **given) if step else store.save_async(step, **given).result()
    text = " ".join(warnings_of(caplog))
    for path in (
        "state['a']['deep'][1] (",
        "state[7] (",
        "policies['p']['config'] (",
        "components['c'][0] (",
    ):
        assert text.count(path) == 1
    assert "tests.test_what_comes_back.Plain" in text
    caplog.clear()
    store.save(9, {"new": Point(1, 2), "old": Plain(2)})  # another kind is said again
    assert len(warnings_of(caplog)) == 1


def test_nothing_is_said_where_it_is_allowed(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(1, {"a": Plain(1)}, opaque="allow")
    store.save_async(2, {"a": Plain(1)}, opaque="allow").result()
    assert warnings_of(caplog) == []
    with pytest.raises(InvalidRequest, match="opaque"):
        store.save(3, {"a": 1}, opaque="maybe")  # type: ignore[arg-type]


def test_an_error_comes_before_the_first_byte(store: CheckpointStore) -> None:
    for save in (store.save, store.save_async):
        for part in ("state", "policies", "components"):
            given: dict[str, Any] = {part: {"x": Plain(1)}}
            with pytest.raises(InvalidRequest, match=f"{part}\\['x'\\]"):
                save(1, opaque="error", **given)
    assert store.latest() is None


def test_a_record_that_is_saved_again_is_no_loss(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    record = store.save(1, {"a": Plain(1)}, opaque="allow").state["a"]
    assert store.save(2, {"a": record}, opaque="error").state["a"] == record
    assert warnings_of(caplog) == []


def test_large_arrays_are_not_copied_to_find_out(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    import tracemalloc

    big = np.zeros(8_000_000)
    tracemalloc.start()
    try:
        from ckptstore.save.opaque import find

        found = find({"big": big, "b": Plain(1)})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [path for path, _ in found] == ["['b']"]
    assert peak < big.nbytes / 8
