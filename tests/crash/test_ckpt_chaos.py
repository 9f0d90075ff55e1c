"""A crash tester that knows nothing of us, ckpt-chaos from PyPI, on a trainer that uses us.

It kills the trainer at every file event that it sees, at once and by SIGTERM, and starts it again: was the
newest complete checkpoint resumed from, and are the weights in the end those of a run without a crash?
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.figures import Figures

HERE = Path(__file__).parents[2]
CHAOS = HERE / ".scratch/chaos/bin/ckpt-chaos"
TRAINER = [sys.executable, str(Path(__file__).with_name("chaos_trainer.py")), "{out}"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not CHAOS.exists(), reason="`make torture` installs ckpt-chaos")
def test_every_verdict_is_pass(tmp_path: Path, figures: Figures) -> None:
    options = [
        *(
            "--work",
            str(tmp_path / "runs"),
            "--modes",
            "before,term",
            "--grace",
            "0.2",
            "--max-points",
            "1000",
        ),
        *("--checkpoint-glob", "{out}/checkpoint_*", "--step-regex", r"resumed at iteration (\d+)"),
        *("--result-cmd", shlex.join([*TRAINER, "result"])),
        *("--fail-on", "HARD_FAIL,SILENT_DIVERGENCE,CONTROL_FAIL,LOST_WORK"),
    ]
    ended = subprocess.run(
        [CHAOS, "run", *options, "--", *TRAINER],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-1000:]
    verdicts = dict(re.findall(r"([A-Z_]+): (\d+)", ended.stdout.splitlines()[-1] + ended.stdout))
    print(verdicts)
    assert verdicts.keys() == {"PASS"}
    assert int(verdicts["PASS"]) > 80
    figures.add("kills by ckpt-chaos, all PASS", int(verdicts["PASS"]) - 1, "processes killed or stopped")
