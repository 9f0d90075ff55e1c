"""No store is begun inside a checkpoint, or in what is another store's own, on any backend."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.errors import CheckpointError
from tests.servers import Server
from tests.stores import policies

Open = Callable[[str], CheckpointStore]


@pytest.fixture(params=["local", "memory", "moto", "fake_gcs"])
def area(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Open]:
    """The URL of a directory, and what opens a store below it."""
    if request.param == "local":
        return f"file://{tmp_path}", lambda path: CheckpointStore(tmp_path / path)
    if request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}/area"
        return url, lambda path: CheckpointStore(f"{url}/{path}")
    server: Server = request.getfixturevalue(request.param)
    url = server.new_url()
    return url, lambda path: CheckpointStore(f"{url}/{path}", storage_options=server.options)


@pytest.mark.parametrize(
    "inside",
    [
        ".trash",
        ".staging/x",
        "_ckptstore/mine",
        "_ckptstore/refs",
        "checkpoint_000001/policies",
        "checkpoint_000001/policies/pol0/mine",
        "checkpoint_000001/components",
        "checkpoint_000001/mine/deep/er",
        "checkpoint_000001/_ckptstore/mine",
    ],
)
def test_it_is_refused_and_the_store_is_named(area: tuple[str, Open], inside: str) -> None:
    url, open_store = area
    store = open_store("run")
    store.save(1, {"a": 1}, policies())
    wrong = open_store(f"run/{inside}")
    for make in (lambda: wrong.save(1, {"a": 1}), lambda: store.copy_to(wrong)):
        with pytest.raises(CheckpointError, match="it lies in") as caught:
            make()
        assert str(caught.value).rstrip(".").endswith(f"Open the store: {url}/run")
    assert [report.problems for report in store.verify()] == [()]
    assert store.verify()[0].strays == ()
    assert open_store("run").latest() == store.get(1)


def test_in_what_rllib_wrote(area: tuple[str, Open]) -> None:
    _, open_store = area
    open_store("old")._backend.publish("checkpoint_000003/rllib_checkpoint.json", b"{}")
    for inside in ("checkpoint_000003/policies/mine", "checkpoint_000003/mine"):
        with pytest.raises(CheckpointError, match=r"it lies in the checkpoint .*checkpoint_000003"):
            open_store(f"old/{inside}").save(1, {"a": 1})


def test_what_only_sounds_like_it_is_fine(area: tuple[str, Open]) -> None:
    _, open_store = area
    open_store("run").save(1, {"a": 1})
    for path in (
        "run/mine",
        "eval/checkpoint_000001/mine",
        "policies/mine",
        ".trash/mine",
        "run/checkpoint_5/x",
    ):
        assert open_store(path).save(1, {"a": 1}).step == 1


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_through_a_link(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "run").save(1, {"a": 1}, policies())
    os.symlink(tmp_path / "run" / "checkpoint_000001" / "policies", tmp_path / "link")
    with pytest.raises(CheckpointError, match="it lies in the checkpoint"):
        CheckpointStore(tmp_path / "link" / "mine").save(1, {"a": 1})
