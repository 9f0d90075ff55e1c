"""Training that is killed at any moment goes on from a whole checkpoint: the last acknowledged or later."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from tests.inside import backend_of
from tests.servers import Server

pytestmark = [pytest.mark.usefixtures("needs_ray"), pytest.mark.slow, pytest.mark.timeout(1500)]

KILLS = 20
PATIENCE = 120.0  # seconds for a life to begin


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("place", ["local", "seaweedfs"])
def test_training_killed_at_random_moments(
    place: str, tmp_path: Path, start_server: Callable[[str], Server]
) -> None:
    import ray

    directory: Path | None = tmp_path / "store"
    url, options = str(directory), {}
    if place != "local":
        directory, server = None, start_server(place)
        url, options = server.new_url(), server.options
    address = ray.get_runtime_context().gcs_address
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integrations.rllib.lives"])
    from tests.integrations.rllib.lives import live

    log = tmp_path / "log"
    acknowledged = 0
    weights: dict[int, str] = {}  # by step, of the last life that trained it
    unfinished: set[str] = set()
    later = 0
    for life in range(KILLS + 1):
        before = len(lines(log))
        process = context.Process(target=live, args=(url, options, str(log), address))
        process.start()
        deadline = time.monotonic() + PATIENCE
        while not any(line[0] == "resumed" for line in lines(log)[before:]):
            assert process.is_alive(), f"life {life} ended by itself with {process.exitcode}"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        _, step, print_ = next(line for line in lines(log)[before:] if line[0] == "resumed")
        assert int(step) >= acknowledged
        if int(step):
            assert print_ == weights[int(step)]
        later += int(step) > acknowledged
        time.sleep(random.uniform(0, 2.5))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for line in lines(log)[before:]:
            if line[0] == "trained":
                weights[int(line[1])] = line[2]
            if line[0] == "committed":
                assert int(line[1]) >= acknowledged
                acknowledged = int(line[1])
        store = CheckpointStore(url, storage_options=options)
        newest = store.latest(verified=True)
        if newest is None:
            assert acknowledged == 0
        else:
            assert newest.skipped == ()  # what is not whole never looked committed
            assert newest.step >= acknowledged
        unfinished |= begun(store, directory)
    store = CheckpointStore(url, storage_options=options)
    assert all(report.ok for report in store.verify())
    # What the last life went on from, and what it was killed before pruning, may be there too.
    assert len(store.checkpoints()) <= 3 + 2
    assert acknowledged > 0
    print(
        f"{place}: killed {KILLS + 1} times, {len(unfinished)} of these in the middle of a save; "
        f"{later} lives began later than the last acknowledged, none earlier; step {acknowledged} at the end"
    )


def begun(store: CheckpointStore, directory: Path | None) -> set[str]:
    """The saves that were begun and aren't committed."""
    if directory is not None:
        staging = directory / ".staging"
        return {entry.name for entry in staging.iterdir() if entry.is_dir()} if staging.exists() else set()
    keys = {item.key for item in backend_of(store).list("")}
    claimed = {key.partition("/")[0] for key in keys if key.endswith("/_ckptstore/claim.json")}
    return {name for name in claimed if f"{name}/_ckptstore/manifest.json" not in keys}
