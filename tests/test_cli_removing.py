"""`rm`, `rollback` and `gc`: what they take away, what they refuse, and that a dry run changes nothing."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from pathlib import Path

import pytest

from ckptstore import CheckpointStore, errors
from ckptstore.commit import open_catalog
from ckptstore.commit.objects.catalog import RegisterCatalog
from tests.inside import backend_of
from tests.stores import tree_bytes
from tests.test_cli import ckptstore, complaint, document
from tests.test_cli_process import COMMAND, ENVIRONMENT


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    monkeypatch.chdir(tmp_path)
    made = CheckpointStore("store")
    for step in (1, 2, 3, 4):
        made.save(step, {"x": step})
    return made


def steps(url: str = "store") -> list[int]:
    return [item.step for item in CheckpointStore(url).checkpoints()]


class TestRm:
    @pytest.mark.parametrize(
        "target",
        ["store@2", "store@checkpoint_000002", "store/checkpoint_000002", "store/checkpoint_000002/"],
    )
    def test_one(self, store: CheckpointStore, target: str) -> None:
        before = tree_bytes("store")
        assert document("rm", target, "--dry-run")["deleted"] == [f"{store.url}/checkpoint_000002"]
        assert tree_bytes("store") == before
        assert ckptstore("rm", target).stdout == f"deleted {store.url}/checkpoint_000002\n"
        assert steps() == [1, 3, 4]

    def test_several_and_by_tag_never(self, store: CheckpointStore) -> None:
        store.tag("champion", 3)
        assert "'champion' points at it" in complaint("rm", "store@1", "store@tag:champion", exits=4)
        assert "tag STORE --delete NAME" in complaint("rm", "store@1", "store@3", "--dry-run", exits=4)
        store.pin(2)
        assert "a pin points at it" in complaint("rm", "store@2", exits=4)
        assert steps() == [1, 2, 3, 4]
        ckptstore("rm", "store@1", "store@1", "store@latest")
        assert steps() == [2, 3]

    def test_no_store_and_none_of_its_own(self, store: CheckpointStore) -> None:
        assert "store@100" in complaint("rm", "store", exits=2)
        complaint("rm", "store@9", exits=3)
        complaint("rm", "nowhere@9", exits=3)
        complaint("rm", "nowhere/checkpoint_000001", exits=3)
        assert not Path("nowhere").exists()

    def test_a_copy_under_another_name(self, store: CheckpointStore) -> None:
        shutil.copytree("store/checkpoint_000002", "store/checkpoint_000009")
        ckptstore("rm", "store/checkpoint_000009")
        assert not Path("store/checkpoint_000009").exists()

    @pytest.mark.parametrize("answer", ["n", "y", "--yes"])
    @pytest.mark.parametrize("verb", [["rm", "store@4"], ["rollback", "store@3"]], ids=["rm", "rollback"])
    def test_it_asks_on_a_terminal(self, store: CheckpointStore, verb: list[str], answer: str) -> None:
        parent, child = pty.openpty()
        flags = ["--yes"] if answer == "--yes" else []
        done = subprocess.Popen(
            [*COMMAND, *verb, *flags],
            stdin=child,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        os.write(parent, b"" if flags else answer.encode() + b"\n")
        _, err = done.communicate(timeout=60)
        assert (b"Go on?" in err) == (not flags)
        assert done.returncode == (130 if answer == "n" else 0)
        assert steps() == ([1, 2, 3, 4] if answer == "n" else [1, 2, 3])
        os.close(parent)
        os.close(child)


class TestRollback:
    def test_back(self, store: CheckpointStore) -> None:
        before = tree_bytes("store")
        told = document("rollback", "store@2", "--dry-run")
        assert told["deleted"] == ["checkpoint_000004", "checkpoint_000003"]
        assert tree_bytes("store") == before
        assert document("rollback", "store@2")["deleted"] == told["deleted"]
        assert steps() == [1, 2]
        assert "nothing is later" in ckptstore("rollback", "store@2").stdout

    def test_protected(self, store: CheckpointStore) -> None:
        store.tag("champion", 3)
        assert "champion" in complaint("rollback", "store@2", exits=4)
        assert "champion" in complaint("rollback", "store@2", "--dry-run", exits=4)
        assert steps() == [1, 2, 3, 4]

    def test_of_a_store_alone(self, store: CheckpointStore) -> None:
        assert "store@100" in complaint("rollback", "store", exits=2)


class TestGc:
    def test_what_would_go(self, store: CheckpointStore) -> None:
        attempt = open_catalog(backend_of(store)).begin(9, "error", "dead")
        with attempt.create("a") as sink:
            sink.write(b"x" * 1000)
        shutil.copytree("store/.staging/dead", "copied")
        attempt.abandon()
        shutil.move("copied", "store/.staging/dead")
        shutil.copytree("store/checkpoint_000001", "store/.trash/gone.abc")
        before = tree_bytes("store")
        told = document("gc", "store", "--dry-run")
        assert (sorted(told["removed"]), told["dry_run"]) == (["dead", "gone"], True)
        assert told["bytes"] > 1000
        assert tree_bytes("store") == before
        assert document("gc", "store", "--grace", "1h", "--dry-run")["removed"] == ["gone"]
        assert sorted(document("gc", "store")["removed"]) == ["dead", "gone"]
        assert document("gc", "store", "--dry-run")["removed"] == []

    def test_a_living_save_is_spared(self, store: CheckpointStore) -> None:
        with store.stage(9) as path:
            Path(path, "file").write_text("x")
            assert document("gc", "store", "--dry-run")["removed"] == []
        assert steps()[-1] == 9

    def test_in_a_bucket(self, store: CheckpointStore) -> None:
        url = f"memory://{store.id}"
        there = CheckpointStore(url)
        store.copy_to(there)
        backend = backend_of(there)
        attempt = RegisterCatalog(backend).begin(9, "error", "dead")
        with attempt.create("a") as sink:
            sink.write(b"x" * 1000)
        before = {item.key for item in backend.list("")}
        told = document("gc", url, "--grace", "0", "--dry-run")
        assert told["removed"] in (["checkpoint_000009"], [])  # memory:// tells no times
        assert {item.key for item in backend.list("")} == before

    def test_in_a_bucket_that_tells_times(self, store: CheckpointStore, moto: object) -> None:
        url, options = moto.new_url(), moto.options  # type: ignore[attr-defined]
        there = CheckpointStore(url, storage_options=options)
        store.copy_to(there)
        backend = backend_of(there)
        attempt = RegisterCatalog(backend).begin(9, "error", "dead")
        with attempt.create("a") as sink:
            sink.write(b"x" * 1000)
        before = {item.key for item in backend.list("")}
        assert there.gc(-1.0, dry_run=True) == (["checkpoint_000009"], 1000)
        assert {item.key for item in backend.list("")} == before
        assert there.gc(-1.0) == (["checkpoint_000009"], 1000)
        assert there.gc(-1.0, dry_run=True).attempts == []

    @pytest.mark.parametrize("grace", ["0", "90", "30m", "12h", "1d", "90s", "1.5h"])
    def test_lengths_of_time(self, store: CheckpointStore, grace: str) -> None:
        assert document("gc", "store", "--grace", grace)["removed"] == []

    @pytest.mark.parametrize("grace", ["-1", "soon", "3w", "", "9999999999d"])
    def test_none(self, store: CheckpointStore, grace: str) -> None:
        assert "12h" in complaint("gc", "store", "--grace", grace, exits=2) or grace.startswith("9")


def test_a_delete_that_would_be_refused(store: CheckpointStore) -> None:
    store.tag("champion", 2)
    with pytest.raises(errors.CheckpointProtected):
        store.delete(2, dry_run=True)
    store.delete(3, dry_run=True)
    with pytest.raises(errors.CheckpointNotFound):
        store.delete(7, dry_run=True)
    assert steps() == [1, 2, 3, 4]
