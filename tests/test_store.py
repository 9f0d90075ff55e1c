"""What a store promises, on every kind of place."""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import shutil
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore, Opaque
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointExists,
    CheckpointGone,
    CheckpointNotFound,
    CheckpointProtected,
    InvalidRequest,
    StoreNotFound,
    UnreadableFormat,
)
from tests.servers import Server
from tests.stores import assert_same, flipped, policies, tree_bytes, unlinked

Opener = Callable[..., CheckpointStore]
PLACES = [
    "local",
    "memory",
    "moto",
    pytest.param("seaweedfs", marks=pytest.mark.slow),
    pytest.param("fake-gcs", marks=pytest.mark.slow),
]


@pytest.fixture(params=PLACES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens the same new store again and again, each time as a process of its own would."""
    place: str = request.param
    if place == "local":
        return partial(CheckpointStore, tmp_path / "store")
    if place == "memory":
        return partial(CheckpointStore, f"memory://{uuid.uuid4().hex}")
    server: Server = request.getfixturevalue("start_server")(place)
    return partial(CheckpointStore, server.new_url(), storage_options=server.options)


@pytest.fixture
def store(opener: Opener) -> CheckpointStore:
    return opener()


@pytest.fixture
def local(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store")


STATE = {
    "iteration": 7,
    "counters": {"steps": 100},
    "nested": [1, (2, "three"), {4: None}],
    "x": np.arange(5),
}


# -- saving and loading -----------------------------------------------------------------------------


def test_what_was_saved_comes_back(store: CheckpointStore) -> None:
    saved = store.save(
        step=100,
        state=STATE,
        policies=policies(),
        components={"replay_buffer": {"obs": np.zeros((100, 300))}, "rng": [1, 2]},
        metrics={"episode_reward_mean": 42.0},
        labels=["eval"],
    )
    found = store.latest()
    assert found is not None
    for ckpt in (saved, found, store.get(100), store.get("checkpoint_000100"), store.get(id=saved.id)):
        assert (ckpt.id, ckpt.name, ckpt.step, ckpt.kind) == (saved.id, "checkpoint_000100", 100, "Algorithm")
        assert ckpt.version == "1.1"
        assert ckpt.metrics == {"episode_reward_mean": 42.0}
        assert ckpt.labels == ("eval",)
        assert ckpt.policy_ids == ("pol0", "pol1", "pol2")
        assert (ckpt.committed, ckpt.verified, ckpt.skipped) == (True, True, ())
        assert ckpt == saved
    assert_same(found.state, STATE)
    assert_same(dict(found.policies), policies())
    assert_same(found.components["replay_buffer"], {"obs": np.zeros((100, 300))})
    assert_same(dict(found.components)["rng"], [1, 2])
    assert_same(found.weights("pol1"), policies()["pol1"]["weights"])
    assert found.verify().ok
    loaded = found.load()
    assert_same(loaded.state, STATE)
    assert_same(loaded.policies, policies())


def test_a_subset_of_policies(store: CheckpointStore) -> None:
    ckpt = store.save(1, STATE, policies(5))
    assert_same(ckpt.load(policy_ids={"pol3"}).policies, {"pol3": policies(5)["pol3"]})
    assert ckpt.load(policy_ids=[]).policies == {}
    with pytest.raises(CheckpointNotFound, match=r"pol0.*pol4"):
        ckpt.load(policy_ids={"pol9"})
    with pytest.raises(CheckpointNotFound):
        ckpt.weights("nope")
    with pytest.raises(KeyError):
        ckpt.policies["nope"]
    with pytest.raises(InvalidRequest, match="str"):
        ckpt.load(policy_ids="pol1")
    with pytest.raises(InvalidRequest, match="5 policies"):
        ckpt.weights()


def test_loaded_arrays_are_the_callers_own(store: CheckpointStore) -> None:
    ckpt = store.save(1, policies=policies(1))
    ckpt.load().policies["pol0"]["weights"]["dense/kernel"][:] = 0
    assert_same(ckpt.load().policies, policies(1))


def test_mapped_arrays_are_copy_on_write(store: CheckpointStore) -> None:
    ckpt = store.save(1, policies=policies(1))
    mapped = ckpt.load(mmap=True).policies
    assert_same(mapped, policies(1))
    mapped["pol0"]["weights"]["dense/kernel"][:] = 0
    assert_same(ckpt.load(mmap=True).policies, policies(1))


def test_mapped_arrays_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between them is, and is checked; a file cut short would be a bus error later."""
    store = CheckpointStore(tmp_path)
    ckpt = store.save(1, policies=policies(1, rows=4000))
    read: list[str] = []
    plain = LocalBackend.read_into

    def read_into(self: LocalBackend, key: str, start: int, target: memoryview) -> None:
        read.append(key)
        plain(self, key, start, target)

    monkeypatch.setattr(LocalBackend, "read_into", read_into)
    assert_same(ckpt.load(mmap=True).policies, policies(1, rows=4000))
    assert read == ["checkpoint_000001/algorithm_state.pkl"]
    monkeypatch.undo()
    path = tmp_path / "checkpoint_000001" / "policies" / "pol0" / "policy_state.pkl"
    data = bytearray(unlinked(path))
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match="pol0"):
        ckpt.load(mmap=True)
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointCorrupt, match="pol0"):
        ckpt.load(mmap=True)


