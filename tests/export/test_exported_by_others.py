"""Native models that RLlib wrote beside its policies, SavedModels and pickles, stay as they are."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.app import root as cli
from tests.export.truth import DATA

SAVED_MODEL = (
    "saved_model.pb",
    "fingerprint.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
)


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """An RLlib checkpoint with a SavedModel beside one policy and a `model.pt` beside another."""
    root = tmp_path / "old" / "checkpoint_000002"
    shutil.copytree(DATA / "rllib_1_0_ppo_multi5/checkpoint", root)
    files = {f"policies/pol0/model/{name}": os.urandom(1000) for name in SAVED_MODEL}
    files["policies/pol1/model/model.pt"] = b"\x80\x04not to be unpickled"
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root, files


def test_copied_adopted_staged(exported: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    root, files = exported
    store, other = CheckpointStore(tmp_path / "store"), CheckpointStore(f"memory://{uuid.uuid4().hex}")
    done = CliRunner().invoke(cli, ["cp", str(root), str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    with store.stage(7) as path:
        shutil.copytree(root, path, dirs_exist_ok=True)
    shutil.copytree(root, tmp_path / "store" / "checkpoint_000009")
    store.adopt("checkpoint_000009")
    store.copy_to(other)
    found = store.checkpoints() + other.checkpoints()
    assert len(found) == 6
    for checkpoint in found:
        assert checkpoint.policy_ids == ("pol0", "pol1", "pol2", "pol3", "pol4")
        assert {path: checkpoint.read(path) for path in files} == files
        assert checkpoint.verify().ok
        with checkpoint.as_directory(policy_ids=["pol0"]) as directory:
            for name, data in files.items():
                here = Path(directory, name)
                assert here.read_bytes() == data if "pol0" in name else not here.exists()
        assert len(checkpoint.weights("pol1")) == 12


def test_where_it_lies(exported: tuple[Path, dict[str, bytes]]) -> None:
    root, files = exported
    checkpoint = Checkpoint.open(root)
    assert len(checkpoint.weights("pol0")) == 12
    assert {path: checkpoint.read(path) for path in files} == files
