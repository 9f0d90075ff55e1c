"""What is damaged is mended where a good copy lies anywhere, and named and left alone where none does."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.backends.base import Backend
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.registry import open_backend
from ckptstore.cli.app import root
from ckptstore.errors import InvalidRequest
from ckptstore.find import lost as lost_manifests
from ckptstore.format.names import MANIFEST, PARTS
from tests.disks import InterruptedDisk
from tests.figures import Figures
from tests.inside import backend_of
from tests.servers import Server
from tests.stores import assert_same, policies
from tests.test_rotten_base import POLICY, rot

COUNTS = {"local": 110, "memory": 70, "moto": 20}
HOW = ("flip", "flip", "cut", "missing", "longer", "garbage")


class World(NamedTuple):
    """A store, a mirror of it, and a door to its bytes."""

    url: str
    options: Any
    mirror: CheckpointStore
    backend: Backend
    good: dict[str, bytes]

    def open(self) -> CheckpointStore:
        return CheckpointStore(self.url, storage_options=self.options)

    def bytes(self) -> dict[str, bytes]:
        keys = (item.key for item in self.backend.list() if not item.key.startswith("_ckptstore/"))
        return {key: self.backend.read(key) for key in keys}

    def restore(self) -> None:
        """Of an object store."""
        for key, data in self.good.items():
            self.backend.replace(key, data)


def fill(store: CheckpointStore, again: CheckpointStore) -> dict[str, Any]:
    """Steps 1 and 2 share files, 3 has the same content by itself, 4 has something of its own."""
    given = policies(3)
    store.save(1, {"i": 0}, given)
    store.save(2, {"i": 0}, given)
    again.save(3, {"i": 0}, given)
    given["pol0"]["weights"]["dense/kernel"][0, 0] += 1
    again.save(4, {"i": 4}, given)
    return given


def make(url: str, options: Any = None) -> World:
    store = CheckpointStore(url, storage_options=options)
    fill(store, CheckpointStore(url, storage_options=options))
    mirror = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    store.copy_to(mirror)
    backend = open_backend(url, options)
    return World(url, options, mirror, backend, World(url, options, mirror, backend, {}).bytes())


@pytest.fixture(params=list(COUNTS))
def worlds(
    request: pytest.FixtureRequest, tmp_path: Path, start_server: Callable[[str], Server]
) -> Iterator[tuple[str, Callable[[], World]]]:
    place = request.param
    if place == "local":
        made = make(str(tmp_path / "template"))

        def again() -> World:
            copy = tmp_path / uuid.uuid4().hex
            subprocess.run(["cp", "-a", made.url, copy], check=True)  # with its links
            return made._replace(url=str(copy), backend=LocalBackend(copy))

        yield place, again
        return
    server = start_server("moto") if place == "moto" else None
    made = make(server.new_url(), server.options) if server else make(f"memory://{uuid.uuid4().hex}")

    def cleaned() -> World:
        made.restore()
        return made

    yield place, cleaned


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has lost its manifest was written long ago."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * lost_manifests.SECONDS_TO_COMMIT)


def damage(world: World, key: str, how: str, chance: random.Random) -> None:
    """Change the file where it lies, for all that share it."""
    data = bytearray(world.good[key])
    if how == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del data[chance.randrange(len(data)) :]
    elif how == "longer":
        data += b"more"
    elif how == "garbage":
        data[:] = chance.randbytes(len(data))
    if isinstance(world.backend, LocalBackend):
        path = Path(world.url) / key
        if how == "missing":
            path.unlink()
        else:
            path.chmod(0o600)
            path.write_bytes(data)
            path.chmod(0o400)
    elif how == "missing":
        world.backend.delete([key])
    else:
        world.backend.replace(key, bytes(data))


def _leaves_no_evidence(keys: list[str]) -> bool:
    """Whether a manifest, its parts and a third file go at once: then no mirror's is known to be the one."""
    lost = [key.partition("/")[0] for key in keys]
    return any(
        f"{name}/{MANIFEST}" in keys and f"{name}/{PARTS}" in keys and lost.count(name) > 2 for name in lost
    )


