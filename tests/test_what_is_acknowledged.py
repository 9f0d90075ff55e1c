"""Whatever a save acknowledges opens, by every reader and in every store that it is copied to, equal."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import pickle
import tempfile
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.objects import opener
from ckptstore.codec.opaque import Opaque
from ckptstore.errors import InvalidRequest, StoreNotFound
from ckptstore.format.droppings import is_dropping
from ckptstore.format.names import META
from tests.inside import backend_of
from tests.servers import Server


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


def agrees(decoded: Any, b: Any) -> bool:
    """Whether what the safe load gives is `b`, as far as it knows the classes in it."""
    if isinstance(decoded, Opaque):
        return True
    if type(decoded) is type(b) and isinstance(b, (dict, list, tuple)):
        left, right = (list(x.items()) if isinstance(x, dict) else list(x) for x in (decoded, b))
        return len(left) == len(right) and all(map(agrees, left, right))
    return same(decoded, b) or isinstance(b, (defaultdict, OrderedDict, deque))


def read_all(checkpoint: Checkpoint, state: Any, policy: Any) -> None:
    """By default, trusted, and as any program that knows pickle."""
    assert checkpoint.check().ok
    safe = checkpoint.load()
    assert agrees([safe.state, safe.policies["p"]], [state, policy])
    trusted = checkpoint.load(trusted=True)
    found = [trusted.state, trusted.policies["p"]]
    with checkpoint.as_directory() as directory:
        for name in PICKLES:
            with open(os.path.join(directory, name), "rb") as file:
                found.append(pickle.load(file))
    assert all(map(same, found, [state, policy] * 2))


PICKLES = ("algorithm_state.pkl", "policies/p/policy_state.pkl")


def save(store: CheckpointStore, state: Any, policy: Any) -> Checkpoint:
    return store.save(1, state, {"p": policy})


def save_async(store: CheckpointStore, state: Any, policy: Any) -> Checkpoint:
    return store.save_async(1, state, {"p": policy}).result()


def stage(store: CheckpointStore, files: dict[str, bytes]) -> Checkpoint:
    with store.stage(1) as directory:
        for path, data in files.items():
            target = Path(directory, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    assert directory.checkpoint is not None
    return directory.checkpoint


def adopt(store: CheckpointStore, files: dict[str, bytes]) -> Checkpoint:
    for path, data in files.items():
        with backend_of(store).write(f"checkpoint_000001/{path}") as sink:
            sink.write(data)
    there = {entry.key.partition("/")[2] for entry in backend_of(store).list("checkpoint_000001")}
    assume(there == files.keys())  # SeaweedFS takes a backslash for a slash
    return store.adopt("checkpoint_000001")


def same_files(checkpoint: Checkpoint, files: dict[str, bytes]) -> None:
    assert checkpoint.check().ok
    with checkpoint.as_directory() as directory:
        found = {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in Path(directory).rglob("*")
            if path.is_file() and META not in path.parts
        }
    assert found == files


relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)


characters = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
names = st.text(characters, min_size=1, max_size=12).filter(lambda name: name not in (".", ".."))
files = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=99), min_size=1, max_size=4
)


def keep_value(way: Callable[[CheckpointStore, Any, Any], Checkpoint], value: Any, stores: Any) -> None:
    first, second = stores
    content = value, {"weights": value}
    read_all(way(first, *content), *content)
    first.copy_to(second)
    read_all(second.get(1), *content)


def keep_files(
    way: Callable[[CheckpointStore, Any], Checkpoint], found: dict[str, bytes], stores: Any
) -> None:
    first, second = stores
    try:
        kept = way(first, found)
    except (InvalidRequest, OSError, ValueError):  # the file system's own refusals come from `stage`
        with contextlib.suppress(StoreNotFound):  # what another program wrote lies there, and no store
            assert first.latest() is None
        return
    lasting = {path: data for path, data in found.items() if not is_dropping(path)}
    same_files(kept, lasting)
    first.copy_to(second)
    same_files(second.get(1), lasting)


Decorator = Callable[[Callable[..., None]], Callable[..., None]]
VALUES: Decorator = given(values, st.sampled_from([save, save_async]))
FILES: Decorator = given(files, st.sampled_from([stage, adopt]))
BOTH = pytest.mark.parametrize(("kept", "drawn"), [(keep_value, VALUES), (keep_files, FILES)])


@pytest.mark.parametrize("on_disk", [True, False])
@BOTH
def test_it_opens(kept: Any, drawn: Decorator, on_disk: bool) -> None:
    @relaxed
    @drawn
    def each(what: Any, way: Any) -> None:
        with tempfile.TemporaryDirectory() as directory:
            os.mkdir(run := os.path.join(directory, "run"), 0o700)
            urls = [run, f"memory://{uuid.uuid4().hex}/run"]
            kept(way, what, map(CheckpointStore, urls if on_disk else reversed(urls)))

    each()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    "name", ["moto", *(pytest.param(name, marks=pytest.mark.slow) for name in ("seaweedfs", "fake-gcs"))]
)
@BOTH
def test_it_opens_on(
    start_server: Callable[[str], Server],
    monkeypatch: pytest.MonkeyPatch,
    kept: Any,
    drawn: Decorator,
    name: str,
    fast: bool,
) -> None:
    monkeypatch.setattr(opener, "FAST", fast)
    server = start_server(name)

    @settings(relaxed, max_examples=25)
    @drawn
    def each(what: Any, way: Any) -> None:
        urls = server.new_url(), server.new_url()
        kept(way, what, (CheckpointStore(url, storage_options=server.options) for url in urls))

    each()
