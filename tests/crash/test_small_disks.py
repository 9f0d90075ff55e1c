"""Real file systems that are full or turn read-only in the middle of each operation.

Every failure is typed, what was there stays whole, what makes room works without any, and the same
operation works as soon as there is room.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.test_failing_calls import OPERATIONS
from tests.figures import Figures

TROUBLES = ("blocks", "inodes", "read-only")
QUICK = {
    ("save", "blocks"),
    ("replace", "inodes"),
    ("prune", "blocks"),
    ("delete", "inodes"),
    ("tag", "blocks"),
}


def namespace() -> list[str]:
    """The command that gives a process mounts of its own; skips where there is none."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs Linux and unshare (util-linux)")
    command = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    tried = subprocess.run(
        [*command, "mount", "-t", "tmpfs", "-o", "size=1m", "probe", "/mnt"], capture_output=True, text=True
    )
    if tried.returncode:
        pytest.skip(f"no small file system can be mounted here: {tried.stderr.strip()}")
    return command


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        pytest.param(name, trouble, marks=() if (name, trouble) in QUICK else pytest.mark.slow)
        for name in OPERATIONS
        for trouble in TROUBLES
    ],
)
def test_trouble(tmp_path: Path, figures: Figures, name: str, trouble: str) -> None:
    script = [sys.executable, "-m", "tests.crash.small_disk", str(tmp_path), name, trouble]
    ended = subprocess.run([*namespace(), *script], capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr[-3000:]
    print(f"{name}: {ended.stdout.strip()}")
    what = "made read-only" if trouble == "read-only" else f"out of {trouble}"
    figures.add(f"operations on a disk {what}", int(ended.stdout.split()[0]))
