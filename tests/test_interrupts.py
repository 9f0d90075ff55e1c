"""An interrupt at any line of what is done: it comes out, and nothing stays; and what the dead leave goes.

What the main thread asks for is done by another one, and `tests.moments` interrupts that. Here the caller is
another thread already, which does its work itself, and is interrupted as a debugger or a notebook may do it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ckptstore
from ckptstore import CheckpointStore
from ckptstore.backends.local import mounts
from ckptstore.commit.local import sweep
from ckptstore.errors import CheckpointError
from ckptstore.staging import Staged
from tests.figures import Figures
from tests.stores import policies

HOME = os.path.dirname(ckptstore.__file__)
Place = tuple[str, int]


def _in_finalizer(frame: FrameType | None) -> bool:
    """Whether Python would swallow what is raised here."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


class Tracer:
    """Notes every line of ours that this thread runs; raises KeyboardInterrupt the first time at `at`."""

    def __init__(self, at: Place | None = None) -> None:
        self.at = at
        self.seen: dict[Place, None] = {}
        self.hit = False

    def __enter__(self) -> Tracer:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            self.seen[place] = None
            if place == self.at and not self.hit and not _in_finalizer(frame):
                self.hit = True
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace


GAP = [
    (code.co_filename, code.co_firstlineno + line)
    for code, lines in ((Staged.__exit__.__code__, 5), (Staged._end.__code__, 3))
    for line in range(lines)
]
"""The first lines of an `__exit__` are before any of its own care; the next process clears up after those."""
STATE = {"x": bytes(1000)}


def in_thread(at: Place | None, call: Callable[[], object]) -> Tracer:
    """Have a thread of its own `call`, interrupted at that place."""
    tracer, ended = Tracer(at), list[BaseException]()

    def run() -> None:
        try:
            with tracer:
                call()
        except KeyboardInterrupt as error:
            ended.append(error.with_traceback(None))  # whose frames would live on, with what they hold
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if ended:
        raise ended.pop()
    return tracer


def save(store: CheckpointStore, step: int, scratch: Path) -> None:
    store.save(step, STATE, policies(1, rows=2))


def replace(store: CheckpointStore, step: int, scratch: Path) -> None:
    store.save(1, STATE, if_exists="replace")


def stage(store: CheckpointStore, step: int, scratch: Path) -> None:
    with store.stage(step) as path:
        Path(path, "file").write_bytes(bytes(1000))


def add(store: CheckpointStore, step: int, scratch: Path) -> None:
    other = CheckpointStore(scratch / "other")
    store.add(other.latest() or other.save(10**6 + step), if_exists="replace")


def download(store: CheckpointStore, step: int, scratch: Path) -> None:
    store.get(1).download(scratch / f"copy{step}")


def as_directory(store: CheckpointStore, step: int, scratch: Path) -> None:
    with store.get(1).as_directory():
        pass


def stage_elsewhere(store: CheckpointStore, step: int, scratch: Path) -> None:
    with CheckpointStore(f"memory://{uuid.uuid4().hex}").stage(step) as path:
        Path(path, "file").write_bytes(bytes(1000))


