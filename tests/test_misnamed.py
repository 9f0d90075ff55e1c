"""A directory named as another step (``cp -r checkpoint_000001 checkpoint_000050``): nobody takes it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.cli.app import root
from ckptstore.commit import refs
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound, CheckpointProtected
from tests.inside import backend_of

STRAY = "checkpoint_000050"


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    """Three steps, and a copy of the first under the name of the fiftieth."""
    if request.param == "disk":
        store = CheckpointStore(tmp_path / "run")
    else:
        store = CheckpointStore(f"memory://{tmp_path.name}-{id(request)}")
    for step in (1, 2, 3):
        store.save(step, step)
    copy(store, "checkpoint_000001", STRAY)
    return store


def copy(store: CheckpointStore, name: str, to: str) -> None:
    backend = backend_of(store)
    if "://" not in store.url:
        shutil.copytree(Path(store.url) / name, Path(store.url) / to)
        return
    for entry in backend.list(name):
        backend.replace(entry.key.replace(name, to), backend.read(entry.key))


def opened(store: CheckpointStore) -> Checkpoint:
    return Checkpoint.open(f"{store.url}/{STRAY}")


def point_ref_at_it(store: CheckpointStore, ref: str) -> None:
    """As the first release let itself be asked to."""
    refs.write(backend_of(store), ref, refs.Target(STRAY, store.get(1).id))


WAYS: dict[str, Callable[[CheckpointStore], object]] = {
    "step": lambda store: store.get(50),
    "name": lambda store: store.get(STRAY),
    "tag": lambda store: store.get("tag:old"),
    "tag the step": lambda store: store.tag("best", 50),
    "tag the name": lambda store: store.tag("best", STRAY),
    "tag what was opened": lambda store: store.tag("best", opened(store)),
    "pin": lambda store: store.pin(STRAY),
    "rollback": lambda store: store.rollback(50),
    "rollback to the tag": lambda store: store.rollback("tag:old"),
    "rollback to what was opened": lambda store: store.rollback(opened(store)),
    "delete the step": lambda store: store.delete(50),
    "copy": lambda store: store.copy_to(store, [STRAY]),
    "copy what was opened": lambda store: store.copy_to(store, [opened(store)]),
    "adopt": lambda store: store.adopt(STRAY),
    "return": lambda store: store.save(50, 50, if_exists="return"),
    "bulk": lambda store: [each.open() for each in bulk.find(store.url)],
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_refused(store: CheckpointStore, way: str) -> None:
    point_ref_at_it(store, "old")
    with pytest.raises(CheckpointCorrupt, match="its manifest is that of step 1") as caught:
        WAYS[way](store)
    assert caught.value.what.endswith(STRAY)
    assert [ckpt.state for ckpt in store.checkpoints()] == [1, 2, 3]


def test_it_counts_for_nothing(store: CheckpointStore) -> None:
    newest = store.latest()
    assert newest is not None
    assert (newest.step, newest.skipped[0].name) == (3, STRAY)
    assert store.get(id=store.get(1).id).name == "checkpoint_000001"
    assert [report.ok for report in store.verify()] == [True, True, True, False]


def test_the_newest_is_not_pruned_for_it(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes step 3 the newest goes while it is about to be pruned."""
    other = CheckpointStore(backend_of(store))
    store.save(4, 4)
    real = CheckpointStore.checkpoints

    def meanwhile(self: CheckpointStore) -> list[Checkpoint]:
        found = real(self)
        monkeypatch.setattr(CheckpointStore, "checkpoints", real)
        CheckpointStore(backend_of(store)).delete(4)
        return found

    monkeypatch.setattr(CheckpointStore, "checkpoints", meanwhile)
    assert other.prune(1) == ["checkpoint_000001", "checkpoint_000002"]
    assert [ckpt.step for ckpt in store.checkpoints()] == [3]


def test_it_can_be_deleted_by_its_name(store: CheckpointStore) -> None:
    point_ref_at_it(store, f"pin.{store.get(1).id}")
    with pytest.raises(CheckpointProtected):
        store.delete(STRAY)
    store.unpin(STRAY)
    store.delete(STRAY)
    with pytest.raises(CheckpointNotFound):
        store.get(50)
    assert [ckpt.state for ckpt in store.checkpoints()] == [1, 2, 3]


def test_a_delete_of_it_takes_no_checkpoint_along(store: CheckpointStore) -> None:
    """Lower attempts go with the one that is deleted, but this is no attempt at that step."""
    copy(store, "checkpoint_000001", "checkpoint_000003-r1")
    with pytest.raises(CheckpointProtected, match="checkpoint_000003 as well"):
        store.delete("checkpoint_000003-r1")
    assert [ckpt.state for ckpt in store.checkpoints()] == [1, 2, 3]


def test_the_command_line_refuses_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, "one")
    copy(store, "checkpoint_000001", STRAY)
    for command in (
        ["info", f"{tmp_path}@50"],
        ["info", f"{tmp_path}/{STRAY}"],
        ["get", f"{tmp_path}/{STRAY}", str(tmp_path / "out")],
        ["tag", str(tmp_path), "best", "50"],
    ):
        result = CliRunner().invoke(root, command)
        assert result.exit_code == CheckpointCorrupt.exit_code, command
        assert "its manifest is that of step 1" in result.stderr


def test_a_replacement_leaves_another_steps_only_copy(store: CheckpointStore) -> None:
    """It was renamed: `if_exists="replace"`, which the error advises, must not remove it."""
    backend = backend_of(store)
    copy(store, "checkpoint_000003", "checkpoint_000060")
    files = {entry.key: backend.read(entry.key) for entry in backend.list("checkpoint_000060")}
    store.delete(3)
    store.save(60, "new", if_exists="replace")
    assert store.get(60).state == "new"
    for key, data in files.items():
        if not key.endswith("claim.json"):
            assert backend.read(key) == data