def test_no_state_and_odd_states(store: CheckpointStore) -> None:
    assert store.save(1).state == {}
    assert store.save(2, None).state is None
    assert store.save(3, [1, 2]).state == [1, 2]
    assert store.save(3, 5, if_exists="replace").load().state == 5


def test_a_policy_alone(store: CheckpointStore) -> None:
    state = policies(1)["pol0"]
    ckpt = store.save(1, policy=state)
    assert (ckpt.kind, ckpt.policy_ids) == ("Policy", ("default_policy",))
    assert_same(ckpt.weights(), state["weights"])
    assert_same(ckpt.state, state)
    assert_same(ckpt.load().policies, {"default_policy": state})
    with pytest.raises(InvalidRequest, match="alone"):
        store.save(2, policy=state, policies={"pol0": state})


class Trainer:
    def __init__(self) -> None:
        self.factor = 3


def test_objects_come_back_inert_or_trusted(store: CheckpointStore) -> None:
    ckpt = store.save(1, {"trainer": Trainer(), "double": lambda x: 2 * x})
    assert isinstance(ckpt.state["trainer"], Opaque)
    assert "Trainer" in ckpt.state["trainer"].name
    real: Any = ckpt.load(trusted=True).state
    assert real["trainer"].factor == 3
    assert real["double"](4) == 8


def test_weights_that_are_not_arrays(store: CheckpointStore) -> None:
    ckpt = store.save(
        1, policies={"a": {"weights": {"w": object()}}, "b": {"weights": [np.zeros(2), {"x": np.ones(3)}]}}
    )
    with pytest.raises(UnreadableFormat, match="'w'"):
        ckpt.weights("a")
    assert_same(ckpt.weights("b"), {"0": np.zeros(2), "1/x": np.ones(3)})


def test_models_travel_untouched(store: CheckpointStore, tmp_path: Path) -> None:
    export = tmp_path / "export"
    (export / "variables").mkdir(parents=True)
    (export / "saved_model.pb").write_bytes(os.urandom(1000))
    (export / "variables" / "empty").write_bytes(b"")
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    ckpt = store.save(1, policies=policies(2), models={"pol0": export, "pol1": tmp_path / "model.onnx"})
    with ckpt.as_directory() as path:
        assert tree_bytes(Path(path, "policies/pol0/model")) == tree_bytes(export)
        assert Path(path, "policies/pol1/model/model.onnx").read_bytes() == b"onnx"
    with pytest.raises(InvalidRequest, match="no policy"):
        store.save(2, policies=policies(1), models={"pol7": export})
    with pytest.raises(InvalidRequest, match="no file"):
        store.save(2, policies=policies(1), models={"pol0": tmp_path / "absent"})
    (export / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequest, match="link"):
        store.save(2, policies=policies(1), models={"pol0": export})


