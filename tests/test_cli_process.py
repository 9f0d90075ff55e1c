"""The command line as a process: pipes, terminals, signals, missing extras."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ckptstore import CheckpointStore

# Buffered, as most people run it: what isn't flushed in time fails at exit, unlooked-for.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
COMMAND = [sys.executable, "-W", "error", "-m", "ckptstore.cli"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    monkeypatch.chdir(tmp_path)
    made = CheckpointStore("store")
    made.save(1, {"big": np.zeros(200_000)}, {"pol": {"weights": {"w": np.ones(3)}}})
    return made


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env={**ENVIRONMENT, **environment},
    )


def test_exit_codes_and_streams(store: CheckpointStore) -> None:
    listed = run("ls", "store", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert json.loads(listed.stdout)["checkpoints"][0]["step"] == 1
    absent = run("info", "store@2")
    assert (absent.returncode, absent.stdout) == (3, "")
    assert absent.stderr.count("\n") == 1
    Path("store/checkpoint_000001/algorithm_state.pkl").chmod(0o600)
    with open("store/checkpoint_000001/algorithm_state.pkl", "r+b") as file:
        file.write(b"\0")
    assert run("verify", "store").returncode == 5


def test_pipes_get_text_only(store: CheckpointStore) -> None:
    for arguments in (["ls", "store"], ["verify", "store"], ["get", "store@1", "copy"], ["cp", "store", "b"]):
        done = run(*arguments, FORCE_COLOR="1", TERM="xterm-256color", COLUMNS="20")
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        assert all(line == line.rstrip() for line in done.stdout.splitlines())
    assert "checkpoint_000001" in run("ls", "store", COLUMNS="20").stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_output_cannot_hold(store: CheckpointStore, encoding: str) -> None:
    store.save(2, {}, {"\u65e5\u672c": {}})
    done = run("tree", "store", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "checkpoint_000002" in done.stdout
    if encoding == "latin-1":  # click takes ASCII for a mistake and writes UTF-8
        assert "\\u65e5\\u672c" in done.stdout


def test_a_reader_who_leaves(store: CheckpointStore) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*COMMAND, "ls", "store"], stdout=writer, stderr=subprocess.PIPE, timeout=60, env=ENVIRONMENT
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_disk_full_under_the_output(store: CheckpointStore) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "ls", "store"], stdout=full, stderr=subprocess.PIPE, timeout=60, env=ENVIRONMENT
        )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


def test_interrupt() -> None:
    script = (
        "import signal, sys, time, ckptstore.cli.session as session\n"
        # What runs in the background of a shell is started with interrupts ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(*_, **__):\n    print('waiting', flush=True)\n    time.sleep(90)\n"
        "session.CheckpointStore = wait\n"
        "from ckptstore.cli import main\nsys.exit(main(['ls', 'store']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == ""


def test_progress_on_a_terminal_only(store: CheckpointStore) -> None:
    """A bar appears where a terminal is, and never on standard output."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "verify", "store"],
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(child)
        shown = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                data = os.read(parent, 65536)
            except OSError:  # Linux says EIO once the other side is closed
                break
            if not data:
                break
            shown += data
        os.close(parent)
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait(60) == 0
    assert b"verifying" in shown
    assert printed.startswith(b"checkpoint_000001: ok")
    assert b"\x1b" not in printed


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_extras(tmp_path: Path, missing: str) -> None:
    script = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "import ckptstore\n"
        "from ckptstore.cli import main\nsys.exit(main(['ls', 'store']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ckptstore: the command line needs {missing}: pip install 'ckptstore[cli]'\n"


def test_the_package_alone_imports_no_command_line() -> None:
    script = (
        "import sys, ckptstore\nsys.exit(bool({'click', 'rich', 'ckptstore.cli'} & sys.modules.keys()))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_verbose_logs(store: CheckpointStore) -> None:
    done = run("get", "store@1", "copy", "-v")
    assert done.returncode == 0
    assert "downloaded" in done.stderr
