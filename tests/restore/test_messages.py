"""What is said of a target that doesn't fit: what is there, in few words, and never an empty name."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpointer, CheckpointStore, InvalidRequest


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(f"memory://{uuid.uuid4().hex}/run")


class Stateful:
    """What a user has: it loads what it wrote."""

    def __init__(self, *names: str, refuses: bool = False) -> None:
        self.names, self.refuses = names, refuses

    def state_dict(self) -> dict[str, Any]:
        return dict.fromkeys(self.names, 1)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.refuses:
            raise RuntimeError("not today")


def refuse(checkpoint: Any, target: Any) -> str:
    with pytest.raises(InvalidRequest) as raised:
        checkpoint.restore(target)
    return str(raised.value)


def test_what_is_there_is_named_where_a_key_is_missing(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"model": 1, "optimizer": 2}, components={"extra": 3})
    said = refuse(checkpoint, {"net": 0})
    assert "net: not in the checkpoint. The checkpoint has model, optimizer, extra" in said
    said = refuse(checkpoint, {"net": 0, "model": 0})
    assert "The checkpoint has model, optimizer, extra" in said


def test_what_is_there_is_named_in_few_words(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {f"layer{number}": number for number in range(500)})
    said = refuse(checkpoint, {"net": 0})
    assert "layer9 and 490 more" in said
    assert "layer10" not in said


def test_an_empty_checkpoint_is_said_to_be_one(store: CheckpointStore) -> None:
    assert "The checkpoint has a dict of 0" in refuse(store.save(1, {}), {"net": 0})
    assert "The checkpoint has a list of 2" in refuse(store.save(2, [1, 2]), {"net": 0})


def test_what_is_there_is_not_named_where_all_keys_are(store: CheckpointStore) -> None:
    assert "The checkpoint has" not in refuse(store.save(1, {"a": {"b": 1}, "z": 1}), {"a": {"c": 1}})


def test_a_bare_target_has_a_name(store: CheckpointStore) -> None:
    checkpoint = store.save(1, {"model": 1, "optimizer": 2})
    said = refuse(checkpoint, Stateful("weight"))
    assert "changed: the target: here a dict of 1, there a dict of 2. The checkpoint has model" in said
    assert "changed: the target: here float64 (2,), there a dict of 2" in refuse(checkpoint, np.zeros(2))
    refusing = Stateful("model", "optimizer", refuses=True)
    assert "the target: loading it raised RuntimeError('not today')" in refuse(checkpoint, refusing)


def test_names_of_a_bare_module_begin_with_no_slash(store: CheckpointStore) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    checkpoint = store.save(1, {"net": torch.nn.Linear(4, 2), "step": 3})
    said = refuse(checkpoint, torch.nn.Linear(4, 2))
    assert "changed: weight: not in the checkpoint; bias: not in" in said
    assert "net: only in the checkpoint; step: only in the checkpoint. The checkpoint has net, step" in said
    checkpoint = store.save(2, torch.nn.Linear(4, 2))
    checkpoint.restore(torch.nn.Linear(4, 2))
    assert checkpoint.report is not None
    assert checkpoint.report.loaded == ("weight", "bias")
    assert "changed: weight: here float32 (2, 5), there float32 (2, 4)" in refuse(
        checkpoint, torch.nn.Linear(5, 2)
    )


def test_many_missing_names_hide_nothing_else(store: CheckpointStore) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    checkpoint = store.save(1, {"net": torch.nn.Linear(4, 2), "step": 3})
    said = refuse(checkpoint, torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(50))))
    assert "2.weight: not in the checkpoint; 95 more aren't in it; net: only" in said
    assert "3.weight" not in said


def said_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_that_nothing_was_restored_is_logged(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = store.save(1, {"net": Stateful("a"), "step": 3})
    assert checkpoint.restore({"nett": Stateful("a"), "stepp": 0}, strict=False)["stepp"] == 0
    (said,) = said_in(caplog)
    assert said.endswith("nothing was restored: asked for nett, stepp. The checkpoint has net, step")
    assert checkpoint.report is not None
    assert checkpoint.report.missing == ("nett", "stepp")
    caplog.clear()
    checkpoint.restore(Stateful("a"), strict=False)
    (said,) = said_in(caplog)
    assert "asked for the target, a Stateful. The checkpoint has net, step" in said
    caplog.clear()
    checkpoint.restore({"net": np.zeros(2)}, strict=False)
    assert len(said_in(caplog)) == 1


def test_a_restore_of_something_is_not_logged(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = store.save(1, {"net": Stateful("a"), "step": 3})
    checkpoint.restore({"net": Stateful("a"), "stepp": 0}, strict=False)
    checkpoint.restore({}, strict=False)
    assert not said_in(caplog)


def test_a_resume_that_restores_nothing_is_logged(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(1, {"net": Stateful("a")})
    with Checkpointer(store, {"nett": Stateful("a")}, every=5, strict=False) as checkpointer:
        checkpointer.resume()
    assert any("asked for nett. The checkpoint has net" in line for line in said_in(caplog))
