"""What has a `state_dict()` at the top of a save is asked for it; `Raw` says otherwise."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from ckptstore import CheckpointStore, InvalidRequest, Opaque, Raw


class Schedule:
    """A trainer's own, in the manner of torch."""

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = rate

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate, "history": np.arange(3)}


class Broken(Schedule):
    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("not now")


class Anything:
    """Has every attribute that one asks for, as handles of actors have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(f"memory://{uuid.uuid4().hex}/run")


def test_values_at_the_top_are_asked(store: CheckpointStore) -> None:
    for save in (store.save, lambda *a, **k: store.save_async(*a, **k).result()):
        saved = save(1, {"s": Schedule(), "n": 1}, None, {"c": Schedule(0.25)}, if_exists="replace")
        assert saved.state["s"]["rate"] == 0.5
        assert saved.state["s"]["history"].tolist() == [0, 1, 2]
        assert saved.state["n"] == 1
        assert saved.components["c"]["rate"] == 0.25


def test_a_state_that_is_one_itself_is_asked(store: CheckpointStore) -> None:
    assert store.save(1, Schedule()).state["rate"] == 0.5


def test_raw_is_pickled_as_it_is(store: CheckpointStore) -> None:
    saved = store.save(1, {"s": Raw(Schedule()), "n": Raw(3)}, None, {"c": Raw(Schedule(0.25))})
    assert isinstance(saved.state["s"], Opaque)
    assert saved.state["n"] == 3
    trusted = saved.load(trusted=True)
    assert trusted.state["s"].rate == 0.5
    assert trusted.components["c"].rate == 0.25
    assert store.save(2, Raw(Schedule(0.75))).load(trusted=True).state.rate == 0.75


def test_nothing_else_is_asked(store: CheckpointStore) -> None:
    given = {"list": [Schedule()], "class": Schedule, "deep": {"s": Schedule()}, "any": Raw(Anything)}
    saved = store.save(1, given, {"p": Schedule()})
    trusted = saved.load(trusted=True)
    assert (
        trusted.state["list"][0].rate == trusted.state["deep"]["s"].rate == trusted.policies["p"].rate == 0.5
    )
    assert trusted.state["class"].__name__ == "Schedule"
    assert type(store.save(2, OrderedDict(a=1)).state) is OrderedDict


def test_an_object_with_every_attribute_is_not_asked(store: CheckpointStore) -> None:
    assert isinstance(store.save(1, {"h": Anything()}).state["h"], Opaque)


def test_one_that_raises_is_named_and_nothing_is_written(store: CheckpointStore) -> None:
    for given in ({"state": {"b": Broken()}}, {"components": {"b": Broken()}}, {"state": Broken()}):
        with pytest.raises(InvalidRequest, match="Broken raised RuntimeError"):
            store.save(1, **given)
    assert store.checkpoints() == []


def test_raw_inside_of_a_value_is_refused(store: CheckpointStore) -> None:
    with pytest.raises(InvalidRequest, match="whole value"):
        store.save(1, {"deep": [Raw(1)]})


def test_modules_and_optimizers(store: CheckpointStore) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    saved = store.save(1, {"model": model, "optimizer": optimizer})
    state = saved.load(tensors="torch").state
    fresh = torch.nn.Linear(3, 2)
    fresh.load_state_dict(state["model"])
    assert torch.equal(fresh.weight, model.weight)
    assert state["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
