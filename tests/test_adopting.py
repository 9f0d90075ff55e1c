"""Adopting in place: what a directory is before and after, on every kind of place, and what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.registry import open_backend
from ckptstore.commit.objects.catalog import RegisterCatalog
from ckptstore.commit.objects.states import State, state_of
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointExists,
    CheckpointGone,
    CheckpointNotFound,
    CheckpointProtected,
    InvalidRequest,
    SaveAborted,
    UnreadableFormat,
)
from ckptstore.read.files import UnverifiedFiles
from ckptstore.testing import Crash, CrashingBackend
from tests.faults import fault_proxy
from tests.servers import Server
from tests.stores import tree_bytes

GOLDEN = Path(__file__).parent / "data"
CASE = GOLDEN / "v1_1" / "ray_2.35.0_policy_msgpack" / "checkpoint"
META = "_ckptstore"
NAME = "checkpoint_000010"

Put = Callable[[str, Path], None]


def local_put(root: Path) -> Put:
    def put(name: str, source: Path) -> None:
        shutil.copytree(source, root / name)

    return put


def bucket_put(server: Server, url: str) -> Put:
    bucket, _, prefix = url.partition("://")[2].partition("/")

    def put(name: str, source: Path) -> None:
        for path, data in tree_bytes(source).items():
            server.client().put_object(Bucket=bucket, Key=f"{prefix}/{name}/{path}", Body=data)

    return put


def memory_put(url: str) -> Put:
    def put(name: str, source: Path) -> None:
        backend = open_backend(url)
        for path, data in tree_bytes(source).items():
            backend.replace(f"{name}/{path}", data)

    return put


class Place:
    """A store, how to put directories into it behind its back, and what it then holds."""

    def __init__(self, url: str, options: dict[str, Any] | None, put: Put) -> None:
        self.url, self.options, self.put = url, options, put

    @property
    def store(self) -> CheckpointStore:
        """As a new process opens it."""
        return CheckpointStore(self.url, storage_options=self.options)

    def files(self, name: str = NAME) -> dict[str, bytes]:
        """Every file of one directory."""
        backend = open_backend(self.url, self.options)
        return {item.key[len(name) + 1 :]: backend.read(item.key) for item in backend.list(name)}


@pytest.fixture(params=["local", "memory", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "local":
        yield Place(str(tmp_path), None, local_put(tmp_path))
    elif request.param == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        yield Place(url, None, memory_put(url))
    else:
        server: Server = request.getfixturevalue("moto")
        url = server.new_url()
        yield Place(url, server.options, bucket_put(server, url))


def test_a_directory_becomes_a_checkpoint_where_it_lies(place: Place) -> None:
    place.put(NAME, CASE)
    before = place.files()
    theirs = Checkpoint.open(f"{place.url}/{NAME}", storage_options=place.options)
    made = place.store.adopt(NAME, labels=["old"], metrics={"reward": 1.5})
    after = place.files()
    assert set(after) - set(before) == {f"{META}/parts.json", f"{META}/manifest.json"}
    assert {path: after[path] for path in before} == before
    store = place.store
    assert [item.name for item in store.checkpoints()] == [NAME]
    assert made.manifest.origin == "adopt"
    assert (made.step, made.labels, made.metrics["reward"]) == (10, ("old",), 1.5)
    assert (made.kind, made.version) == (theirs.kind, theirs.version)
    assert made.policy_ids == theirs.policy_ids
    for policy_id in theirs.policy_ids:
        for name, array in theirs.weights(policy_id).items():
            np.testing.assert_array_equal(made.weights(policy_id)[name], array)
    assert store.verify()[0].ok
    store.tag("champion", made)
    assert store.get("tag:champion").id == made.id
    with pytest.raises(CheckpointProtected):
        store.delete(made)
    store.untag("champion")
    place.put("checkpoint_000020", CASE)
    store.adopt("checkpoint_000020")
    assert store.prune(1) == [NAME]
    assert [item.step for item in place.store.checkpoints()] == [20]


def test_again_changes_nothing(place: Place) -> None:
    place.put(NAME, CASE)
    first = place.store.adopt(NAME)
    held = place.files()
    assert place.store.adopt(NAME).id == first.id
    assert place.files() == held


def test_a_changed_byte_is_found(place: Place) -> None:
    place.put(NAME, CASE)
    made = place.store.adopt(NAME)
    path = next(file.path for file in made.manifest.files if file.size > 100)
    data = bytearray(place.files()[path])
    data[50] ^= 1
    open_backend(place.url, place.options).replace(f"{NAME}/{path}", bytes(data))
    [report] = place.store.verify()
    assert not report.ok
    assert path in report.problems[0]


def test_what_is_refused_leaves_no_trace(place: Place, tmp_path: Path) -> None:
    store = place.store
    store.save(7, {"x": 1})
    place.put("checkpoint_000007-r1", CASE)  # nobody but us calls one so
    place.put("checkpoint_11", CASE)
    cut = shutil.copytree(GOLDEN / "v1_1" / "ray_2.4.0_tf1" / "checkpoint", tmp_path / "work" / "cut")
    state = cut / "algorithm_state.pkl"
    data = state.read_bytes()
    state.write_bytes(data[: len(data) // 2])
    place.put("checkpoint_000012", cut)
    state.unlink()
    place.put("checkpoint_000013", cut)
    newer = shutil.copytree(CASE, tmp_path / "work" / "newer")
    described = newer / "rllib_checkpoint.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "checkpoint_version": "9.0"}))
    place.put("checkpoint_000014", newer)
    held = {name: place.files(name) for name in ("checkpoint_000012", "checkpoint_000014", "checkpoint_11")}
    for which, error in {
        "checkpoint_000007-r1": CheckpointExists,
        "checkpoint_11": InvalidRequest,
        "checkpoint_000012": CheckpointCorrupt,
        "checkpoint_000013": CheckpointCorrupt,
        "checkpoint_000014": UnreadableFormat,
        "checkpoint_000099": CheckpointNotFound,
        "../checkpoint_000010": InvalidRequest,
        "elsewhere://x/checkpoint_000012": InvalidRequest,
        "": InvalidRequest,
    }.items():
        with pytest.raises(error):
            store.adopt(which)
    assert [item.name for item in place.store.checkpoints()] == ["checkpoint_000007"]
    assert {name: place.files(name) for name in held} == held


def test_a_whole_path_will_do(place: Place) -> None:
    place.put(NAME, CASE)
    assert place.store.adopt(f"{place.store.url}/{NAME}/").name == NAME


def test_another_programs_files_are_adopted_as_they_are(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "work" / "torch"
    source.mkdir(parents=True)
    (source / "model.pt").write_bytes(b"anything" * 1000)
    place.put(NAME, source)
    made = place.store.adopt(NAME)
    assert made.kind == "Directory"
    assert place.store.verify()[0].ok


def test_something_that_still_writes_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(NAME, CASE)
    store = place.store

    stream = UnverifiedFiles.stream

    def grows(files: UnverifiedFiles, path: str) -> Iterator[bytes | memoryview]:
        open_backend(place.url, place.options).replace(f"{NAME}/late.pkl", b"N.")
        return stream(files, path)

    monkeypatch.setattr(UnverifiedFiles, "stream", grows)
    with pytest.raises(SaveAborted, match=r"late\.pkl"):
        store.adopt(NAME)
    assert place.store.checkpoints() == []
    monkeypatch.undo()
    assert "late.pkl" in [file.path for file in place.store.adopt(NAME).manifest.files]


def test_what_is_mixed_with_files_of_ours_is_refused(place: Place, tmp_path: Path) -> None:
    shutil.copytree(CASE, tmp_path / "mixed")
    (tmp_path / "mixed" / META).mkdir()
    (tmp_path / "mixed" / META / "store.json").write_bytes(b"{}")
    place.put(NAME, tmp_path / "mixed")
    place.store.save(1)
    with pytest.raises(InvalidRequest, match="store"):
        place.store.adopt(NAME)
    assert [item.step for item in place.store.checkpoints()] == [1]


def test_signed_or_not_at_all(tmp_path: Path) -> None:
    shutil.copytree(CASE, tmp_path / NAME)
    private, public = keys()
    with pytest.raises(InvalidRequest, match="sign"):
        CheckpointStore(tmp_path, trusted_keys=[public]).adopt(NAME)
    assert not (tmp_path / NAME / META).exists()
    made = CheckpointStore(tmp_path, trusted_keys=[public], signing_key=private).adopt(NAME)
    assert made.manifest.signature is not None


def keys() -> tuple[bytes, bytes]:
    """A key pair in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public


