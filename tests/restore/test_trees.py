"""Trees are rebuilt like the target, and what doesn't fit is named; numpy alone."""

from __future__ import annotations

import collections
import dataclasses
import enum
import random
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore, InvalidRequest, UnreadableFormat

FROM_RAY = Path(__file__).parents[1] / "data/rllib_1_0_ppo_multi5/checkpoint"


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(f"memory://{uuid.uuid4().hex}/run")


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass
class Config:
    rate: Any
    name: str = "x"
    act: Callable[[], int] = lambda: 1

    def __post_init__(self) -> None:
        if self.name == "never":
            raise AssertionError("no constructor is run")


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int
    b: Any = None


class Phase(enum.Enum):
    START = 1
    END = "end"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Plain:
    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)

    def __eq__(self, other: object) -> bool:
        return type(other) is Plain and str(vars(other)) == str(vars(self))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Plain({vars(self)})"


def other_phase() -> Any:
    functional: Any = enum.Enum
    return functional("Phase", "START").START


Other = collections.namedtuple("Other", "x y")


class Counts(dict):  # type: ignore[type-arg]
    pass


FITS: dict[str, tuple[Any, Any]] = {
    # what is saved, and a target of its shape
    "array": (np.arange(3), np.zeros(3, np.int64)),
    "scalar of numpy": (np.float32(2.5), np.float32(0)),
    "array without dimensions": (np.array(3), np.array(0)),
    "number": (3, 0),
    "an int for a float": (3, 0.0),
    "numpy's for Python's": (np.float64(0.5), 0.0),
    "text": ("a", ""),
    "None for text": (None, "x"),
    "a number for None": (2.5, None),
    "dict": ({"a": {"b": np.ones(2)}}, {"a": {"b": np.zeros(2)}}),
    "an empty dict": ({"a": 1}, {}),
    "list of numbers": ([1, 2, 3], []),
    "list of arrays": ([np.ones(2), np.zeros(1)], [np.zeros(2), np.ones(1)]),
    "tuple": ((1, (np.ones(1),)), (0, (np.zeros(1),))),
    "deque": (collections.deque([1, 2], 3), collections.deque(maxlen=5)),
    "set": ({1, 2}, set()),
    "OrderedDict": (collections.OrderedDict(a=1), collections.OrderedDict(a=0)),
    "defaultdict": (collections.defaultdict(list, a=[1]), collections.defaultdict(list, a=[])),
    "Counter": (collections.Counter("aab"), collections.Counter()),
    "subclass of dict": (Counts(a=1), Counts(a=0)),
    "named tuple": (Point(1, np.ones(2)), Point(0, np.zeros(2))),
    "dataclass": (Config(np.ones(2), "y"), Config(np.zeros(2))),
    "frozen dataclass with slots": (Frozen(1, Point(1, 2)), Frozen(0, Point(0, 0))),
    "enum": (Phase.END, Phase.START),
    "int enum": (Level.HIGH, Level.LOW),
    "object": (Plain(a=1, b=[np.ones(1)]), Plain(a=0, b=[np.zeros(1)])),
    "namespace": ({"deep": [Point(Frozen(1), Phase.END)]}, {"deep": [Point(Frozen(0), Phase.START)]}),
}  # fmt: skip


@pytest.mark.parametrize("name", FITS)
def test_it_is_rebuilt_like_the_target(store: CheckpointStore, name: str) -> None:
    value, target = FITS[name]
    for how in ({"state": {"v": value}}, {"components": {"v": value}}):
        checkpoint = store.save(1, if_exists="replace", opaque="allow", **how)  # type: ignore[arg-type]
        made = checkpoint.restore({"v": target})["v"]
        if name not in ("None for text", "a number for None", "an int for a float", "numpy's for Python's"):
            assert type(made) is type(target)
        if isinstance(value, Config):
            assert (made.rate.tolist(), made.name, made.act) == ([1, 1], "y", target.act)
        elif isinstance(value, (dict, Point, Plain)):
            assert str(made) == str(value)
        else:
            np.testing.assert_equal(made, value)
        report = checkpoint.report
        assert report is not None
        assert (report.missing, report.unexpected, report.different, report.cast) == ((), (), (), ())


