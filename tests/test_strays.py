"""Files that no manifest names are no part of a checkpoint, and no damage; two that one names are known."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.cli.app import root as command_line
from ckptstore.errors import CheckpointCorrupt, InvalidRequest
from ckptstore.format.markers import derive_marker
from ckptstore.integrations.rllib import code
from ckptstore.integrations.rllib.saving import WRITER
from tests.servers import Server
from tests.stores import policies, tree_bytes, unlinked

NEWEST = "checkpoint_000002"
MARKERS = (".is_checkpoint", ".tune_metadata")
STRAYS = (
    ".DS_Store",
    "policies/.DS_Store",
    "policies/pol0/._policy_state.pkl",
    "policies/.ipynb_checkpoints/note-checkpoint.txt",
    "policies/pol0/Thumbs.db",
    "policies/pol0/.nfs000000000002d70729000001",
    "policies/late/policy_state.pkl",
    "components/late.pkl",
    "shard-7.pt",
    "checkpoint-7",
    "_ckptstore/store.json",
)
OLD = Path(__file__).parent / "data" / "v1_0" / "ray_2.1.0_tune" / "checkpoint"


class Place:
    """A store of two checkpoints, and a way into it that doesn't lead through ckptstore."""

    def __init__(self, url: str, options: dict[str, Any], put: Callable[[str, bytes | None], None]) -> None:
        self.url, self.options, self.put = url, options, put
        for step in (1, 2):
            self.open().save(step, {"i": step}, policies(1), {"late": None} if step == 1 else None)

    def open(self, name: str = "") -> CheckpointStore:
        return CheckpointStore(f"{self.url}{name}", storage_options=self.options)


