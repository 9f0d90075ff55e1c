"""Checkpoints written by real releases, kept here for ever, against the truth of the live algorithms.

The folders are listed, not named: a golden checkpoint is added by copying it in. `CKPTSTORE_CORPUS` names a
larger collection of the same form.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptstore.rllib_formats import versions
from ckptstore.rllib_formats.versions import KNOWN
from tests.rllib_formats import corpus

DATA = Path(__file__).parents[1] / "data"
GOLDEN = corpus.cases(DATA)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.relative_to(DATA).as_posix())
def test_golden_checkpoints_read_like_the_live_algorithm(case: Path) -> None:
    era, wrong = corpus.check(case)
    assert wrong == []
    folder = case.parent.name
    if folder.startswith("v"):
        assert era.split()[0] == folder[1:].replace("_", ".")


def test_every_version_ever_written_has_a_golden_checkpoint() -> None:
    assert {case.parent.name for case in GOLDEN} >= {f"v{version.replace('.', '_')}" for version in KNOWN}
    assert KNOWN[-1] == versions.NEWEST


def test_the_larger_corpus_reads_like_the_live_algorithms() -> None:
    folder = os.environ.get("CKPTSTORE_CORPUS")
    if not folder:
        pytest.skip("CKPTSTORE_CORPUS names no folder of further checkpoints")
    wrong = {str(case): lines for case in corpus.cases(Path(folder)) if (lines := corpus.check(case)[1])}
    assert wrong == {}


def test_reading_needs_numpy_msgpack_and_fsspec_only() -> None:
    # In a process of its own: a test that ran before may have imported anything.
    done = subprocess.run(
        [sys.executable, "-m", "tests.rllib_formats.corpus", str(DATA)],
        cwd=DATA.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "imported although not needed: none" in done.stdout