MISFITS: dict[str, tuple[Any, Any, str]] = {
    "shape": (np.ones(3), np.zeros(4), r"v: here float64 \(4,\), there float64 \(3,\)"),
    "type": (np.ones(3, "f4"), np.zeros(3), "v: here float64, there float32"),
    "a record for an array": (Plain(a=1), np.zeros(3), "there a record of .*Plain"),
    "text for a number": ("a", 0, "here 0, there 'a'"),
    "True for a number": (True, 0, "here 0, there True"),
    "a key that is missing": ({"a": 1}, {"a": 0, "b": 0}, "v/b: not in the checkpoint"),
    "a key too many": ({"a": 1, "b": 1}, {"a": 0}, "v/b: only in the checkpoint"),
    "a list for a dict": ([1], {"a": 0}, "v: here a dict of 1, there a list of 1"),
    "arrays of another number": ([np.ones(1)], [np.ones(1)] * 2, "v: here a list of 2, there a list of 1"),
    "a tuple of another length": ((1, 2), (1,), "v: here tuple of 1, there a tuple of 2"),
    "another named tuple": (Point(1, 2), Other(0, 0), "there Point of 2"),
    "another dataclass": (Frozen(1), Config(0), "here a Config, there a record of .*Frozen"),
    "another enum": (Phase.END, Level.LOW, "there a record of"),
    "a member that is gone": (Phase.END, other_phase(), "there a record of"),
    "a field that is missing": (Plain(a=1), Plain(a=0, b=0), "v/b: not in the checkpoint"),
    "a field too many": (Plain(a=1, b=1), Plain(a=0), "v/b: only in the checkpoint"),
    "a record in plain data": ([Plain(a=1)], [0, 1], "v: here a list of 2, there a list of 1"),
    "a record for nothing": (Plain(a=1), None, "here None, there a record of .*Plain"),
    "a generator for a number": (3, np.random.default_rng(0), "here a Generator of PCG64, there 3"),
    "a number for a generator": (np.random.default_rng(0), 3, "here 3, there a Generator"),
    "of another kind": (random.Random(0), np.random.default_rng(0), "there a Random"),
    "a class written in C": (types.SimpleNamespace(a=1), types.SimpleNamespace(a=0), "a SimpleNamespace"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_named(store: CheckpointStore, name: str) -> None:
    value, target, message = MISFITS[name]
    rng = random.Random(5)
    before = rng.getstate()
    checkpoint = store.save(1, {"v": value, "rng": random.Random(7)}, opaque="allow")
    with pytest.raises(InvalidRequest, match=message):
        checkpoint.restore({"rng": rng, "v": target})
    assert rng.getstate() == before
    made = checkpoint.restore({"rng": rng, "v": target}, strict=False)
    assert rng.getstate() == random.Random(7).getstate()
    report = checkpoint.report
    assert report is not None
    assert report.missing or report.unexpected or report.different or report.cast
    if report.different:
        assert type(made["v"]) is type(target)


@pytest.mark.parametrize(
    "make",
    [
        np.random.default_rng, np.random.RandomState, random.Random, np.random.Philox,
        lambda seed: np.random.Generator(np.random.MT19937(seed)),
    ],
)  # fmt: skip
def test_generators_are_set_in_place(store: CheckpointStore, make: Callable[[int], Any]) -> None:
    def draw(generator: Any) -> Any:
        if isinstance(generator, np.random.BitGenerator):
            return generator.random_raw()
        return generator.random()

    saved, target = make(3), make(4)
    draw(saved)
    checkpoint = store.save(1, {"g": saved})
    assert checkpoint.restore({"g": target})["g"] is target
    assert [draw(target) for _ in range(3)] == [draw(saved) for _ in range(3)]
    if hasattr(saved, "spawn") and np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        assert draw(target.spawn(1)[0]) == draw(saved.spawn(1)[0])


def test_states_of_generators_as_plain_data(store: CheckpointStore) -> None:
    saved, python, legacy = np.random.default_rng(3), random.Random(3), np.random.RandomState(3)
    checkpoint = store.save(
        1, {"g": saved.bit_generator.state, "p": python.getstate(), "l": legacy.get_state()}
    )
    target: dict[str, Any] = {
        "g": np.random.default_rng(), "p": random.Random(), "l": np.random.RandomState()
    }  # fmt: skip
    checkpoint.restore(target)
    assert target["g"].random() == saved.random()
    assert target["p"].random() == python.random()
    assert target["l"].random() == legacy.random()
    bad = {**saved.bit_generator.state, "state": {"state": -1, "inc": 3}}
    with pytest.raises(InvalidRequest, match="g: here a Generator"):
        store.save(2, {"g": bad}).restore({"g": target["g"]})


def test_names_of_the_state_come_before_those_of_components(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"a": 1}, components={"a": 2, "b": 3})
    assert checkpoint.restore({"a": 0, "b": 0}) == {"a": 1, "b": 3}
    assert checkpoint.restore({"b": 0}) == {"b": 3}
    assert checkpoint.report is not None
    assert "a" in checkpoint.report.unexpected


def test_no_component_is_fetched_that_nobody_asked_for(tmp_path: Path) -> None:
    saved = CheckpointStore(tmp_path).save(1, {"a": 1}, components={"big": 2})
    (tmp_path / saved.name / "components/big.pkl").unlink()
    assert saved.restore({"a": 0}) == {"a": 1}


def test_checkpoints_of_others(tmp_path: Path) -> None:
    assert Checkpoint.open(FROM_RAY).restore({"iteration": 0})["iteration"] == 2
    with pytest.raises(InvalidRequest, match="model: not in the checkpoint"):
        Checkpoint.open(FROM_RAY).restore({"model": Plain()})
    with CheckpointStore(tmp_path).stage(1) as path:
        Path(path, "x.txt").write_text("x")
    assert path.checkpoint is not None
    with pytest.raises(UnreadableFormat):
        path.checkpoint.restore({"a": 0})


def test_a_restore_resumes(tmp_path: Path) -> None:
    """The next save names it as its parent, and prune leaves it alone."""
    CheckpointStore(tmp_path).save(1, {"a": 1})
    store = CheckpointStore(tmp_path)
    checkpoint = store.get(1)
    checkpoint.restore({"a": 0})
    saved = store.save(2, {"a": 2})
    assert saved.manifest.parent is not None
    assert saved.manifest.parent.id == checkpoint.id
    store.save(3, {"a": 2})
    assert store.prune(1) == ["checkpoint_000002"]


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@pytest.mark.parametrize(
    "target", [Counter, Counter().load_state_dict, len, random], ids=["class", "method", "function", "module"]
)
def test_code_in_the_place_of_data_is_named(store: CheckpointStore, target: Any) -> None:
    checkpoint = store.save(1, {"model": Counter(), "i": 1})
    with pytest.raises(InvalidRequest, match="model: here"):
        checkpoint.restore({"model": target, "i": 0})
    made = checkpoint.restore({"model": target, "i": 0}, strict=False)
    assert made == {"model": target, "i": 1}
    assert checkpoint.report is not None
    assert [each.path for each in checkpoint.report.different] == ["model"]
    assert checkpoint.report.kept == ()
