"""Several processes that download one checkpoint to one place, and temporary copies of those that died."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from ckptstore import Checkpoint, CheckpointStore, staging
from ckptstore.backends.local import scratch
from ckptstore.backends.local.scratch import Scratch, remove_dead
from ckptstore.errors import CheckpointCorrupt, CheckpointExists, InvalidRequest
from ckptstore.read import download
from tests.figures import Figures
from tests.stores import flipped, policies, tree_bytes

WAYS: dict[str, Callable[[Checkpoint, str], object]] = {
    "download": lambda ckpt, target: ckpt.download(target),
    "part": lambda ckpt, target: ckpt.download(target, policy_ids=["pol1"]),
    "as_directory": lambda ckpt, target: read_directory(ckpt),
    "export": lambda ckpt, target: ckpt.export(target, "pol0", format="npz"),
}


def read_directory(ckpt: Checkpoint) -> None:
    with ckpt.as_directory() as path:
        assert Checkpoint.open(path).verify().ok


def work(root: str, way: str, orders: Connection) -> None:
    """One rank of a node: downloads wherever it is told to, and says what came of it."""
    ckpt = CheckpointStore(root).get(1)
    orders.send("ready")
    while target := orders.recv():
        try:
            WAYS[way](ckpt, target)
            orders.send("done")
        except Exception as error:  # noqa: BLE001 - it is told
            orders.send(type(error).__name__)


ROUNDS = {"download": 30, "part": 10, "as_directory": 10, "export": 10}


@pytest.mark.parametrize("way", WAYS)
def test_four_processes_at_once(tmp_path: Path, figures: Figures, way: str) -> None:
    """Each is told that it is done, what is there is whole, and nothing else is."""
    ckpt = CheckpointStore(tmp_path / "store").save(1, {"x": 1}, policies(3))
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(4)]
    ranks = [
        context.Process(target=work, args=(str(tmp_path / "store"), way, theirs), daemon=True)
        for _, theirs in pipes
    ]
    for rank in ranks:
        rank.start()
    assert [ours.recv() for ours, _ in pipes] == ["ready"] * 4
    for number in range(ROUNDS[way]):
        target = tmp_path / f"copy{number}"
        for ours, _ in pipes:
            ours.send(str(target))
        answers = [ours.recv() for ours, _ in pipes]
        if way == "export":
            assert sorted(answers) == ["InvalidRequest"] * 3 + ["done"]
        else:
            assert answers == ["done"] * 4
        if way == "download":
            assert tree_bytes(target) == tree_bytes(tmp_path / "store" / ckpt.name)
        elif way == "part":
            assert Checkpoint.open(target).verify().ok
        others = [path.name for path in tmp_path.iterdir() if path.name not in ("store", target.name)]
        assert [name for name in others if not name.startswith("copy")] == []
    for ours, _ in pipes:
        ours.send("")
    for rank in ranks:
        rank.join(60)
    figures.add("downloads by four processes to one place", ROUNDS[way])


@pytest.fixture
def ckpt(tmp_path: Path) -> Checkpoint:
    return CheckpointStore(tmp_path / "store").save(1, {"x": 1}, policies(2))


def test_who_fails_removes_nothing_of_the_winner(ckpt: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    ckpt.download(target)
    whole = tree_bytes(target)
    damage = flipped(tmp_path / "store" / ckpt.name / "policies" / "pol1" / "policy_state.pkl")
    next(damage)
    with pytest.raises(CheckpointCorrupt):
        ckpt.download(target)
    assert tree_bytes(target) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "store"]


@pytest.mark.parametrize("what", ["another file", "another byte"])
def test_something_else_came_meanwhile(
    ckpt: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    target = tmp_path / "copy"
    move = download._move

    def late(made: str, place: str, *rest: Any) -> None:
        if what == "another file":
            Path(place, "mine").write_text("mine")
        else:
            monkeypatch.setattr(download, "_move", move)
            ckpt.download(target)
            next(flipped(target / "policies" / "pol0" / "policy_state.pkl"))
        move(made, place, *rest)

    monkeypatch.setattr(download, "_move", late)
    with pytest.raises(CheckpointExists, match="something else"):
        ckpt.download(target)
    assert (target / ("mine" if what == "another file" else "algorithm_state.pkl")).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "store"]


def test_a_directory_that_is_there_keeps_its_mode(ckpt: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir(0o750)
    target.chmod(0o750)
    ckpt.download(target)
    assert target.stat().st_mode & 0o777 == 0o750


def test_a_link_to_a_directory_is_filled_through(ckpt: Checkpoint, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    ckpt.download(link)
    assert link.is_symlink()
    assert Checkpoint.open(real).verify().ok


def test_a_directory_whose_parent_is_closed(
    ckpt: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a volume that is mounted there: nothing can be made beside it."""
    target = tmp_path / "volume"
    target.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: os.fspath(path) == str(target))
    ckpt.download(target)
    assert Checkpoint.open(target).verify().ok
    assert tree_bytes(target) == tree_bytes(tmp_path / "store" / ckpt.name)
    ckpt.download(target)
    (target / "algorithm_state.pkl").unlink()
    with pytest.raises(InvalidRequest, match="empty"):
        ckpt.download(target)


