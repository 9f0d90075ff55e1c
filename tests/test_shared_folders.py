"""A folder that several people write to: what the other one may do, by umask, and what links are followed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import CheckpointCorrupt
from tests.stores import tree_bytes

POLICIES = {f"p{n}": {"weights": {"w": np.full(2000, n)}} for n in range(3)}
ALICE, BOB, GROUP, OTHERS = 54001, 54002, 54100, 54101

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may become somebody else"
)

_AS_SOMEBODY = """
import json, os, sys, tempfile
from ckptstore import CheckpointStore
from ckptstore.errors import CheckpointError
import numpy as np
POLICIES = {f"p{n}": {"weights": {"w": np.full(2000, n)}} for n in range(3)}
user, group, umask = map(int, sys.argv[1:4])
answers = {}
def do(root, name):
    store = CheckpointStore(root)
    try:
        if name.startswith("umask"):
            os.umask(int(name[5:], 8))
        elif name.startswith("group"):
            for folder, _, files in os.walk(os.path.join(root, f"checkpoint_{int(name[5:]):06}")):
                for file in files:
                    os.chown(os.path.join(folder, file), -1, os.getgid())
        elif name.startswith("take"):
            old = store.get(int(name[4:]) - 1)
            store.save(int(name[4:]), {}, {**POLICIES, "p1": old.stored("p1")})
        elif name.startswith("save"):
            answers[name] = store.save(int(name[4:]), {"i": int(name[4:])}, POLICIES).name
        elif name.startswith("replace"):
            answers[name] = store.save(int(name[7:]), {"i": 0}, if_exists="replace").name
        elif name.startswith("stage"):
            with store.stage(int(name[5:])) as path:
                os.mkdir(os.path.join(path, "closed"), 0o700)
                for file in ("a.bin", "closed/b.bin"):
                    os.close(os.open(os.path.join(path, file), os.O_CREAT | os.O_WRONLY, 0o600))
                    with open(os.path.join(path, file), "wb") as opened:
                        opened.write(b"weights")
            answers[name] = path.checkpoint.name
        elif name == "list":
            answers[name] = [found.step for found in store.checkpoints()]
        elif name == "load":
            answers[name] = store.get(store.checkpoints()[0].step).load().state["i"]
        elif name == "verify":
            answers[name] = all(report.ok for report in store.verify())
        elif name == "tag":
            store.tag(f"of-{user}", store.latest())
            answers[name] = "ok"
        elif name == "prune":
            answers[name] = store.prune(keep=1)
        elif name == "gc":
            store.gc(grace=0)
            answers[name] = "ok"
        elif name == "die":
            store._catalog.begin(77, "error", "left")
            print(json.dumps(answers)); sys.stdout.flush(); os._exit(0)
    except CheckpointError as error:
        answers[name] = type(error).__name__
with tempfile.TemporaryDirectory() as folder:  # imports all there is, which others may not read
    for name in ("save1", "save2", "replace1", "stage3", "list", "load", "verify", "tag", "prune", "gc"):
        do(folder, name)
answers = {}
os.setgroups([group]); os.setgid(user); os.setuid(user); os.umask(umask)
for name in sys.argv[5:]:
    do(sys.argv[4], name)
