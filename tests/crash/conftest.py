"""What the crash loops share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.scenarios import make_templates


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory, where there is any to be had: the loops copy and sync thousands of trees.

    What a crash leaves depends on the order of calls and not on the disk below them.
    """
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def templates() -> Iterator[dict[str, str]]:
    """The stores that crash scenarios start from, each to be copied and not touched."""
    path = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield make_templates(os.path.join(path, "store"))
    shutil.rmtree(path)
