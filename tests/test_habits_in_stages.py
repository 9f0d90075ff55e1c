"""What trainers leave in a staging directory: links, empty directories, odd names, nothing at all."""

from __future__ import annotations

import os
import pickle
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import CheckpointError, InvalidRequest, SaveAborted
from tests.stores import tree_bytes

DATA = Path(__file__).parent / "data"


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "run" if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def _link(path: Path) -> None:
    (path / "step.pth").write_bytes(b"weights")
    (path / "latest.pth").symlink_to("step.pth")


def _absolute_link(path: Path) -> None:
    (path / "step.pth").write_bytes(b"weights")
    (path / "latest.pth").symlink_to(path / "step.pth")


def _link_up(path: Path) -> None:
    (path / "steps").mkdir()
    (path / "step.pth").write_bytes(b"weights")
    (path / "steps/latest.pth").symlink_to("../step.pth")


def _chain(path: Path) -> None:
    (path / "step.pth").write_bytes(b"weights")
    (path / "a.pth").symlink_to("step.pth")
    (path / "latest.pth").symlink_to("a.pth")


def _linked_directory(path: Path) -> None:
    (path / "step_5/rank").mkdir(parents=True)
    (path / "step_5/rank/0.pt").write_bytes(b"weights")
    (path / "latest").symlink_to("step_5")


@pytest.mark.parametrize("leave", [_link, _absolute_link, _link_up, _chain, _linked_directory])
def test_a_link_to_a_file_beside_it_becomes_a_file(
    store: CheckpointStore, tmp_path: Path, leave: Callable[[Path], None]
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    leave(plain)
    want = {path: (plain / path).read_bytes() for path in _files(plain)}
    with store.stage(1) as path:
        leave(Path(path))
    assert store.get(1).verify().ok
    with store.get(1).as_directory() as copy:
        found = {name: data for name, data in tree_bytes(Path(copy)).items() if "_ckptstore" not in str(name)}
        assert {str(name): data for name, data in found.items()} == want
        assert not [name for name in Path(copy).rglob("*") if name.is_symlink()]
    if store.url.startswith("file"):
        root = tmp_path / "run/checkpoint_000001"
        assert not [name for name in root.rglob("*") if not name.is_dir() and name.stat().st_mode & 0o222]


def _files(top: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(folder, name), top)
        for folder, _, files in os.walk(top, followlinks=True)
        for name in files
    )


def _outside(path: Path) -> None:
    (path / "link").symlink_to("/etc/passwd")


def _sideways(path: Path) -> None:
    (path / "link").symlink_to(f"../{uuid.uuid4().hex}")


def _to_itself(path: Path) -> None:
    (path / "link").symlink_to("link")


def _to_its_directory(path: Path) -> None:
    (path / "deep").mkdir()
    (path / "deep/link").symlink_to("..")


def _dangling(path: Path) -> None:
    (path / "link").symlink_to("not there")


@pytest.mark.parametrize("leave", [_outside, _sideways, _to_itself, _to_its_directory, _dangling])
def test_a_link_that_leads_elsewhere_is_refused(
    store: CheckpointStore, leave: Callable[[Path], None]
) -> None:
    with pytest.raises(InvalidRequest, match="a link that leads elsewhere"), store.stage(1) as path:  # noqa: PT012
        Path(path, "kept.bin").write_bytes(b"weights")
        leave(Path(path))
    assert store.latest() is None


def test_what_is_written_through_a_link_later_changes_no_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    outside = tmp_path / "mine.pth"
    outside.write_bytes(b"weights")
    with store.stage(1) as path:
        os.link(outside, Path(path, "step.pth"))
        Path(path, "latest.pth").symlink_to("step.pth")
    outside.write_bytes(b"changed")
    assert store.get(1).verify().ok


