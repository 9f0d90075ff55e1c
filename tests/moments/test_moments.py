"""At any moment of any operation: a signal, whose handler calls the store, a fork, no thread, no memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.figures import Figures
from tests.servers import Server

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, and POSIX signals"),
    pytest.mark.timeout(1200),
]

OPERATIONS = ("save", "save_async", "stage", "wait", "close", "prune", "rollback", "download", "load")
HANDLERS = ("save", "save_async", "stage", "close", "look", "interrupt", "fork")
SHARE = float(os.environ.get("CKPTSTORE_MOMENTS", "0.01"))
SEED = os.environ.get("CKPTSTORE_SEED", "1")
QUICK = [
    ("save", "save"),
    ("save_async", "close"),
    ("stage", "interrupt"),
    ("wait", "fork"),
    ("save_async", "starts"),
    ("save", "memory"),
]


def play(figures: Figures, operation: str, event: str, url: str, share: float, options: str = "") -> None:
    command = [sys.executable, "-m", "tests.moments.play", operation, event, url, str(share), SEED, options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    figures.judge([] if done.returncode == 0 else ["wrong: a hang"])
    assert done.returncode == 0, f"it hangs, or can't end: {done.stderr[-6000:]}"
    told = json.loads(done.stdout)
    figures.add("moments at which something happened to an operation", told["tried"], to="moments struck")
    figures.judge(told["found"])
    assert told["tried"]
    assert told["found"] == []


def needs_debug_hooks(event: str) -> None:
    if event == "memory":
        pytest.importorskip("_testcapi", reason="this Python can't let allocations fail")


@pytest.mark.parametrize(("operation", "event"), QUICK)
def test_a_few_moments(operation: str, event: str, tmp_path: Path, figures: Figures) -> None:
    needs_debug_hooks(event)
    play(figures, operation, event, str(tmp_path / "run"), 0.002)


@pytest.mark.slow
@pytest.mark.parametrize("event", [*HANDLERS, "starts", "memory"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_many_moments(operation: str, event: str, tmp_path: Path, figures: Figures) -> None:
    needs_debug_hooks(event)
    play(figures, operation, event, str(tmp_path / "run"), SHARE)


@pytest.mark.slow
@pytest.mark.parametrize("event", ["save", "interrupt"])
def test_random_moments(event: str, tmp_path: Path, figures: Figures) -> None:
    play(figures, "loop", event, str(tmp_path / "run"), 500)


@pytest.mark.slow
@pytest.mark.parametrize("event", ["save", "close", "look", "interrupt", "fork"])
@pytest.mark.parametrize("operation", ["save", "save_async", "load"])
def test_moments_in_memory(operation: str, event: str, tmp_path: Path, figures: Figures) -> None:
    play(figures, operation, event, f"memory://{tmp_path.name}", SHARE)


@pytest.mark.slow
@pytest.mark.parametrize("event", ["save", "close", "interrupt", "fork"])
@pytest.mark.parametrize("operation", ["save", "save_async", "load"])
def test_moments_on_a_bucket(
    operation: str, event: str, tmp_path: Path, figures: Figures, moto: Server
) -> None:
    options = json.dumps(dict(moto.options))
    play(figures, operation, event, moto.new_url(), SHARE / 2, options)
