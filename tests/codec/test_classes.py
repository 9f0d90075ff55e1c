"""Listed classes are made of their fields, by no method of theirs, and nothing else is made."""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import enum
import importlib
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore, InvalidRequest, Opaque, UnsafeContent
from ckptstore.codec.pickles import safe
from ckptstore.codec.pickles.classes import Classes
from tests.codec import hostile
from tests.codec.opcodes import plain
from tests.codec.support import dumped


@dataclasses.dataclass
class Config:
    lr: float
    layers: list[int] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        raise AssertionError("never called")


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int
    b: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    a: int
    b: str


class Point(NamedTuple):
    x: Any
    y: Any


Old = collections.namedtuple("Old", "a b")


class Phase(enum.Enum):
    WARM_UP = "warm up"
    TRAIN = (1, 2)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Can(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Plain:
    def __init__(self, name: str) -> None:
        self.name = name


class WithSlots:
    __slots__ = ("_hidden", "a", "never")

    def __init__(self) -> None:
        self.a = 1
        self._hidden = [2]


class Both(WithSlots):
    def __init__(self) -> None:
        super().__init__()
        self.more = 3


class Private:
    __slots__ = ("__secret",)

    def __init__(self) -> None:
        self.__secret = 5

    def tell(self) -> int:
        return self.__secret


class Registry(dict):  # type: ignore[type-arg]
    def __setitem__(self, key: Any, value: Any) -> None:
        raise AssertionError("never called")


class History(list):  # type: ignore[type-arg]
    tag: str

    def extend(self, items: Any) -> None:
        raise AssertionError("never called")

    append = extend


class Name(str):
    __slots__ = ()


class Metre(float):
    pass


class Meddler:
    """Every hook that could run, runs nothing."""

    def __new__(cls, *args: Any) -> Any:
        raise AssertionError("never called")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError("never called")

    def __getattribute__(self, name: str) -> Any:
        if name in ("__dict__", "__class__", "x"):
            return object.__getattribute__(self, name)
        raise AssertionError("never called")

    @property
    def y(self) -> int:
        raise AssertionError("never called")

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("never called")


class Cyclic:
    def __init__(self) -> None:
        self.me = self
        self.all = [self]


def registry() -> Registry:
    made = Registry()
    dict.update(made, {"a": 1, (1, 2): [3]})
    return made


def history() -> History:
    made = History()
    list.extend(made, [1, [2]])
    made.tag = "x"
    return made


def config() -> Config:
    made = object.__new__(Config)
    made.lr, made.layers = 0.1, [64, 64]
    return made


VALUES: dict[str, Callable[[], Any]] = {
    "dataclass": config,
    "frozen": lambda: Frozen(1, (2, Frozen(3))),
    "frozen, with slots": lambda: Slotted(1, "x"),
    "named tuple": lambda: Point([1], Point(2, None)),
    "named tuple of collections": lambda: Old(1, b="x"),
    "enum": lambda: [Phase.WARM_UP, Phase.TRAIN],
    "int enum": lambda: [Level.LOW, Level.HIGH],
    "flags": lambda: [Can.READ, Can.READ | Can.WRITE],
    "keys": lambda: {Phase.TRAIN: 1, Frozen(1): 2, Point(1, 2): 3, (Level.LOW, 1): 4},
    "members": lambda: {Phase.TRAIN, Frozen(1), Point(1, 2)},
    "text": lambda: Name("x"),
    "number": lambda: Metre(1.5),
}
LISTED = [
    Config, Frozen, Slotted, Point, Old, Phase, Level, Can, Plain, WithSlots, Both, Private, Registry,
    History, Name, Metre, Meddler, Cyclic,
]  # fmt: skip


def load(value: Any, *classes: type) -> Any:
    data, _ = dumped(value)
    return safe.loads(data, own=True, classes=Classes(classes or LISTED))


@pytest.mark.parametrize("name", VALUES)
def test_they_come_back(name: str) -> None:
    value = VALUES[name]()
    found = load({"v": value, "again": value, "beside": 1})
    assert found["v"] == value
    assert type(found["v"]) is type(value)
    assert found["again"] is found["v"] or isinstance(value, enum.Enum)
    if not isinstance(value, (dict, set, list)):
        assert isinstance(safe.loads(dumped(value)[0], own=True), Opaque)


def test_objects_come_back() -> None:
    found = load([Plain("a"), WithSlots(), Both(), Private(), registry(), history(), Cyclic()])
    assert found[0].name == "a"
    assert (found[1].a, found[1]._hidden, hasattr(found[1], "never")) == (1, [2], False)
    assert (found[2].a, found[2].more) == (1, 3)
    assert found[3].tell() == 5
    assert type(found[4]) is Registry
    assert found[4] == {"a": 1, (1, 2): [3]}
    assert type(found[5]) is History
    assert (found[5], found[5].tag) == ([1, [2]], "x")
    assert found[6].me is found[6].all[0] is found[6]


def test_no_method_is_run() -> None:
    found = safe.loads(pickle.dumps(Lie(Meddler, (), {"x": 1, "y": 2})), classes=Classes([Meddler]))
    assert type(found) is Meddler
    assert vars(found) == {"x": 1, "y": 2}


def test_what_is_not_listed_stays_a_record() -> None:
    found = load({"a": Frozen(1), "b": Point(1, 2), "c": Phase.TRAIN, "d": Plain("x")}, Frozen)
    assert found["a"] == Frozen(1)
    assert all(isinstance(found[key], Opaque) for key in "bcd")


def test_arrays_and_generators_inside() -> None:
    found = load(Plain(np.arange(3)), Plain)  # type: ignore[arg-type]
    assert found.name.tolist() == [0, 1, 2]


def test_classes_of_a_script_are_known_by_name() -> None:
    """cloudpickle writes those of `__main__` with their code, which isn't run."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "import dataclasses, enum\n"
        "@dataclasses.dataclass\nclass Local:\n  a: int\n"
        "class Mode(enum.Enum):\n  ON = 1\n"
        "value = {'v': Local(3), 'again': Local(4), 'm': Mode.ON}",
        names,
    )
    for read_by in (names, dict(names)):
        found = load(names["value"], read_by["Local"], read_by["Mode"])
        assert found["v"] == read_by["Local"](3)
        assert found["again"].a == 4
        assert found["m"] is names["Mode"].ON
    assert isinstance(load(names["value"], Plain)["v"], Opaque)


# ---- what doesn't fit, and lies


class Lie:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


class Raises:
    def __new__(cls) -> Any:
        raise RuntimeError("a constructor")


class Abstract(abc.ABC):
    @abc.abstractmethod
    def act(self) -> None: ...


class Reduced:
    def __reduce__(self) -> Any:
        return Reduced, (1, 2)


@pytest.mark.parametrize(
    "lie",
    [
        Lie(Point, (1,)),
        Lie(Point, (1, 2, 3)),
        Lie(Phase, ("no such",)),
        Lie(Phase, ()),
        Lie(Level, (True,)),
        Lie(Level, (1.0,)),
        Lie(Can, (64,)),
        Lie(getattr, (Phase, "mro")),
        Lie(getattr, (Phase, "_missing_")),
        Lie(getattr, (Plain, "__init__")),
        Lie(getattr, (Phase,)),
        Lie(Plain, ("by its constructor",)),
        Lie(Name, (1,)),
        Lie(Name, ()),
        Lie(Metre, (1,)),
        Lie(Plain, (), [1]),
        Lie(Plain, (), "state"),
        Lie(Plain, (), {1: 2}),
        Lie(WithSlots, (), {"no": 1}),
        Lie(WithSlots, (), (None, {"no": 1})),
        Lie(Slotted, (), [1]),
        Lie(Phase, ("warm up",), {"_value_": "changed"}),
        Lie(Abstract, ()),
        Reduced(),
    ],
)
def test_what_does_not_fit_stays_a_record(lie: Any) -> None:
    found = safe.loads(pickle.dumps({"v": lie, "beside": 1}), classes=Classes([*LISTED, Abstract, Reduced]))
    assert isinstance(found["v"], Opaque)
    assert found["beside"] == 1
    assert Phase("warm up").value == "warm up"


def test_a_class_whose_constructor_raises_is_made_without_it() -> None:
    data = pickle.dumps(Lie(Raises, (), {"a": 1}))
    assert vars(safe.loads(data, classes=Classes([Raises]))) == {"a": 1}


class BadHash:
    def __hash__(self) -> int:
        raise RuntimeError("no hash")


def test_a_hash_that_raises_is_refused() -> None:
    data = b"\x80\x04}" + pickle.dumps(Lie(BadHash, ()))[2:-1] + b"K\x01s."
    with pytest.raises(UnsafeContent, match="no hash"):
        safe.loads(data, classes=Classes([BadHash]))


def test_a_key_of_many_instances_is_refused() -> None:
    """Each holds the one before twice: its hash would take 2**60 steps."""
    value: Any = ()
    for _ in range(60):
        value = Lie(Frozen, (), {"a": value, "b": value})
    data = b"\x80\x04}" + pickle.dumps(value)[2:-1] + b"K\x01s."
    with pytest.raises(UnsafeContent, match="too large to hash"):
        safe.loads(data, classes=Classes([Frozen]))


def test_what_is_no_class_is_refused(tmp_path: Any) -> None:
    saved = CheckpointStore(tmp_path).save(1, {"a": 1})
    for classes in (["Plain"], [Plain("x")], [Plain, type("Plain", (), {"__module__": __name__})]):
        with pytest.raises(InvalidRequest, match="classes"):
            saved.load(classes=classes)  # type: ignore[arg-type]


def test_every_part_of_a_checkpoint(tmp_path: Any) -> None:
    saved = CheckpointStore(tmp_path).save(1, {"a": Frozen(1)}, {"p": {"a": Frozen(2)}}, {"c": Frozen(3)})
    found = saved.load(classes=[Frozen])
    assert (found.state["a"], found.policies["p"]["a"], found.components["c"]) == (
        Frozen(1),
        Frozen(2),
        Frozen(3),
    )
    assert saved.load(classes=Frozen).state["a"] == Frozen(1)  # type: ignore[arg-type]
    assert isinstance(saved.state["a"], Opaque)


def test_what_rllib_wrote_is_data(tmp_path: Any) -> None:
    from pathlib import Path

    theirs = Checkpoint.open(Path(__file__).parents[1] / "data/rllib_1_0_ppo_multi5/checkpoint")
    with pytest.raises(InvalidRequest, match="classes"):
        theirs.load(classes=[Frozen])


class Traced:
    """Tells of whatever of it is run."""

    ran: ClassVar[list[str]] = []

    def __new__(cls, *args: Any, **how: Any) -> Any:
        cls.ran.append("__new__")
        return object.__new__(cls)

    def __init__(self, *args: Any, **how: Any) -> None:
        self.ran.append("__init__")

    def __call__(self, *args: Any, **how: Any) -> None:
        self.ran.append("__call__")

    def __setattr__(self, name: str, value: Any) -> None:
        self.ran.append("__setattr__")

    def __setstate__(self, state: Any) -> None:
        self.ran.append("__setstate__")

    def __reduce__(self) -> Any:
        self.ran.append("__reduce__")
        return Traced, ()

    @classmethod
    def __class_getitem__(cls, item: Any) -> Any:
        cls.ran.append("__class_getitem__")

    def append(self, item: Any) -> None:
        self.ran.append("append")

    def extend(self, items: Any) -> None:
        self.ran.append("extend")

    def __setitem__(self, key: Any, value: Any) -> None:
        self.ran.append("__setitem__")


@pytest.mark.parametrize("dotted", ["subprocess.Popen", "threading.Thread", "logging.FileHandler", "Traced"])
def test_no_way_to_call_a_listed_class_runs_it(dotted: str) -> None:
    """Those of the hostile generator: every opcode that calls, in every place."""
    if dotted == "Traced":
        kind: Any = Traced
        dotted, args = f"{__name__}.Traced", (1, "x")
    else:
        module, _, name = dotted.rpartition(".")
        kind, args = getattr(importlib.import_module(module), name), hostile.TARGETS[dotted]
    before = threading.active_count()
    count = 0
    for _, pushed in hostile.ways(dotted, args):
        for end in (b"", b"}b", b"(K\x01K\x02u", b"(K\x01e", b"K\x01a", b"}" + plain("a") + b"K\x01sb"):
            for head, tail in hostile.PLACES.values():
                count += 1
                with contextlib.suppress(UnsafeContent):
                    safe.loads(
                        b"\x80\x04" + head + pushed + end + tail + b".", own=True, classes=Classes([kind])
                    )
    assert count > 500
    assert not Path(hostile.MARKER).exists()
    assert threading.active_count() == before
    assert Traced.ran == []
