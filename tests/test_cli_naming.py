"""Names that people type for stores and checkpoints, and what a store without its store.json still gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ckptstore import CheckpointStore, errors
from tests.test_bulk import POLICY
from tests.test_cli import ckptstore, complaint, document


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    monkeypatch.chdir(tmp_path)
    made = CheckpointStore("s")
    for step in (1, 10):
        made.save(step, {"x": step}, {f"p{index}": {"weights": {"w": np.ones(3)}} for index in range(2)})
    made.tag("champ", 1)
    return made


class TestWithoutStoreJson:
    @pytest.mark.parametrize(
        "arguments",
        [
            "ls s",
            "info s",
            "tree s",
            "verify s",
            "latest s",
            "info s@latest",
            "info s@tag:champ",
            "tag s",
            "verify s/checkpoint_000001",
            "cp s other",
            "prune s --keep 1 --dry-run",
            "scan s",
        ],
    )
    def test_it_is_read(self, store: CheckpointStore, arguments: str) -> None:
        Path("s/_ckptstore/store.json").unlink()
        result = ckptstore(*arguments.split())
        assert result.stderr.count("has no store.json any more; `ckptstore adopt") == 1
        assert not Path("s/_ckptstore/store.json").exists()

    def test_its_id_is_unknown(self, store: CheckpointStore) -> None:
        Path("s/_ckptstore/store.json").unlink()
        found = ckptstore("ls", "s", "--json").stdout
        assert '"id": null' in found
        assert "unknown" in ckptstore("info", "s").stdout

    @pytest.mark.parametrize("arguments", [["rm", "s@1"], ["repair", "s"], ["rollback", "s@1"], ["gc", "s"]])
    def test_it_is_not_changed(self, store: CheckpointStore, arguments: list[str]) -> None:
        Path("s/_ckptstore/store.json").unlink()
        assert "its store.json is missing" in ckptstore(*arguments, exits=3).stderr

    def test_nothing_at_all_is_no_store(self, store: CheckpointStore) -> None:
        shutil.rmtree("s")
        complaint("ls", "s", exits=3)
        complaint("latest", "s", exits=3)

    def test_the_same_in_python(self, store: CheckpointStore) -> None:
        Path("s/_ckptstore/store.json").unlink()
        for create in (True, False):
            opened = CheckpointStore("s", create=create)
            assert [item.step for item in opened.checkpoints()] == [1, 10]
            latest = opened.latest()
            assert latest is not None
            assert latest.step == 10
        with pytest.raises(errors.StoreNotFound, match=r"store\.json is missing"):
            CheckpointStore("s", create=False).save(11)


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("s@champ", "s@tag:champ"),
        ("s:champ", "s@tag:champ"),
        ("s@last", "s@latest"),
        ("s:latest", "s@latest"),
        ("s:10", "s@10"),
        ("s@best", "s@STEP"),
    ],
)
def test_near_misses(store: CheckpointStore, typed: str, right: str) -> None:
    assert right in complaint("info", typed, exits=2)
    assert right in complaint("verify", typed, exits=2)


@pytest.mark.parametrize(
    "arguments",
    [["ls", "s@1"], ["latest", "s@tag:champ"], ["prune", "s@latest", "--keep", "1"], ["gc", "s@10"]],
)
def test_a_checkpoint_where_a_store_is_meant(store: CheckpointStore, arguments: list[str]) -> None:
    assert "Name the store, s\n" in complaint(*arguments, exits=2)


def test_a_directory_that_is_called_so(store: CheckpointStore) -> None:
    CheckpointStore("run@7").save(1)
    assert document("ls", "run@7/")["checkpoints"][0]["step"] == 1
    assert document("info", "run@7/checkpoint_000001")["step"] == 1
    ckptstore("cp", "s@1", "copy@3/")
    assert Path("copy@3/_ckptstore/store.json").exists()


@pytest.mark.parametrize(
    ("word", "remedy"),
    [("best", r"best\(metric\)"), ("latest", r"latest\(\)"), ("10", r"get\(10\)"), ("champ", "tag:champ")],
)
def test_words_for_get(store: CheckpointStore, word: str, remedy: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=remedy):
        store.get(word)
    with pytest.raises(errors.InvalidRequest, match=remedy):
        store.delete(word)


def test_a_checkpoint_for_get(store: CheckpointStore) -> None:
    first = store.get(10)
    assert store.get(first) == first
    assert store.get(first) is not first
    CheckpointStore("other").save(1)
    with pytest.raises(errors.InvalidRequest):
        store.get(CheckpointStore("other").get(1))
    store.save(10, {"x": 5}, if_exists="replace")
    with pytest.raises(errors.CheckpointNotFound):
        store.get(first)


def test_which_policy(store: CheckpointStore) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"2 policies\. Say which one, .* weights\('p0'\)"):
        store.get(1).weights()
    with pytest.raises(errors.InvalidRequest, match=r"no policies\. Read `state`"):
        store.save(11, {"x": 1}).weights()


def test_a_second_argument_of_download(store: CheckpointStore) -> None:
    path = store.get(1).download("copy", ["p0"])
    assert CheckpointStore("t").add(store.get(1)).policy_ids == ("p0", "p1")
    assert sorted(item.name for item in Path(path, "policies").iterdir()) == ["p0"]
    with store.get(1).as_directory(["p1"]) as directory:
        assert sorted(item.name for item in Path(directory, "policies").iterdir()) == ["p1"]
    with pytest.raises(errors.InvalidRequest, match="'p0' is of type str"):
        store.get(1).download("copy2", "p0")


def test_adopting_again(store: CheckpointStore) -> None:
    shutil.copytree(POLICY, "runs/checkpoint_000005")
    assert "is a checkpoint now" in ckptstore("adopt", "runs/checkpoint_000005").stdout
    assert "already is a checkpoint" in ckptstore("adopt", "runs/checkpoint_000005").stdout
    assert "already is a checkpoint" in ckptstore("adopt", "s/checkpoint_000001").stdout
    assert document("adopt", "s/checkpoint_000001")["already"] is True


def test_strays_are_named(store: CheckpointStore) -> None:
    assert document("info", "s@1")["strays"] == []
    Path("s/checkpoint_000001/late.bin").write_bytes(b"x")
    Path("s/checkpoint_000001/policies/.DS_Store").write_bytes(b"x")
    assert document("info", "s@1")["strays"] == ["late.bin", "policies/.DS_Store"]
    assert "late.bin" in ckptstore("info", "s@1").stdout
    assert document("info", str(Path("s/checkpoint_000001")))["strays"] == ["late.bin", "policies/.DS_Store"]