def test_damages(worlds: tuple[str, Callable[[], World]], figures: Figures) -> None:
    place, fresh = worlds
    chance = random.Random(place)
    mended = named = 0
    for _ in range(COUNTS[place]):
        world = fresh()
        files = [key for key in world.good if not key.endswith("claim.json")]
        keys = chance.sample(files, chance.choice((1, 1, 1, 2, 4)))
        if chance.random() < 0.3:
            keys[0] = chance.choice([key for key in files if key.endswith((MANIFEST, PARTS))])
        keys = list(dict.fromkeys(keys))
        if _leaves_no_evidence(keys):
            continue
        told = [(key, chance.choice(HOW)) for key in keys]
        for key, how in told:
            damage(world, key, how, chance)
        before = world.bytes()
        mirrors = [world.mirror] if chance.random() < 0.5 else []
        plan = world.open().repair(*mirrors, dry_run=True)
        assert world.bytes() == before, told
        reports = world.open().repair(*mirrors)
        assert [(report.name, report.mended, report.lost) for report in plan] == [
            (report.name, report.mended, report.lost) for report in reports
        ], told
        after = world.bytes()
        assert reports, told
        if mirrors or all(report.ok and not report.notes for report in reports):
            assert all(report.ok for report in reports), (told, reports)
            assert after == world.good, told
            assert all(report.ok for report in world.open().verify())
            mended += 1
        else:
            lost = {f"{report.name.rpartition('/')[2]}/{path}" for report in reports for path in report.lost}
            # So fresh a loss may be a save in flight, unless a ref or a mirror tells otherwise.
            lost |= {f"{report.name.rpartition('/')[2]}/{MANIFEST}" for report in reports if report.notes}
            bad = {key for key in world.good if after.get(key) != world.good[key]}
            assert all(after.get(key) == before.get(key) for key in bad), told  # nothing made worse
            for key in bad:
                directory = key.partition("/")[0]
                assert key in lost or {f"{directory}/{MANIFEST}", f"{directory}/{PARTS}"} & lost, told
            named += 1
        assert after.keys() <= world.good.keys() | before.keys()
    assert mended > named > 0
    figures.add(f"damages mended ({place})", mended)
    figures.add(f"damages without a good copy named ({place})", named)


def test_every_sharer_is_mended_and_shares_again(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    given = fill(store, CheckpointStore(tmp_path))
    rot(tmp_path / "checkpoint_000001" / POLICY)
    [first, second] = store.repair(which=[2])
    assert first.mended.keys() == second.mended.keys() == {POLICY}
    assert "checkpoint_000003" in first.mended[POLICY]
    assert all(report.ok for report in store.verify())
    status = [(tmp_path / f"checkpoint_{step:06d}" / POLICY).stat() for step in (1, 2)]
    assert status[0].st_ino == status[1].st_ino
    assert status[0].st_mode & 0o222 == 0
    assert_same(store.get(4).load().policies, given)
    assert store.repair() == []


def test_a_file_is_put_together_from_two_that_are_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    fill(store, CheckpointStore(tmp_path))
    rot(tmp_path / "checkpoint_000001" / POLICY, at=-20)
    rot(tmp_path / "checkpoint_000003" / POLICY, at=5000)
    assert all(report.ok for report in store.repair())
    assert all(report.ok for report in store.verify())


def test_a_mirror_may_be_one_checkpoint(tmp_path: Path, old: None) -> None:
    store = CheckpointStore(tmp_path / "store")
    given = fill(store, CheckpointStore(tmp_path / "store"))
    copy = store.get(4).download(tmp_path / "copy")
    (tmp_path / "store" / "checkpoint_000004" / MANIFEST).unlink()
    rot(tmp_path / "store" / "checkpoint_000004" / "policies/pol0/policy_state.pkl")
    assert [report.ok for report in store.repair()] == [False]
    [report] = store.repair(Checkpoint.open(copy))
    assert report.ok
    assert_same(CheckpointStore(tmp_path / "store").get(4).load().policies, given)


def test_another_run_is_no_mirror_of_a_lost_manifest(tmp_path: Path, old: None) -> None:
    store, other = CheckpointStore(tmp_path / "a"), CheckpointStore(tmp_path / "b")
    store.save(1, {"i": 1}, policies(2))
    other.save(1, {"i": 1}, policies(2, seed=1))
    (tmp_path / "a" / "checkpoint_000001" / MANIFEST).unlink()
    [report] = store.repair(other)
    assert "no mirror has it" in report.lost[MANIFEST]
    assert not (tmp_path / "a" / "checkpoint_000001" / MANIFEST).exists()


def test_a_step_that_was_saved_anew_keeps_its_place(tmp_path: Path, old: None) -> None:
    store = CheckpointStore(tmp_path)
    mirror = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    store.save(1, {"i": 1}, policies(2))
    store.save(1, {"i": 2}, policies(2), if_exists="replace")  # -r1
    store.copy_to(mirror)
    (tmp_path / "checkpoint_000001-r1" / MANIFEST).unlink()
    CheckpointStore(tmp_path).save(1, {"i": 3}, policies(2))
    [report] = store.repair(mirror)
    assert "holds its step" in report.lost[MANIFEST]
    assert store.get(1).state == {"i": 3}


@pytest.mark.parametrize("how", ["delete", "replace"])
def test_a_delete_meanwhile_wins(tmp_path: Path, how: str) -> None:
    CheckpointStore(tmp_path).save(1, {"i": 1}, policies(2))
    CheckpointStore(tmp_path).save(2, {"i": 1}, policies(2))
    disk = InterruptedDisk(operation="create")
    store = CheckpointStore(LocalBackend(tmp_path, disk))
    rot(tmp_path / "checkpoint_000001" / "policies/pol1/policy_state.pkl")

    def act() -> None:
        other = CheckpointStore(tmp_path)
        if how == "delete":
            other.delete(1)
        else:
            other.save(1, {"i": 9}, policies(2), if_exists="replace")

    disk.interrupt = act
    [report] = store.repair()
    assert disk.reached
    assert "deleted or replaced" in report.lost["policies/pol1/policy_state.pkl"]
    assert [found.state["i"] for found in store.checkpoints()] == ([1] if how == "delete" else [9, 1])
    assert all(report.ok for report in store.verify())
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("checkpoint")) == (
        ["checkpoint_000002"] if how == "delete" else ["checkpoint_000001-r1", "checkpoint_000002"]
    )


