"""The first save says when an earlier run's later checkpoint would be taken for the newest of this one."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptstore import CheckpointStore

Opener = Callable[[], CheckpointStore]


@pytest.fixture(params=["local", "memory"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    url = str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    return lambda: CheckpointStore(url)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [text for text in found if "another run" in text]


def fill(opener: Opener) -> None:
    with opener() as store:
        for step in range(10, 70, 10):
            store.save(step, {"i": step})


def test_a_fresh_run(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    fill(opener)
    store = opener()
    store.save(1, {"i": 1})
    store.save(2, {"i": 2})
    [text] = said(caplog)
    assert "step 60" in text
    assert "store.rollback(1)" in text
    assert "which deletes every checkpoint later than step 1" in text
    store.rollback(1)  # what it says works
    newest = opener().latest()
    assert newest is not None
    assert newest.step == 1


@pytest.mark.parametrize("how", ["save", "save_async", "stage"])
def test_a_run_that_went_back(opener: Opener, caplog: pytest.LogCaptureFixture, how: str) -> None:
    fill(opener)
    store = opener()
    store.get(50).load()
    if how == "stage":
        with store.stage(51) as path:
            (Path(path) / "file").write_bytes(b"x")
    elif how == "save_async":
        store.save_async(51, {"i": 51}).result()
    else:
        store.save(51, {"i": 51})
    [text] = said(caplog)
    assert "step 60" in text
    assert "store.rollback(50)" in text


def test_a_step_that_is_trained_anew(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    fill(opener)
    store = opener()
    store.get(40).load()
    store.save(50, {"i": 50}, if_exists="replace")
    assert len(said(caplog)) == 1


def test_normal_runs(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    fill(opener)  # of an empty store
    store = opener()
    newest = store.latest()
    assert newest is not None
    newest.load()
    store.save(61, {"i": 61})
    store = opener()
    store.save(61, {"i": 61}, if_exists="replace")  # a step that had landed, tried again
    store = opener()
    store.get(61).load()
    store.save(55, {"i": 55})  # the newest is this run's own
    store = opener()
    store.rollback(50)
    store.save(51, {"i": 51})
    opener().save(70, {"i": 70})  # later than all there is
    assert said(caplog) == []


def test_writers_at_the_same_time(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    one, other = opener(), opener()
    time.sleep(0.002)  # manifests tell milliseconds
    one.save(10, {"i": 10})
    other.save(5, {"i": 5})
    one.save(11, {"i": 11})
    other.save(6, {"i": 6})
    assert said(caplog) == []