OPERATIONS: dict[str, Callable[[CheckpointStore, int, Path], None]] = {
    one.__name__: one for one in (save, replace, stage, add, download, as_directory, stage_elsewhere)
}
CLOSE = ("/commit/", "/save/save.py", "/staging.py", "/run.py", "/scratch.py", "/download.py")
"""Where every line is tried; of the others every fourth is."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupt_at_any_line(
    tmp_path: Path, figures: Figures, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    temporary, scratch, root = tmp_path / "tmp", tmp_path / "scratch", tmp_path / "store"
    for path in (temporary, scratch):
        path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    operate = OPERATIONS[name]
    CheckpointStore(root).save(1, STATE)
    operate(CheckpointStore(root), 2, scratch)
    tracer = in_thread(None, lambda: operate(CheckpointStore(root), 3, scratch))
    places = list(tracer.seen)
    chosen = [
        place for number, place in enumerate(places) if any(it in place[0] for it in CLOSE) or number % 4 == 0
    ]
    chosen = [place for place in chosen if place not in GAP and "/ckptstore/work/" not in place[0]]
    monkeypatch.setattr("ckptstore.commit.local.catalog.tidy", lambda store: None)  # each for itself
    monkeypatch.setattr("ckptstore.backends.local.scratch.remove_dead", lambda *where: 0)
    interrupted = 0
    for number, place in enumerate(chosen):
        store = CheckpointStore(root)
        try:
            in_thread(place, partial(operate, store, 10 + number, scratch))
        except KeyboardInterrupt:
            interrupted += 1
        where = f"{place[0].removeprefix(HOME)}:{place[1]}"
        assert list((root / ".staging").iterdir()) == [], where
        assert list(temporary.iterdir()) == [], where
        left = {path.name for path in scratch.iterdir() if not path.name.startswith("copy")} - {"other"}
        assert left == set(), where
        for copy in scratch.glob("copy*"):
            assert not list(copy.iterdir()) or (copy / "_ckptstore/manifest.json").exists(), where
    assert store.latest() is not None
    figures.add("lines at which something was interrupted", interrupted)
    assert interrupted > len(chosen) * 0.5


LEAVE = """
import os, sys
from ckptstore import CheckpointStore
store = CheckpointStore(sys.argv[1])
with store.stage(9) as path:
    with open(os.path.join(path, "file"), "wb") as file:
        file.write(bytes(1000))
    print("in", flush=True)
    sys.stdin.read()
"""


def leave(root: Path) -> subprocess.Popen[bytes]:
    """A trainer in the middle of a save."""
    command = [sys.executable, "-c", LEAVE, str(root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"in\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    store = CheckpointStore(tmp_path / "store")
    for step in (1, 2):
        store.save(step)
    trainers = [leave(tmp_path / "store") for _ in range(3)]
    for process in trainers[:2]:
        process.kill()
        process.wait()
    yield tmp_path / "store"
    for process in trainers:
        end(process)


def attempts(root: Path) -> int:
    return len([path for path in (root / ".staging").iterdir() if path.is_dir()])


@pytest.mark.parametrize(
    "operate",
    [lambda store: store.save(3), lambda store: store.prune(5), lambda store: stage(store, 3, Path())],
    ids=["save", "prune", "stage"],
)
def test_the_next_one_removes_what_the_killed_left(
    root: Path, operate: Callable[[CheckpointStore], object]
) -> None:
    operate(CheckpointStore(root))
    assert attempts(root) == 1  # the living one's
    assert not (root / ".trash").exists() or list((root / ".trash").iterdir()) == []


@pytest.mark.parametrize("why", ["no locks", "another machine's"])
def test_where_no_lock_tells_all_stays(root: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "no locks":
        monkeypatch.setattr(sweep, "try_lock", lambda fd: None)
    else:
        monkeypatch.setattr(mounts, "file_system", lambda path: "nfs4")
    CheckpointStore(root).prune(5)
    assert attempts(root) == 3


def test_looking_removes_nothing(root: Path) -> None:
    store = CheckpointStore(root)
    store.prune(1, dry_run=True)
    store.latest()
    assert attempts(root) == 3


def test_a_save_removes_a_bounded_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1)
    for number in range(100):
        (tmp_path / ".staging" / f"dead{number}").mkdir()
    store.save(2)
    assert attempts(tmp_path) == 100 - sweep._MOST_AT_ONCE


def test_a_save_goes_on_where_nothing_can_be_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "it is somebody else's")

    monkeypatch.setattr(sweep, "_trash_attempt", refuse)
    try:
        assert CheckpointStore(root).save(3).step == 3
    except CheckpointError as error:  # pragma: no cover - that is what it is about
        raise AssertionError from error