def test_a_delete_that_is_not_done_wins(tmp_path: Path) -> None:
    """Unpublished, with its bytes still in the trash."""
    CheckpointStore(tmp_path).save(1, {"i": 1}, policies(2))
    CheckpointStore(tmp_path).save(2, {"i": 1}, policies(2))
    disk = InterruptedDisk(operation="fsync")
    path = tmp_path / "checkpoint_000001" / "policies/pol1/policy_state.pkl"
    rot(path)
    before = path.read_bytes()
    disk.interrupt = lambda: (tmp_path / "checkpoint_000001").rename(tmp_path / ".trash" / "gone")
    [report] = CheckpointStore(LocalBackend(tmp_path, disk)).repair()
    assert disk.reached
    assert "deleted or replaced" in next(iter(report.lost.values()))
    assert (tmp_path / ".trash" / "gone" / "policies/pol1/policy_state.pkl").read_bytes() == before


def test_a_step_saved_while_a_manifest_is_remade_stays(tmp_path: Path) -> None:
    mirror = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    store = CheckpointStore(tmp_path)
    store.save(1, {"i": 1}, policies(2))
    store.save(1, {"i": 2}, policies(2), if_exists="replace")  # -r1
    store.copy_to(mirror)
    (tmp_path / "checkpoint_000001-r1" / MANIFEST).unlink()
    disk = InterruptedDisk(operation="fsync")
    disk.interrupt = lambda: CheckpointStore(tmp_path).save(1, {"i": 3}, policies(2))
    [report] = CheckpointStore(LocalBackend(tmp_path, disk)).repair(mirror)
    assert disk.reached
    assert "deleted or replaced" in report.lost[MANIFEST]
    assert CheckpointStore(tmp_path).get(1).state == {"i": 3}


def test_a_delete_in_a_bucket_meanwhile_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    store = CheckpointStore(url)
    store.save(1, {"i": 1}, policies(2))
    store.save(2, {"i": 1}, policies(2))
    backend = open_backend(url)
    key = "checkpoint_000001/policies/pol1/policy_state.pkl"
    backend.replace(key, b"rotten")
    write = type(backend).write

    def late(self: Any, path: str) -> Any:
        CheckpointStore(url).delete(1)
        return write(self, path)

    monkeypatch.setattr(type(backend), "write", late)
    [report] = store.repair()
    assert "deleted or replaced" in next(iter(report.lost.values()))
    assert [found.step for found in store.checkpoints()] == [2]
    assert key not in {item.key for item in backend.list()}


