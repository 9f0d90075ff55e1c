"""What `ckptstore doctor` says of places that keep their promises, and of places that don't."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.registry import open_backend
from ckptstore.cli.app import root
from ckptstore.commit.doctor import diagnose
from ckptstore.errors import StoreDenied, StoreUnsuitable
from tests.servers import Server

Start = Callable[[str], Server]


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["doctor", "--json", *arguments])


def options(server: Server) -> list[str]:
    flat = {**server.options, **{f"client_kwargs.{k}": v for k, v in server.options["client_kwargs"].items()}}
    del flat["client_kwargs"]
    return [part for key, value in flat.items() for part in ("--storage-option", f"{key}={value}")]


@pytest.mark.parametrize("place", ["local", "memory", "moto"])
def test_a_place_that_keeps_its_promises(tmp_path: Path, place: str, start_server: Start) -> None:
    more: list[str] = []
    if place == "moto":
        url, more = start_server("moto").new_url(), options(start_server("moto"))
    else:
        url = str(tmp_path / "new") if place == "local" else f"memory://{uuid.uuid4().hex}"
    result = doctor(url, *more)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["ok"]
    assert [check["ok"] for check in found["checks"]] == [True] * 6
    assert "create-only writes" in found["promises"]
    assert "testtest" not in result.output
    if place == "local":
        assert not (tmp_path / "new").exists(), "it leaves nothing behind"
        assert CheckpointStore(tmp_path / "new").latest() is None


def test_a_place_that_ignores_the_condition(start_server: Start) -> None:
    server = start_server("rclone")
    url = server.new_url()
    result = doctor(url, *options(server))
    assert result.exit_code == StoreUnsuitable.exit_code
    found = json.loads(result.stdout)
    assert [check["name"] for check in found["checks"] if not check["ok"]] == [
        "what exists is not overwritten"
    ]
    assert found["promises"]["create-only writes"] == "ignored"
    alone = doctor(url, "--single-writer", *options(server))
    assert alone.exit_code == 0
    assert "one at a time" in json.loads(alone.stdout)["promises"]["writers"]
    with pytest.raises(StoreUnsuitable, match="single_writer"):
        CheckpointStore(url, storage_options=server.options).save(1)
    store = CheckpointStore(url, storage_options=server.options, single_writer=True)
    assert store.save(1, "alone").state == "alone"


class Forgetful(LocalBackend):
    """Says it wrote, and lists nothing."""

    def list(self, prefix: str = "") -> list:  # type: ignore[type-arg]  # a liar needs no type
        return []


def test_a_place_whose_listings_lag(tmp_path: Path) -> None:
    found = diagnose(Forgetful(str(tmp_path)))
    assert isinstance(found.problem, StoreUnsuitable)
    assert [check.name for check in found.checks if check.problem] == [
        "a listing shows what was just written"
    ]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_place_that_refuses(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert isinstance(diagnose(open_backend(str(tmp_path / "x"))).problem, StoreDenied)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptstore.backends.objects.backend.DEFAULT_TIMEOUT", 3.0)
    more = ["--storage-option", "endpoint_url=http://127.0.0.1:9", "--storage-option", "key=a"]
    result = CliRunner().invoke(
        root, ["doctor", "s3://bucket/x", *more, "--storage-option", "secret=sentinel"]
    )
    assert result.exit_code == 9
    assert "sentinel" not in result.output