def test_the_log_says_what_bytes_and_seconds(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ckptstore")
    store.save(1, STATE, policies()).load()
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert len(lines) == 2
    assert lines[0].startswith("saved ")
    assert lines[1].startswith("loaded ")
    assert all("checkpoint_000001: " in line and " bytes in " in line for line in lines)


def test_progress_counts_every_byte(store: CheckpointStore) -> None:
    done: list[int] = []
    ckpt = store.save(1, STATE, policies(), progress=done.append)
    assert sum(done) == ckpt.manifest.size
    done.clear()
    ckpt.verify(progress=done.append)
    assert sum(done) == ckpt.manifest.size


# -- steps ------------------------------------------------------------------------------------------


def test_an_existing_step(store: CheckpointStore) -> None:
    first = store.save(1, "first")
    with pytest.raises(CheckpointExists, match="if_exists"):
        store.save(1, "second")
    assert store.save(1, "second", if_exists="return") == first
    assert store.get(1).state == "first"
    second = store.save(1, "second", if_exists="replace")
    assert second.id != first.id
    assert store.get(1) == second
    assert [ckpt.id for ckpt in store.checkpoints()] == [second.id]
    assert store.latest() == second
    third = store.save(1, "third", if_exists="replace")
    assert (store.get(1).state, store.latest()) == ("third", third)
    with pytest.raises(CheckpointNotFound):
        store.get(first.name)
    with pytest.raises(CheckpointGone):
        first.load()


def test_replacing_keeps_what_a_tag_needs(store: CheckpointStore) -> None:
    first = store.save(1, "first")
    store.tag("champion", first)
    second = store.save(1, "second", if_exists="replace")
    assert store.get(1) == second
    assert store.get("tag:champion").state == "first"
    assert [ckpt.id for ckpt in store.checkpoints()] == [second.id]


def test_order_is_by_integer_step(store: CheckpointStore) -> None:
    for step in (100_000, 5, 1_000_000, 20):
        store.save(step, step)
    assert [ckpt.step for ckpt in store.checkpoints()] == [5, 20, 100_000, 1_000_000]
    newest = store.latest()
    assert newest is not None
    assert newest.step == 1_000_000
    store.delete(100_000)
    assert store.get(1_000_000).state == 1_000_000


def test_parents(store: CheckpointStore, opener: Opener) -> None:
    first = store.save(1)
    assert first.manifest.parent is None
    second = store.save(2)
    assert second.manifest.parent == (first.id, "resume")
    other = opener()
    other.get(1).load()
    assert other.save(3).manifest.parent == (first.id, "resume")


def test_best(store: CheckpointStore) -> None:
    values: list[Any] = [1.0, math.nan, 5, 5.0, None, "high", True, math.inf]
    assert store.best("reward") is None
    for step, value in enumerate(values[:-1]):
        store.save(step, metrics={"reward": value, "env": {"deep": -step}} if value is not None else {})
    best = store.best("reward")
    assert best is not None
    assert best.step == 3
    worst = store.best("reward", mode="min")
    assert worst is not None
    assert worst.step == 0
    deep = store.best("env/deep")
    assert deep is not None
    assert deep.step == 0
    assert store.best("absent") is None
    with pytest.raises(InvalidRequest):
        store.best("reward", mode="mean")  # type: ignore[arg-type]  # what untyped callers pass
    store.save(9, metrics={"reward": math.inf})
    store.save(10, metrics={"reward": -math.inf})
    assert store.best("reward") == best  # what overflowed is as good as what is missing
    assert store.best("reward", mode="min") == worst


def test_get_what_is_not_there(store: CheckpointStore) -> None:
    store.save(1)
    absent: list[Callable[[], object]] = [
        lambda: store.get(2),
        lambda: store.get("checkpoint_000002"),
        lambda: store.get("checkpoint_000001-r1"),
        lambda: store.get("tag:none"),
        lambda: store.get(id="none"),
        lambda: store.untag("none"),
    ]
    for call in absent:
        with pytest.raises(CheckpointNotFound):
            call()
    refused: list[Callable[[], object]] = [
        lambda: store.get("checkpoint_1"),
        lambda: store.get(),
        lambda: store.get(1, id="x"),
        lambda: store.get(-1),
    ]
    for call in refused:
        with pytest.raises(InvalidRequest):
            call()


# -- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy_id",
    [
        "default_policy",
        "pol 0",
        "pol*1",
        "pöl_2",
        "pol.3",
        "pol%4",
        "pol#5",
        "pol&6",
        "%2F",
        "策略",
        "a" * 255,
    ],
)
def test_policy_ids_round_trip(store: CheckpointStore, policy_id: str) -> None:
    weights = {"w": np.arange(3.0)}
    store.save(1, policies={policy_id: {"weights": weights}})
    ckpt = store.get(1)
    assert ckpt.policy_ids == (policy_id,)
    assert_same(ckpt.weights(policy_id), weights)
    assert ckpt.verify().ok


