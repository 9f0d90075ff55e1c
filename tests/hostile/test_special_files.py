"""Links, pipes, sockets, devices and directories where files belong, and files where directories belong.

The links lead to a twin outside, with the very bytes that belong there: a reader that follows one can't
tell, so every answer that needs the file is an answer too much.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import CheckpointCorrupt, CheckpointError
from tests.hostile.trial import META, NEWEST, Trial, remove, save, typed
from tests.stores import tree_bytes

DATA = Path(__file__).parents[1] / "data"


def _link_to_twin(path: Path, outside: Path) -> None:
    path.rename(outside / "twin")
    path.symlink_to(outside / "twin")


def _instead(make: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    def act(path: Path, outside: Path) -> None:
        remove(path)
        make(path)

    return act


def _socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path.parent)  # the names of sockets are short
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def _device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: endless
    except PermissionError:  # needs root
        path.symlink_to("/dev/zero")


SPECIAL: dict[str, Callable[[Path, Path], None]] = {
    "link to a twin": _link_to_twin,
    "link to nothing": _instead(lambda path: path.symlink_to("nothing")),
    "link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "link up": _instead(lambda path: path.symlink_to("..")),
    "fifo": _instead(os.mkfifo),
    "socket": _instead(_socket),
    "device": _instead(_device),
    "directory": _instead(lambda path: path.mkdir()),
    "file": _instead(lambda path: path.write_bytes(b"{}")),
}
FILES = [f"{META}/manifest.json", "algorithm_state.pkl", f"{META}/parts.json", "components/buffer.pkl"]
DIRECTORIES = [META, "policies", "policies/pol0", ""]
OWN = [
    f"{META}/store.json",
    f"{META}/refs",
    f"{META}/refs/champion/000000000001.json",
    META,
    ".staging",
    ".trash",
]


def plant(root: Path, place: str, kind: str, outside: Path) -> Path:
    path = root / place if place else root
    if not path.exists():
        path.mkdir()
    SPECIAL[kind](path, outside)
    (outside / "bystander").write_bytes(b"here")
    return path


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("place", FILES + DIRECTORIES, ids=lambda place: place or "all")
def test_in_a_checkpoint(trial: Trial, place: str, kind: str) -> None:
    root = trial.fresh()
    plant(root / NEWEST, place, kind, trial.outside)
    before = tree_bytes(trial.outside)
    answers = trial.looks(root)
    assert {(1, "load"), (2, "load")} <= answers, "the others are whole"
    if (place, kind) == ("", "link to a twin"):
        assert {(3, "load"), (3, "verify")} <= answers, "moved away and linked back by its owner"
    else:
        assert not {(3, "directory"), (3, "verify")} & answers
    if place == "algorithm_state.pkl":
        assert not {(3, "load"), (3, "mmap")} & answers
    latest = CheckpointStore(root).latest()
    assert latest is not None
    assert latest.step == (3 if (place, kind) == ("", "link to a twin") else 2)
    if kind not in ("directory", "file") and place not in (META, ""):
        assert [skip.name for skip in latest.skipped] == [NEWEST]
    trial.changes(root)
    assert tree_bytes(trial.outside) == before, "something led outside"


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("place", OWN)
def test_in_what_a_store_keeps_for_itself(trial: Trial, place: str, kind: str) -> None:
    root = trial.fresh()
    plant(root, place, kind, trial.outside)
    before = tree_bytes(trial.outside)
    answers = trial.looks(root)
    store = CheckpointStore(root, create=False)
    lost = (place, kind) == (META, "directory")  # an empty one, where nothing says otherwise
    if place in (META, f"{META}/store.json") and not lost:
        assert not answers, "a store that proves nothing"
    else:
        assert (3, "load") in answers
    if place.startswith(f"{META}/refs") and kind not in ("directory", "file"):
        for change in (store.tags, lambda: store.prune(1), lambda: store.delete(1)):
            _, error = typed(change, "protected by a tag that can't be read")
            assert isinstance(error, CheckpointCorrupt)
        assert (root / "checkpoint_000001").exists()
    if place == ".staging" and kind != "directory":
        trial.refuses(lambda: save(store, 9), root / place)
        trial.refuses(store.gc, root / place)
    trial.changes(root)
    assert tree_bytes(trial.outside) == before, "something led outside"


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "file"])
@pytest.mark.parametrize("case", ["v1_1/ray_2.50.1_msgpack_multi", "v2_1/ray_2.42.1_msgpack_multi"])
def test_in_what_rllib_wrote(trial: Trial, case: str, kind: str) -> None:
    source = DATA / case / "checkpoint"
    paths = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
    states = [path for path in paths if path.suffix != ".json" and not path.name.startswith(".")]
    assert states
    for path in states[:4]:
        root = trial.fresh()
        lying = root / "checkpoint_000007"
        shutil.copytree(source, lying)
        plant(lying, str(path), kind, trial.outside)
        before = tree_bytes(trial.outside)
        opened, _ = typed(lambda: Checkpoint.open(lying), str(path))  # noqa: B023
        if opened is not None:
            trial.reads(opened)
            report, _ = typed(opened.check, str(path))
            # A directory without the file is what was saved without it, where RLlib may leave it out.
            assert report is None or not report.ok or kind == "directory", f"{path} was read through a {kind}"
        _, error = typed(lambda: CheckpointStore(root).adopt(lying), str(path))  # noqa: B023
        assert error is not None or kind == "directory"
        typed(lambda: Checkpoint.open(lying).migrate(trial.outside.parent / "migrated", step=1), str(path))  # noqa: B023
        shutil.rmtree(trial.outside.parent / "migrated", ignore_errors=True)
        assert trial.command("scan", str(lying)) is not None
        assert tree_bytes(trial.outside) == before, "something led outside"


def plant_in_stage(path: Path, kind: str, outside: Path) -> None:
    for name in ("plain", "odd"):
        (path / name).write_bytes(b"x")
    SPECIAL[kind](path / "odd", outside)


def test_staged_special_files_are_refused(trial: Trial) -> None:
    for kind in SPECIAL.keys() - {"directory", "file"}:
        root = trial.fresh()
        store = CheckpointStore(root)
        stage = store.stage(9)
        with pytest.raises(CheckpointError, match="odd"), stage:
            plant_in_stage(Path(stage), kind, trial.outside)
        assert [checkpoint.step for checkpoint in store.checkpoints()] == [1, 2, 3]
        assert not list((root / ".staging").iterdir())
