"""A signal handler may call the store whatever it interrupts, and what can't be had is done without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptstore import CheckpointStore
from ckptstore.work.threads import threads

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX signals, forks and limits")

BEGINS = """
import _thread, faulthandler, logging, os, resource, signal, sys, threading, time
import numpy as np
import ckptstore
from ckptstore import CheckpointStore, errors

faulthandler.dump_traceback_later(60, exit=True)
store = CheckpointStore(sys.argv[1])
store.save(1, {"i": 1})
large = {f"p{i}": {"weights": {"w": np.random.rand(1 << 17)}} for i in range(16)}
happened = []


def at_signal(call):
    def handler(number, frame):
        call()
        happened.append(number)

    signal.signal(signal.SIGUSR1, handler)


def refuse(*_):
    raise RuntimeError("can't start new thread")
"""
PROGRAMS = {
    # The main thread holds what it would need, were it the one that saves.
    "while it logs": """
at_signal(lambda: store.save(2, {"i": 1}))
handler = logging.StreamHandler(open(os.devnull, "w"))
logging.basicConfig(handlers=[handler], level=logging.DEBUG)
handler.acquire()
signal.raise_signal(signal.SIGUSR1)
handler.release()
""",
    "while it logs, and a save in flight logs": """
at_signal(lambda: store.save(3, {"i": 1}))
handler = logging.StreamHandler(open(os.devnull, "w"))
logging.basicConfig(handlers=[handler], level=logging.DEBUG)
future = store.save_async(2, policies=large)
handler.acquire()
signal.raise_signal(signal.SIGUSR1)
handler.release()
assert future.result().step == 2
""",
    "while it asks a future": """
future = store.save_async(2, policies=large)
at_signal(lambda: (future.result(), store.save(3, {"i": 1})))
with future._condition:  # as all of Future's own methods do
    signal.raise_signal(signal.SIGUSR1)
""",
    "while it waits": """
at_signal(lambda: (store.wait(), store.save(3, {"i": 1}), store.close()))
future = store.save_async(2, policies=large)
threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1)).start()
store.wait()
while not happened:
    store.wait()
""",
    "while it publishes": """
from ckptstore.backends.local.backend import LocalBackend
from ckptstore.backends.local.posix import Disk

began = threading.Event()

class Struck(Disk):
    def step(self, operation, path):
        if operation == "rename_noreplace" and not began.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            assert began.wait(20)

at_signal(lambda: (began.set(), store.save(3, {"i": 1})))
CheckpointStore(LocalBackend(sys.argv[1], Struck())).save(2, {"i": 1})
""",
    "in the midst of a handler": """
def nested():
    at_signal(lambda: store.save(3, {"i": 1}))
    signal.raise_signal(signal.SIGUSR1)
    store.save(2, {"i": 1})

at_signal(nested)
signal.raise_signal(signal.SIGUSR1)
""",
    "and raises": """
class Preempted(BaseException):
    pass

def stop():
    raise Preempted

at_signal(stop)
once = [signal.SIGUSR1]  # a second one would not wait for the save to clear up
from ckptstore.work.main_thread import _waited_for

def progress(count):
    if once:
        signal.pthread_kill(threading.main_thread().ident, once.pop())
        for _ in range(1000):  # until the save has been told: it might have ended by then
            if any(task.interrupted for task in list(_waited_for)):
                break
            time.sleep(0.001)

try:
    store.save(2, policies=large, progress=progress)
except Preempted:
    happened.append("raised")
assert sorted(os.listdir(f"{sys.argv[1]}/.staging")) == []
assert [each.step for each in store.checkpoints()] == [1]
store.save(2, {"i": 1})
store.save(3, {"i": 1})
""",
    # No thread can be had.
    "without threads": """
from ckptstore.work.threads import threads
threads._reset()
_thread.start_new_thread = threading.Thread.start = refuse
at_signal(lambda: store.save(2, {"i": 1}))
signal.raise_signal(signal.SIGUSR1)
store.save_async(3, policies=large)
store.close()
""",
    "without threads, in the midst of a save": """
from ckptstore.work.threads import threads
threads._reset()
_thread.start_new_thread = threading.Thread.start = refuse
def save():
    try:
        store.save(9, {"i": 1})
    except errors.StoreUnavailable as error:
        assert "Set a flag" in str(error)
        happened.append("refused")
at_signal(save)
store.save(2, policies=large, progress=lambda count: happened or signal.raise_signal(signal.SIGUSR1))
assert "refused" in happened
store.save(3, {"i": 1})
""",
    # A fork, while threads that stay behind hold whatever they hold.
    "which forks": """
at_signal(lambda: None)
future = store.save_async(2, policies=large)
child = os.fork()
if not child:
    try:
        future.result(30)
    except errors.SaveAborted as error:
        assert "forked" in str(error)
        store.save(3, {"i": 1})
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert future.result().step == 2
happened.append("forked")
""",
    "which forks while locks are held": """
from ckptstore.work.locks import _all
for url in ("memory://locks", sys.argv[1]):
    store = CheckpointStore(url)
    store.save(7, {"i": 1}) if url != sys.argv[1] else None
    held, done = threading.Event(), threading.Event()
    def hold():
        for lock in list(_all):
            lock.acquire()
        held.set()
        done.wait()
        for lock in list(_all):
            lock.release()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        assert all(lock.acquire(5) and not lock.release() for lock in list(_all))
        store.save(2 if url == sys.argv[1] else 8, {"i": 1})
        assert store.latest().load().state == {"i": 1}
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join()
happened.append("forked")
store.save(3, {"i": 1})
""",
    # Few files may be open.
    "with few descriptors": """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
many = {f"p{i:03}": {"weights": {"w": np.full(100, i)}} for i in range(500)}
store.save(2, policies=many)
many["p000"]["weights"]["w"][:] = 7
store.save_async(3, policies=many).result()
loaded = store.latest(verified=True).load()
assert len(loaded.policies) == 500 and loaded.policies["p000"]["weights"]["w"][0] == 7
happened.append("saved")
""",
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_it_ends_and_keeps_what_it_says(what: str, tmp_path: Path) -> None:
    program = BEGINS + PROGRAMS[what] + "\nassert happened, 'nothing was tried'\n"
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    store = CheckpointStore(tmp_path / "run")
    assert [each.step for each in store.checkpoints()] == ([1, 2] if what == "while it logs" else [1, 2, 3])
    assert all(report.ok for report in store.verify())


def test_what_the_manifest_says_needs_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckpointStore(tmp_path).save(1, {"i": 1}, {"p": {"w": 1}})
    latest = CheckpointStore(tmp_path).latest()
    assert latest is not None

    def refuse(task: object) -> bool:
        raise AssertionError("a thread was asked")

    monkeypatch.setattr(threads, "run", refuse)
    assert (latest.step, latest.kind, latest.policy_ids, latest.notes) == (1, "Algorithm", ("p",), ())
    assert "step=1" in repr(latest)
    with pytest.raises(AssertionError, match="a thread was asked"):
        latest.state  # noqa: B018 - which is read