def test_an_empty_directory_survives(store: CheckpointStore, tmp_path: Path) -> None:
    with store.stage(1) as path:
        for name in ("assets", "deep/er/empty"):
            Path(path, name).mkdir(parents=True)
        Path(path, "model.bin").write_bytes(b"weights")
    copy = CheckpointStore(f"memory://{uuid.uuid4().hex}")
    store.copy_to(copy)
    for each in (store, copy):
        with each.get(1).as_directory() as directory:
            assert Path(directory, "assets").is_dir()
            assert Path(directory, "deep/er/empty").is_dir()
        assert each.get(1).verify().ok


def test_a_stage_of_empty_directories_alone_holds_nothing(store: CheckpointStore) -> None:
    with pytest.raises(InvalidRequest, match="nothing was written"), store.stage(1) as path:
        Path(path, "assets").mkdir()
    assert store.latest() is None


def test_no_policy_is_made_of_an_empty_directory(store: CheckpointStore) -> None:
    with store.stage(1) as path:
        Path(path, "policies").mkdir()
        Path(path, "model.bin").write_bytes(b"weights")
    with store.get(1).as_directory() as directory:
        assert not Path(directory, "policies").exists()


CONTENTS = {
    "bytes": b"weights",
    "a pickle": pickle.dumps({"step": 5}),
    "like a worker": pickle.dumps({"worker": {"state": {"mine": {"weights": [1.0]}}}}),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_called_like_a_checkpoint_makes_no_old_checkpoint(
    store: CheckpointStore, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    with store.stage(1) as path:
        Path(path, "checkpoint-5").write_bytes(CONTENTS[content])
        Path(path, "config.json").write_text("{}")
    found = store.get(1)
    assert (found.kind, found.version, found.policy_ids) == ("Directory", "", ())
    assert "RLlib" not in caplog.text
    with found.as_directory() as directory:
        assert Path(directory, "checkpoint-5").read_bytes() == CONTENTS[content]


@pytest.mark.parametrize(
    "name", ["v0_1/ray_1.13.0_multi", "v0_1/ray_2.0.1_ppo_filter", "v1_1/ray_2.10.0_filter"]
)
def test_a_real_one_is_known(store: CheckpointStore, name: str) -> None:
    source = DATA / name / "checkpoint"
    with store.stage(1) as path:
        shutil.copytree(source, path, dirs_exist_ok=True)
        if not name.startswith("v0"):
            Path(path, "checkpoint-5").write_bytes(b"mine")
    there = Checkpoint.open(source)
    assert (store.get(1).kind, store.get(1).version) == (there.kind, there.version)
    assert store.get(1).policy_ids == there.policy_ids


@pytest.mark.parametrize(
    ("instead", "error", "why"),
    [
        ("nothing", SaveAborted, "moved away or removed"),
        ("a link", InvalidRequest, "a link to .* was put in its place"),
        ("a link to nothing", InvalidRequest, "a link to .* was put in its place"),
        ("a file", InvalidRequest, "a file was put in its place"),
    ],
)
def test_a_directory_that_was_moved_away_is_said_and_nothing_is_lost(
    store: CheckpointStore, tmp_path: Path, instead: str, error: type[CheckpointError], why: str
) -> None:
    with pytest.raises(error, match=why), store.stage(1) as path:  # noqa: PT012
        directory = os.fspath(path)
        Path(directory, "model.bin").write_bytes(b"weights")
        os.rename(directory, tmp_path / "moved")
        if instead == "a link":
            os.symlink(tmp_path / "moved", directory)
        elif instead == "a link to nothing":
            os.symlink("nothing", directory)
        elif instead == "a file":
            Path(directory).write_bytes(b"mine")
    assert (tmp_path / "moved/model.bin").read_bytes() == b"weights"
    assert store.latest() is None
    if instead == "a file" and store.url.startswith("file"):
        (kept,) = (tmp_path / "run/.unsaved").rglob("files")
        assert kept.read_bytes() == b"mine"
    with store.stage(1) as path:
        shutil.copytree(tmp_path / "moved", path, dirs_exist_ok=True)
    assert store.get(1).verify().ok
