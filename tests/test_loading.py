"""What `Checkpoint.load` takes goes for state, policies and components alike."""

from __future__ import annotations

import datetime
import pickle
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import AlgorithmState, Checkpoint, CheckpointStore, InvalidRequest, Opaque, UnsafeContent

TOP = Path(__file__).parent
FROM_RAY = TOP / "data/rllib_1_0_ppo_multi5/checkpoint"


class Phase:
    """Something that only a trusted load makes."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def checkpoint() -> Checkpoint:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}/run")
    return store.save(
        1,
        {"phase": Phase("warm up")},
        {"p": {"phase": Phase("train")}},
        {"replay": {"phase": Phase("full"), "obs": np.arange(6.0)}, "rest": datetime.date(2026, 12, 1)},
    )


def test_a_load_is_still_a_pair(checkpoint: Checkpoint) -> None:
    state, policies = checkpoint.load()
    assert isinstance(state["phase"], Opaque)
    assert set(policies) == {"p"}
    assert AlgorithmState(1, {}).components == {}


def test_components_are_trusted_where_the_rest_is(checkpoint: Checkpoint) -> None:
    trusted = checkpoint.load(trusted=True)
    assert trusted.state["phase"].name == "warm up"
    assert trusted.policies["p"]["phase"].name == "train"
    assert trusted.components["replay"]["phase"].name == "full"
    assert list(trusted.components) == ["replay", "rest"]
    assert trusted.components["replay"] is trusted.components["replay"]
    assert isinstance(checkpoint.load().components["replay"]["phase"], Opaque)
    assert isinstance(checkpoint.components["replay"]["phase"], Opaque)


def test_components_are_mapped_where_the_rest_is(tmp_path: Path) -> None:
    big = np.arange(1_000_000.0)
    saved = CheckpointStore(tmp_path).save(1, components={"replay": {"obs": big}})
    mapped = saved.load(mmap=True).components["replay"]["obs"]
    np.testing.assert_array_equal(mapped, big)
    mapped[0] = -1  # copy-on-write
    assert saved.components["replay"]["obs"][0] == 0
    assert saved.check().ok


def test_a_component_is_fetched_when_it_is_asked_for(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    saved = store.save(1, {"a": 1}, components={"lost": 1, "here": 2})
    (tmp_path / saved.name / "components/lost.pkl").unlink()
    loaded = saved.load(trusted=True)
    assert loaded.components["here"] == 2
    with pytest.raises(Exception, match="lost"):
        loaded.components["lost"]


def test_what_was_loaded_travels(checkpoint: Checkpoint) -> None:
    back = pickle.loads(pickle.dumps(checkpoint.load()))
    assert isinstance(back, AlgorithmState)
    assert back.components["rest"] == datetime.date(2026, 12, 1)
    assert back.components["replay"]["obs"].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_rllib_wrote_is_never_trusted(tmp_path: Path) -> None:
    theirs = Checkpoint.open(FROM_RAY)
    assert dict(theirs.load().components) == {}
    with pytest.raises(InvalidRequest, match="trusted=True"):
        theirs.load(trusted=True)


def test_a_device_without_tensors(checkpoint: Checkpoint) -> None:
    with pytest.raises(InvalidRequest, match="tensors='torch'"):
        checkpoint.load(map_location="cpu")


def test_a_hostile_component_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return marker.touch, ()

    saved = CheckpointStore(tmp_path / "run").save(1, components={"c": Hostile()})
    for found in (saved.load(), saved.load(mmap=True)):
        assert isinstance(found.components["c"], Opaque)
    assert not marker.exists()
    assert saved.load(trusted=True).components["c"] is None
    assert marker.exists()


class TestWithTorch:
    @pytest.fixture(autouse=True)
    def torch(self) -> Any:
        return pytest.importorskip("torch", reason="torch is not installed")

    def test_components_are_tensors_where_the_rest_is(self, torch: Any) -> None:
        store = CheckpointStore(f"memory://{uuid.uuid4().hex}/run")
        tensors = {"w": torch.arange(4.0), "half": torch.ones(2, dtype=torch.bfloat16)}
        saved = store.save(1, {"v": tensors}, {"p": tensors}, {"c": tensors})
        found = saved.load(tensors="torch")
        for part in (found.state["v"], found.policies["p"], found.components["c"]):
            assert torch.equal(part["w"], tensors["w"])
            assert torch.equal(part["half"], tensors["half"])
        assert isinstance(saved.components["c"]["w"], np.ndarray)

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_tensors_go_to_a_device(self, torch: Any, device: str) -> None:
        """Those of one storage share it there, whatever their type."""
        store = CheckpointStore(f"memory://{uuid.uuid4().hex}/run")
        flat = torch.arange(1_000_000.0)
        given = {
            "flat": flat, "row": flat.view(1000, -1)[7], "column": flat.view(1000, -1)[:, 3],
            "t": flat.view(10, -1).T,
            "half": torch.ones(5, dtype=torch.bfloat16), "empty": torch.zeros(0, 3), "one": torch.tensor(2),
            "p": torch.nn.Parameter(torch.ones(3)), "wanted": torch.ones(2, requires_grad=True),
            "strided": torch.arange(12).view(3, 4)[:, 1:3], "expanded": torch.ones(3).expand(4, 3),
        }  # fmt: skip
        found = store.save(1, given).load(tensors="torch", map_location=device).state
        for name, tensor in given.items():
            assert found[name].device.type == device
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
            assert found[name].requires_grad == tensor.requires_grad
            assert type(found[name]) is type(tensor)
            if device == "cpu":
                assert torch.equal(found[name], tensor)
        storage = found["flat"].untyped_storage()._cdata
        assert all(found[name].untyped_storage()._cdata == storage for name in ("row", "column", "t"))
        assert found["one"].untyped_storage()._cdata != storage
        if device == "cpu":
            found["flat"][7003] = -1
            assert found["row"][3] == found["column"][7] == -1

    def test_a_device_that_is_not_here(self, torch: Any) -> None:
        saved = CheckpointStore(f"memory://{uuid.uuid4().hex}/run").save(1, {"t": torch.ones(1)})
        for name in ("cuda:7", "nonsense", "xla", 3.5):
            with pytest.raises(InvalidRequest, match="map_location"):
                saved.load(tensors="torch", map_location=name)

    def test_lies_about_a_storage_are_refused_on_a_device(self, torch: Any) -> None:
        from ckptstore.codec.pickles import safe
        from ckptstore.codec.pickles.torch_calls import AsTorch

        for strides, shape in (((-8,), (4,)), ((2**40,), (4,)), ((8, 8), (4,)), ((8,), (2**40,))):
            data = pickle.dumps(
                Call(torch.from_numpy, (Call(np.ndarray, (shape, "f8", bytes(64), 0, strides)),))
            )
            with pytest.raises(UnsafeContent):
                safe.loads(data, tensors=AsTorch("meta"))


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced
