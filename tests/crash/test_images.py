"""Power cuts on real file systems: what the kernel had not written out is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.images import SIZES, formatted
from tests.crash.test_small_disks import namespace
from tests.figures import Figures

pytestmark = pytest.mark.slow


def run(place: Path, kind: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Cut the power on such a file system; skips where it can't be made or mounted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount an image")
    if shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"needs mkfs.{kind} (e2fsprogs, xfsprogs, btrfs-progs)")
    image = formatted(place / "probe", kind)
    tried = subprocess.run(
        [*namespace(), "mount", "-o", "loop", image, "/mnt"], capture_output=True, text=True
    )
    image.unlink()
    if tried.returncode:
        pytest.skip(f"no {kind} image can be mounted here: {tried.stderr.strip()}")
    script = [sys.executable, "-m", "tests.crash.images", str(place), "--kind", kind, *options]
    return subprocess.run([*namespace(), *script], capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize("kind", SIZES)
def test_what_was_said_survives(tmp_path: Path, figures: Figures, kind: str) -> None:
    """Saves, tags and prunes that returned are there, and every checkpoint that is there is whole."""
    ended = run(tmp_path, kind)
    assert ended.returncode == 0, ended.stderr[-3000:]
    cuts = int(ended.stdout)
    assert cuts
    figures.add(f"power cuts on {kind}", cuts)


@pytest.mark.parametrize("kind", SIZES)
def test_a_store_that_does_not_sync_is_caught(tmp_path: Path, kind: str) -> None:
    ended = run(tmp_path, kind, "--without-sync")
    assert ended.returncode != 0, (
        "nothing was lost without a single sync: this would not notice one that is missing"
    )
    assert ", in check" in ended.stderr, ended.stderr[-3000:]  # and not for want of a mount
