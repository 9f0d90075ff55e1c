"""The names of ours that reach a file: public for ever, wherever the code moves."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore, Opaque
from ckptstore.codec.indexed.write import dump
from ckptstore.codec.pickles.safe import globals_in
from tests.house import House

# In checkpoints: a record of an object that was loaded by the safe decoder and saved again, and what
# RLlib pickles with the config of an algorithm that has our callback.
IN_CHECKPOINTS = [
    "ckptstore.codec.opaque.Opaque",
    "ckptstore.integrations.rllib.callback.CheckpointCallback",
    "ckptstore.integrations.rllib.sources._restore_source",
]
# Between processes, of one version: stores and checkpoints that are sent to workers.
IN_TRANSIT = [
    "ckptstore.backends.local.backend.LocalBackend",
    "ckptstore.backends.objects.backend.ObjectBackend",
    "ckptstore.backends.objects.memory.MemoryOpener",
    "ckptstore.checkpoint.Checkpoint",
    "ckptstore.format.manifest.File",
    "ckptstore.format.manifest.Manifest",
    "ckptstore.store.CheckpointStore",
]


def ours(data: bytes) -> set[str]:
    return {use.name for use in globals_in(data) if use.name.startswith("ckptstore.")}


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    dump(value, buffer.write)
    return buffer.getvalue()


@pytest.mark.parametrize("name", IN_CHECKPOINTS)
def test_it_is_where_files_name_it(name: str) -> None:
    house = House(__import__("pathlib").Path(__import__("ckptstore").__file__).parent)
    module, _, short = name.rpartition(".")
    defined = {getattr(node, "name", "") for node in house.trees[module].body}
    assert short in defined


def test_what_a_save_writes_names_nothing_else_of_ours() -> None:
    record = Opaque("gym.spaces.Box", (1, np.ones(3)))
    record.state = {"low": np.zeros(2)}
    values = [
        record,
        {"w": np.ones((300, 300))},
        np.float32(1.5),
        {(1, 2): [b"x", {3}]},
        np.array([None, "x"], object),
    ]
    for value in values:
        assert ours(saved(value)) <= set(IN_CHECKPOINTS)
    assert ours(saved(record)) == {"ckptstore.codec.opaque.Opaque"}
    assert pickle.loads(saved(record)) == record


def test_what_goes_between_processes(tmp_path: Any) -> None:
    found: set[str] = set()
    for url in (str(tmp_path), "memory://names-in-files"):
        store = CheckpointStore(url)
        checkpoint = store.save(1, if_exists="replace")
        for item in (store, checkpoint):
            data = pickle.dumps(item)
            found |= ours(data)
            back = pickle.loads(data)
            assert isinstance(back, (CheckpointStore, Checkpoint))
            assert back.url == item.url
    assert sorted(found) == IN_TRANSIT
