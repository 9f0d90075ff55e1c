"""Opening and reading never write a byte, whatever lies at a place; and what no store may be made of."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ckptstore import Checkpoint, CheckpointStore, bulk
from ckptstore.cli.app import root as command_line
from ckptstore.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointNotFound,
    InvalidRequest,
    StoreNotFound,
    UnreadableFormat,
)
from ckptstore.format.droppings import is_dropping
from tests.faults import fault_proxy
from tests.servers import Server
from tests.stores import policies

DATA = Path(__file__).parent / "data"
RLLIB = sorted(
    path
    for found in DATA.glob("v[0-9]_[0-9]/*/checkpoint")
    for path in (found.iterdir() if found.parent.name.endswith("_modules") else [found])
)
STORES = ("store", "emptied", "lost")
CHECKPOINTS = ("store/checkpoint_000002", "alone", "rllib")
PLACES = (
    *STORES,
    *CHECKPOINTS,
    "empty",
    "nowhere/run",
    "foreign",
    "trial",
    "store/checkpoint_000002/policies",
)


@pytest.fixture(scope="module")
def area(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one of each of `PLACES`."""
    area = tmp_path_factory.mktemp("area")
    for name in STORES:
        store = CheckpointStore(area / name)
        for step in (1, 2):
            store.save(step, {"iteration": step}, policies(1), metrics={"reward": 1.0})
        store.tag("champion", 1)
    for step in (1, 2):
        emptied = CheckpointStore(area / "emptied")
        emptied.untag("champion") if step == 1 else None
        emptied.delete(step)
    (area / "lost" / "_ckptstore" / "store.json").unlink()
    shutil.copytree(area / "store" / "checkpoint_000001", area / "alone")
    shutil.copytree(DATA / "v1_0" / "ray_2.1.0_tune" / "checkpoint", area / "rllib")
    (area / "empty").mkdir()
    (area / "foreign").mkdir()
    (area / "foreign" / "events.out.tfevents").write_bytes(b"logs")
    shutil.copytree(DATA / "v1_0" / "ray_2.1.0_tune" / "checkpoint", area / "trial" / "checkpoint_000010")
    return area


