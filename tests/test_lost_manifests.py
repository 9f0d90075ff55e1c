"""A checkpoint that lost its manifest to a lifecycle rule or by mistake: it is said, and nothing is swept."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.commit.objects.states import SEAL
from ckptstore.commit.objects.sweep import Sweep
from ckptstore.errors import CheckpointCorrupt, CheckpointNotFound
from ckptstore.find import lost
from ckptstore.format.names import CLAIM, MANIFEST, PARTS
from ckptstore.save.save import Save
from tests.inside import backend_of
from tests.servers import Server

NAME = "checkpoint_000002"


@pytest.fixture(
    params=["disk", "memory", *(pytest.param(name, marks=pytest.mark.slow) for name in ("moto", "fake-gcs"))]
)
def store(
    request: pytest.FixtureRequest, tmp_path: Path, start_server: Callable[[str], Server]
) -> CheckpointStore:
    """Two steps."""
    if request.param == "disk":
        store = CheckpointStore(tmp_path / "run")
    elif request.param == "memory":
        store = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    else:
        server = start_server(request.param)
        store = CheckpointStore(server.new_url(), storage_options=server.options)
    store.save(1, "one")
    store.save(2, "two", {"p": {"weights": {}}})
    return store


@pytest.fixture
def bucket() -> CheckpointStore:
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    store.save(1, "one")
    store.save(2, "two")
    return store


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is there was written long ago."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * lost.SECONDS_TO_COMMIT)
    monkeypatch.setattr(Sweep, "_older", lambda sweep, entries, seconds: seconds < 2 * 86400)


def lose(store: CheckpointStore, name: str = NAME, path: str = MANIFEST) -> bytes:
    """Remove the file; what it held."""
    key = f"{name}/{path}"
    data: bytes = backend_of(store).read(key)
    backend_of(store).delete([key])
    return data


def files_of(store: CheckpointStore, name: str = NAME) -> list[str]:
    return sorted(entry.key for entry in backend_of(store).list(name))


def problems(store: CheckpointStore) -> dict[str, str]:
    """What `verify` says, by name."""
    reports = store.verify()
    assert len({report.name for report in reports}) == len(reports)
    return {report.name.rpartition("/")[2]: report.summary() for report in reports if not report.ok}


def test_it_is_reported(store: CheckpointStore, old: None, caplog: pytest.LogCaptureFixture) -> None:
    lose(store)
    assert problems(store)[NAME].startswith("its manifest is missing: it was lost, or its save died")
    newest = store.latest()
    assert newest is not None
    assert newest.state == "one"
    assert [skip.name for skip in newest.skipped] == [NAME]
    assert f"{NAME} is passed over: its manifest is missing" in caplog.text


@pytest.mark.parametrize("protect", ["tag", "pin"])
def test_what_a_ref_names_is_reported_at_once(store: CheckpointStore, protect: str) -> None:
    if protect == "tag":
        store.tag("champion", 2)
    else:
        store.pin(2)
    lose(store)
    said = "tag 'champion'" if protect == "tag" else "a pin"
    assert f"its manifest is missing, and {said} points at it" in problems(store)[NAME]
    newest = store.latest()
    assert newest is not None
    assert [skip.name for skip in newest.skipped] == [NAME]


@pytest.mark.parametrize("protect", ["tag", "pin"])
@pytest.mark.parametrize("more", [[], [PARTS], [PARTS, CLAIM]], ids=len)
def test_gc_touches_nothing_that_a_ref_names(
    store: CheckpointStore, old: None, protect: str, more: list[str]
) -> None:
    if protect == "tag":
        store.tag("champion", 2)
    else:
        store.pin(2)
    manifest = lose(store)
    gone = {path: lose(store, path=path) for path in more if f"{NAME}/{path}" in files_of(store)}
    before = files_of(store)
    for _ in range(2):
        store.gc()
        store.gc(0)
    assert files_of(store) == before
    assert NAME in problems(store)
    for path, data in {**gone, MANIFEST: manifest}.items():
        backend_of(store).publish(f"{NAME}/{path}", data)
    assert problems(store) == {}
    assert store.get(2).state == "two"


def test_gc_takes_what_nothing_names(bucket: CheckpointStore, old: None) -> None:
    """It can't be told from a save that died right before its commit."""
    lose(bucket)
    assert bucket.gc().attempts == [NAME]


