"""A checkpoint that rots on its medium: later saves hold the right bytes, and don't take the damage over."""

from __future__ import annotations

import errno
import json
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.objects.backend import ObjectBackend
from ckptstore.backends.registry import open_backend
from ckptstore.cli.app import root
from ckptstore.commit.local.attempt import DirectoryAttempt
from ckptstore.errors import CheckpointCorrupt, StoreUnavailable
from ckptstore.read.spot_checks import TURNS
from tests.disks import FailingCallsDisk, WatchedBackend
from tests.servers import Server
from tests.stores import assert_same, policies

POLICY = "policies/pol1/policy_state.pkl"


def rot(path: Path, at: int = -100) -> None:
    """Flip one bit where the file lies, for all that share it; its mode and times stay."""
    status = path.stat()
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        [byte] = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.chmod(status.st_mode & 0o777)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("how", ["save", "save_async"])
def test_a_rotten_link_isnt_passed_on(tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    store = CheckpointStore(tmp_path)
    given = policies()
    for step in range(1, 4):
        store.save(step, {"i": step}, given)
    assert (tmp_path / "checkpoint_000001" / POLICY).stat().st_nlink == 3
    rot(tmp_path / "checkpoint_000001" / POLICY)
    for step in range(4, 9):
        if how == "save":
            store.save(step, {"i": step}, given)
        else:
            store.save_async(step, {"i": step}, given).result()
    assert [report.ok for report in store.verify()] == [False] * 3 + [True] * 5
    assert_same(store.get(8).load().policies, given)
    said = [text for text in warnings(caplog) if "written anew" in text]
    assert len(said) == 1
    assert "checkpoint_000003 is damaged" in said[0]
    assert POLICY in said[0]
    assert (tmp_path / "checkpoint_000008" / POLICY).stat().st_nlink == 5  # and shared again


@pytest.mark.parametrize("place", ["memory", "moto"])
def test_a_rotten_object_isnt_copied(
    place: str, start_server: Callable[[str], Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("moto") if place == "moto" else None
    url = server.new_url() if server else f"memory://{uuid.uuid4().hex}"
    options = server.options if server else None
    store = CheckpointStore(url, storage_options=options)
    given = policies()
    store.save(1, {"i": 1}, given)
    backend = open_backend(url, options)
    for file, cut in ((POLICY, False), ("policies/pol2/policy_state.pkl", True)):
        data = bytearray(backend.read(f"checkpoint_000001/{file}"))
        data[-100] ^= 1
        backend.replace(f"checkpoint_000001/{file}", bytes(data[:-9] if cut else data))
    assert store.save(2, {"i": 2}, given).verify().ok
    assert_same(CheckpointStore(url, storage_options=options).get(2).load().policies, given)
    assert [text for text in warnings(caplog) if "checkpoint_000001 is damaged" in text]


def test_a_large_one_is_read_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No save reads more than its share, and none of the files goes unread for more than so many saves."""
    monkeypatch.setattr(DirectoryAttempt, "read_freely", 1000)
    backend = WatchedBackend(tmp_path)
    store = CheckpointStore(backend)
    given = policies(64)
    store.save(0, {"i": 0}, given)
    counts = []
    for step in range(1, TURNS + 1):
        backend.read_keys.clear()
        store.save(step, {"i": 0}, given)
        counts.append(sum("polic" in key and key.endswith(".pkl") for key in backend.read_keys))
    assert sum(counts) == len(given)
    assert max(counts) <= len(given) // 4
    rot(tmp_path / "checkpoint_000000" / POLICY)
    for step in range(TURNS + 1, 2 * TURNS + 1):
        store.save(step, {"i": 0}, given)
    assert store.get(2 * TURNS).verify().ok


def test_the_first_find_has_all_the_rest_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage seldom comes alone."""
    monkeypatch.setattr(DirectoryAttempt, "read_freely", 1000)
    monkeypatch.setattr("secrets.randbits", lambda bits: 5)  # a turn that comes early
    store = CheckpointStore(tmp_path, concurrency=1)
    given = policies(64)
    store.save(0, {"i": 0}, given)
    for policy_id in given:
        rot(tmp_path / "checkpoint_000000" / "policies" / policy_id / "policy_state.pkl")
    store.save(1, {"i": 0}, given)
    assert len(store.get(1).check().problems) < len(given) // 2


def test_what_cant_be_read_is_written_anew(tmp_path: Path) -> None:
    """A bad sector."""
    disk = FailingCallsDisk("open_file", errno.EIO, where="policy_state.pkl", after="link")
    store = CheckpointStore(LocalBackend(tmp_path, disk))
    given = policies()
    store.save(1, {"i": 1}, given)
    store.save(2, {"i": 2}, given)
    assert disk.failed
    assert CheckpointStore(tmp_path).get(2).verify().ok


def test_a_rotten_manifest_is_no_reason_to_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    given = policies()
    store.save(1, {"i": 1}, given)
    rot(tmp_path / "checkpoint_000001" / "_ckptstore" / "manifest.json", at=20)
    ckpt = store.save(2, {"i": 2}, given)
    assert ckpt.verify().ok
    assert_same(ckpt.load().policies, given)
    assert any("checkpoint_000001 is damaged" in text for text in warnings(caplog))


def test_a_handed_over_policy_is_read_now_and_then(tmp_path: Path) -> None:
    """Not in memory: there is nothing to write instead, and no checkpoint that would not open."""
    store = CheckpointStore(tmp_path)
    first = store.save(0, {"i": 0}, policies())
    rot(tmp_path / "checkpoint_000000" / POLICY)
    lazy: dict[str, Any] = {policy_id: first.stored(policy_id) for policy_id in first.policy_ids}

    def save_often() -> None:
        for step in range(1, TURNS + 2):
            store.save(step, {"i": step}, lazy)

    with pytest.raises(CheckpointCorrupt, match=r"pol1.*ckptstore repair"):
        save_often()
    lazy["pol1"] = policies()["pol1"]
    assert store.save(99, {"i": 99}, lazy).verify().ok


def test_no_answer_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    given = policies()
    store.save(1, {"i": 1}, given)
    read = ObjectBackend.read

    def silent(self: ObjectBackend, key: str, *args: Any, **more: Any) -> bytes:
        if "polic" in key:
            raise TimeoutError("no answer")
        return read(self, key, *args, **more)

    monkeypatch.setattr(ObjectBackend, "read", silent)
    with pytest.raises(StoreUnavailable):
        store.save(2, {"i": 2}, given)


def test_verify_names_the_sharers(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    given = policies()
    for step in range(1, 4):
        store.save(step, {"i": step}, given)
    CheckpointStore(tmp_path).save(4, {"i": 4}, given)  # of its own
    rot(tmp_path / "checkpoint_000002" / POLICY)
    reports = store.verify()
    assert [report.damaged for report in reports] == [(POLICY,)] * 3 + [()]
    shared = ("checkpoint_000001", "checkpoint_000003", "checkpoint_000004")
    assert reports[1].sharers == {POLICY: shared}
    assert "shared by checkpoint_000001, checkpoint_000003" in reports[1].summary()
    assert "should lie in checkpoint_000004" in reports[1].summary()
    assert store.verify([2]) == [reports[1]]
    found = CliRunner().invoke(root, ["verify", f"{tmp_path}@2", "--json"])
    assert json.loads(found.stdout)["checkpoints"][0]["sharers"] == {POLICY: list(shared)}