def snapshot(area: Path, directories: bool = True) -> dict[str, tuple[Any, ...]]:
    """Every file with its bytes, and all that the system says of it; directories too."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in (area, *area.rglob("*")):
        status = path.lstat()
        about = (status.st_mode, status.st_ino, status.st_nlink, status.st_size, status.st_mtime_ns)
        if path.is_file():
            found[str(path)] = (*about, status.st_ctime_ns, path.read_bytes())
        else:
            found[str(path)] = about if directories else ()
    return found


def silently(call: Callable[[], object]) -> object:
    with contextlib.suppress(CheckpointError):
        return call()
    return None


READS: dict[str, Callable[[CheckpointStore], object]] = {
    "url": lambda store: store.url,
    "signs": lambda store: store.signs,
    "id": lambda store: store.id,
    "checkpoints": lambda store: store.checkpoints(),
    "latest": lambda store: (silently(store.latest), store.latest(verified=True)),
    "best": lambda store: store.best("reward"),
    "get": lambda store: [
        silently(functools.partial(store.get, which)) for which in (1, "checkpoint_000001", "tag:champion")
    ],
    "tags": lambda store: store.tags(),
    "verify": lambda store: store.verify(),
    "wait": lambda store: store.wait(),
    "close": lambda store: store.close(),
}
CHANGES: dict[str, Callable[[CheckpointStore], object]] = {
    "delete": lambda store: store.delete(1),
    "gc": lambda store: store.gc(),
    "pin": lambda store: store.pin(1),
    "prune": lambda store: store.prune(1),
    "repair": lambda store: store.repair(),
    "rollback": lambda store: store.rollback(1),
    "tag": lambda store: store.tag("champion", 2),
    "unpin": lambda store: store.unpin(1),
    "untag": lambda store: store.untag("champion"),
}
MAKES: dict[str, Callable[[CheckpointStore], object]] = {
    "add": lambda store: store.add(Checkpoint.open(os.environ["ALONE"])),
    "adopt": lambda store: store.adopt("checkpoint_000777"),
    "commit_files": lambda store: store.migrate(DATA / "v1_0" / "ray_2.1.0_tune" / "checkpoint"),
    "copy_to": lambda store: CheckpointStore(Path(os.environ["ALONE"]).parent / "store").copy_to(store),
    "migrate": lambda store: store.migrate(DATA / "v1_0" / "ray_2.1.0_tune" / "checkpoint", step=7),
    "save": lambda store: store.save(9),
    "save_async": lambda store: store.save_async(9).result(),
    "stage": lambda store: _stage(store),
    "stage_async": lambda store: _stage(store),
}


def _stage(store: CheckpointStore) -> None:
    with store.stage(9) as path:
        Path(os.fspath(path), "file").write_bytes(b"x")


def test_every_method_is_one_of_these() -> None:
    public = {name for name in vars(CheckpointStore) if not name.startswith("_")}
    assert public == READS.keys() | CHANGES.keys() | MAKES.keys()


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_a_store_that_is_read(area: Path, place: str, create: bool) -> None:
    before = snapshot(area)
    for name, read in READS.items():
        silently(functools.partial(read, CheckpointStore(area / place, create=create)))
        assert snapshot(area) == before, name
    store = CheckpointStore(area / place, create=create)
    silently(lambda: [store.prune(1, dry_run=True), store.copy_to(CheckpointStore(area / "store"), [])])
    assert snapshot(area) == before


@pytest.mark.parametrize("place", [place for place in PLACES if place not in ("store", "emptied")])
def test_what_is_no_store_is_not_changed_either(area: Path, place: str) -> None:
    before = snapshot(area)
    for name, change in CHANGES.items():
        silently(functools.partial(change, CheckpointStore(area / place)))
        assert snapshot(area) == before, name


@pytest.mark.parametrize("place", PLACES)
def test_a_checkpoint_that_is_read(area: Path, place: str, tmp_path: Path) -> None:
    def with_directory() -> None:
        with Checkpoint.open(area / place).as_directory():
            pass

    def opened() -> Checkpoint:
        return Checkpoint.open(area / place)

    before = snapshot(area)
    for read in (
        lambda: opened().load(mmap=True),
        lambda: opened().weights(),
        lambda: opened().verify(),
        lambda: opened().scan(),
        lambda: opened().listing(),
        lambda: opened().migrate(None, dry_run=True),
        lambda: opened().download(tmp_path / "copy"),
        lambda: opened().export(tmp_path / "weights.npz"),
        with_directory,
        lambda: bulk.find(area / place),
    ):
        silently(read)
        assert snapshot(area) == before


def _verbs(place: str, outside: str) -> Mapping[str, list[str]]:
    return {
        "ls": [place],
        "info": [place],
        "tree": [place],
        "verify": [place],
        "latest": [place],
        "scan": [place],
        "diff": [place, place],
        "get": [place, f"{outside}/got"],
        "cp": [place, f"{outside}/copied"],
        "export": [place, f"{outside}/policy.npz"],
        "migrate": [place, f"{outside}/migrated"],
        "adopt": [f"{place}/checkpoint_000777"],
        "tag": [place],
        "prune": [place, "--keep", "1", "--dry-run"],
        "gc": [place],
        "repair": [place],
        "rm": [f"{place}@1", "--dry-run"],
        "rollback": [f"{place}@1", "--dry-run"],
        "doctor": [place],
    }


@pytest.mark.parametrize("place", PLACES)
def test_every_verb(area: Path, place: str, tmp_path: Path) -> None:
    verbs = _verbs(str(area / place), str(tmp_path))
    assert verbs.keys() == command_line.commands.keys()
    for verb, arguments in verbs.items():
        if verb == "gc" and place in ("store", "emptied"):
            continue
        # A trial needs files, and takes them all away; only a directory's time tells of it.
        before = snapshot(area, directories=verb != "doctor")
        CliRunner().invoke(command_line, [verb, *arguments])
        assert snapshot(area, directories=verb != "doctor") == before, verb
    for pattern in ("info", "verify", "scan"):
        before = snapshot(area)
        CliRunner().invoke(command_line, [pattern, f"{area / place}/**"])
        assert snapshot(area) == before, pattern


@pytest.fixture(scope="module")
def bucket(area: Path, moto: Server) -> str:
    """The same in a bucket: its URL."""
    url = moto.new_url()
    name, _, prefix = url.partition("://")[2].partition("/")
    for path in (path for path in area.rglob("*") if path.is_file()):
        key = f"{prefix}/{path.relative_to(area).as_posix()}"
        moto.client().put_object(Bucket=name, Key=key, Body=path.read_bytes())
    return url


@pytest.mark.parametrize("place", PLACES)
def test_in_a_bucket(bucket: str, moto: Server, place: str, tmp_path: Path) -> None:
    url = f"{bucket}/{place}"
    calls = dict(READS) if place in ("store", "emptied") else {**READS, **CHANGES, "adopt": MAKES["adopt"]}
    with fault_proxy(moto.endpoint) as proxy:
        options = {**moto.options, "endpoint_url": proxy.endpoint}
        store = CheckpointStore(url, storage_options=options)
        for name, call in calls.items():
            silently(functools.partial(call, store))
            sent = {seen.method for seen in proxy.seen}
            assert sent <= {"GET", "HEAD"}, name
        more = [f"--storage-option=endpoint_url={proxy.endpoint}"]
        more += [f"--storage-option={name}={moto.options[name]}" for name in ("key", "secret")]
        for verb, arguments in _verbs(url, str(tmp_path)).items():
            if verb in ("ls", "info", "latest", "adopt") or (verb == "doctor" and place in CHECKPOINTS):
                CliRunner().invoke(command_line, [verb, *arguments, *more])
                sent = {seen.method for seen in proxy.seen}
                assert sent <= {"GET", "HEAD"}, verb
        assert len(proxy.seen) > 20


class TestWhatIsThere:
    """What reading says of each place."""

    @pytest.mark.parametrize("place", ["empty", "nowhere/run", "emptied"])
    def test_nothing(self, area: Path, place: str) -> None:
        store = CheckpointStore(area / place)
        assert (store.latest(), store.checkpoints(), store.tags(), store.verify()) == (None, [], {}, [])
        assert store.latest(verified=True) is None
        with pytest.raises(CheckpointNotFound):
            store.get(1)
        if place != "emptied":
            for call in (lambda: CheckpointStore(area / place, create=False).latest(), lambda: store.id):
                with pytest.raises(StoreNotFound):
                    call()

    @pytest.mark.parametrize("place", ["foreign", "trial", "store/checkpoint_000002/policies"])
    def test_other_files_are_not_an_empty_store(self, area: Path, place: str) -> None:
        for create in (True, False):
            store = CheckpointStore(area / place, create=create)
            for read in ("latest", "checkpoints", "tags", "get"):
                with pytest.raises(StoreNotFound, match=r"other files|Open the store"):
                    READS[read](store) if read != "get" else store.get(1)

    def test_what_belongs_to_nobody_is_nothing(self, tmp_path: Path) -> None:
        for name in (".DS_Store", "lost+found", "._x"):
            assert is_dropping(name)
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / "_ckptstore" / "probe").mkdir(parents=True)  # of a save that was killed
        assert CheckpointStore(tmp_path).latest() is None

    def test_a_store_that_lost_its_proof_keeps_its_checkpoints(self, area: Path, tmp_path: Path) -> None:
        root = tmp_path / "lost"
        shutil.copytree(area / "lost", root)
        store = CheckpointStore(root)
        assert [item.step for item in store.checkpoints()] == [1, 2]
        newest = store.latest(verified=True)
        assert newest is not None
        assert newest.state == {"iteration": 2}
        assert store.get("tag:champion").step == 1
        only_read = CheckpointStore(root, create=False)
        assert [item.step for item in only_read.checkpoints()] == [1, 2]
        with pytest.raises(StoreNotFound, match=r"store\.json is missing"):
            only_read.save(3)
        for change in (
            lambda: store.delete(2),
            lambda: store.untag("champion"),
            lambda: store.tag("x", 1),
            store.gc,
        ):
            with pytest.raises(StoreNotFound, match="adopt") as refused:
                change()
        command = refused.value.remedy.partition("`ckptstore ")[2].partition("`")[0].split()
        assert CliRunner().invoke(command_line, command).exit_code == 0
        assert [item.step for item in CheckpointStore(root, create=False).checkpoints()] == [1, 2]
        assert store.prune(1) == []  # the other one is tagged

    def test_the_next_save_brings_the_proof_back(self, area: Path, tmp_path: Path) -> None:
        shutil.copytree(area / "lost", tmp_path / "lost")
        CheckpointStore(tmp_path / "lost").save(3)
        assert [item.step for item in CheckpointStore(tmp_path / "lost", create=False).checkpoints()] == [
            1,
            2,
            3,
        ]

    def test_a_damaged_checkpoint_without_a_store_is_not_passed_over(
        self, area: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(area / "lost", tmp_path / "lost")
        for step in (1, 2):
            (tmp_path / "lost" / f"checkpoint_00000{step}" / "algorithm_state.pkl").unlink()
        with pytest.raises(CheckpointCorrupt):
            CheckpointStore(tmp_path / "lost").latest()


class TestACheckpointIsNoStore:
    @pytest.mark.parametrize("place", CHECKPOINTS)
    def test_nothing_reads_it_as_one(self, area: Path, place: str) -> None:
        for create in (True, False):
            store = CheckpointStore(area / place, create=create)
            for read in ("checkpoints", "best", "tags", "verify", "id"):
                with pytest.raises(UnreadableFormat, match="it is a checkpoint") as refused:
                    READS[read](store)
                assert f"file://{(area / place).parent}" in refused.value.remedy

    @pytest.mark.parametrize("case", RLLIB, ids=lambda path: f"{path.parent.name}-{path.name}")
    def test_of_whatever_release(self, case: Path, tmp_path: Path) -> None:
        shutil.copytree(case, tmp_path / "saved")
        before = snapshot(tmp_path)
        for use in (CheckpointStore.latest, lambda store: store.save(1)):
            with pytest.raises(UnreadableFormat, match="it is a checkpoint"):
                use(CheckpointStore(tmp_path / "saved"))
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize(
        "place",
        [
            *CHECKPOINTS,
            "store/checkpoint_000002/policies",
            "store/checkpoint_000002/new/run",
            "store/_ckptstore",
        ],
    )
    @pytest.mark.parametrize("make", MAKES)
    def test_nothing_makes_it_one(
        self, area: Path, place: str, make: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ALONE", str(area / "alone"))
        before = snapshot(area)
        with pytest.raises(CheckpointError) as refused:
            MAKES[make](CheckpointStore(area / place))
        assert snapshot(area) == before
        if make != "adopt":  # there is nothing to adopt, which is said first
            assert isinstance(refused.value, UnreadableFormat)

    @pytest.mark.parametrize("place", CHECKPOINTS)
    @pytest.mark.parametrize("verb", ["cp", "migrate", "doctor", "adopt"])
    def test_nor_does_a_verb(self, area: Path, place: str, verb: str) -> None:
        before = snapshot(area)
        given = {"cp": [str(area / "store")], "migrate": [str(area / "rllib")], "doctor": [], "adopt": []}[
            verb
        ]
        target = str(area / place) + ("/checkpoint_000001" if verb == "adopt" else "")
        result = CliRunner().invoke(command_line, [verb, *given, target])
        assert result.exit_code in (3, 6)
        assert snapshot(area) == before
        if verb != "adopt":
            assert str((area / place).parent) in result.stderr

    def test_nor_is_one_begun_under_a_checkpoints_name(self, area: Path) -> None:
        before = snapshot(area)
        with pytest.raises(InvalidRequest, match="name is that of a checkpoint"):
            CheckpointStore(area / "store").copy_to(CheckpointStore(area / "store" / "checkpoint_000300"))
        assert snapshot(area) == before

    @pytest.mark.parametrize("place", ["store/checkpoint_000002", "alone", "rllib"])
    def test_one_that_was_opened_by_mistake_before(self, area: Path, tmp_path: Path, place: str) -> None:
        """An older ckptstore left its ``store.json`` there."""
        shutil.copytree(area / place, tmp_path / "checkpoint_000002")
        meta = tmp_path / "checkpoint_000002" / "_ckptstore"
        meta.mkdir(exist_ok=True)
        shutil.copy(area / "store" / "_ckptstore" / "store.json", meta)
        before = snapshot(tmp_path)
        for make in ("id", "save", "stage"):
            with pytest.raises(UnreadableFormat, match="it is a checkpoint"):
                {**READS, **MAKES}[make](CheckpointStore(tmp_path / "checkpoint_000002"))
        assert snapshot(tmp_path) == before
        for name in ("checkpoint_000002", "renamed"):
            for read in (CheckpointStore.latest, CheckpointStore.checkpoints):
                with pytest.raises(UnreadableFormat, match="it is a checkpoint"):
                    read(CheckpointStore(tmp_path / name))
            assert Checkpoint.open(tmp_path / name).policy_ids
            if name != "renamed":
                (tmp_path / name).rename(tmp_path / "renamed")


def test_directories_that_only_sound_like_a_checkpoint_s_file(tmp_path: Path) -> None:
    """transformers' Trainer calls its directories so."""
    (tmp_path / "checkpoint-500").mkdir()
    assert CheckpointStore(tmp_path).save(1).step == 1


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "nowhere"
    assert os.listdir(tmp_path) == [], "a slip left something behind"