@pytest.mark.parametrize(
    "arguments",
    [
        {"step": -1},
        {"step": 1.5},
        {"step": "1"},
        {"step": 1, "policies": {"": {}}},
        {"step": 1, "policies": {"..": {}}},
        {"step": 1, "policies": {"a/b": {}}},
        {"step": 1, "policies": {"a": {}, "A": {}}},
        {"step": 1, "policies": {"x" * 300: {}}},
        {"step": 1, "policies": {3: {}}},
        {"step": 1, "policies": [1]},
        {"step": 1, "components": {"../x": 1}},
        {"step": 1, "components": {"x" * 252: 1}},
        {"step": 1, "components": 3},
        {"step": 1, "metrics": [("x", 1)]},
        {"step": 1, "metrics": 3},
        {"step": 1, "labels": [1]},
        {"step": 1, "if_exists": "explode"},
        {"step": 1, "state": {"lock": __import__("threading").Lock()}},
    ],
    ids=str,
)
def test_refused_before_anything_is_visible(store: CheckpointStore, arguments: dict[str, Any]) -> None:
    before = store.save(0, STATE)
    with pytest.raises(InvalidRequest):
        store.save(**arguments)
    assert store.checkpoints() == [before]
    assert store.save(1).step == 1
    assert store.gc().attempts == [] or not store.url.startswith("file")


def test_there_is_no_store(opener: Opener) -> None:
    reader = opener(create=False)
    for call in (reader.latest, reader.checkpoints, reader.tags, lambda: reader.save(1), reader.gc):
        with pytest.raises(StoreNotFound, match="create=True"):
            call()
    assert opener().latest() is None
    with pytest.raises(StoreNotFound):
        reader.latest()
    opener().save(1)
    opener().delete(1)
    assert reader.latest() is None
    assert reader.checkpoints() == []


def test_a_vanished_store_is_not_empty(local: CheckpointStore, tmp_path: Path) -> None:
    local.save(1)
    shutil.rmtree(tmp_path / "store")
    for call in (local.latest, local.checkpoints, lambda: local.get(1), lambda: local.best("x")):
        with pytest.raises(StoreNotFound, match="vanished"):
            call()
    with pytest.raises(CheckpointError):
        local.save(2)
    CheckpointStore(tmp_path / "store").save(1)
    with pytest.raises(StoreNotFound, match="another"):
        CheckpointStore.latest(_with_other_id(local))


def _with_other_id(store: CheckpointStore) -> CheckpointStore:
    for path in Path(store.url.removeprefix("file://")).glob("checkpoint_*"):
        shutil.rmtree(path)
    return store


# -- damage -----------------------------------------------------------------------------------------


def test_every_damaged_byte_is_found(local: CheckpointStore, tmp_path: Path) -> None:
    good = local.save(1, STATE, policies(1))
    local.save(2, STATE, policies(1), components={"c": 1}, metrics={"a": 1})
    root = tmp_path / "store" / "checkpoint_000002"
    count = 0
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        for position in flipped(path):
            count += 1
            latest = local.latest(verified=True)
            assert latest == good, (path, position)
            assert [skip.name for skip in latest.skipped] == ["checkpoint_000002"]
            reports = {report.name.rpartition("/")[2]: report for report in local.verify()}
            assert reports["checkpoint_000001"].ok
            assert not reports["checkpoint_000002"].ok
            if path.suffix == ".pkl":
                damaged = local.get(2)
                with pytest.raises(CheckpointCorrupt):
                    _read_all(damaged)
    assert count > 100
    assert local.latest(verified=True) == local.get(2)


def _read_all(ckpt: Checkpoint) -> None:
    ckpt.load()
    ckpt.components["c"]


@pytest.mark.parametrize("change", ["missing", "longer", "shorter", "empty"])
def test_a_copy_cut_short_is_passed_over(local: CheckpointStore, tmp_path: Path, change: str) -> None:
    good = local.save(1, STATE, policies(1))
    local.save(2, STATE, policies(1))
    path = tmp_path / "store" / "checkpoint_000002" / "policies" / "pol0" / "policy_state.pkl"
    data = path.read_bytes()
    path.unlink()
    if change != "missing":
        path.write_bytes({"longer": data + b"x", "shorter": data[:-1], "empty": b""}[change])
    latest = local.latest()
    assert latest == good
    assert latest.skipped[0].name == "checkpoint_000002"
    assert "policy_state.pkl" in latest.skipped[0].reason
    assert local.checkpoints() == [good]
    if change != "longer":  # what was committed is still there, and is what a load reads
        with pytest.raises(CheckpointCorrupt, match="policy_state"):
            local.get(2).load()
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    assert [ckpt.step for ckpt in local.checkpoints()] == [1, 2]


