"""Names that look like others, that no terminal should print, that are too many, or that never end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.errors import InvalidRequest
from tests.hostile.trial import META, NEWEST, STEPS, Trial, save

LOOKALIKES = [
    b"checkpoint_000003\xff",  # no UTF-8
    "checkpoint_٠٠٠٠٠٤".encode(),  # Arabic digits
    "checkpoint_０００００４".encode(),  # wide ones
    "checkpoint_000004\u200b".encode(),  # zero width
    "checkpoint_\u202e400000".encode(),  # right to left
    b"checkpoint_000004 ",
    b"checkpoint_000004\n",
    b"Checkpoint_000004",  # the case of it
    b"checkpoint_0000004",
    b"checkpoint_000004-r0",
    b"checkpoint_000004-r01",
    b"checkpoint_99999999999999999999",
    b"checkpoint_-00001",
    b"\x1b[2J",
    b"a\\b",
    b"...",
    b"x" * 255,
]


@pytest.mark.parametrize("name", LOOKALIKES, ids=lambda name: ascii(name)[:40])
def test_what_only_looks_like_a_checkpoint(trial: Trial, name: bytes) -> None:
    """Neither read nor touched, and inside a checkpoint it is a stray: said, and no damage."""
    root = trial.fresh()
    twin = os.path.join(os.fsencode(root), name)
    shutil.copytree(root / NEWEST, os.fsdecode(twin))
    Path(os.fsdecode(os.path.join(os.fsencode(root / "checkpoint_000002"), name))).write_bytes(b"x")
    answers = trial.looks(root)
    assert {step for step, reading in answers if reading == "load"} == set(STEPS)
    assert (2, "verify") in answers
    trial.changes(root)
    assert os.path.exists(twin), "what isn't ours was removed"


ROOTS = [
    "Ä" + "A\u0308",
    "\u202egnp.erots",
    "zero\u200bwidth",
    "new\nline",
    "\x1b[31mred",
    "'; rm -rf ~",
    "%2e%2e",
    "a?b#c",
]


@pytest.mark.parametrize("name", [*map(os.fsencode, ROOTS), b"\xff\xfe"], ids=lambda name: ascii(name)[:40])
def test_a_store_may_be_called_anything(tmp_path: Path, trial: Trial, name: bytes) -> None:
    root = tmp_path / os.fsdecode(name)
    with CheckpointStore(root) as store:
        made = save(store, 3)
        store.tag("champion", made)
    again = CheckpointStore(root, create=False)
    assert [checkpoint.step for checkpoint in again.checkpoints()] == [3]
    trial.reads(again.get("tag:champion"))
    trial.reads(Checkpoint.open(root / NEWEST))
    for command in ("ls", "verify", "tree"):
        assert trial.command(command, str(root)) == 0
    again.untag("champion")
    again.delete(3)
    assert again.latest() is None


def test_names_that_one_file_system_keeps_and_another_does_not(trial: Trial) -> None:
    """Twins by case or by composition would overwrite each other in the next place; the rest comes back."""
    store = CheckpointStore(trial.fresh())
    for twins in (["pol", "POL"], ["\u00e9", "e\u0301"], ["\u212b", "\u00c5"]):
        with pytest.raises(InvalidRequest, match="under one name"):
            store.save(20, {}, {name: {"weights": {}} for name in twins})
    for odd in ("\ud800", "a/b", "..", "", "a\0b", "x" * 256, "\x1b[31m", "trailing."):
        with pytest.raises(InvalidRequest):
            store.save(20, {}, {odd: {"weights": {}}})
    kept = ["\u202egnp.pol", "zero\u200bwidth", "e\u0301", "'; rm -rf ~", "%2e%2e", "ﬁ", "x" * 255]
    store.save(21, {}, {name: {"index": index} for index, name in enumerate(kept)})
    loaded = Checkpoint.open(store.get(21).url).load()
    assert loaded.policies == {name: {"index": index} for index, name in enumerate(kept)}
    assert store.get(21).verify().ok


def test_very_many_entries(trial: Trial) -> None:
    """Thousands of strays, in every place: nothing is hidden, and what is said of them fits on a page."""
    root = trial.fresh()
    for place in (root, root / META / "refs/champion", root / NEWEST, root / NEWEST / "policies/pol0"):
        for index in range(1500):
            (place / f"stray{index}").touch()
    answers = trial.looks(root)
    assert {(step, "load") for step in STEPS} <= answers
    assert (3, "verify") in answers
    assert len(CheckpointStore(root).get(3).verify().strays) == 3000
    trial.changes(root)


def _bottomless(path: Path, levels: int = 3000) -> None:
    """Deeper than any path can be written, than a process may recurse, and than it may open files."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.mark.parametrize("place", [NEWEST, f"{NEWEST}/policies", f"{META}/refs", META, ".trash", "beside"])
def test_a_bottomless_directory(trial: Trial, place: str) -> None:
    root = trial.fresh()
    (root / place).mkdir(exist_ok=True)
    try:
        _bottomless(root / place)
        answers = trial.looks(root)
        assert (2, "load") in answers
        assert (3, "verify") in answers
        trial.changes(root)
        store = CheckpointStore(root)
        if place in (NEWEST, f"{NEWEST}/policies", ".trash"):
            assert not (root / NEWEST).exists(), "it could not be deleted"
            store.gc(grace=0)
            assert not list((root / ".trash").iterdir()), "its bytes could not be removed"
    finally:
        subprocess.run(["rm", "-rf", root], check=True)  # neither shutil nor pytest gets to the bottom


def test_staging_a_bottomless_directory(trial: Trial) -> None:
    root = trial.fresh()
    store = CheckpointStore(root)
    with pytest.raises(InvalidRequest, match=" deep"), store.stage(9) as path:
        _bottomless(Path(path))
    assert not list((root / ".staging").iterdir())
    [kept] = (root / ".unsaved").iterdir()
    assert (kept / "files/d/d").is_dir()
    assert sys.getrecursionlimit() < 3000, "this would have tried nothing"