class TestASlipLeavesNothingBehind:
    def test_adopt(self, nowhere: Path) -> None:
        with pytest.raises(CheckpointNotFound):
            CheckpointStore(nowhere).adopt("checkpoint_000001")
        assert CliRunner().invoke(command_line, ["adopt", f"{nowhere}/checkpoint_000001"]).exit_code == 3

    def test_copy_of_nothing(self, nowhere: Path, area: Path) -> None:
        assert CheckpointStore(area / "emptied").copy_to(CheckpointStore(nowhere)) == []
        assert CliRunner().invoke(command_line, ["cp", str(area / "emptied"), str(nowhere)]).exit_code == 0

    @pytest.mark.parametrize("verb", ["cp", "migrate"])
    def test_copy_of_what_is_not_there(self, nowhere: Path, area: Path, verb: str) -> None:
        assert CliRunner().invoke(command_line, [verb, str(area / "mistyped"), str(nowhere)]).exit_code != 0

    def test_a_refused_save(self, nowhere: Path) -> None:
        with pytest.raises(InvalidRequest):
            CheckpointStore(nowhere).save(-1)

    def test_doctor(self, nowhere: Path) -> None:
        assert CliRunner().invoke(command_line, ["doctor", f"{nowhere}/deeper"]).exit_code == 0
