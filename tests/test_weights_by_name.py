"""Some arrays of a policy: they alone are fetched, and they alone have to be whole."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.codec.indexed.reducers import Reducers
from ckptstore.codec.pickles import safe
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, InvalidRequest
from ckptstore.format.parts import PART_BYTES
from ckptstore.read import reader
from tests.disks import WatchedBackend
from tests.servers import Server
from tests.stores import RLLIB_1_0, unlinked

random = np.random.default_rng(0)
WEIGHTS: dict[str, Any] = {
    "a": random.standard_normal((1000, 600)).astype(np.float32),
    "nested": {"b": random.random(300_000), "small": np.arange(5), "c": [random.random(200_000)]},
    "huge": random.standard_normal(PART_BYTES // 4 + 100_000).astype(np.float32),
    "between": random.random(10_000),
    "z": random.random(250_000),
}
FLAT = {
    "a": WEIGHTS["a"],
    "nested/b": WEIGHTS["nested"]["b"],
    "nested/small": WEIGHTS["nested"]["small"],
    "nested/c/0": WEIGHTS["nested"]["c"][0],
    "huge": WEIGHTS["huge"],
    "between": WEIGHTS["between"],
    "z": WEIGHTS["z"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store")
    rest = {"optimizer": random.random(400_000), "count": 3}
    CheckpointStore(path).save(1, {"i": 1}, {"p": {"weights": WEIGHTS, **rest}, "q": {"weights": {}}})
    return path


@pytest.mark.parametrize(
    "names",
    [[], ["a"], ["z", "a"], ["nested/small"], ["nested/b", "nested/c/0"], ["huge"], ["between"], list(FLAT)],
)
def test_those_alone_are_read(root: Path, names: list[str]) -> None:
    backend = WatchedBackend(root)
    ckpt = CheckpointStore(backend).get(1)
    found = ckpt.weights("p", names=names)
    assert list(found) == names
    for name, array in found.items():
        np.testing.assert_array_equal(array, FLAT[name])
        assert array.dtype == FLAT[name].dtype
        array[...] = 0  # the caller's own
    assert backend.fetched < sum(FLAT[name].nbytes for name in names) + 200_000
    np.testing.assert_array_equal(ckpt.weights("p")["a"], FLAT["a"])


def test_they_alone_are_verified(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).save(1, {}, {"p": {"weights": WEIGHTS}})
    path = tmp_path / "checkpoint_000001" / "policies" / "p" / "policy_state.pkl"
    data = bytearray(unlinked(path))
    data[data.index(FLAT["huge"].tobytes()[:64]) + PART_BYTES + 100_000] ^= 1
    path.write_bytes(data)
    ckpt = CheckpointStore(tmp_path).get(1)
    assert set(ckpt.weights("p", names=["a", "z"])) == {"a", "z"}
    with pytest.raises(CheckpointCorrupt, match="policy_state"):
        ckpt.weights("p", names=["a", "huge"])
    data[20] ^= 1  # between the arrays
    path.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="policy_state"):
        ckpt.weights("p", names=["a"])


@pytest.mark.parametrize(
    "make",
    [
        lambda flat: flat > 0,
        lambda flat: flat.astype(">f8"),
        lambda flat: np.asfortranarray(flat.reshape(-1, 8)),
        lambda flat: flat.view("M8[s]"),
        lambda flat: flat.view([("x", "i4"), ("y", "f4")]),
        lambda flat: flat.astype(np.float16),
        lambda flat: flat.astype("S9"),
        lambda flat: np.array([str(value) for value in flat[:50_000]]),
        lambda flat: flat[::2],
    ],
    ids=["bool", "endian", "fortran", "time", "record", "half", "bytes", "text", "strided"],
)
def test_of_any_kind(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    array = make(np.random.default_rng(1).standard_normal(2_000_000))
    weights = {"one": array, "same": array, "other": np.ones(500_000)}
    ckpt = CheckpointStore(tmp_path).save(1, {}, {"p": {"weights": weights}})
    whole = ckpt.weights("p")
    found = ckpt.weights("p", names=["same", "one"])
    np.testing.assert_array_equal(found["one"], whole["one"])
    np.testing.assert_array_equal(found["same"], array)
    assert found["one"].dtype == array.dtype


def test_of_a_policy_with_small_ones_only(tmp_path: Path) -> None:
    ckpt = CheckpointStore(tmp_path).save(1, {}, {"p": {"weights": {"x": np.arange(3), "y": np.ones(2)}}})
    assert list(ckpt.weights("p", names=["y"])["y"]) == [1, 1]


def test_what_is_not_there(root: Path) -> None:
    ckpt = CheckpointStore(root).get(1)
    with pytest.raises(CheckpointNotFound, match=r"'nested/x'.*'nested/b'"):
        ckpt.weights("p", names=["a", "nested/x"])
    with pytest.raises(InvalidRequest):
        ckpt.weights("p", names="a")
    assert ckpt.weights("q", names=[]) == {}


def test_what_rllib_wrote() -> None:
    ckpt = Checkpoint.open(RLLIB_1_0 / "checkpoint")
    policy_id = ckpt.policy_ids[0]
    whole = ckpt.weights(policy_id)
    name = list(whole)[-1]
    found = ckpt.weights(policy_id, names=[name])
    assert list(found) == [name]
    np.testing.assert_array_equal(found[name], whole[name])


def test_from_a_bucket(moto: Server) -> None:
    store = CheckpointStore(moto.new_url(), storage_options=moto.options)
    found = store.save(1, {}, {"p": {"weights": WEIGHTS}}).weights("p", names=["huge", "a"])
    np.testing.assert_array_equal(found["huge"], WEIGHTS["huge"])
    np.testing.assert_array_equal(found["a"], WEIGHTS["a"])


def test_a_decoder_that_copies_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it copied was not there yet."""
    plain = safe.loads
    monkeypatch.setattr(safe, "loads", lambda *given, **how: copy.deepcopy(plain(*given, **how)))
    found = CheckpointStore(root).get(1).weights("p", names=["a", "nested/small"])
    np.testing.assert_array_equal(found["a"], FLAT["a"])
    np.testing.assert_array_equal(found["nested/small"], FLAT["nested/small"])