def test_extra_and_swapped_files(local: CheckpointStore, tmp_path: Path) -> None:
    ckpt = local.save(1, STATE, policies(2))
    root = tmp_path / "store" / "checkpoint_000001"
    (root / "policies" / ".DS_Store").write_bytes(b"x")
    assert ckpt.verify().strays == ("policies/.DS_Store",)
    one, other = (root / "policies" / name / "policy_state.pkl" for name in ("pol0", "pol1"))
    swapped = one.read_bytes(), other.read_bytes()
    assert len(swapped[0]) == len(swapped[1])
    for path, data in ((one, swapped[1]), (other, swapped[0])):
        path.unlink()
        path.write_bytes(data)
    for read in (ckpt.verify, ckpt.load, lambda: ckpt.weights("pol0")):
        with pytest.raises(CheckpointCorrupt):
            read()


def test_all_damaged_is_not_empty(local: CheckpointStore, tmp_path: Path) -> None:
    local.save(1, STATE)
    path = tmp_path / "store" / "checkpoint_000001" / "algorithm_state.pkl"
    path.unlink()
    with pytest.raises(CheckpointCorrupt, match=r"algorithm_state\.pkl is missing"):
        local.latest()
    assert local.checkpoints() == []
    local.save(2)
    latest = local.latest()
    assert latest is not None
    assert latest.step == 2


def test_a_checkpoint_directory_copied_whole_is_a_checkpoint(local: CheckpointStore, tmp_path: Path) -> None:
    saved = local.save(1, STATE, policies(1))
    shutil.copytree(tmp_path / "store" / "checkpoint_000001", tmp_path / "elsewhere")
    copy = Checkpoint.open(tmp_path / "elsewhere")
    assert (copy.id, copy.step, copy.name) == (saved.id, 1, "elsewhere")
    assert_same(copy.load().policies, policies(1))
    assert copy.verify().ok
    (tmp_path / "elsewhere" / "_ckptstore" / "manifest.json").unlink()
    with pytest.raises(CheckpointError):
        copy.verify()


def test_other_peoples_directories(local: CheckpointStore, tmp_path: Path) -> None:
    local.save(1, "ours")
    foreign = tmp_path / "store" / "checkpoint_000002"
    foreign.mkdir()
    (foreign / "algorithm_state.pkl").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "store" / "notes.txt").write_text("x")
    (tmp_path / "store" / "checkpoint_000003").write_text("a file")
    assert [ckpt.step for ckpt in local.checkpoints()] == [1]
    latest = local.latest()
    assert latest is not None
    assert latest.step == 1
    saved = local.save(2, "ours too")
    assert saved.name == "checkpoint_000002-r1"
    assert (foreign / "algorithm_state.pkl").exists()
    assert local.get(2) == saved


# -- tags, deleting ---------------------------------------------------------------------------------


def test_tags(store: CheckpointStore, opener: Opener) -> None:
    one, two = store.save(1), store.save(2)
    store.tag("champion", one)
    store.tag("other", 2)
    assert store.tags() == {"champion": one.name, "other": two.name}
    store.tag("champion", two.name)
    assert store.get("tag:champion") == two
    assert opener().tags() == store.tags()
    store.untag("champion")
    assert store.tags() == {"other": two.name}
    store.tag("champion", one)
    assert store.get("tag:champion") == one
    with pytest.raises(CheckpointNotFound):
        store.tag("x", 3)
    with pytest.raises(InvalidRequest):
        store.tag("a/b", one)


def test_what_is_tagged_or_pinned_stays(store: CheckpointStore) -> None:
    one, two, three = (store.save(step) for step in (1, 2, 3))
    store.tag("champion", one)
    store.pin(two)
    for kept in (one, two):
        with pytest.raises(CheckpointProtected, match="untag"):
            store.delete(kept)
        with pytest.raises(CheckpointProtected):
            store.rollback(store.get(1)) if kept is two else store.delete(kept)
    assert store.checkpoints() == [one, two, three]
    assert store.prune(1) == []
    store.untag("champion")
    store.unpin(two)
    store.unpin(two)
    assert store.prune(1) == [one.name, two.name]


