"""`weights("net")` of what was saved without policies: the arrays of one entry of the state."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointCorrupt, CheckpointNotFound, CheckpointStore, UnreadableFormat


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(f"memory://{uuid.uuid4().hex}/run")


def test_the_arrays_of_an_entry(store: CheckpointStore) -> None:
    net: dict[str, Any] = {"a": np.arange(6.0), "deep": {"b": [np.ones(2), np.zeros(70_000)]}}
    checkpoint = store.save(1, {"net": net, "other": {"c": np.zeros(100_000)}, "step": 3})
    found = checkpoint.weights("net")
    assert list(found) == ["a", "deep/b/0", "deep/b/1"]
    assert np.array_equal(found["a"], net["a"])
    assert not found["deep/b/1"].any()
    assert list(checkpoint.weights("net", names=["deep/b/0"])) == ["deep/b/0"]
    with pytest.raises(CheckpointNotFound, match="no weight 'z'"):
        checkpoint.weights("net", names=["z"])


def test_tensors_are_arrays(store: CheckpointStore) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    net = torch.nn.Linear(4, 2)
    found = store.save(1, {"net": net}).weights("net")
    assert np.array_equal(found["weight"], net.weight.detach().numpy())


def test_what_is_no_dict_of_arrays(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"net": {"a": np.ones(2), "lr": "x"}, "step": 3})
    for name in ("step", "nett"):
        with pytest.raises(CheckpointNotFound):
            checkpoint.weights(name)
    with pytest.raises(UnreadableFormat, match="or `state`"):
        checkpoint.weights("net")


def test_a_policy_comes_first(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"net": {"a": np.ones(2)}}, policies={"net": {"weights": {"b": np.ones(3)}}})
    assert list(checkpoint.weights("net")) == ["b"]


def test_nothing_else_is_read(tmp_path: Path) -> None:
    state = {"net": {"a": np.ones(100_000)}, "other": {"b": np.full(1_000_000, 7.0)}}
    checkpoint = CheckpointStore(tmp_path).save(1, state)
    (file,) = [path for path in tmp_path.rglob("*.pkl") if path.stat().st_size > 8_000_000]
    data = bytearray(file.read_bytes())
    data[data.index(np.full(1_000, 7.0).tobytes()) + 4_000_000] ^= 1
    file.write_bytes(data)
    assert checkpoint.weights("net")["a"].sum() == 100_000
    with pytest.raises(CheckpointCorrupt):
        checkpoint.weights("other")