@pytest.fixture(params=["local", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":

        def write(path: str, data: bytes | None) -> None:
            file = tmp_path / "run" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if data is None:
                file.unlink()
            else:
                file.write_bytes(data)

        return Place(str(tmp_path / "run"), {}, write)
    server: Server = request.getfixturevalue("moto")
    url = server.new_url()
    bucket, _, prefix = url.partition("://")[2].partition("/")

    def put(path: str, data: bytes | None) -> None:
        if data is None:
            server.client().delete_object(Bucket=bucket, Key=f"{prefix}/{path}")
        else:
            server.client().put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=data)

    return Place(url, server.options, put)


def named(checkpoint: Checkpoint) -> set[str]:
    meta = {"_ckptstore/manifest.json", "_ckptstore/parts.json"}
    return {file.path for file in checkpoint.manifest.files} | meta


class TestStrays:
    @pytest.fixture(autouse=True)
    def _plant(self, place: Place) -> None:
        for path in STRAYS:
            place.put(f"{NEWEST}/{path}", b"\0\0\0\1Bud1")

    def test_they_are_told_of_and_no_damage(self, place: Place, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "ckptstore")
        store = place.open()
        for _ in range(3):
            newest = store.latest(verified=True)
            assert newest is not None
            assert (newest.step, newest.skipped) == (2, ())
        assert sum(".DS_Store" in record.getMessage() for record in caplog.records) == 1
        assert newest is not None
        assert newest.check().ok
        assert set(newest.verify().strays) == set(STRAYS)
        assert [(report.ok, bool(report.strays)) for report in store.verify()] == [
            (True, False),
            (True, True),
        ]
        assert [item.step for item in store.checkpoints()] == [1, 2]

    def test_they_are_never_handed_out(self, place: Place, tmp_path: Path) -> None:
        newest = place.open().get(2)
        assert newest.policy_ids == ("pol0",)
        assert list(newest.components) == []
        assert newest.load().state == {"i": 2}
        with newest.as_directory() as path:
            assert tree_bytes(path).keys() == named(newest)
            assert os.listdir(Path(path) / "policies") == ["pol0"]
        newest.download(tmp_path / "one", policy_ids=["pol0"])
        assert os.listdir(tmp_path / "one" / "policies") == ["pol0"]
        place.open().copy_to(CheckpointStore(tmp_path / "other"))
        assert tree_bytes(tmp_path / "other" / NEWEST).keys() == named(newest)

    def test_they_go_with_the_checkpoint(self, place: Place, tmp_path: Path) -> None:
        store = place.open()
        store.save(3)
        assert store.prune(1) == ["checkpoint_000001", NEWEST]
        store.gc()
        if place.options:
            left = {item.key for item in store._backend.list(NEWEST)}
            assert left <= {f"{NEWEST}/_ckptstore/{name}.json" for name in ("manifest", "claim")}
        else:
            assert not (tmp_path / "run" / NEWEST).exists()
            assert not os.listdir(tmp_path / "run" / ".trash")

    def test_what_is_named_is_checked_all_the_same(self, place: Place) -> None:
        place.put(f"{NEWEST}/policies/pol0/policy_state.pkl", None)
        newest = place.open().latest(verified=True)
        assert newest is not None
        assert newest.step == 1
        assert not place.open().verify()[-1].ok


def test_the_command_line_tells(tmp_path: Path) -> None:
    CheckpointStore(tmp_path / "run").save(1, {}, policies(1))
    (tmp_path / "run" / "checkpoint_000001" / "policies" / ".DS_Store").write_bytes(b"x")
    for target in (f"{tmp_path}/run", f"{tmp_path}/run@1"):
        result = CliRunner().invoke(command_line, ["verify", target])
        assert result.exit_code == 0
        assert "not part of it: policies/.DS_Store" in result.stdout
        assert CliRunner().invoke(command_line, ["info", target]).exit_code == 0


def test_one_that_claims_to_tell_of_the_writer(tmp_path: Path) -> None:
    made = CheckpointStore(tmp_path / "run").save(1)
    (tmp_path / "run" / made.name / WRITER).write_bytes(b'{"python": "2.7"}')
    assert code._read_python(made) == ""


def test_objects_that_stand_for_a_directory(moto: Server) -> None:
    """As the consoles of buckets make them."""
    url = moto.new_url()
    bucket, _, prefix = url.partition("://")[2].partition("/")
    for path, data in {**tree_bytes(OLD), "": b"", "policies/": b""}.items():
        moto.client().put_object(Bucket=bucket, Key=f"{prefix}/checkpoint_000010/{path}", Body=data)
    opened = Checkpoint.open(f"{url}/checkpoint_000010", storage_options=moto.options)
    with opened.as_directory() as copy:
        assert tree_bytes(copy).keys() == tree_bytes(OLD).keys()
    assert CheckpointStore(url, storage_options=moto.options).adopt("checkpoint_000010").verify().ok


class TestWithoutAManifest:
    """Of what RLlib wrote nothing says what belongs to it, but these names say that they don't."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        place = tmp_path / "run" / "checkpoint_000010"
        shutil.copytree(OLD, place)
        for path in STRAYS[:6]:
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(b"x")
        return tmp_path / "run"

    def test_reading(self, run: Path) -> None:
        opened, clean = Checkpoint.open(run / "checkpoint_000010"), Checkpoint.open(OLD)
        assert opened.policy_ids == clean.policy_ids
        assert opened.source_id() == clean.source_id()
        with opened.as_directory() as path:
            assert tree_bytes(path).keys() == tree_bytes(OLD).keys()

    def test_adopting(self, run: Path) -> None:
        made = CheckpointStore(run).adopt("checkpoint_000010")
        assert {file.path for file in made.manifest.files} == tree_bytes(OLD).keys()
        (run / "checkpoint_000010" / ".DS_Store").write_bytes(b"another view")
        (run / "checkpoint_000010" / STRAYS[5]).unlink()  # NFS takes it away itself
        assert made.verify().ok

    def test_copying_again(self, run: Path, tmp_path: Path) -> None:
        for result in ("copied", "there already"):
            told = CliRunner().invoke(command_line, ["cp", f"{run}/**", str(tmp_path / "copies")])
            assert result in told.stdout
        copy = CheckpointStore(tmp_path / "copies").get(10)
        assert {file.path for file in copy.manifest.files} == tree_bytes(OLD).keys()


def test_staging_leaves_out_what_goes_by_itself(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    with store.stage(1) as staged:
        for name in ("weights.bin", ".nfs000000000002d70729000001", ".DS_Store"):
            Path(os.fspath(staged), name).write_bytes(b"x")
    assert staged.checkpoint is not None
    assert [file.path for file in staged.checkpoint.manifest.files] == ["weights.bin"]
    for name in (".nfs000000000002d70729000001", ".DS_Store"):
        (tmp_path / "run" / "checkpoint_000001" / name).unlink(missing_ok=True)
    assert staged.checkpoint.verify().ok


class TestMarkers:
    def test_without_them_it_is_whole(self, place: Place, tmp_path: Path) -> None:
        with place.open().get(2).as_directory() as path:
            whole = tree_bytes(path)
        for marker in MARKERS:
            place.put(f"{NEWEST}/{marker}", None)
        store = place.open()
        newest = store.latest(verified=True)
        assert newest is not None
        assert (newest.step, newest.state) == (2, {"i": 2})
        assert [item.step for item in store.checkpoints()] == [1, 2]
        assert newest.verify().files == len(newest.manifest.files) - 2
        assert all(report.ok for report in store.verify())
        with newest.as_directory() as path:
            assert tree_bytes(path) == whole
        assert tree_bytes(newest.download(tmp_path / "copy")) == whole
        assert [item.step for item in store.copy_to(CheckpointStore(tmp_path / "other"))] == [1, 2]
        assert tree_bytes(tmp_path / "other" / NEWEST).items() >= whole.items()
        assert {use.rank for use in newest.scan()} <= {"data"}
        assert not {item.key for item in store._backend.list(NEWEST)} & {
            f"{NEWEST}/{name}" for name in MARKERS
        }
        newest.load()  # the next save takes files over from it
        assert store.save(3, {"i": 2}, policies(1)).verify().ok
        assert place.open().prune(1) == ["checkpoint_000001", NEWEST]

    @pytest.mark.parametrize("marker", MARKERS)
    def test_other_bytes_are_damage(self, place: Place, marker: str) -> None:
        known = derive_marker(place.open().get(2).manifest, marker)
        assert known is not None
        for data, verified in ((known[:-1] + b"?", True), (known + b"?", False)):
            if not place.options:
                place.put(f"{NEWEST}/{marker}", None)
            place.put(f"{NEWEST}/{marker}", data)
            newest = place.open().latest(verified=verified)
            assert newest is not None
            assert newest.step == 1
            assert not place.open().verify()[-1].ok
            if verified:
                with pytest.raises(CheckpointCorrupt), place.open().get(2).as_directory():
                    pass

    @pytest.mark.parametrize("missing", ["algorithm_state.pkl", "rllib_checkpoint.json"])
    def test_nothing_else_is_known(self, place: Place, missing: str) -> None:
        place.put(f"{NEWEST}/{missing}", None)
        newest = place.open().latest()
        assert newest is not None
        assert newest.step == 1

    @pytest.mark.parametrize("how", ["stage", "migrate", "adopt"])
    def test_nor_are_those_of_others(self, tmp_path: Path, how: str) -> None:
        store = CheckpointStore(tmp_path / "run")
        if how == "migrate":
            made = store.migrate(OLD, step=1).checkpoint
            assert made is not None
        elif how == "adopt":
            shutil.copytree(OLD, tmp_path / "run" / "checkpoint_000001")
            (tmp_path / "run" / "checkpoint_000001" / ".is_checkpoint").write_bytes(b"1\n")
            made = store.adopt("checkpoint_000001")
        else:
            with store.stage(1) as staged:
                Path(os.fspath(staged), ".is_checkpoint").write_bytes(b"1\n")
            assert staged.checkpoint is not None
            made = staged.checkpoint
        assert ".is_checkpoint" in {file.path for file in made.manifest.files}
        (tmp_path / "run" / "checkpoint_000001" / ".is_checkpoint").unlink()
        with pytest.raises(CheckpointCorrupt):
            store.latest()

    def test_those_of_another_writer_are_not_made_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A manifest that tells of other bytes than this release would write."""
        store = CheckpointStore(tmp_path / "run")
        made = store.save(1, {}, {"p": {"weights": {"w": np.ones(3)}}})
        (tmp_path / "run" / "checkpoint_000001" / ".tune_metadata").unlink()
        monkeypatch.setattr(pickle, "dumps", lambda value, protocol: b"as another Python pickles it")
        assert derive_marker(made.manifest, ".tune_metadata") is None
        with pytest.raises(CheckpointCorrupt, match=r"\.tune_metadata is missing"):
            store.latest()

    def test_a_policy_alone_has_none(self, tmp_path: Path) -> None:
        made = CheckpointStore(tmp_path / "run").save(1, policy={"weights": {"w": np.ones(3)}})
        assert not {file.path for file in made.manifest.files} & set(MARKERS)
        assert all(derive_marker(made.manifest, marker) is None for marker in MARKERS)
        unlinked(tmp_path / "run" / "checkpoint_000001" / "policy_state.pkl")
        assert made.verify().ok


def test_verify_of_a_store_says_all_that_is_wrong(tmp_path: Path) -> None:
    """Not only what a listing shows first."""
    store = CheckpointStore(tmp_path)
    store.save(1, {"n": 1}, policies={"p": {"weights": {}}, "q": {"weights": {}}})
    for name in ("p", "q"):
        (tmp_path / f"checkpoint_000001/policies/{name}/policy_state.pkl").unlink()
    (report,) = store.verify()
    assert len(report.problems) == 2
    assert report.problems == store.get(1).check().problems


@pytest.mark.parametrize("call", ["repair", "copy_to", "add"])
def test_a_url_where_an_object_belongs(tmp_path: Path, call: str) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1)
    with pytest.raises(InvalidRequest, match=r"Pass Checkpoint(Store|\.open)\(url\)"):
        getattr(store, call)("s3://bucket/run")