def test_delete(store: CheckpointStore) -> None:
    one, two = store.save(1, STATE), store.save(2, STATE)
    store.delete(one)
    assert store.checkpoints() == [two]
    with pytest.raises(CheckpointNotFound):
        store.get(1)
    with pytest.raises(CheckpointGone):
        one.load()
    with pytest.raises(CheckpointNotFound):
        store.delete(1)
    with pytest.raises(CheckpointGone):
        store.delete(one)
    with pytest.raises(CheckpointGone):
        store.tag("late", one)
    assert store.tags() == {}
    store.delete(2)
    assert store.latest() is None
    again = store.save(1, "again")
    assert store.latest() == again


def test_prune(store: CheckpointStore, opener: Opener) -> None:
    names = [store.save(step).name for step in range(6)]
    resumed = opener()
    resumed.get(1).load()
    assert resumed.prune(2, dry_run=True) == [names[0], names[2], names[3]]
    assert len(resumed.checkpoints()) == 6
    assert resumed.prune(2) == [names[0], names[2], names[3]]
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 4, 5]
    assert store.prune(10) == []
    for bad in (0, -1, True, 1.5, "3"):
        with pytest.raises(InvalidRequest):
            store.prune(bad)  # type: ignore[arg-type]  # what untyped callers pass


def test_rollback(store: CheckpointStore) -> None:
    saved = [store.save(step, step) for step in (10, 50, 55, 60)]
    assert store.rollback(saved[1]) == [saved[3].name, saved[2].name]
    assert store.latest() == saved[1]
    again = store.save(60, "relived")
    assert again.manifest.parent == (saved[1].id, "resume")
    assert store.get(60).state == "relived"


def test_rollback_past_a_tag_changes_nothing(store: CheckpointStore) -> None:
    saved = [store.save(step) for step in (1, 2, 3)]
    store.tag("champion", 2)
    with pytest.raises(CheckpointProtected):
        store.rollback(1)
    assert store.checkpoints() == saved


def test_another_stores_checkpoint(store: CheckpointStore, tmp_path: Path) -> None:
    foreign = CheckpointStore(tmp_path / "other").save(1)
    store.save(1)
    for call in (
        lambda: store.delete(foreign),
        lambda: store.tag("x", foreign),
        lambda: store.rollback(foreign),
    ):
        with pytest.raises(InvalidRequest, match="isn't in the store"):
            call()


def test_gc_leaves_what_is_committed(store: CheckpointStore) -> None:
    saved = [store.save(step, STATE, policies(1)) for step in (1, 2)]
    store.gc()
    store.gc(grace=0)
    assert store.checkpoints() == saved
    assert all(report.ok for report in store.verify())


# -- copies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", ["local", "memory"])
def test_copy_to(store: CheckpointStore, tmp_path: Path, elsewhere: str) -> None:
    other = CheckpointStore(tmp_path / "other" if elsewhere == "local" else f"memory://{uuid.uuid4().hex}")
    saved = [store.save(step, STATE, policies(2), metrics={"r": step}) for step in (1, 2)]
    store.tag("champion", 1)
    copied = store.copy_to(other)
    assert [ckpt.id for ckpt in copied] == [ckpt.id for ckpt in saved]
    assert other.tags() == {"champion": "checkpoint_000001"}
    assert all(report.ok for report in other.verify())
    assert_same(other.get(2).load().policies, policies(2))
    assert store.copy_to(other) == []
    store.save(3)
    assert [ckpt.step for ckpt in store.copy_to(other, [3])] == [3]
    other.save(4, "theirs")
    store.save(4, "ours")
    with pytest.raises(CheckpointExists):
        store.copy_to(other)