# What the dead leave

LEAVE = r"""
import os, sys, time
from ckptstore import CheckpointStore
what, root, target = sys.argv[1:]
store = CheckpointStore(root)
def wait():
    os.write(1, b"in\n")
    time.sleep(600)
if what == "stage":
    with CheckpointStore("memory://left/run").stage(9) as path:
        with open(os.path.join(path, "model.bin"), "wb") as file:
            file.write(bytes(1000))
        wait()
elif what == "as_directory":
    with store.get(1).as_directory():
        wait()
else:
    store.get(1).download(target, progress=lambda count: wait())
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("what", ["stage", "as_directory", "download"])
def test_what_the_killed_left_goes_and_what_lives_stays(
    ckpt: Checkpoint, tmp_path: Path, temporary: Path, what: str
) -> None:
    place = tmp_path if what == "download" else temporary

    def left() -> set[str]:
        return {path.name for path in place.iterdir() if "ckptstore-" in path.name}

    living = []
    try:
        for _ in range(3):
            command = [sys.executable, "-c", LEAVE, what, str(tmp_path / "store"), str(tmp_path / "copy")]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            living.append(process)
            assert process.stdout is not None
            assert process.stdout.read(3) == b"in\n"
        assert len(left()) == 3
        for process in living[:2]:
            end(process)
        if what == "stage":
            read_directory(ckpt)
            assert len(left()) == 3, "no reader takes a trainer's work away"
            with CheckpointStore("memory://other/run").stage(1) as path:
                Path(path, "file").write_bytes(b"x")
        elif what == "download":
            ckpt.download(tmp_path / "other")
        else:
            read_directory(ckpt)
        assert len(left()) == 1
    finally:
        for process in living:
            end(process)
    prefixes = {"download": download._PRIVATE, "stage": staging._PREFIX, "as_directory": scratch.TEMPORARY}
    remove_dead(str(place), prefixes[what])
    assert left() == set()


def test_what_is_not_ours_stays(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of others, of an earlier release, a file, a link, a name that isn't quite one."""
    dead = scratch.TEMPORARY + "0" * 16
    outside = temporary / "outside"
    outside.mkdir()
    (temporary / "ckptstore-abcdefgh").mkdir()
    (temporary / (scratch.TEMPORARY + "1" * 15)).mkdir()
    (temporary / (scratch.TEMPORARY + "1" * 16)).write_text("a file")
    (temporary / (scratch.TEMPORARY + "2" * 16)).symlink_to(outside)
    (temporary / dead).mkdir()
    before = set(os.listdir(temporary))
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 12345)
        assert remove_dead(str(temporary)) == 0
    assert set(os.listdir(temporary)) == before
    assert remove_dead(str(temporary)) == 1
    assert set(os.listdir(temporary)) == before - {dead}


def test_without_locks_nothing_counts_as_dead(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "try_lock", lambda fd: None)
    one = Scratch()
    one.make()
    one.release()
    assert remove_dead(str(temporary)) == 0
    assert os.path.isdir(one.path)


def test_a_bounded_number_goes_at_once(temporary: Path) -> None:
    for number in range(100):
        (temporary / f"{scratch.TEMPORARY}{number:016}").mkdir()
    Scratch().make()
    assert len(os.listdir(temporary)) == 101 - scratch._MOST_REMOVED


def test_a_forked_child_removes_nothing_of_its_parents(temporary: Path) -> None:
    mine = Scratch()
    mine.make()
    child = os.fork()
    if child == 0:
        mine.remove()
        os._exit(0)
    os.waitpid(child, 0)
    assert os.path.isdir(mine.path)
    assert remove_dead(str(temporary)) == 0
    mine.remove()
    assert os.listdir(temporary) == []
