"""What the hostile tests share: one whole store to break copies of, and a place outside of it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.backends.local.backend import LocalBackend
from tests.figures import Figures
from tests.hostile.trial import STEPS, Trial, save

collect_ignore_glob = ["test_*"] if sys.platform == "win32" else []  # links, fifos and devices of POSIX


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory, where there is any to be had: what is tried here is no disk."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield path
    backend = LocalBackend(str(path.parent))
    with backend.open_root() as above:
        backend.disk.remove_tree(above, path.name)  # however deep it has become


@pytest.fixture(scope="session")
def pristine() -> Iterator[Path]:
    """Three checkpoints and a tag; not to be touched."""
    path = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    root = Path(path, "store")
    store = CheckpointStore(root)
    for step in STEPS:
        save(store, step)
    store.tag("champion", 1)
    yield root
    shutil.rmtree(path)


@pytest.fixture
def trial(pristine: Path, tmp_path: Path, figures: Figures) -> Trial:
    return Trial(pristine, tmp_path, figures)
