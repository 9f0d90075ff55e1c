"""Real mounts for tests, as far as this machine allows, and a table of what works on each.

Run as a program it prints that table: ``python -m tests.mounts``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local.mounts import WeakStorageWarning, file_system
from ckptstore.backends.registry import open_backend
from ckptstore.commit.doctor import diagnose
from ckptstore.errors import CheckpointError

_libc = ctypes.CDLL(None, use_errno=True)
KINDS = ["tmpfs", "overlay", "ext4", "rclone off", "rclone minimal", "rclone writes", "rclone full"]

# What fusermount3 does, for root: mounts, and hands the open device over.
_FUSERMOUNT = """#!{python}
import array, ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
point = sys.argv[-1]
if "-u" in sys.argv:
    sys.exit(libc.umount2(point.encode(), 2))
fd = os.open("/dev/fuse", os.O_RDWR)
data = f"fd={{fd}},rootmode=40000,user_id=0,group_id=0,allow_other"
if libc.mount(b"rclone", point.encode(), b"fuse.rclone", 6, data.encode()):
    sys.exit(os.strerror(ctypes.get_errno()))
with socket.socket(fileno=int(os.environ["_FUSE_COMMFD"])) as channel:
    channel.sendmsg([b"\\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
"""


@contextlib.contextmanager
def mounted(kind: str) -> Iterator[Path]:
    """A new, empty directory on a file system of that `kind`. Skips the test where it can't be mounted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount")
    with contextlib.ExitStack() as stack:
        area = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mounts-")))
        point = area / "point"
        point.mkdir()
        if kind.startswith("rclone"):
            stack.enter_context(_rclone(area, point, kind.split()[1]))
        else:
            _mount(kind, area, point)
            stack.callback(_libc.umount2, os.fsencode(point), 2)
        yield point


def _mount(kind: str, area: Path, point: Path) -> None:
    if kind == "ext4":
        image = area / "image"
        with open(image, "wb") as file:
            file.truncate(64 * 2**20)
        for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(point)]):
            if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True).returncode:
                pytest.skip(f"{command[0]} doesn't work here")
        return
    options = ""
    if kind == "overlay":
        for name in ("lower", "upper", "work"):
            (area / name).mkdir()
        options = f"lowerdir={area}/lower,upperdir={area}/upper,workdir={area}/work"
    if _libc.mount(kind.encode(), os.fsencode(point), kind.encode(), 0, options.encode()):
        pytest.skip(f"{kind}: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def _rclone(area: Path, point: Path, mode: str) -> Iterator[None]:
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if program is None or not os.path.exists("/dev/fuse"):
        pytest.skip("no rclone, or no FUSE")
    (area / "bin").mkdir()
    (area / "bin/fusermount3").write_text(_FUSERMOUNT.format(python=sys.executable))
    (area / "bin/fusermount3").chmod(0o755)
    (area / "behind").mkdir()
    command = [program, "mount", f":local:{area}/behind", str(point), "--config", os.devnull]
    command += ["--vfs-cache-mode", mode, "--cache-dir", str(area / "cache")]
    environment = {**os.environ, "PATH": f"{area}/bin:{os.environ.get('PATH', '')}"}
    with open(area / "log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while file_system(str(point)) != "fuse.rclone" and process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)  # it goes on running, or says why not
        if process.poll() is not None:
            pytest.skip((area / "log").read_text()[-200:])
        yield
    finally:
        process.terminate()
        process.wait(30)
        _libc.umount2(os.fsencode(point), 2)


def _stage(store: CheckpointStore) -> None:
    with store.stage(9) as path:
        for name in ("a.bin", "sub/b.bin"):
            file = Path(path, name)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"weights")


def _read(store: CheckpointStore) -> None:
    assert [found.step for found in store.checkpoints()] == [1, 2, 9]
    assert store.get(2).state == {"i": 22}
    assert store.tags() == {"best": "checkpoint_000001"}
    assert all(report.ok for report in store.verify())


def _prune(store: CheckpointStore) -> None:
    store.untag("best")
    store.delete(1)
    store.gc(grace=0)
    assert [found.step for found in store.checkpoints()] == [2, 9]


_POLICIES = {"p": {"weights": {"w": np.ones(9000)}}, "q": {"weights": {"w": np.zeros(9)}}}
OPERATIONS: dict[str, Callable[[CheckpointStore], object]] = {
    "save": lambda store: store.save(1, {"i": 1}, policies=_POLICIES),
    "save again": lambda store: store.save(2, {"i": 2}, policies=_POLICIES),
    "replace": lambda store: store.save(2, {"i": 22}, policies=_POLICIES, if_exists="replace"),
    "stage": _stage,
    "tag": lambda store: store.tag("best", store.get(1)),
    "read": _read,
    "delete": _prune,
}
"""In this order: each builds on those before it."""


def try_all(root: Path, single_writer: bool = False) -> dict[str, str]:
    """How each operation went below `root`: "ok", or the class of its error."""
    outcomes = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStorageWarning)
        for name, operation in OPERATIONS.items():
            try:
                operation(CheckpointStore(root, single_writer=single_writer))
                outcomes[name] = "ok"
            except CheckpointError as error:
                outcomes[name] = type(error).__name__
            except AssertionError:
                outcomes[name] = "wrong"
    return outcomes


def _describe(kind: str) -> list[str]:
    with mounted(kind) as point, warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakStorageWarning)
        calls = diagnose(open_backend(point / "doctor"), single_writer=True).promises
        plain, alone = try_all(point / "plain"), try_all(point / "alone", single_writer=True)
    missing = [name for name, said in calls.items() if said.startswith("no")]
    return [kind, ", ".join(missing) or "none", _sum_up(plain), _sum_up(alone)]


def _sum_up(outcomes: dict[str, str]) -> str:
    if all(outcome == "ok" for outcome in outcomes.values()):
        return "all work"
    return f"refused: {outcomes['save']}" if outcomes["save"] != "ok" else str(outcomes)


if __name__ == "__main__":
    print("| file system | calls it lacks | saves, tags, deletes | with `single_writer=True` |")
    print("|---|---|---|---|")
    for kind in KINDS:
        try:
            print(f"| {' | '.join(_describe(kind))} |")
        except pytest.skip.Exception as error:
            print(f"| {kind} | not tried here: {error} | | |")