def test_a_link_is_refused(tmp_path: Path) -> None:
    shutil.copytree(CASE, tmp_path / NAME)
    (tmp_path / NAME / "link.pkl").symlink_to("/etc/passwd")
    with pytest.raises(InvalidRequest, match="link"):
        CheckpointStore(tmp_path).adopt(NAME)
    assert not (tmp_path / NAME / META).exists()


def test_no_payload_byte_moves_in_a_bucket(moto: Server) -> None:
    url = moto.new_url()
    bucket_put(moto, url)(NAME, CASE)
    size = sum(map(len, tree_bytes(CASE).values()))
    with fault_proxy(moto.endpoint) as proxy:
        store = CheckpointStore(url, storage_options={**moto.options, "endpoint_url": proxy.endpoint})
        store.save(1)  # makes the store
        proxy.reset()
        made = store.adopt(NAME)
        sent = [seen for seen in proxy.seen if seen.method not in ("GET", "HEAD")]
        mine = [seen for seen in sent if f"/{META}/probe/" not in seen.path]
        assert [seen.path.partition("?")[0].rpartition("/")[2] for seen in mine] == [
            "parts.json",
            "manifest.json",
        ]
        assert {seen.method for seen in mine} == {"PUT"}
        assert all(seen.size < 2000 for seen in sent)
        assert made.manifest.size == size > 4 * sum(seen.size for seen in mine)


