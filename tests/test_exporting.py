"""Exports, read back by numpy, safetensors and json themselves."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.registry import open_backend
from ckptstore.cli.app import root
from ckptstore.errors import CheckpointNotFound, InvalidRequest
from ckptstore.export.formats import FORMATS

GOLDEN = Path(__file__).parent / "data" / "rllib_1_0_ppo_multi5" / "checkpoint"
ODD: dict[str, np.ndarray[Any, Any]] = {
    "file": np.arange(6, dtype=np.float32).reshape(2, 3),  # what numpy.savez can't take
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "strided": np.arange(10, dtype=np.int32)[::2],
    "big": np.arange(3, dtype=">f4"),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 4), np.float16),
    "nan": np.array([np.nan, np.inf, -np.inf, 1.5], np.float32),
    "deep/er": np.array([True, False]),
}


@pytest.fixture
def odd(tmp_path: Path) -> Checkpoint:
    return CheckpointStore(tmp_path / "store").save(1, {}, {"pol": {"weights": ODD}})


def read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return dict(archive)
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    weights = json.loads(path.read_text())["weights"]
    return {
        name: np.array(item["data"], item["dtype"]).reshape(item["shape"]) for name, item in weights.items()
    }


@pytest.mark.parametrize("format", ["npz", "safetensors", "json"])
def test_weights_come_back_equal(odd: Checkpoint, tmp_path: Path, format: str) -> None:
    path = tmp_path / f"pol.{format}"
    done = odd.export(path)
    assert (done.policy_id, done.format, done.bytes) == ("pol", format, path.stat().st_size)
    found = read(path)
    assert found.keys() == ODD.keys()
    for name, array in ODD.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape
    odd.export(tmp_path / "again", format=format)
    if format != "safetensors":  # which writes its metadata in any order
        assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert os.listdir(tmp_path / "store").count("pol") == 0


def test_every_policy_of_an_old_checkpoint(tmp_path: Path) -> None:
    old = Checkpoint.open(GOLDEN)
    for policy_id in old.policy_ids:
        for format in FORMATS:
            if format == "torchscript":  # which wants torch
                continue
            path = tmp_path / f"{policy_id}.{format}"
            old.export(path, policy_id)
            if path.suffix[1:] in ("npz", "safetensors", "json"):
                for name, array in old.weights(policy_id).items():
                    np.testing.assert_array_equal(read(path)[name], array)


def test_safetensors_says_where_it_is_from(odd: Checkpoint, tmp_path: Path) -> None:
    odd.export(tmp_path / "pol.safetensors")
    with safetensors.safe_open(tmp_path / "pol.safetensors", "numpy") as file:
        assert file.metadata()["policy"] == "pol"
        assert file.metadata()["checkpoint_id"] == odd.id


def test_bfloat16(tmp_path: Path) -> None:
    array = np.arange(8).astype(ml_dtypes.bfloat16)
    made = CheckpointStore(tmp_path / "store").save(1, {}, {"pol": {"weights": {"w": array}}})
    made.export(tmp_path / "pol.safetensors")
    header = (tmp_path / "pol.safetensors").read_bytes()
    assert b'"dtype":"BF16"' in header
    assert header.endswith(array.tobytes())
    for format in ("npz", "json"):
        with pytest.raises(InvalidRequest, match="bfloat16"):
            made.export(tmp_path / "pol", format=format)
    assert not (tmp_path / "pol").exists()


def test_what_is_refused(odd: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there.npz").write_bytes(b"mine")
    for dest in (tmp_path / "there.npz", tmp_path / "pol.h5", tmp_path / "noextension", f"{tmp_path}/x.npz/"):
        with pytest.raises(InvalidRequest):
            odd.export(dest)
    assert (tmp_path / "there.npz").read_bytes() == b"mine"
    with pytest.raises(CheckpointNotFound):
        odd.export(tmp_path / "x.npz", "other")
    with pytest.raises(InvalidRequest, match="5 policies"):
        Checkpoint.open(GOLDEN).export(tmp_path / "x.npz")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(InvalidRequest, match="not installed"):
        odd.export(tmp_path / "x.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["store", "there.npz"]


def test_to_a_bucket(odd: Checkpoint) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    odd.export(f"{url}/deep/pol.npz")
    assert open_backend(f"{url}/deep").read("pol.npz")[:2] == b"PK"


def test_on_the_command_line(odd: Checkpoint, tmp_path: Path) -> None:
    url, out = f"{tmp_path}/store@1", str(tmp_path / "pol.npz")
    done = CliRunner().invoke(root, ["export", url, out, "--policy", "pol", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "checkpoint": odd.url,
        "policy": "pol",
        "format": "npz",
        "file": out,
        "bytes": os.path.getsize(out),
        "difference": None,
        "unproven": [],
    }
    assert CliRunner().invoke(root, ["export", url, out]).exit_code == 2
    assert "pol.json" in CliRunner().invoke(root, ["export", url, str(tmp_path / "pol.json")]).stdout
