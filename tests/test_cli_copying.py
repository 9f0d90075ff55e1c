"""`cp`, of a store and of everything below a URL: it goes on past damage, and brings tags along."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ckptstore import CheckpointError, CheckpointStore, bulk, errors
from ckptstore.format.names import MANIFEST
from tests.stores import unlinked
from tests.test_bulk import POLICY
from tests.test_cli import ckptstore, document


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    monkeypatch.chdir(tmp_path)
    made = CheckpointStore("store")
    for step in (1, 2, 3, 4):
        made.save(step, {"x": step}, {"pol": {"weights": {"w": np.full(9, step)}}})
    made.tag("first", 1)
    made.tag("champion", 3)
    return made


def flip(path: str) -> None:
    data = bytearray(unlinked(Path(path)))
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)


def cut(path: str) -> None:
    Path(path).write_bytes(unlinked(Path(path))[:-1])


STATE = "store/checkpoint_000002/algorithm_state.pkl"
DAMAGES = {
    "a flip": lambda: flip(STATE),
    "a cut": lambda: cut(STATE),
    "a missing file": lambda: Path(STATE).unlink(),
    "a damaged manifest": lambda: flip(f"store/checkpoint_000002/{MANIFEST}"),
    "a damaged table": lambda: flip("store/checkpoint_000002/_ckptstore/parts.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_stops_none_of_the_others(store: CheckpointStore, damage: str) -> None:
    DAMAGES[damage]()
    result = ckptstore("cp", "store", "other", exits=5)
    assert "PASSED OVER" in result.stdout
    assert "checkpoint_000002" in result.stdout
    assert "3 checkpoints copied" in result.stdout
    other = CheckpointStore("other", create=False)
    assert [item.step for item in other.checkpoints()] == [1, 3, 4]
    assert other.tags() == store.tags()
    again = document("cp", "store", "other", exits=5)
    assert again["copied"] == []
    assert ["checkpoint_000002" in item["what"] for item in again["passed_over"]] == [True]


def test_so_does_another_checkpoint_of_a_step(store: CheckpointStore) -> None:
    CheckpointStore("other").save(2, {"x": "other"})
    assert "PASSED OVER" in ckptstore("cp", "store", "other", exits=4).stdout
    assert [item.state["x"] for item in CheckpointStore("other").checkpoints()] == [1, "other", 3, 4]
    assert CheckpointStore("other").tags() == store.tags()


def test_damage_is_what_counts_among_several(store: CheckpointStore) -> None:
    flip(STATE)
    flip("store/checkpoint_000003/algorithm_state.pkl")
    CheckpointStore("other").save(1, {"x": "other"})
    result = ckptstore("cp", "store", "other", exits=5)
    assert result.stdout.count("PASSED OVER") == 3
    assert "tag 'champion' isn't copied" in result.stderr
    assert CheckpointStore("other").tags() == {}


@pytest.mark.parametrize("which", [None, [1, 2, 3]])
def test_in_python_the_error_comes_last(store: CheckpointStore, which: list[int] | None) -> None:
    flip(STATE)
    with pytest.raises(errors.CheckpointCorrupt, match="checkpoint_000002"):
        store.copy_to(CheckpointStore("other"), which)
    there = [item.step for item in CheckpointStore("other").checkpoints()]
    assert there == ([1, 3, 4] if which is None else [1, 3])
    told: list[CheckpointError] = []
    assert store.copy_to(CheckpointStore("other"), which, errors=told) == []
    assert [type(error) for error in told] == [errors.CheckpointCorrupt]


def test_several_errors_are_one(store: CheckpointStore) -> None:
    flip(STATE)
    cut("store/checkpoint_000004/algorithm_state.pkl")
    with pytest.raises(errors.CheckpointCorrupt, match=r"2 checkpoints .*000004.*000002"):
        store.copy_to(CheckpointStore("other"))


class TestTagsOfMany:
    def test_they_come_along_and_move(self, store: CheckpointStore) -> None:
        Path("runs").mkdir()
        shutil.move("store", "runs/a")
        CheckpointStore("runs/b").save(7, {})
        CheckpointStore("runs/b").tag("best", 7)
        ckptstore("cp", "runs/**", "copies")
        assert CheckpointStore("copies/a").tags() == {
            "first": "checkpoint_000001",
            "champion": "checkpoint_000003",
        }
        assert CheckpointStore("copies/b").tags() == {"best": "checkpoint_000007"}
        CheckpointStore("runs/a").tag("champion", 4)
        CheckpointStore("copies/a").tag("mine", 2)
        ckptstore("cp", "runs/**", "copies")
        assert CheckpointStore("copies/a").tags() == {
            "first": "checkpoint_000001",
            "champion": "checkpoint_000004",
            "mine": "checkpoint_000002",
        }

    def test_of_the_searched_directory_itself(self, store: CheckpointStore) -> None:
        ckptstore("cp", "store/**", "copies")
        assert CheckpointStore("copies").tags() == store.tags()

    def test_no_pins(self, store: CheckpointStore) -> None:
        store.pin(1)
        ckptstore("cp", "store/**", "copies")
        copy = CheckpointStore("copies")
        copy.untag("first")
        copy.delete(1)

    def test_where_the_store_lost_its_file(self, store: CheckpointStore) -> None:
        Path("store/_ckptstore/store.json").unlink()
        ckptstore("cp", "store/**", "copies")
        assert CheckpointStore("copies").tags()["champion"] == "checkpoint_000003"

    def test_one_whose_checkpoint_stays_behind_is_named(self, store: CheckpointStore) -> None:
        ckptstore("cp", "store/**", "copies")
        store.save(5, {"x": 5})
        store.tag("champion", 5)
        flip("store/checkpoint_000005/algorithm_state.pkl")
        assert "tag 'champion' isn't moved" in ckptstore("cp", "store/**", "copies", exits=5).stderr

    def test_in_a_bucket(self, store: CheckpointStore) -> None:
        url = f"memory://{store.id}"
        store.copy_to(CheckpointStore(f"{url}/runs/a"))
        for _ in range(2):
            ckptstore("cp", f"{url}/**", "copies")
            assert CheckpointStore("copies/runs/a").tags() == CheckpointStore(f"{url}/runs/a").tags()
            CheckpointStore(f"{url}/runs/a").tag("champion", 4)


def grow(root: str, value: int) -> None:
    """A store and a checkpoint of RLlib's, whose bytes `value` changes and whose names and sizes stay."""
    CheckpointStore(f"{root}/ours").save(1, {"x": value}, {"pol": {"weights": {"w": np.full(9, value)}}})
    shutil.copytree(POLICY, f"{root}/trial/checkpoint_000001")
    files = [path for path in Path(root, "trial").rglob("*.*") if path.is_file()]
    file = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[data.rindex(b"\x00\x00\x00", 0, len(data) // 2)] = value
    file.write_bytes(data)


@pytest.mark.parametrize("verb", ["cp", "migrate"])
def test_two_sources_do_not_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(tmp_path)
    grow("exp/a", 0)
    grow("exp/b", 1)
    what = "exp/{}/**" if verb == "cp" else "exp/{}/trial/**"
    ckptstore(verb, what.format("a"), "copies")
    before = {item.path: item.open().id for item in bulk.find("copies")}
    result = ckptstore(verb, what.format("b"), "copies", exits=4)
    assert "exp/b" in result.stderr
    assert "/a" in result.stderr.replace(str(tmp_path), "")
    assert {item.path: item.open().id for item in bulk.find("copies")} == before
    ckptstore(verb, what.format("a"), "copies")
    shutil.rmtree("exp/a")
    grow("exp/a", 1)  # trained anew
    assert " replaced" in ckptstore(verb, what.format("a"), "copies").stdout


def test_what_no_mirror_made_is_not_replaced(store: CheckpointStore) -> None:
    CheckpointStore("copies").save(1, {"x": 5}, {"pol": {"weights": {"w": np.full(9, 5)}}})
    assert "an unknown place" in ckptstore("cp", "store/**", "copies", exits=4).stderr
    assert CheckpointStore("copies").get(1).state == {"x": 5}


def test_the_note_tells_no_local_path(store: CheckpointStore, tmp_path: Path) -> None:
    ckptstore("cp", "store/**", "copies")
    [note] = Path("copies/_ckptstore/mirrors").iterdir()
    assert str(tmp_path) not in note.read_text()
    assert f"{tmp_path.name}/store" in note.read_text()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("./**", "copies"),
        ("**", "./copies"),
        ("{here}/**", "copies"),
        ("**", "{here}/copies"),
        ("../{name}/**", "copies"),
        ("file://{here}/**", "copies"),
        ("link/**", "copies"),
    ],
)
def test_a_destination_below_the_source_is_refused_however_they_are_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str
) -> None:
    here = tmp_path / "here"
    CheckpointStore(here / "run").save(1, {"i": 1})
    (here / "link").symlink_to(here)
    monkeypatch.chdir(here)
    names = {"here": here, "name": "here"}
    done = ckptstore("cp", source.format(**names), target.format(**names), exits=2)
    assert "below" in done.output
    assert not (here / "copies").exists()
