"""Two releases of the format at once: the older one is read for ever, a newer one is kept and said."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ckptstore import CheckpointStore
from ckptstore.cli.app import root
from ckptstore.errors import CheckpointProtected, UnreadableFormat
from ckptstore.format.digest import digest
from tests.inside import backend_of
from tests.servers import Server

OLD = Path(__file__).parent / "data/store_of_schema_1"
"""Written by a release that knew schema 1 alone: two signed checkpoints, a tag and a pin."""
KEY = (
    "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEADzp/Aje3THVVPJ9xCMy0H9AEhtXN7JdaeaO3n9uOFRA=\n"
    "-----END PUBLIC KEY-----\n"
)
MANIFEST = "_ckptstore/manifest.json"


def rewritten(data: bytes, **changes: Any) -> bytes:
    """A manifest with other fields, its digest made right again."""
    body = {**json.loads(data), **changes}
    del body["digest"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))[:-1].encode()
    return text + b',"digest":"' + digest(text).encode() + b'"}\n'


LATER: dict[str, dict[str, Any]] = {
    "a newer schema": {"schema_version": 3, "leases": [], "shards": [{"any": 1}]},
    "something required": {"requires": ["shards"], "shards": []},
}
"""What a release of the future may write."""


@pytest.fixture(params=["disk", "memory", "moto"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, start_server: Callable[[str], Server]
) -> Callable[[], CheckpointStore]:
    """Opens one store, again and again."""
    options: dict[str, Any] = {}
    if request.param == "moto":
        server = start_server("moto")
        url, options = server.new_url(), server.options
    else:
        url = str(tmp_path / "run") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/run"
    return lambda: CheckpointStore(url, storage_options=options)


def write(store: CheckpointStore, key: str, data: bytes) -> None:
    backend = backend_of(store)
    if store.url.startswith(("s3:", "memory:")):
        backend.replace(key, data)
    else:
        path = Path(store.url.removeprefix("file://"), key)
        path.chmod(0o600)
        path.write_bytes(data)


def make_later(store: CheckpointStore, step: int, changes: dict[str, Any]) -> None:
    """Let the checkpoint of `step` be one of a later release."""
    key = f"checkpoint_{step:06}/{MANIFEST}"
    write(store, key, rewritten(backend_of(store).read(key), **changes))


def make_ref_later(store: CheckpointStore, ref: str, **changes: Any) -> None:
    key = f"_ckptstore/refs/{ref}/000000000001.json"
    body = json.loads(backend_of(store).read(key))
    write(store, key, json.dumps({**body, **changes}).encode())


@pytest.mark.parametrize("kind", list(LATER))
@pytest.mark.parametrize("step", [1, 2, 3])
def test_one_of_a_later_release_stops_nothing(
    place: Callable[[], CheckpointStore], kind: str, step: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = place()
    for number in (1, 2, 3):
        store.save(number, {"n": number}, metrics={"reward": number})
    make_later(store, step, LATER[kind])
    others = [number for number in (1, 2, 3) if number != step]
    store = place()
    assert [ckpt.step for ckpt in store.checkpoints()] == others
    assert "upgrade ckptstore" in caplog.text
    if step == 3:  # the run that goes on from there is not to be taken back
        with pytest.raises(UnreadableFormat, match="Upgrade"):
            store.latest()
    else:
        newest = store.latest()
        assert newest is not None
        assert newest.step == 3
    best = store.best("reward")
    assert best is not None
    assert best.step == max(others)
    reports = {report.name.rpartition("/")[2]: report for report in store.verify()}
    assert all(report.ok for report in reports.values())
    assert [name for name, report in reports.items() if report.notes] == [f"checkpoint_{step:06}"]
    with pytest.raises(UnreadableFormat, match="Upgrade"):
        store.get(step)
    with pytest.raises(UnreadableFormat):
        store.delete(step)
    if step > 1:
        with pytest.raises(UnreadableFormat):
            store.rollback(1)
    store.save(4, {"n": 4}, metrics={"reward": 4})
    assert store.prune(1) == [f"checkpoint_{number:06}" for number in others]
    store.gc(0)
    assert backend_of(store).read(f"checkpoint_{step:06}/{MANIFEST}")
    assert backend_of(store).read(f"checkpoint_{step:06}/algorithm_state.pkl")
    other = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    assert [ckpt.step for ckpt in store.copy_to(other)] == [4]


def test_none_but_later_ones(place: Callable[[], CheckpointStore]) -> None:
    """No advice to remove what is whole."""
    store = place()
    store.save(1, {})
    make_later(store, 1, LATER["a newer schema"])
    with pytest.raises(UnreadableFormat, match="Upgrade"):
        place().latest()
    assert place().checkpoints() == []


def test_what_it_replaced_stays_replaced(place: Callable[[], CheckpointStore]) -> None:
    """A replacement by a later release hides the older attempt from this one as well."""
    store = place()
    store.save(0, {})
    store.save(1, {"n": "old"})
    data = {
        file.path: backend_of(store).read(f"checkpoint_000001/{file.path}")
        for file in store.get(1).manifest.files
    }
    data[MANIFEST] = rewritten(
        backend_of(store).read(f"checkpoint_000001/{MANIFEST}"), **LATER["a newer schema"]
    )
    for path, content in data.items():
        with backend_of(store).write(f"checkpoint_000001-r1/{path}") as sink:
            sink.write(content)
    store = place()
    assert [ckpt.step for ckpt in store.checkpoints()] == [0]
    for look in (store.latest, lambda: store.get(1)):
        with pytest.raises(UnreadableFormat):
            look()


def test_fields_of_later_releases_travel(place: Callable[[], CheckpointStore]) -> None:
    """What nobody has to understand is read past, and is still there in a copy, byte for byte."""
    store = place()
    store.save(1, {"n": 1})
    key = f"checkpoint_000001/{MANIFEST}"
    make_later(store, 1, {"seen_by": ["tomorrow"], "parent": {"id": "x", "relation": "merge"}})
    ckpt = place().get(1)
    assert ckpt.state == {"n": 1}
    assert ckpt.verify().ok
    other = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    other.add(ckpt)
    assert backend_of(other).read(key) == backend_of(store).read(key)


def test_refs_of_a_later_release_protect(place: Callable[[], CheckpointStore]) -> None:
    store = place()
    for number in (1, 2, 3):
        store.save(number, {"n": number})
    store.tag("champion", 1)
    store.tag("mine", 2)
    make_ref_later(store, "champion", schema_version=2, requires=["lease"], seconds=60)
    store = place()
    assert store.tags() == {"mine": "checkpoint_000002"}
    with pytest.raises(UnreadableFormat, match="Upgrade"):
        store.get("tag:champion")
    with pytest.raises(CheckpointProtected):
        store.delete(1)
    assert store.prune(1) == []
    make_ref_later(store, "champion", schema_version=2, requires=[], said_by="tomorrow")
    assert place().get("tag:champion").step == 1
    make_ref_later(store, "champion", schema_version=9)
    assert place().tags() == {"mine": "checkpoint_000002"}
    with pytest.raises(CheckpointProtected):
        place().delete(1)


def test_schema_1_is_read_for_ever(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    store = CheckpointStore(run, trusted_keys=KEY)
    assert [ckpt.step for ckpt in store.checkpoints()] == [1, 2]
    assert all(report.ok for report in store.verify())
    ckpt = store.get("tag:champion")
    assert ckpt.labels == ("first",)
    assert ckpt.metrics["reward"] == 1.5
    np.testing.assert_array_equal(ckpt.weights("p")["w"], np.arange(6.0))
    with pytest.raises(CheckpointProtected):
        store.delete(2)  # pinned


def test_copies_of_schema_1_keep_bytes_and_signature(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD, run)
    other = CheckpointStore(tmp_path / "copy", trusted_keys=KEY)
    CheckpointStore(run).copy_to(other)
    for step in (1, 2):
        name = f"checkpoint_{step:06}/{MANIFEST}"
        assert (tmp_path / "copy" / name).read_bytes() == (OLD / name).read_bytes()
    store = CheckpointStore(run)
    store.save(3, {"n": 3}, policies={"p": {"weights": {"w": np.arange(6.0)}}})  # both schemas in one store
    assert [ckpt.manifest.schema for ckpt in store.checkpoints()] == [1, 1, 2]
    assert store.get(3).manifest.store == store.id
    assert [ckpt.manifest.store for ckpt in store.checkpoints()[:2]] == ["", ""]


def test_the_command_line_says_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {})
    store.save(2, {})
    make_later(store, 2, LATER["a newer schema"])
    shown = CliRunner().invoke(root, ["verify", str(tmp_path)])
    assert shown.exit_code == 0
    assert "checkpoint_000002: not read" in shown.output
    assert "schema 3 is newer than 2" in shown.output