def test_a_damaged_checkpoint_is_not_copied(local: CheckpointStore, tmp_path: Path) -> None:
    local.save(1, STATE, policies(1))
    path = tmp_path / "store" / "checkpoint_000001" / "policies" / "pol0" / "policy_state.pkl"
    next(flipped(path))
    other = CheckpointStore(tmp_path / "other")
    with pytest.raises(CheckpointCorrupt):
        local.copy_to(other)
    assert other.checkpoints() == []


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("checkpoint_000009", "the store .* keeps a checkpoint of its own there"),
        ("checkpoint_000001/mine", "it lies in the checkpoint .*checkpoint_000001"),
        ("checkpoint_000001/policies/pol0/deep/er", "it lies in the checkpoint .*checkpoint_000001"),
    ],
)
def test_a_download_never_becomes_part_of_a_store(
    local: CheckpointStore, tmp_path: Path, where: str, why: str
) -> None:
    ckpt = local.save(1, {"x": 1}, policies())
    root = Path(local.url.removeprefix("file://"))
    before = sorted(root.rglob("*"))
    for policy_ids in (None, ["pol0"]):
        with pytest.raises(InvalidRequest, match=why):
            ckpt.download(root / where, policy_ids=policy_ids)
    assert sorted(root.rglob("*")) == before
    assert ckpt.download(tmp_path / "elsewhere" / "checkpoint_000009")


def test_a_failed_download_leaves_the_directory_empty(local: CheckpointStore, tmp_path: Path) -> None:
    ckpt = local.save(1, STATE, policies(2))
    path = tmp_path / "store" / "checkpoint_000001" / "policies" / "pol1" / "policy_state.pkl"
    damage = flipped(path)
    next(damage)
    with pytest.raises(CheckpointCorrupt):
        ckpt.download(tmp_path / "copy")
    assert os.listdir(tmp_path / "copy") == []
    for _ in damage:
        pass  # the file is whole again at the end
    assert Checkpoint.open(ckpt.download(tmp_path / "copy")).verify().ok


def test_download(store: CheckpointStore, tmp_path: Path) -> None:
    ckpt = store.save(1, STATE, policies(3), components={"c": 1})
    whole = Checkpoint.open(ckpt.download(tmp_path / "whole"))
    assert whole.verify().ok
    assert whole.id == ckpt.id
    part = Path(ckpt.download(tmp_path / "part", policy_ids=["pol1"]))
    assert os.listdir(part / "policies") == ["pol1"]
    assert Checkpoint.open(part).verify().ok
    assert pickle.loads((part / "algorithm_state.pkl").read_bytes())["iteration"] == 7
    assert b'"policy_ids":["pol1"]' in (part / "rllib_checkpoint.json").read_bytes()
    ckpt.download(tmp_path / "whole")  # as another process may have done
    Path(whole.url.removeprefix("file://"), "algorithm_state.pkl").unlink()
    with pytest.raises(InvalidRequest, match="empty"):
        ckpt.download(tmp_path / "whole")
    with pytest.raises(CheckpointNotFound):
        ckpt.download(tmp_path / "none", policy_ids=["pol7"])
    with ckpt.as_directory(policy_ids=["pol2"]) as path:
        assert os.path.isfile(os.path.join(path, "policies", "pol2", "policy_state.pkl"))
        with open(os.path.join(path, "algorithm_state.pkl"), "wb"):
            pass  # the copy is the reader's own: the original must not notice
    assert not os.path.exists(path)
    assert ckpt.verify().ok


# -- other programs' files ---------------------------------------------------------------------------


def test_stage(store: CheckpointStore) -> None:
    with store.stage(step=5, metrics={"r": 1}) as path:
        assert os.path.isdir(path)
        assert os.listdir(path) == []
        Path(path, "deep", "er").mkdir(parents=True)
        Path(path, "deep", "er", "weights.bin").write_bytes(b"w" * 100_000)
        Path(path, "empty").write_bytes(b"")
    ckpt = path.checkpoint
    assert ckpt is not None
    assert (ckpt.step, ckpt.kind, ckpt.metrics) == (5, "Directory", {"r": 1})
    assert ckpt.verify().ok
    assert store.latest() == ckpt
    with ckpt.as_directory() as copy:
        files = tree_bytes(copy)
        assert files["deep/er/weights.bin"] == b"w" * 100_000
        assert files["empty"] == b""
    with pytest.raises(UnreadableFormat, match="as_directory"):
        ckpt.load()
    with pytest.raises(InvalidRequest, match="inside"):
        os.fspath(path)


def test_stage_commits_nothing_after_an_exception(store: CheckpointStore) -> None:
    def fill(path: Path) -> None:
        (path / "half").write_bytes(b"half")
        raise ZeroDivisionError(path)

    with pytest.raises(ZeroDivisionError) as caught, store.stage(step=5) as path:
        fill(Path(path))
    directory = str(caught.value)
    assert path.checkpoint is None
    assert not os.path.exists(directory)
    assert store.latest() is None
    assert store.save(5).step == 5


