"""Real processes and threads against real servers: one winner, and nobody is told a lie."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckptstore.backends.registry import open_backend
from ckptstore.commit import open_catalog
from ckptstore.errors import CheckpointExists, SaveAborted, StoreUnsuitable
from ckptstore.format.names import MANIFEST, SMALL_STATE_BYTES, CheckpointName
from ckptstore.testing import manifest_bytes
from tests.figures import Figures
from tests.servers import Server

# Each process saves round after round and prints the ids of the rounds it won.
RACER = """
import json, sys, time, uuid
from ckptstore.backends.registry import open_backend
from ckptstore.commit import open_catalog
from ckptstore.errors import CheckpointExists, SaveAborted
from ckptstore.testing import manifest_bytes

url, options, rounds, begin = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
catalog = open_catalog(open_backend(url, options))
catalog.names()
won = {}
time.sleep(max(begin - time.time(), 0))
for step in range(rounds):
    try:
        attempt = catalog.begin(step, "error", uuid.uuid4().hex)
        with attempt.create("p1") as sink:
            sink.write(attempt.id.encode())
        attempt.commit(manifest_bytes(attempt.id))
        won[step] = attempt.id
    except (CheckpointExists, SaveAborted):
        pass
print(json.dumps(won))
"""

# Stops itself between its payload and its commit, as a machine that swaps or a job that is paused does.
SLEEPER = """
import json, os, signal, sys
from ckptstore.backends.registry import open_backend
from ckptstore.commit import open_catalog
from ckptstore.errors import SaveAborted
from ckptstore.testing import manifest_bytes

catalog = open_catalog(open_backend(sys.argv[1], json.loads(sys.argv[2])))
attempt = catalog.begin(5, "error", "sleeper")
with attempt.create("p1") as sink:
    sink.write(b"sleeper")
os.kill(os.getpid(), signal.SIGSTOP)
try:
    attempt.commit(manifest_bytes("sleeper"))
except SaveAborted:
    print("aborted")
"""


ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def race(server: Server, processes: int, rounds: int) -> None:
    url = server.new_url()
    begin = str(time.time() + 1.5 + processes * 0.4)
    command = [sys.executable, "-c", RACER, url, json.dumps(server.options), str(rounds), begin]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENV) for _ in range(processes)
    ]
    won: dict[int, list[str]] = {step: [] for step in range(rounds)}
    for process in running:
        out, _ = process.communicate(timeout=280)
        assert process.returncode == 0
        for step, attempt_id in json.loads(out).items():
            won[int(step)].append(attempt_id)
    assert {step: len(ids) for step, ids in won.items()} == dict.fromkeys(range(rounds), 1)
    left = check(server, url, {step: ids[0] for step, ids in won.items()})
    print(
        f"{server.name}: {rounds} rounds of {processes} processes, one winner each, {left} losers' payloads"
    )


def check(server: Server, url: str, won: dict[int, str]) -> int:
    """What is committed is what was won, with its own payload; how many losers' payloads lie beside it.

    Read by a plain client of the server.
    """
    listed = server.sizes(url)
    payloads = {path.partition("/")[0] for path in listed if path.endswith("/p1")}
    committed = {name for name in payloads if listed.get(f"{name}/{MANIFEST}", 0) > SMALL_STATE_BYTES}
    found = {}
    for name in committed:
        parsed = CheckpointName.parse(name)
        assert parsed is not None
        found[parsed.step] = server.peek(f"{url}/{name}/p1")
    assert len(found) == len(committed)
    assert found == {step: attempt_id.encode() for step, attempt_id in won.items()}
    return len(payloads - committed)


@pytest.mark.parametrize("name", ["moto", "seaweedfs"])
def test_processes_race_and_one_wins(
    start_server: Callable[[str], Server], figures: Figures, name: str
) -> None:
    race(start_server(name), processes=4, rounds=6)
    figures.add("races run: 4 processes commit one step", 6, "races run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moto", "seaweedfs"])
def test_many_processes_race_and_one_wins(
    start_server: Callable[[str], Server], figures: Figures, name: str
) -> None:
    race(start_server(name), processes=16, rounds=50)
    figures.add("races run: 16 processes commit one step", 50, "races run")


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_threads_race_and_one_wins(fake_gcs: Server, figures: Figures, rounds: int) -> None:
    url = fake_gcs.new_url()
    backend = open_backend(url, fake_gcs.options)
    catalog = open_catalog(backend)
    won: dict[int, list[str]] = {}

    def save(step: int) -> None:
        try:
            attempt = catalog.begin(step, "error", uuid.uuid4().hex)
            with attempt.create("p1") as sink:
                sink.write(attempt.id.encode())
            attempt.commit(manifest_bytes(attempt.id))
            won.setdefault(step, []).append(attempt.id)
        except (CheckpointExists, SaveAborted):
            pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(save, [step for step in range(rounds) for _ in range(16)]))
    assert {step: len(ids) for step, ids in won.items()} == dict.fromkeys(range(rounds), 1)
    left = check(fake_gcs, url, {step: ids[0] for step, ids in won.items()})
    figures.add("races run: 16 threads commit one step", rounds, "races run")
    print(f"fake-gcs: {rounds} rounds of 16 threads, one winner each, {left} losers' payloads")
    backend.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["moto", "seaweedfs", "fake-gcs"])
def test_a_writer_that_was_stopped_and_taken_over_gives_up(
    start_server: Callable[[str], Server], name: str
) -> None:
    server = start_server(name)
    url = server.new_url()
    command = [sys.executable, "-c", SLEEPER, url, json.dumps(server.options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENV) as sleeper:
        _, status = os.waitpid(sleeper.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        backend = open_backend(url, server.options)
        catalog = open_catalog(backend)
        attempt = catalog.begin(5, "error", "second")
        with attempt.create("p1") as sink:
            sink.write(b"second")
        taken = attempt.commit(manifest_bytes("second"))
        catalog.sweep(0)
        os.kill(sleeper.pid, signal.SIGCONT)
        assert sleeper.stdout is not None
        assert sleeper.stdout.read().strip() == "aborted"
    assert str(taken) == "checkpoint_000005-r1"
    check(server, url, {5: "second"})
    backend.close()  # type: ignore[attr-defined]


def test_a_store_that_overwrites_is_recognised(rclone: Server) -> None:
    backend = open_backend(rclone.new_url(), rclone.options)
    with pytest.raises(StoreUnsuitable, match="single_writer=True"):
        open_catalog(backend).begin(1, "error", "a")
    assert [entry.key.split("/")[0] for entry in backend.list()] == ["_ckptstore"]
    catalog = open_catalog(backend, single_writer=True)
    catalog.backend.publish("tag.json", b"first")
    with pytest.raises(FileExistsError):
        catalog.backend.publish("tag.json", b"second")
    for step in (1, 2):
        attempt = catalog.begin(step, "error", f"a{step}")
        with attempt.create("p1") as sink:
            sink.write(b"a")
        attempt.commit(manifest_bytes(attempt.id))
    with pytest.raises(CheckpointExists):
        catalog.begin(1, "error", "b")
    catalog.delete(catalog.names()[0], lambda: None)
    catalog.sweep(0)
    assert [name.step for name, files in catalog.scan().items() if "p1" in files] == [2]
    backend.close()  # type: ignore[attr-defined]