print(json.dumps(answers))
"""


def act(user: int, umask: int, root: Path, *names: str, group: int = GROUP) -> dict[str, Any]:
    """Do these as `user`, in a process of its own."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        _AS_SOMEBODY,
        str(user),
        str(group),
        f"{umask}",
        str(root),
    ]
    ran = subprocess.run([*command, *names], capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    answers: dict[str, Any] = json.loads(ran.stdout)
    return answers


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of the group's, as ``mkdir -m 2775`` makes it, outside of what pytest keeps for root alone."""
    with tempfile.TemporaryDirectory(prefix="shared-") as above:
        os.chmod(above, 0o755)
        folder = Path(above, "folder")
        folder.mkdir()
        os.chown(folder, ALICE, GROUP)
        folder.chmod(0o2775)
        yield folder


def modes(root: Path) -> set[tuple[str, str, int]]:
    """What there is below `root`, but for what is on its way in or out: kind, mode and group."""
    found = set()
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if parts[0] in (".staging", ".trash"):
            continue
        status = path.lstat()
        kind = "directory" if path.is_dir() else "payload" if parts[0].startswith("checkpoint_") else "file"
        found.add((kind, oct(stat.S_IMODE(status.st_mode)), status.st_gid))
    return found


@needs_root
def test_with_a_umask_for_the_group_everybody_does_everything(shared: Path) -> None:
    root = shared / "run"
    assert act(ALICE, 0o002, root, "save1", "stage2", "tag")["stage2"] == "checkpoint_000002"
    assert modes(root) == {
        ("directory", "0o2775", GROUP),
        ("payload", "0o444", GROUP),
        ("file", "0o664", GROUP),
    }
    assert act(BOB, 0o002, root, "list", "load", "verify", "tag", "save3", "replace1", "list", "gc") == {
        "list": [1, 2, 3],
        "load": 1,
        "verify": True,
        "tag": "ok",
        "save3": "checkpoint_000003",
        "replace1": "checkpoint_000001-r1",
        "gc": "ok",
    }
    assert act(ALICE, 0o002, root, "save4", "prune", "list", "gc", "verify") == {
        "save4": "checkpoint_000004",
        "prune": ["checkpoint_000001-r1", "checkpoint_000003"],  # Bob's; 2 is tagged
        "list": [2, 4],
        "gc": "ok",
        "verify": True,
    }
    assert os.listdir(root / ".trash") == []


@needs_root
def test_with_the_usual_umask_others_read(shared: Path) -> None:
    root = shared / "run"
    act(ALICE, 0o022, root, "save1", "stage2")
    assert modes(root) == {
        ("directory", "0o2755", GROUP),
        ("payload", "0o444", GROUP),
        ("file", "0o644", GROUP),
    }
    before = tree_bytes(root)
    for group in (GROUP, OTHERS):
        assert act(
            BOB,
            0o022,
            root,
            "list",
            "load",
            "verify",
            "tag",
            "save3",
            "stage4",
            "replace1",
            "prune",
            group=group,
        ) == {
            "list": [1, 2],
            "load": 1,
            "verify": True,
            **dict.fromkeys(("tag", "save3", "stage4", "replace1", "prune"), "StoreDenied"),
        }
    assert tree_bytes(root) == before
    assert act(ALICE, 0o022, root, "save3", "prune", "gc", "list")["list"] == [3]


@needs_root
def test_a_closed_umask_keeps_others_out(shared: Path) -> None:
    root = shared / "run"
    act(ALICE, 0o077, root, "save1")
    assert {mode for _, mode, _ in modes(root)} == {"0o2700", "0o400", "0o600"}
    assert set(act(BOB, 0o022, root, "list", "load", "save2").values()) == {"StoreDenied"}


@needs_root
def test_what_the_other_may_not_remove_stays_and_the_rest_goes(shared: Path) -> None:
    """Alice's umask lets the group in, Bob's doesn't: she can't move his directories, nor he what is hers."""
    root = shared / "run"
    act(ALICE, 0o002, root, "save1")
    act(BOB, 0o022, root, "save2")
    act(ALICE, 0o002, root, "save3", "save4")
    answers = act(ALICE, 0o002, root, "prune", "list", "verify", "gc")
    assert answers == {"prune": "StoreDenied", "list": [2, 4], "verify": True, "gc": "ok"}
    assert act(BOB, 0o022, root, "prune", "list")["list"] == [4]


@needs_root
def test_what_a_dead_colleague_left_is_swept(shared: Path) -> None:
    root = shared / "run"
    act(ALICE, 0o002, root, "save1", "die")
    assert (root / ".staging/left").is_dir()
    act(BOB, 0o002, root, "save2")
    assert os.listdir(root / ".staging") == os.listdir(root / ".trash") == []


@needs_root
@pytest.mark.parametrize("protected", ["0", "1"])
def test_files_are_linked_only_where_a_new_one_would_be_the_same(shared: Path, protected: str) -> None:
    setting = Path("/proc/sys/fs/protected_hardlinks")
    before = setting.read_text()
    try:
        setting.write_text(protected)
    except OSError:
        pytest.skip("this kernel can't be told")
    root = shared / "run"

    def linked(first: int, second: int) -> bool:
        path = "policies/p1/policy_state.pkl"
        one, two = (root / f"checkpoint_{step:06}" / path for step in (first, second))
        assert one.read_bytes() == two.read_bytes()
        return one.samefile(two)

    try:
        steps = ["save1", "take2", "umask007", "take3", "take4", "group4", "take5"]
        assert act(ALICE, 0o002, root, *steps, "verify") == {"save1": "checkpoint_000001", "verify": True}
        assert linked(1, 2)
        assert not linked(2, 3), "another mode"
        assert linked(3, 4)
        assert not linked(4, 5), "another group"
        assert act(BOB, 0o007, root, "take6") == {}
        assert linked(5, 6) == (protected == "0"), "another user's file"
        assert act(ALICE, 0o007, root, "verify")["verify"] is True
    finally:
        setting.write_text(before)


# ---- Links


def _move_and_link(root: Path, name: str, to: Path, owner: int | None = None) -> Path:
    to.mkdir(exist_ok=True)
    shutil.move(root / name, to / name)
    (root / name).symlink_to(to / name)
    if owner is not None:
        os.lchown(root / name, owner, owner)
    return to / name


def _save_three(root: Path) -> CheckpointStore:
    store = CheckpointStore(root)
    for step in (1, 2, 3):
        store.save(step, {"i": step}, POLICIES)
    return store


def test_a_root_that_is_a_link_is_a_root(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    _save_three(tmp_path / "runs")
    store = CheckpointStore(tmp_path / "runs")
    assert store.prune(keep=2) == ["checkpoint_000001"]
    assert [found.step for found in CheckpointStore(tmp_path / "disk").checkpoints()] == [2, 3]


@pytest.mark.parametrize("owner", [None, pytest.param(0, marks=needs_root)])
def test_a_checkpoint_that_was_moved_and_linked_back_is_read(tmp_path: Path, owner: int | None) -> None:
    root = tmp_path / "run"
    _save_three(root)
    moved = _move_and_link(root, "checkpoint_000002", tmp_path / "archive", owner)
    before = tree_bytes(tmp_path / "archive")
    store = CheckpointStore(root)
    assert [found.step for found in store.checkpoints()] == [1, 2, 3]
    assert store.get(2).load().state == {"i": 2}
    assert store.get(2).weights("p1")["w"][0] == 1
    assert all(report.ok for report in store.verify())
    store.tag("kept", store.get(2))
    assert store.get("tag:kept").step == 2
    assert Checkpoint.open(root / "checkpoint_000002").load().state == {"i": 2}
    assert CheckpointStore(tmp_path / "copy").add(store.get(2)).step == 2
    store.untag("kept")
    store.close()
    assert CheckpointStore(root).prune(keep=1) == ["checkpoint_000001", "checkpoint_000002"]
    assert not (root / "checkpoint_000002").is_symlink()
    assert os.listdir(root / ".trash") == []
    assert tree_bytes(tmp_path / "archive") == before, "the link only"
    assert Checkpoint.open(moved).verify().ok


def test_a_linked_checkpoint_is_superseded_without_touching_it(tmp_path: Path) -> None:
    root = tmp_path / "run"
    _save_three(root)
    _move_and_link(root, "checkpoint_000003", tmp_path / "archive")
    before = tree_bytes(tmp_path / "archive")
    store = CheckpointStore(root)
    assert store.save(3, {"i": 33}, POLICIES, if_exists="replace").name == "checkpoint_000003-r1"
    store.gc(grace=0)
    assert [found.load().state for found in store.checkpoints()] == [{"i": 1}, {"i": 2}, {"i": 33}]
    assert tree_bytes(tmp_path / "archive") == before


@needs_root
def test_somebody_elses_link_is_refused_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "run"
    _save_three(root)
    _move_and_link(root, "checkpoint_000003", tmp_path / "archive", BOB)
    before = tree_bytes(tmp_path / "archive")
    store = CheckpointStore(root)
    with pytest.raises(CheckpointCorrupt, match=rf"checkpoint_000003.*user with id {BOB}"):
        store.get(3)
    latest = store.latest()
    assert latest is not None
    assert latest.step == 2
    assert [skip.name for skip in latest.skipped] == ["checkpoint_000003"]
    assert "checkpoint_000003" in caplog.text
    store.save(4, {"i": 4})
    assert store.prune(keep=2)
    assert tree_bytes(tmp_path / "archive") == before


def test_a_link_to_nothing_is_refused_by_name(tmp_path: Path) -> None:
    """As where the disk with the archive isn't mounted."""
    root = tmp_path / "run"
    _save_three(root)
    moved = _move_and_link(root, "checkpoint_000003", tmp_path / "archive")
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointCorrupt, match="checkpoint_000003: a link to what can't be opened"):
        CheckpointStore(root).get(3)
    latest = CheckpointStore(root).latest()
    assert latest is not None
    assert latest.step == 2


@needs_root
def test_a_file_that_may_not_be_read_is_there(shared: Path) -> None:
    """It was reported as missing: by the library, and by each command."""
    path = shared / "closed.pt"
    path.write_bytes(b"weights")
    path.chmod(0o600)
    script = """
import os, sys
import click.testing
import ckptstore.read.trainers, ckptstore.cli.commands, ckptstore.trainer_formats.detect
from ckptstore import Checkpoint
from ckptstore.cli.app import root
from ckptstore.errors import StoreDenied
def run(*args):
    return click.testing.CliRunner().invoke(root, args)
run("--help")
for command in ("info", "verify", "scan"):
    run(command, sys.argv[2])
run("cp", sys.argv[2], sys.argv[2] + ".store", "--step", "1")
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
try:
    Checkpoint.open(sys.argv[2])
except StoreDenied as error:
    print(error)
for args in (["info"], ["verify"], ["scan"], ["cp"]):
    done = run(*args, sys.argv[2], *([sys.argv[2] + ".store", "--step", "1"] if args == ["cp"] else []))
    print(args[0], done.exit_code, "closed.pt" in done.output)
"""
    command = [sys.executable, "-W", "ignore", "-c", script, str(BOB), str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    first, *others = ran.stdout.splitlines()
    assert "closed.pt: Permission denied" in first
    assert others == [f"{name} 7 True" for name in ("info", "verify", "scan", "cp")]