def crash_place() -> Place:
    url = f"memory://{uuid.uuid4().hex}"
    place = Place(url, None, memory_put(url))
    place.store.save(1, {"older": 1})
    place.put(NAME, CASE)
    return place


@pytest.mark.parametrize("landed", [False, True])
def test_an_adopter_of_a_bucket_dies_at_every_change(landed: bool) -> None:
    """Before and after each write: nothing or all of it, the files as they were, and again it works."""
    for after in itertools.count():
        place = crash_place()
        before = place.files()
        backend: Any = CrashingBackend(open_backend(place.url), after, landed)
        try:
            CheckpointStore(backend).adopt(NAME)
            lived = True
        except Crash:
            lived = False
        seen = place.files()
        assert {path: seen[path] for path in before} == before
        assert set(seen) - set(before) <= {f"{META}/parts.json", f"{META}/manifest.json"}
        committed = f"{META}/manifest.json" in seen
        assert [item.step for item in place.store.checkpoints()] == ([1, 10] if committed else [1])
        assert committed or not lived
        # However long ago it died, a sweep takes none of the files, and neither does a save of that step.
        aged: Any = open_backend(place.url)
        RegisterCatalog(aged, horizon=0.0, clock=lambda: 0.0).sweep(0)
        if committed:
            with pytest.raises(CheckpointExists):
                place.store.save(10, {})
        assert {path: place.files()[path] for path in before} == before
        assert place.store.adopt(NAME).name == NAME
        assert all(report.ok for report in place.store.verify())
        if lived:
            assert after >= 2
            return


def test_a_save_in_flight_of_the_same_step_is_stopped() -> None:
    place = crash_place()
    backend: Any = open_backend(place.url)
    catalog = RegisterCatalog(backend)
    attempt = catalog.begin(10, "error", "slow")
    assert attempt.name.attempt == 1
    made = place.store.adopt(NAME)
    with pytest.raises(SaveAborted):
        attempt.commit(b" " * 2000)
    assert place.store.get(10).id == made.id


def test_a_save_that_commits_meanwhile_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptstore.commit import adopt as checks
    from ckptstore.commit.objects import adopt as adoption

    place = crash_place()
    build_manifest = checks.build_manifest

    def late(*args: Any) -> tuple[bytes, bytes]:
        place.store.save(10, {"who": "save"})
        return build_manifest(*args)

    monkeypatch.setattr(adoption, "build_manifest", late)
    with pytest.raises(CheckpointExists):
        place.store.adopt(NAME)
    assert place.store.get(10).state == {"who": "save"}


def test_what_was_deleted_or_is_a_dead_save_is_not_adopted() -> None:
    place = crash_place()
    store = place.store
    store.delete(1)
    with pytest.raises(CheckpointGone):
        store.adopt("checkpoint_000001")
    backend: Any = open_backend(place.url)
    catalog = RegisterCatalog(backend)
    with catalog.begin(3, "error", "dead").create("algorithm_state.pkl") as sink:
        sink.write(b"half")
    assert state_of(
        {item.key.partition("/")[2]: 1 for item in catalog.backend.list("checkpoint_000003")}
    ) is (State.CLAIMED)
    with pytest.raises(InvalidRequest, match="unfinished"):
        store.adopt("checkpoint_000003")


def test_two_adopters_one_winner(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptstore.save import adopt as adopting
    from ckptstore.save.save import build_manifest

    place.put(NAME, CASE)
    winners: list[str] = []

    def slow(*args: Any) -> Any:
        monkeypatch.setattr(adopting, "build_manifest", build_manifest)
        winners.append(place.store.adopt(NAME).id)
        return build_manifest(*args)

    monkeypatch.setattr(adopting, "build_manifest", slow)
    assert place.store.adopt(NAME).id == winners[0]
    assert place.store.verify()[0].ok


def test_left_parts_of_other_bytes(place: Place) -> None:
    """An adopter died before its manifest, and then the files changed."""
    place.put(NAME, CASE)
    open_backend(place.url, place.options).publish(f"{NAME}/{META}/parts.json", b"of other bytes")
    if place.options is None and "://" not in place.url:
        assert place.store.adopt(NAME).name == NAME
        return
    with pytest.raises(InvalidRequest, match="remove that file"):
        place.store.adopt(NAME)
    open_backend(place.url, place.options).delete([f"{NAME}/{META}/parts.json"])
    assert place.store.adopt(NAME).name == NAME