def test_what_it_takes_and_says(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    fill(store, CheckpointStore(tmp_path / "store"))
    CheckpointStore(tmp_path / "mirror").add(store.get(4))
    plain = Path(__file__).parent / "data" / "rllib_1_0_ppo_multi5" / "checkpoint"
    with pytest.raises(InvalidRequest, match="no manifest"):
        store.repair(Checkpoint.open(plain))
    run = CliRunner().invoke
    assert run(root, ["repair", store.url]).output == "nothing is damaged\n"
    rot(tmp_path / "store" / "checkpoint_000004" / "policies/pol0/policy_state.pkl")
    found = run(root, ["repair", store.url, "--json"])
    assert found.exit_code == 5
    [told] = json.loads(found.stdout)["checkpoints"]
    assert "no good copy" in told["lost"]["policies/pol0/policy_state.pkl"]
    planned = run(root, ["repair", store.url, "--from", str(tmp_path / "mirror"), "--dry-run"])
    assert planned.exit_code == 0
    assert "would mend policies/pol0/policy_state.pkl from file://" in planned.output
    assert run(root, ["verify", store.url]).exit_code == 5
    done = run(root, ["repair", store.url, "--from", f"{tmp_path / 'mirror'}@4"])
    assert (done.exit_code, "mended" in done.output) == (0, True)
    assert run(root, ["verify", store.url]).exit_code == 0


REFUSALS = {
    "a tagged directory is gone": ("checkpoint_000002", "tag 'champion' points at it"),
    "a pinned directory is gone": ("checkpoint_000002", "a pin points at it"),
    "a tagged manifest is gone": ("checkpoint_000002", "tag 'champion' points at it"),
}


@pytest.mark.parametrize("what", REFUSALS)
@pytest.mark.parametrize("place", ["local", "memory"])
def test_verify_and_repair_judge_alike(tmp_path: Path, what: str, place: str) -> None:
    url = str(tmp_path / "store") if place == "local" else f"memory://{uuid.uuid4().hex}"
    store, mirror = CheckpointStore(url), CheckpointStore(tmp_path / "mirror")
    for step in (1, 2, 3):
        store.save(step, {"i": step})
    store.copy_to(mirror)
    store.pin(2) if "pinned" in what else store.tag("champion", 2)
    backend = backend_of(store)
    keys = [item.key for item in backend.list("checkpoint_000002")]
    backend.delete(keys if "directory" in what else [f"checkpoint_000002/{MANIFEST}"])
    if place == "local" and "directory" in what:
        shutil.rmtree(tmp_path / "store/checkpoint_000002")
    name, why = REFUSALS[what]
    [bad] = [report for report in store.verify() if not report.ok]
    [report] = store.repair()
    assert bad.name == report.name == f"{store.url}/{name}"
    assert why in bad.problems[0]
    assert not report.ok
    assert MANIFEST in report.lost
    [with_mirror] = store.repair(mirror, which=[2] if "manifest" in what else None, dry_run=True)
    if "directory" in what:
        assert why in report.lost[MANIFEST]
        assert f"ckptstore cp {mirror.url}/{name} {store.url}" in with_mirror.lost[MANIFEST]
        store.add(mirror.get(2))
    else:
        assert with_mirror.ok
        store.repair(mirror)
    assert all(each.ok for each in store.verify())
    assert store.repair() == []


@pytest.mark.parametrize("place", ["local", "memory", "moto"])
def test_what_may_be_in_flight_is_no_damage(
    tmp_path: Path, place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = None
    url = str(tmp_path / "store") if place == "local" else f"memory://{uuid.uuid4().hex}"
    if place == "moto":
        server = request.getfixturevalue("moto")
        url, options = server.new_url(), server.options
    store = CheckpointStore(url, storage_options=options)
    store.save(1, {"i": 1})
    store.save(2, {"i": 2})
    backend_of(store).delete([f"checkpoint_000001/{MANIFEST}"])
    [first, _] = store.verify()
    [report] = store.repair()
    assert first.name == report.name == f"{store.url}/checkpoint_000001"
    assert first.ok
    assert report.ok
    assert first.notes == report.notes == ("unfinished: may be a save in flight",)
    if place == "memory":
        return  # it tells no times
    request.getfixturevalue("old")
    [first, _] = store.verify()
    [report] = store.repair()
    assert not first.ok
    assert not report.ok
    assert not report.notes
