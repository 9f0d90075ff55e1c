"""What is tried with each release of the clients: see ``tests/compat/clients.py``, which runs this file.

It needs ckptstore, pytest and nothing else, so that an environment has what an extra brings and no more.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.base import Backend
from ckptstore.backends.registry import open_backend
from ckptstore.commit import open_catalog
from ckptstore.commit.base import Catalog
from ckptstore.testing import BackendTests, CatalogTests

OPTIONS = json.loads(os.environ.get("CKPTSTORE_TEST_OPTIONS", "{}"))
ROOT = os.environ.get("CKPTSTORE_TEST_URL", f"memory://{uuid.uuid4().hex}").rstrip("/")
GOLDEN = Path(__file__).parents[1] / "data" / "rllib_1_0_ppo_multi5" / "checkpoint"


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"{module} is not installed here"
    )


@pytest.fixture
def url() -> str:
    return f"{ROOT}/{uuid.uuid4().hex}/run"


@pytest.fixture
def backend(url: str) -> Iterator[Backend]:
    opened = open_backend(url, OPTIONS)
    yield opened
    opened.close()  # type: ignore[attr-defined]


class TestBackend(BackendTests):
    """The backend's promises."""

    @pytest.fixture
    def backend(self, url: str) -> Iterator[Backend]:
        opened = open_backend(url, OPTIONS)
        yield opened
        opened.close()  # type: ignore[attr-defined]


class TestCommits(CatalogTests):
    """The commit's promises."""

    @pytest.fixture
    def catalog(self, backend: Backend) -> Catalog:
        return open_catalog(backend)


def test_a_run(url: str) -> None:
    weights = {"w": np.arange(5_000_000, dtype="f4"), "b": np.zeros(3, "f8")}
    with CheckpointStore(url, storage_options=OPTIONS) as store:
        store.save(1, {"a": 1}, {"p": {"weights": weights}}, metrics={"reward": 1.0})
        store.save(2, {"a": 2}, {"p": {"weights": weights}})
        store.save(2, {"a": 3}, {"p": {"weights": weights}}, if_exists="replace")
        store.tag("best", 1)
        assert store.prune(keep=1) == []
        newest = store.latest(verified=True)
        assert newest is not None
        assert newest.state == {"a": 3}
        assert np.array_equal(newest.weights("p")["w"], weights["w"])
        assert [found.step for found in store.checkpoints()] == [1, 2]
        assert store.get("tag:best").step == 1
        assert all(report.ok for report in store.verify())
        if not url.startswith("memory:"):
            assert pickle.loads(pickle.dumps(store)).url == url
        store.untag("best")
        store.delete(1)
        store.gc()
        assert [found.step for found in store.checkpoints()] == [2]


@needs("click")
@needs("rich")
def test_the_command_line(url: str) -> None:
    from click.testing import CliRunner

    from ckptstore.cli.app import root as cli

    CheckpointStore(url, storage_options=OPTIONS).save(1, {"a": 1})
    given = [f"--storage-option={name}={json.dumps(value)}" for name, value in OPTIONS.items()]
    for command in ("ls", "info", "verify", "latest", "doctor"):
        for more in ([], ["--json"]):
            done = CliRunner().invoke(cli, [command, url, *given, *more])
            assert done.exit_code == 0, done.output


@needs("cryptography")
def test_signatures(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    CheckpointStore(tmp_path, signing_key=private).save(1, {"a": 1})
    newest = CheckpointStore(tmp_path, trusted_keys=[public]).latest(verified=True)
    assert newest is not None
    assert newest.state == {"a": 1}


@pytest.mark.parametrize(
    "suffix",
    [
        "npz",
        "json",
        pytest.param("safetensors", marks=needs("safetensors")),
        pytest.param("onnx", marks=[needs("onnx"), needs("onnxruntime")]),
    ],
)
def test_exports(tmp_path: Path, suffix: str) -> None:
    checkpoint = Checkpoint.open(GOLDEN)
    checkpoint.export(tmp_path / f"policy.{suffix}", checkpoint.policy_ids[0])
    assert (tmp_path / f"policy.{suffix}").stat().st_size > 1000