def _empty(path: Path) -> None:
    pass


def _link(path: Path) -> None:
    (path / "link").symlink_to("/etc/passwd")


def _linked_folder(path: Path) -> None:
    (path / "file").write_bytes(b"x")
    (path / "link").symlink_to("/etc")


def _pipe(path: Path) -> None:
    os.mkfifo(path / "pipe")


def _manifest(path: Path) -> None:
    (path / "_ckptstore").mkdir()
    (path / "_ckptstore" / "manifest.json").write_bytes(b"{}")


def _backslash(path: Path) -> None:
    (path / "a\\b").write_bytes(b"x")


def _unfinished(path: Path) -> None:
    (path / ".ckptstore-0123456789abcdef.tmp").write_bytes(b"x")


@pytest.mark.parametrize(
    "fill",
    [_empty, _link, _linked_folder, _pipe, _manifest, _backslash, _unfinished],
    ids=lambda fill: fill.__name__,
)
def test_stage_refuses_and_keeps_the_files(
    store: CheckpointStore, fill: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for stage in (store.stage, store.stage_async):
        with pytest.raises(InvalidRequest) as caught:  # noqa: PT012
            with stage(step=5) as path:
                fill(Path(path))
                if fill is not _empty:
                    Path(path, "hours-of-work.pt").write_bytes(b"x" * 1000)
            store.wait()
        found = re.search(r"Your files are kept in (.+): copy them", str(caught.value))
        if fill is _empty:
            assert found is None
            continue
        assert found is not None
        kept = Path(found[1])
        assert Path(kept, "hours-of-work.pt").read_bytes() == b"x" * 1000
        store.gc(grace=0)
        assert len(os.listdir(kept)) >= 2
        for entry in kept.iterdir():  # what the error asks for
            if entry.name != "hours-of-work.pt":
                entry.rename(tmp_path / f"{stage.__name__}-out")
        with store.stage(step=6, if_exists="replace") as path:
            shutil.copytree(kept, path, dirs_exist_ok=True)
        assert store.get(6).listing().keys() >= {"hours-of-work.pt"}
        store.delete(6)
    assert store.checkpoints() == []
    assert store.save(5).step == 5


def test_stage_at_a_taken_step(store: CheckpointStore) -> None:
    store.save(5, "first")
    with pytest.raises(CheckpointExists), store.stage(step=5):
        raise AssertionError("the block must not run")
    with store.stage(step=5, if_exists="replace") as path:
        Path(path, "x").write_bytes(b"x")
    assert store.get(5) == path.checkpoint


# -- in the background ------------------------------------------------------------------------------


def test_save_async_is_a_snapshot(store: CheckpointStore) -> None:
    state: dict[str, Any] = {"x": np.zeros(100_000), "l": [1]}
    future = store.save_async(1, state)
    state["x"][:] = 1
    state["l"].append(2)
    ckpt = future.result(60)
    assert_same(ckpt.state, {"x": np.zeros(100_000), "l": [1]})
    assert store.latest() == ckpt


def test_one_save_is_in_flight_at_a_time(store: CheckpointStore) -> None:
    futures = [store.save_async(step, STATE) for step in range(4)]
    assert all(future.done() for future in futures[:-1])
    store.wait()
    assert futures[-1].done()
    assert [ckpt.step for ckpt in store.checkpoints()] == [0, 1, 2, 3]


def test_a_failure_nobody_saw_comes_up(store: CheckpointStore) -> None:
    store.save(1)
    store.save_async(1)
    with pytest.raises(CheckpointExists):
        store.save(2)
    assert store.save(2).step == 2
    store.save_async(1)
    with pytest.raises(CheckpointExists):
        store.close()
    store.close()


def test_a_failure_somebody_saw_does_not(store: CheckpointStore) -> None:
    store.save(1)
    with pytest.raises(CheckpointExists):
        store.save_async(1).result(60)
    assert isinstance(store.save_async(1).exception(60), CheckpointExists)
    assert store.save(2).step == 2


def test_bad_input_is_refused_at_once(store: CheckpointStore) -> None:
    with pytest.raises(InvalidRequest):
        store.save_async(1, policies={"a/b": 1})
    with pytest.raises(InvalidRequest):
        store.save_async(1, {"lock": __import__("threading").Lock()})
    assert store.save_async(1).result(60).step == 1