class View:
    """Pickled as a torch tensor is that shares its storage with others."""

    def __init__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
        self.offset, self.shape, self.strides = offset, shape, strides

    def array(self) -> np.ndarray[Any, Any]:
        view: np.ndarray[Any, Any] = np.ndarray(self.shape, WHOLE.dtype, WHOLE, self.offset, self.strides)
        return view


def share_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write every View as a view of one indexed buffer."""
    real = Reducers.reduce

    def reduce(self: Any, obj: Any) -> Any:
        if not isinstance(obj, View):
            return real(self, obj)
        if not hasattr(self, "storage"):
            self.storage = self._buffer(WHOLE.view(np.uint8))
        return np.ndarray, (obj.shape, WHOLE.dtype, self.storage, obj.offset, obj.strides, "C")

    monkeypatch.setattr(Reducers, "reduce", reduce)


SENTINEL = 0xAB
WHOLE = random.integers(0, 100, 600_000).astype(np.int32)
VIEWS = {
    "first": View(0, (10,), None),
    "row": View(4 * 1000, (1000,), None),
    "last": View(4 * 599_999, (1,), None),
    "column": View(8, (600,), (4000,)),
    "backward": View(4 * 599_999, (600_000,), (-4,)),
    "square": View(40, (100, 100), (400, 4)),
    "expanded": View(400, (5, 3), (0, 4)),
    "nothing": View(400, (0, 3), None),
    "whole": View(0, (600_000,), None),
}


@pytest.mark.parametrize("names", [*([name] for name in VIEWS), ["first", "last"], ["other", "row"]])
@pytest.mark.parametrize("kept_with", [{}, {"storage": WHOLE}], ids=["views", "views and the whole"])
def test_a_view_brings_the_memory_that_it_shares(
    names: list[str], kept_with: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were zeros, or memory that nobody had filled: their bytes lie inside of another array's data."""
    share_storage(monkeypatch)
    other = random.random(300_000)
    CheckpointStore(tmp_path).save(1, policies={"p": {"weights": {**kept_with, **VIEWS, "other": other}}})

    def blank(size: int) -> memoryview:
        return np.full(size, SENTINEL, np.uint8).data

    monkeypatch.setattr(reader, "blank", blank)
    found = CheckpointStore(tmp_path).get(1).weights("p", names=names)
    for name, array in found.items():
        np.testing.assert_array_equal(array, other if name == "other" else VIEWS[name].array())
    if not {"other", "whole"} & set(names):
        whole = CheckpointStore(tmp_path).get(1).weights("p")
        np.testing.assert_array_equal(whole["whole"], WHOLE)