@pytest.mark.parametrize("if_exists", ["error", "replace"])
def test_no_save_of_its_step_gives_it_up(store: CheckpointStore, if_exists: str, old: None) -> None:
    store.tag("champion", 2)
    manifest = lose(store)
    assert store.save(2, "new", if_exists=if_exists).name == f"{NAME}-r1"  # type: ignore[arg-type]
    store.gc()
    assert store.get(2).state == "new"
    assert "champion" in problems(store)[NAME]
    backend_of(store).publish(f"{NAME}/{MANIFEST}", manifest)
    assert store.get("tag:champion").state == "two"
    assert store.get(2).state == "new"


def test_nor_does_a_copy_or_an_adoption(bucket: CheckpointStore, tmp_path: Path, old: None) -> None:
    for step, tag in ((1, "first"), (2, "champion")):
        bucket.tag(tag, step)
        lose(bucket, bucket.tags()[tag])
    before = [files_of(bucket, "checkpoint_000001"), files_of(bucket)]
    other = CheckpointStore(tmp_path)
    other.save(1, "copied")
    assert bucket.add(other.get(1)).name == "checkpoint_000001-r1"
    backend_of(bucket).publish(f"{NAME}-r7/data.bin", b"another program's")
    assert bucket.adopt(f"{NAME}-r7").step == 2
    assert [files_of(bucket, "checkpoint_000001"), files_of(bucket)] == before


def test_what_was_sealed_before_stays_while_a_ref_names_it(bucket: CheckpointStore, old: None) -> None:
    bucket.tag("champion", 2)
    lose(bucket)
    backend_of(bucket).publish(f"{NAME}/{MANIFEST}", SEAL)
    before = files_of(bucket)
    assert bucket.gc().attempts == []
    assert files_of(bucket) == before
    bucket.untag("champion")
    assert bucket.gc().attempts == [NAME]


def test_the_only_checkpoint_is_not_taken_for_none(store: CheckpointStore, old: None) -> None:
    lose(store, "checkpoint_000001")
    lose(store)
    with pytest.raises(CheckpointCorrupt, match=f"{NAME}: its manifest is missing"):
        store.latest()


def test_a_save_under_way_is_not_reported(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right before its manifest; nor, when it is old, one that has no parts.json yet."""
    real = Save.commit_as
    seen: list[object] = []

    def look(self: Save, *arguments: object) -> object:
        def watched(manifest: bytes) -> object:
            seen.append((problems(store), getattr(store.latest(), "skipped", None)))
            return commit(manifest)

        commit = self.attempt.commit
        self.attempt.commit = watched  # type: ignore[method-assign, assignment]
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Save, "commit_as", look)
    CheckpointStore(backend_of(store)).save(3, "three")
    assert seen == [({}, ())]


def test_an_old_save_without_parts_is_unfinished(bucket: CheckpointStore, old: None) -> None:
    lose(bucket)
    lose(bucket, path=PARTS)
    assert problems(bucket) == {}
    newest = bucket.latest()
    assert newest is not None
    assert newest.skipped == ()


def test_what_was_deleted_is_not_lost(store: CheckpointStore, old: None) -> None:
    store.delete(2)
    assert problems(store) == {}
    newest = store.latest()
    assert newest is not None
    assert newest.skipped == ()


def test_a_ref_to_nothing_is_reported(store: CheckpointStore) -> None:
    """Of two tags the one whose checkpoint was removed altogether, and of one whose name was used again."""
    store.tag("champion", 2)
    store.tag("first", 1)
    backend_of(store).delete(files_of(store))
    assert problems(store) == {NAME: "tag 'champion' points at it, and it has no manifest"}
    with pytest.raises(CheckpointNotFound, match="has no manifest"):
        store.get("tag:champion")
    if os.path.isdir(store.url):
        store.save(2, "new")  # its directories are still there
        assert NAME in problems(store)
    store.untag("champion")
    assert problems(store) == {}


def test_a_pin_comes_off_what_was_lost(store: CheckpointStore, old: None) -> None:
    store.pin(2)
    lose(store)
    store.unpin(NAME)
    assert "a pin" not in problems(store)[NAME]
    with pytest.raises(CheckpointNotFound):
        store.unpin(NAME)


def test_on_a_disk_it_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory gets its name with its manifest in it: there is no save to wait for."""
    store = CheckpointStore(tmp_path)
    store.save(1, "one")
    store.save(2, "two")
    (tmp_path / NAME / MANIFEST).unlink()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * lost.SECONDS_TO_ADOPT)
    newest = store.latest()
    assert newest is not None
    assert [skip.name for skip in newest.skipped] == [NAME]
    assert [report.ok for report in store.verify()] == [True, False]
